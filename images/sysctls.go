package images

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
)

// Sysctl is the value of a kernel setting.
type Sysctl struct {
	Value   string
	Replace bool   // the inherited value
	At      string // FILE:LINE:COLUMN
	Clash   string // where an inherited value is that this one does not say to replace
}

// sysctlForm is the long form of a sysctl in YAML.
type sysctlForm struct {
	Value   *scalar `yaml:"value"`
	Replace bool    `yaml:"replace"`
}

// scalar is a value as the text has it: 010 is no octal number here.
type scalar string

// UnmarshalYAML keeps the text of a plain value.
func (s *scalar) UnmarshalYAML(text []byte) error {
	t := strings.TrimSpace(string(text))
	if t != "" && (t[0] == '"' || t[0] == '\'' || t[0] == '|' || t[0] == '>') {
		var out string
		if err := yaml.Unmarshal(text, &out); err != nil {
			return errors.New("value is not a text")
		}
		*s = scalar(strings.TrimSpace(out))
		return nil
	}
	if t == "" || strings.ContainsAny(t[:1], "[{&*") || strings.Contains(t, "\n") {
		return fmt.Errorf("value %q is not a single number or text", t)
	}
	*s = scalar(t)
	return nil
}

// UnmarshalYAML reads VALUE, or {value: VALUE, replace: true}.
func (s *Sysctl) UnmarshalYAML(text []byte) error {
	t := strings.TrimSpace(string(text))
	if !strings.HasPrefix(t, "{") && !longSysctl.MatchString(t) {
		var v scalar
		err := v.UnmarshalYAML(text)
		s.Value = string(v)
		return err
	}
	var form sysctlForm
	if err := yaml.UnmarshalWithOptions(text, &form, yaml.Strict()); err != nil {
		return errors.New("a setting is NAME: VALUE, or NAME: {value: VALUE, replace: true}")
	}
	if form.Value == nil {
		return errors.New("value is missing")
	}
	s.Value, s.Replace = string(*form.Value), form.Replace
	return nil
}

var longSysctl = regexp.MustCompile(`^(value|replace) *:( |\n|$)`)

// MarshalJSON writes the value, which is all that counts in an image.
func (s Sysctl) MarshalJSON() ([]byte, error) { return json.Marshal(s.Value) }

var sysctlRE = regexp.MustCompile(`^[a-z0-9_]+([./][A-Za-z0-9_@:+-]+)+$`)

// sysctlName is name with dots between its parts, as sysctl(8) writes it: where the
// first separator is a slash, a dot is part of a name.
func sysctlName(name string) string {
	if i := strings.IndexAny(name, "./"); i < 0 || name[i] == '.' {
		return name
	}
	return strings.NewReplacer("/", ".", ".", "/").Replace(name)
}

// nameSysctls gives all settings their name with dots.
func (d *Definition) nameSysctls() error {
	if d.Sysctls == nil {
		return nil
	}
	out := make(map[string]Sysctl, len(d.Sysctls))
	for _, key := range sortedKeys(d.Sysctls) {
		s, name := d.Sysctls[key], sysctlName(key)
		if !sysctlRE.MatchString(name) {
			return fmt.Errorf("%s: sysctls: %q cannot be the name of a setting; it is like vm.swappiness", s.At, key)
		}
		if other, ok := out[name]; ok {
			return fmt.Errorf("%s: sysctls: %s is the same as at %s", s.At, key, other.At)
		}
		out[name] = s
	}
	d.Sysctls = out
	return nil
}

// mergeSysctls adds the child's settings to the inherited ones. One that is in both
// and does not say that it replaces the other is an error of checkSysctls.
func mergeSysctls(base, child map[string]Sysctl) map[string]Sysctl {
	if len(base) == 0 {
		return child
	}
	out := maps.Clone(base)
	for name, s := range child {
		if old, ok := base[name]; ok && !s.Replace {
			s.Clash = old.At
		}
		out[name] = s
	}
	return out
}

// maxSysctl is what the kernel reads at once of a value, less one.
const maxSysctl = 4095

// ownSysctls are those that muster itself sets on a node, and why.
var ownSysctls = map[string]string{
	"kernel.printk_devkmsg": "the node's log goes through it",
	"kernel.hostname":       "a node has the name that the head gives it",
}

func checkSysctls(all map[string]Sysctl) error {
	var errs []error
	for _, name := range sortedKeys(all) {
		s := all[name]
		switch {
		case s.Clash != "":
			errs = append(errs, fmt.Errorf("sysctls: %s is at %s and at %s; leave one out, or write %s: {value: %q, replace: true}", name, s.Clash, s.At, name, s.Value))
		case len(s.Value) > maxSysctl || strings.ContainsFunc(s.Value, func(r rune) bool { return r < ' ' && r != '\t' || r > '~' }):
			errs = append(errs, fmt.Errorf("sysctls: %s%s: the value has to be one line of printable ASCII", name, where(s.At)))
		case ownSysctls[name] != "":
			errs = append(errs, fmt.Errorf("sysctls: %s%s belongs to muster: %s", name, where(s.At), ownSysctls[name]))
		}
	}
	return errors.Join(errs...)
}

// SysctlList returns the settings of a definition, sorted by name.
func (d *Definition) SysctlList() []NodeSysctl {
	var out []NodeSysctl
	for _, name := range slices.Sorted(maps.Keys(d.Sysctls)) {
		out = append(out, NodeSysctl{Name: name, Value: d.Sysctls[name].Value})
	}
	return out
}
