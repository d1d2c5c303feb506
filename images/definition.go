package images

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
)

// Definition is an image definition: the text that a person writes, after
// inheritance ([Load]). docs/definition.md is its reference.
//
// The JSON form is what image IDs are made of: it holds the contents of
// files by hash and nothing of the folder that the definition was read from.
type Definition struct {
	Schema int `yaml:"schema" json:"-"` // of the text, see [DefinitionSchema]; 0: the oldest that has all its keys

	Name string `yaml:"name" json:"name"`
	From string `yaml:"from" json:"-"`

	Arch   string `yaml:"arch" json:"arch"`   // as Debian names it
	Suite  string `yaml:"suite" json:"suite"` // release of the distribution: trixie
	Mirror string `yaml:"mirror" json:"-"`    // base URL of an archive; "": see docs/definition.md
	// Keyring is a file of the host, relative to the definition, with the OpenPGP keys
	// that archives are signed with; "": those that muster carries.
	Keyring string `yaml:"keyring" json:"-"`
	Kernel  Kernel `yaml:"kernel" json:"kernel"` // package and command line

	Modules    Modules  `yaml:"modules" json:"modules"`
	Firmware   []string `yaml:"firmware" json:"firmware,omitempty"` // groups, see [FirmwareGroups]
	Commands   []string `yaml:"commands" json:"commands,omitempty"` // u-root commands; none: all of the busybox
	GoCommands []string `yaml:"go-commands" json:"-"`               // import paths with version, or folders
	Files      []File   `yaml:"files" json:"files,omitempty"`
	// Packages of the userland, "name" or "name=version", and its other sources.
	Packages []string `yaml:"packages" json:"packages,omitempty"`
	Userland []Source `yaml:"userland" json:"userland,omitempty"`
	// UserlandIn says where nodes have the userland, see [UserlandAuto]. A text may say it as
	// the value of userland: too, where that is one word and no list.
	UserlandIn UserlandIn `yaml:"userland-in" json:"userland_in,omitempty"`

	Groups   []Group           `yaml:"groups" json:"groups,omitempty"`
	Users    []User            `yaml:"users" json:"users,omitempty"`
	Sysctls  map[string]Sysctl `yaml:"sysctls" json:"sysctls,omitempty"`   // by name with dots, after [Load]
	Services []Service         `yaml:"services" json:"services,omitempty"` // in the order of starting

	// Neither has an influence on the image itself.
	Media []string `yaml:"media" json:"-"` // see [Media]; nil: all that can be made
	Site  Site     `yaml:"site" json:"-"`

	// At says where the definition names what has no place for it: FILE:LINE:COLUMN by
	// "modules.names: X" and the like.
	At map[string]string `yaml:"-" json:"-"`
}

// Modules says which kernel modules a machine needs until it has joined. What
// they depend on comes along.
type Modules struct {
	Groups []string `yaml:"groups" json:"groups,omitempty"` // see [ModuleGroups]
	Names  []string `yaml:"names" json:"names,omitempty"`   // modules by name
	// Options are parameters by module, separated by spaces: "InterruptThrottleRate=1".
	Options map[string]string `yaml:"options" json:"options,omitempty"`
	// Rest says what becomes of all others of the kernel, see [RestFetch]; "": fetch
	// where there is a userland, else none.
	Rest string `yaml:"rest" json:"rest,omitempty"`
}

// Values of [Modules.Rest].
const (
	RestFetch = "fetch" // a node that has joined fetches a module when it is needed
	RestNone  = "none"  // nodes do not have them
)

// WantsRest says whether nodes shall be able to get all modules of their kernel.
func (d *Definition) WantsRest() bool {
	return d.Modules.Rest == RestFetch || d.Modules.Rest == "" && d.HasUserland()
}

// File is a file that a definition adds to an image, or a tree of files: exactly one of
// Path, From and Tar is given.
type File struct {
	Path    string `yaml:"path" json:"path"`
	Content string `yaml:"content" json:"-"`
	Source  string `yaml:"source" json:"-"` // file of the host, relative to the definition

	From string `yaml:"from" json:"-"`          // folder of the host, relative to the definition
	Tar  string `yaml:"tar" json:"-"`           // archive, plain or packed by gzip, xz, zstd or bzip2
	To   string `yaml:"to" json:"to,omitempty"` // folder of the image that From or Tar is put into

	In      Place `yaml:"in" json:"in,omitempty"`           // "": see [Definition.PlacesOf]
	Replace bool  `yaml:"replace" json:"replace,omitempty"` // of what else is at its path
	Mode    Mode  `yaml:"mode" json:"mode"`
	Owner   Owner `yaml:"owner" json:"owner"`
	// Public says that a private key in this file is meant to be readable by
	// everybody on the boot network.
	Public bool `yaml:"public" json:"-"`

	// Data is the content, from Content or Source, after [Load].
	Data []byte `yaml:"-" json:"-"`
	// SHA256 is the hash of Data after [Load]; of a tree, that of [File.Entries].
	SHA256 string `yaml:"-" json:"sha256"`
	// Entries are what is in a tree after [Load], a folder before what it holds.
	Entries []TreeEntry `yaml:"-" json:"-"`
	// At is where the definition has it, FILE:LINE:COLUMN.
	At string `yaml:"-" json:"-"`
}

// Mode is permission bits, written in octal.
type Mode uint32

// UnmarshalYAML reads the mode from the text as it stands in the file, since YAML
// reads 0755 and 755 as different numbers.
func (m *Mode) UnmarshalYAML(text []byte) error {
	s := strings.Trim(strings.TrimSpace(string(text)), `"'`)
	n, err := strconv.ParseUint(strings.TrimPrefix(s, "0o"), 8, 16)
	if err != nil || n > 0o7777 {
		return fmt.Errorf("mode %s is not an octal number from 0 to 7777, such as 0644", s)
	}
	*m = Mode(n)
	return nil
}

// Owner is a numeric owner and group.
type Owner struct {
	UID uint32 `json:"uid"`
	GID uint32 `json:"gid"`
}

// UnmarshalYAML reads "UID", "UID:GID" or "root".
func (o *Owner) UnmarshalYAML(text []byte) error {
	s := strings.Trim(strings.TrimSpace(string(text)), `"'`)
	user, group, both := strings.Cut(s, ":")
	if !both {
		group = user
	}
	var err error
	if o.UID, err = ownerID(user); err != nil {
		return fmt.Errorf("owner %s: %w", s, err)
	}
	if o.GID, err = ownerID(group); err != nil {
		return fmt.Errorf("owner %s: %w", s, err)
	}
	return nil
}

func ownerID(s string) (uint32, error) {
	if s == "root" {
		return 0, nil
	}
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil {
		return 0, fmt.Errorf("%q is neither a number nor root; give its number", s)
	}
	return uint32(n), nil
}

// Hash returns the SHA-256 of everything in a loaded definition that has an
// influence on the image, except for Go commands, of which the compiled
// programs count.
func (d *Definition) Hash() string { return hashJSON(d) }

// RequestHash returns the SHA-256 of what a definition asks of the package
// archive. A [Lock] is good for every definition with the same one.
func (d *Definition) RequestHash() string { return d.Request().Hash() }

// hashJSON hashes the JSON form of v, whose fields have a fixed order.
func hashJSON(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("encoding %T: %v", v, err)) // only types of this package, which all have a JSON form
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}
