package kmod

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"strings"
)

// Conf is what an administrator says about modules, in modprobe.d files or on
// the kernel command line.
type Conf struct {
	Options   map[string]string // parameters by module, separated by spaces
	Blacklist map[string]bool   // modules that no alias loads; by name they still are
	Softdeps  []Softdep
	Aliases   []Alias
}

// ParseConf reads the text of a modprobe.d file. Commands that run programs
// (install, remove) and those that it does not know are ignored.
func ParseConf(text string) Conf {
	c := Conf{Options: make(map[string]string), Blacklist: make(map[string]bool)}
	for line := range strings.Lines(strings.ReplaceAll(text, "\\\n", " ")) {
		f := strings.Fields(line)
		if len(f) < 2 || strings.HasPrefix(f[0], "#") {
			continue
		}
		switch f[0] {
		case "options":
			c.addOption(f[1], strings.Join(f[2:], " "))
		case "blacklist":
			c.Blacklist[Name(f[1])] = true
		case "softdep":
			c.Softdeps = append(c.Softdeps, ParseSoftdep(f[1], strings.Join(f[2:], " ")))
		case "alias":
			if len(f) == 3 {
				c.Aliases = append(c.Aliases, Alias{Pattern: f[1], Module: Name(f[2])})
			}
		}
	}
	return c
}

// ReadConf reads all files of the folder dir that end in .conf, in the order of their names.
// There may be no such folder.
func ReadConf(fsys fs.FS, dir string) (Conf, error) {
	names, err := fs.Glob(fsys, dir+"/*.conf")
	var c Conf
	for _, name := range names {
		text, readErr := fs.ReadFile(fsys, name)
		if readErr != nil {
			err = errors.Join(err, readErr)
			continue
		}
		c = c.Merge(ParseConf(string(text)))
	}
	if err != nil {
		err = fmt.Errorf("reading the parameters of modules: %w", err)
	}
	return c, err
}

// ParseCmdline reads MODULE.PARAMETER=VALUE and modprobe.blacklist=A,B from a
// kernel command line. Quotes may enclose spaces, as the kernel allows.
func ParseCmdline(cmdline string) Conf {
	c := Conf{Options: make(map[string]string), Blacklist: make(map[string]bool)}
	for _, word := range splitCmdline(cmdline) {
		if word == "--" { // what follows is for init
			break
		}
		key, value, _ := strings.Cut(word, "=")
		if key == "modprobe.blacklist" || key == "module_blacklist" {
			for name := range strings.SplitSeq(value, ",") {
				c.Blacklist[Name(name)] = true
			}
			continue
		}
		module, param, ok := strings.Cut(key, ".")
		if ok && module != "" && param != "" {
			c.addOption(module, param+word[len(key):])
		}
	}
	return c
}

// splitCmdline splits at spaces that are not within double quotes.
func splitCmdline(s string) []string {
	quoted := false
	return strings.FieldsFunc(s, func(r rune) bool {
		if r == '"' {
			quoted = !quoted
		}
		return !quoted && (r == ' ' || r == '\t' || r == '\n')
	})
}

func (c *Conf) addOption(module, params string) {
	module = Name(module)
	if old := c.Options[module]; old != "" {
		params = old + " " + params
	}
	if params != "" {
		c.Options[module] = params
	}
}

// Merge returns c with what other says added; for a parameter that both set, the
// kernel takes the value of other, which comes last.
func (c Conf) Merge(other Conf) Conf {
	m := Conf{
		Options:   maps.Clone(c.Options),
		Blacklist: maps.Clone(c.Blacklist),
		Softdeps:  append(c.Softdeps[:len(c.Softdeps):len(c.Softdeps)], other.Softdeps...),
		Aliases:   append(c.Aliases[:len(c.Aliases):len(c.Aliases)], other.Aliases...),
	}
	if m.Options == nil {
		m.Options = make(map[string]string)
	}
	if m.Blacklist == nil {
		m.Blacklist = make(map[string]bool)
	}
	for module, params := range other.Options {
		m.addOption(module, params)
	}
	maps.Copy(m.Blacklist, other.Blacklist)
	return m
}
