package images

import (
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
)

// Group is a group that an image knows.
type Group struct {
	Name    string  `yaml:"name" json:"name"`
	GID     *uint32 `yaml:"gid" json:"gid"` // required
	Replace bool    `yaml:"replace" json:"-"`
	At      string  `yaml:"-" json:"-"` // FILE:LINE:COLUMN
}

// User is a user that an image knows. There are no passwords.
type User struct {
	Name    string   `yaml:"name" json:"name"`
	UID     *uint32  `yaml:"uid" json:"uid"`                   // required: file servers know users by number
	GID     *uint32  `yaml:"gid" json:"gid,omitempty"`         // of the first group; nil: the same number as UID
	Groups  []string `yaml:"groups" json:"groups,omitempty"`   // further ones, by name
	Home    string   `yaml:"home" json:"home,omitempty"`       // "": /home/NAME
	Shell   string   `yaml:"shell" json:"shell,omitempty"`     // "": /bin/sh
	Comment string   `yaml:"comment" json:"comment,omitempty"` // the full name
	Replace bool     `yaml:"replace" json:"-"`                 // the inherited user of that name
	At      string   `yaml:"-" json:"-"`                       // FILE:LINE:COLUMN
}

// FirstGID is the number of u's first group.
func (u User) FirstGID() uint32 {
	if u.GID != nil {
		return *u.GID
	}
	return *u.UID
}

// HomeDir is the home of u.
func (u User) HomeDir() string {
	if u.Home != "" {
		return u.Home
	}
	return "/home/" + u.Name
}

// LoginShell is the shell of u.
func (u User) LoginShell() string {
	if u.Shell != "" {
		return u.Shell
	}
	return "/bin/sh"
}

func (g Group) named() (kind, name, at string, replace bool) {
	return "groups", g.Name, g.At, g.Replace
}

func (u User) named() (kind, name, at string, replace bool) {
	return "users", u.Name, u.At, u.Replace
}

// accountRE is what useradd(8) of Debian takes, without the final dollar.
var accountRE = regexp.MustCompile(`^[a-z_][a-z0-9_-]{0,31}$`)

// The numbers that no account of a definition may have: (uid_t)-1 and its
// 16-bit form mean "unchanged" to system calls.
const (
	nobodyID  = 65534
	noID16    = 65535
	noID32    = 1<<32 - 1
	rootID    = 0
	nobodyTxt = "nobody"
)

func checkAccounts(d *Definition) error {
	var errs []error
	add := func(err error) {
		if err != nil {
			errs = append(errs, err)
		}
	}
	gids, uids := make(map[uint32]string), make(map[uint32]string)
	for _, g := range d.Groups {
		label := fmt.Sprintf("groups: %s%s", g.Name, where(g.At))
		add(checkAccountName(label, g.Name))
		add(checkID(label, "gid", g.GID, gids))
	}
	for _, u := range d.Users {
		label := fmt.Sprintf("users: %s%s", u.Name, where(u.At))
		add(checkAccountName(label, u.Name))
		add(checkID(label, "uid", u.UID, uids))
		add(u.checkFields(label))
	}
	add(checkTwice(d.Groups))
	add(checkTwice(d.Users))
	return errors.Join(errs...)
}

func checkAccountName(label, name string) error {
	switch {
	case name == "":
		return fmt.Errorf("%s: name is missing", label)
	case !accountRE.MatchString(name):
		return fmt.Errorf("%s: the name has to be lower case letters, digits, _ and -, at most 32, and not begin with a digit or -", label)
	case name == "root" || name == nobodyTxt || name == "nogroup":
		return fmt.Errorf("%s: every image has %s already", label, name)
	}
	return nil
}

// checkID notes who has a number, and says who had it before.
func checkID(label, key string, id *uint32, taken map[uint32]string) error {
	if id == nil {
		return fmt.Errorf("%s: %s is missing; file servers know accounts by number, so it has to be the same everywhere", label, key)
	}
	if slices.Contains([]uint32{rootID, nobodyID, noID16, noID32}, *id) {
		return fmt.Errorf("%s: %s %d cannot be given away", label, key, *id)
	}
	if other, ok := taken[*id]; ok {
		return fmt.Errorf("%s: %s %d is also that of %s", label, key, *id, other)
	}
	taken[*id] = label
	return nil
}

func (u User) checkFields(label string) error {
	var errs []error
	for _, f := range []struct{ key, text string }{{"home", u.Home}, {"shell", u.Shell}, {"comment", u.Comment}} {
		switch {
		case strings.ContainsFunc(f.text, func(r rune) bool { return r < ' ' || r == ':' || r == 0x7f }):
			errs = append(errs, fmt.Errorf("%s: %s %q cannot have a colon or control characters", label, f.key, f.text))
		case f.key != "comment" && f.text != "" && (f.text[0] != '/' || path.Clean(f.text) != f.text):
			errs = append(errs, fmt.Errorf("%s: %s %q has to be absolute and without . or .. in it", label, f.key, f.text))
		}
	}
	for i, g := range u.Groups {
		switch {
		case !accountRE.MatchString(g):
			errs = append(errs, fmt.Errorf("%s: groups: %q cannot be the name of a group", label, g))
		case slices.Contains(u.Groups[:i], g):
			errs = append(errs, fmt.Errorf("%s: groups: %s is there twice", label, g))
		}
	}
	return errors.Join(errs...)
}
