package depmod

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"muster/internal/kmod"
)

// Input is what an index is built from.
type Input struct {
	Modules []Info

	// Text files that the kernel's package has in /lib/modules/RELEASE; each
	// may be nil.
	Order          []byte // modules.order: which module is preferred when several match
	Builtin        []byte // modules.builtin
	BuiltinModinfo []byte // modules.builtin.modinfo

	// Partial leaves out modules that need one that is not there: distributions have some
	// in a package whose dependencies are in another one.
	Partial bool
}

// Set is all modules of one kernel.
type Set struct {
	Index *kmod.Index
	// Lacking are the modules that were left out, each with the module that it needs and
	// that is not there.
	Lacking map[string]string
	infos   map[string]Info
}

// Build makes the index. A module that needs one that is not there is an error, or left out
// with [Input.Partial]; two modules of one name and modules that need each other are errors.
func Build(in Input) (*Set, error) {
	b := builder{infos: make(map[string]Info, len(in.Modules)), deps: make(map[string][]string), state: make(map[string]int)}
	for _, m := range in.Modules {
		if old, taken := b.infos[m.Name]; taken {
			return nil, fmt.Errorf("indexing modules: %s and %s are both module %s", old.Path, m.Path, m.Name)
		}
		b.infos[m.Name] = m
	}
	c := kmod.Contents{
		Builtin:        lines(in.Builtin),
		BuiltinAliases: kmod.ParseBuiltinModinfo(in.BuiltinModinfo),
	}
	out := &Set{infos: b.infos, Lacking: make(map[string]string)}
	for _, m := range inOrder(in.Modules, in.Order) {
		err := b.visit(m.Name, nil)
		if missing := (*missingError)(nil); in.Partial && errors.As(err, &missing) {
			out.Lacking[m.Name] = missing.name
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("indexing modules: %w", err)
		}
		deps := slices.Clone(b.deps[m.Name])
		slices.Reverse(deps)
		c.Modules = append(c.Modules, kmod.Module{Name: m.Name, Path: m.Path, Deps: deps})
		for _, a := range m.Aliases {
			c.Aliases = append(c.Aliases, kmod.Alias{Pattern: a, Module: m.Name})
		}
		for _, s := range m.Softdeps {
			c.Softdeps = append(c.Softdeps, kmod.ParseSoftdep(m.Name, s))
		}
	}
	out.Index = kmod.New(c)
	return out, nil
}

// Info returns what the module of that name says of itself.
func (s *Set) Info(name string) (Info, bool) {
	info, ok := s.infos[kmod.Name(name)]
	return info, ok
}

// Firmware returns the firmware files that the named modules may ask for,
// sorted. They are paths below /lib/firmware and may have wildcards.
func (s *Set) Firmware(names ...string) []string {
	var files []string
	for _, n := range names {
		files = append(files, s.infos[kmod.Name(n)].Firmware...)
	}
	slices.Sort(files)
	return slices.Compact(files)
}

// builder finds the dependencies of each module, those that are needed first
// first.
type builder struct {
	infos map[string]Info
	deps  map[string][]string
	state map[string]int // 0: not seen, 1: being visited, 2: done
}

// missingError is a module that another one needs and that is not there.
type missingError struct {
	path string // of the module that needs it
	name string
}

func (e *missingError) Error() string {
	return fmt.Sprintf("%s needs module %s, which is not there", e.path, e.name)
}

// visit fills deps of name. path holds the modules that led here.
func (b *builder) visit(name string, path []string) (err error) {
	switch b.state[name] {
	case 2:
		return nil
	case 1:
		return fmt.Errorf("modules need each other: %s", strings.Join(append(path, name), " → "))
	}
	b.state[name] = 1
	defer func() {
		if err != nil {
			b.state[name] = 0
		}
	}()
	path = append(path[:len(path):len(path)], name)
	seen := make(map[string]bool)
	var all []string
	add := func(d string) {
		if !seen[d] {
			seen[d] = true
			all = append(all, d)
		}
	}
	for _, d := range b.infos[name].Depends {
		if _, ok := b.infos[d]; !ok {
			return &missingError{path: b.infos[name].Path, name: d}
		}
		if err := b.visit(d, path); err != nil {
			return err
		}
		for _, dd := range b.deps[d] {
			add(dd)
		}
		add(d)
	}
	b.deps[name] = all
	b.state[name] = 2
	return nil
}

// inOrder returns the modules in the order of modules.order, then those that it does
// not name, by path.
func inOrder(modules []Info, order []byte) []Info {
	rank := make(map[string]int)
	for i, p := range lines(order) {
		rank[RawPath(p)] = i + 1
	}
	sorted := slices.Clone(modules)
	slices.SortFunc(sorted, func(a, b Info) int {
		ra, rb := rank[RawPath(a.Path)], rank[RawPath(b.Path)]
		switch {
		case ra != 0 && rb != 0:
			return ra - rb
		case ra != rb: // one of them is named
			return rb - ra
		}
		return strings.Compare(a.Path, b.Path)
	})
	return sorted
}

// lines returns the lines of text that are not empty.
func lines(text []byte) []string {
	var all []string
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSpace(line); line != "" {
			all = append(all, line)
		}
	}
	return all
}
