package images

import (
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
)

// Service is a program that a node starts before it is ready.
type Service struct {
	Name    string  `yaml:"name" json:"name"`
	Command Command `yaml:"command" json:"command"`
	Check   Command `yaml:"check" json:"check,omitempty"` // nil: that it runs, or has ended well
	// Every is how often Check runs once it has passed, and Timeout how long it may take.
	Every   Interval `yaml:"every" json:"every,omitempty"`
	Timeout Interval `yaml:"timeout" json:"timeout,omitempty"`
	Restart Restart  `yaml:"restart" json:"restart,omitempty"` // "": always
	In      Place    `yaml:"in" json:"in,omitempty"`           // "": userland where the image has one; never both
	// Required takes the node out while its check fails, also after it was ready.
	Required bool   `yaml:"required" json:"required,omitempty"`
	Replace  bool   `yaml:"replace" json:"-"` // the inherited service of that name
	At       string `yaml:"-" json:"-"`       // FILE:LINE:COLUMN
}

func (s Service) named() (kind, name, at string, replace bool) {
	return "services", s.Name, s.At, s.Replace
}

// The defaults of services.
const (
	defaultEvery   = 10 * time.Second
	defaultTimeout = 10 * time.Second
)

// Restart says when a service that has ended is started again.
type Restart string

// The ways to restart a service.
const (
	RestartAlways    Restart = "always"     // it is meant to run for ever
	RestartOnFailure Restart = "on-failure" // it is meant to end with exit status 0
	RestartNever     Restart = "never"      // likewise, and a failure is not tried again
)

// Command is a program with its arguments. In YAML it is a list, or a line for /bin/sh.
type Command []string

// UnmarshalYAML reads a list of words, or a line for the shell.
func (c *Command) UnmarshalYAML(text []byte) error {
	var list []scalar
	if err := yaml.Unmarshal(text, &list); err == nil && len(list) > 0 {
		for _, word := range list {
			*c = append(*c, string(word))
		}
		return nil
	}
	var line string
	if err := yaml.Unmarshal(text, &line); err != nil || strings.TrimSpace(line) == "" {
		return fmt.Errorf("a command is a list of words such as [/usr/sbin/ntpd, -n], or one line for /bin/sh")
	}
	*c = Command{"/bin/sh", "-c", strings.TrimSpace(line)}
	return nil
}

// Interval is a time in seconds, written with its unit: 10s, 2m.
type Interval time.Duration

// UnmarshalYAML reads what time.ParseDuration does.
func (i *Interval) UnmarshalYAML(text []byte) error {
	var s scalar
	if err := s.UnmarshalYAML(text); err != nil {
		return err
	}
	d, err := time.ParseDuration(string(s))
	if err != nil || d < 100*time.Millisecond || d > 24*time.Hour {
		return fmt.Errorf("%q is no time from 100ms to 24h, such as 10s", string(s))
	}
	*i = Interval(d)
	return nil
}

// Place is where in an image something is.
type Place string

// The places.
const (
	InInitramfs Place = "initramfs" // the small root that a node starts from
	InUserland  Place = "userland"  // what tasks see
	InBoth      Place = "both"
)

// UnmarshalYAML reads the name of a place.
func (p *Place) UnmarshalYAML(text []byte) error {
	var s scalar
	if err := s.UnmarshalYAML(text); err != nil {
		return err
	}
	places := []string{string(InInitramfs), string(InUserland), string(InBoth)}
	if !slices.Contains(places, string(s)) {
		return fmt.Errorf("in: there is no place %q%s; there are: %s", string(s), didYouMean(string(s), places), strings.Join(places, ", "))
	}
	*p = Place(s)
	return nil
}

const (
	maxServices = 64
	maxCommand  = 32 << 10 // bytes of all words together
)

var serviceRE = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,31}$`)

func checkServices(d *Definition) error {
	var errs []error
	if len(d.Services) > maxServices {
		errs = append(errs, fmt.Errorf("services: there are %d, at most %d can be", len(d.Services), maxServices))
	}
	for _, s := range d.Services {
		label := fmt.Sprintf("services: %s%s", s.Name, where(s.At))
		if !serviceRE.MatchString(s.Name) {
			errs = append(errs, fmt.Errorf("%s: the name has to be lower case letters, digits, dots and dashes, at most 32", label))
		}
		if len(s.Command) == 0 {
			errs = append(errs, fmt.Errorf("%s: command is missing", label))
		} else {
			errs = append(errs, checkCommand(label+": command", s.Command))
		}
		if s.Check != nil {
			errs = append(errs, checkCommand(label+": check", s.Check))
		}
		if s.Check == nil && s.Every != 0 {
			errs = append(errs, fmt.Errorf("%s: there is every, but no check that it could be of", label))
		}
		if ways := []Restart{"", RestartAlways, RestartOnFailure, RestartNever}; !slices.Contains(ways, s.Restart) {
			errs = append(errs, fmt.Errorf("%s: restart is %q; it can be: always, on-failure, never", label, s.Restart))
		}
		switch {
		case s.In == InBoth:
			errs = append(errs, fmt.Errorf("%s: in: a service runs in one place; give userland or initramfs", label))
		case s.In == InUserland && !d.HasUserland():
			errs = append(errs, fmt.Errorf("%s: in: userland: %s", label, noUserland))
		}
	}
	return errors.Join(append(errs, checkTwice(d.Services))...)
}

func checkCommand(label string, c Command) error {
	size := 0
	for _, word := range c {
		if strings.ContainsRune(word, 0) {
			return fmt.Errorf("%s: %q has a zero byte", label, word)
		}
		size += len(word) + 1
	}
	switch {
	case size > maxCommand:
		return fmt.Errorf("%s: it has %d bytes, at most %d can be", label, size, maxCommand)
	case !strings.HasPrefix(c[0], "/") && strings.Contains(c[0], "/"):
		return fmt.Errorf("%s: %q is looked for below no folder; give the whole path, or a name alone", label, c[0])
	case c[0] == "" || strings.HasPrefix(c[0], "/") && path.Clean(c[0]) != c[0]:
		return fmt.Errorf("%s: %q is no program", label, c[0])
	}
	return nil
}

// Node returns what the nodes of an image do beside joining, for [NodeFile].
func (d *Definition) Node() Node {
	n := Node{Sysctls: d.SysctlList()}
	for _, s := range d.Services {
		out := NodeService{
			Name: s.Name, Command: s.Command, Check: s.Check, Restart: s.Restart, In: s.In, Required: s.Required,
			Every: time.Duration(s.Every).Seconds(), Timeout: time.Duration(s.Timeout).Seconds(),
		}
		if out.Every == 0 {
			out.Every = defaultEvery.Seconds()
		}
		if out.Timeout == 0 {
			out.Timeout = defaultTimeout.Seconds()
		}
		if out.Restart == "" {
			out.Restart = RestartAlways
		}
		if out.In == "" {
			out.In = InInitramfs
			if d.HasUserland() {
				out.In = InUserland
			}
		}
		n.Services = append(n.Services, out)
	}
	return n
}
