package kmod

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
)

// The files of an index, in /lib/modules/RELEASE.
const (
	depFile            = "modules.dep"
	aliasFile          = "modules.alias"
	softdepFile        = "modules.softdep"
	builtinFile        = "modules.builtin"
	builtinModinfoFile = "modules.builtin.modinfo"
	devnameFile        = "modules.devname" // not read: it follows from the aliases
)

// maxLine is the longest line of an index file that is read. The longest of
// Debian's kernels has 3 kB.
const maxLine = 1 << 20

// Read reads the index in fsys, whose root is /lib/modules/RELEASE.
// modules.dep must be there; the other files may be missing.
func Read(fsys fs.FS) (*Index, error) {
	var c Contents
	if err := readLines(fsys, depFile, c.parseDep); err != nil {
		return nil, err
	}
	readers := []struct {
		name  string
		parse func(string) error
	}{{aliasFile, c.parseAlias}, {softdepFile, c.parseSoftdep}, {builtinFile, c.parseBuiltin}}
	for _, r := range readers {
		if err := readLines(fsys, r.name, r.parse); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	switch modinfo, err := fs.ReadFile(fsys, builtinModinfoFile); {
	case err == nil:
		c.BuiltinAliases = ParseBuiltinModinfo(modinfo)
	case !errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("reading module index: %w", err)
	}
	return New(c), nil
}

// readLines calls parse with every line of a file that is neither empty nor a
// comment.
func readLines(fsys fs.FS, name string, parse func(string) error) error {
	f, err := fsys.Open(name)
	if err != nil {
		return fmt.Errorf("reading module index: %w", err)
	}
	defer f.Close()
	sc := bufio.NewScanner(f)
	sc.Buffer(nil, maxLine)
	for n := 1; sc.Scan(); n++ {
		line := strings.TrimSpace(sc.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		if err := parse(line); err != nil {
			return fmt.Errorf("reading module index: %s line %d: %w", name, n, err)
		}
	}
	if err := sc.Err(); err != nil {
		return fmt.Errorf("reading module index: %s: %w", name, err)
	}
	return nil
}

// parseDep reads "kernel/a.ko: kernel/b.ko kernel/c.ko".
func (c *Contents) parseDep(line string) error {
	file, deps, ok := strings.Cut(line, ":")
	if !ok || file == "" {
		return fmt.Errorf("%.60q is not FILE: FILE …", line)
	}
	m := Module{Name: Name(file), Path: file}
	for _, d := range strings.Fields(deps) {
		m.Deps = append(m.Deps, Name(d))
	}
	c.Modules = append(c.Modules, m)
	return nil
}

// parseAlias reads "alias PATTERN MODULE".
func (c *Contents) parseAlias(line string) error {
	f := strings.Fields(line)
	if len(f) != 3 || f[0] != "alias" {
		return fmt.Errorf("%.60q is not alias PATTERN MODULE", line)
	}
	c.Aliases = append(c.Aliases, Alias{Pattern: f[1], Module: Name(f[2])})
	return nil
}

// parseSoftdep reads "softdep MODULE pre: A B post: C".
func (c *Contents) parseSoftdep(line string) error {
	f := strings.Fields(line)
	if len(f) < 2 || f[0] != "softdep" {
		return fmt.Errorf("%.60q is not softdep MODULE pre: … post: …", line)
	}
	c.Softdeps = append(c.Softdeps, ParseSoftdep(f[1], strings.Join(f[2:], " ")))
	return nil
}

func (c *Contents) parseBuiltin(line string) error {
	c.Builtin = append(c.Builtin, line)
	return nil
}

// ParseSoftdep reads the text of a soft dependency of module: "pre: a b post:
// c".
func ParseSoftdep(module, text string) Softdep {
	s := Softdep{Module: Name(module)}
	list := &s.Other
	for word := range strings.FieldsSeq(text) {
		switch word {
		case "pre:":
			list = &s.Pre
		case "post:":
			list = &s.Post
		default:
			*list = append(*list, word)
		}
	}
	return s
}

// ParseBuiltinModinfo returns the aliases in the text of
// modules.builtin.modinfo: entries "module.key=value" that end in a zero byte.
func ParseBuiltinModinfo(text []byte) []Alias {
	var aliases []Alias
	for entry := range bytes.SplitSeq(text, []byte{0}) {
		module, rest, _ := strings.Cut(string(entry), ".")
		if pattern, ok := strings.CutPrefix(rest, "alias="); ok {
			aliases = append(aliases, Alias{Pattern: pattern, Module: Name(module)})
		}
	}
	return aliases
}

// Files returns the text files of the index by name. They are the same for the
// same index, whatever order it was made in.
func (x *Index) Files() map[string][]byte {
	return map[string][]byte{
		depFile:            text(x.writeDep),
		aliasFile:          text(x.writeAliases),
		softdepFile:        text(x.writeSoftdeps),
		builtinFile:        text(x.writeBuiltin),
		builtinModinfoFile: text(x.writeBuiltinModinfo),
		devnameFile:        text(x.writeDevname),
	}
}

func text(write func(io.Writer)) []byte {
	var b bytes.Buffer
	write(&b)
	return b.Bytes()
}

func (x *Index) writeDep(w io.Writer) {
	for _, m := range x.sorted() {
		fmt.Fprintf(w, "%s:", m.Path)
		for _, d := range m.Deps {
			if dep := x.modules[d]; dep != nil {
				fmt.Fprintf(w, " %s", dep.Path)
			}
		}
		fmt.Fprintln(w)
	}
}

func (x *Index) writeAliases(w io.Writer) {
	fmt.Fprintln(w, "# Aliases extracted from modules themselves.")
	for _, a := range x.aliases {
		fmt.Fprintf(w, "alias %s %s\n", a.Pattern, a.Module)
	}
}

func (x *Index) writeSoftdeps(w io.Writer) {
	fmt.Fprintln(w, "# Soft dependencies extracted from modules themselves.")
	for _, s := range x.softdeps {
		fmt.Fprintf(w, "softdep %s", s.Module)
		if len(s.Other) > 0 {
			fmt.Fprintf(w, " %s", strings.Join(s.Other, " "))
		}
		if len(s.Pre) > 0 {
			fmt.Fprintf(w, " pre: %s", strings.Join(s.Pre, " "))
		}
		if len(s.Post) > 0 {
			fmt.Fprintf(w, " post: %s", strings.Join(s.Post, " "))
		}
		fmt.Fprintln(w)
	}
}

func (x *Index) writeBuiltin(w io.Writer) {
	for _, p := range slices.Sorted(maps.Values(x.builtin)) {
		fmt.Fprintln(w, path.Clean(p))
	}
}

func (x *Index) writeBuiltinModinfo(w io.Writer) {
	for _, a := range x.builtinA {
		fmt.Fprintf(w, "%s.alias=%s\x00", a.Module, a.Pattern)
	}
}
