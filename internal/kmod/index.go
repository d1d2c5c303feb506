package kmod

import (
	"iter"
	"maps"
	"path"
	"slices"
	"strings"
)

// Module is one loadable module as the index knows it.
type Module struct {
	Name string // with _ only
	Path string // relative to /lib/modules/RELEASE: kernel/drivers/net/virtio_net.ko

	// Deps are the names of all modules that must be loaded before, each after
	// those that need it, as in modules.dep: load them from the last to the
	// first.
	Deps []string
}

// Alias ties a pattern of device or feature names to a module.
type Alias struct {
	Pattern string // fnmatch pattern: pci:v00001AF4d00001000sv*sd*bc*sc*i*
	Module  string
}

// Softdep names modules that go well before and after a module. None of them
// is needed.
type Softdep struct {
	Module string
	Pre    []string
	Post   []string

	// Other are words with neither pre: nor post: before them, such as cifs has.
	// kmod ignores them, and so does a Loader; but they name modules that the
	// kernel will ask for, so a closure has them.
	Other []string
}

// Index is the set of modules of one kernel. Make it with [New], [Read] or package
// depmod.
type Index struct {
	modules  map[string]*Module
	aliases  []Alias // in the order of modules.alias
	softdeps []Softdep
	builtin  map[string]string // name to path
	builtinA []Alias           // aliases of what is built in

	match        matcher
	softdepsOf   map[string]Softdep
	builtinMatch matcher
}

// Contents is what an index is made of.
type Contents struct {
	Modules  []Module
	Aliases  []Alias
	Softdeps []Softdep
	Builtin  []string // paths of modules that are part of the kernel

	// BuiltinAliases are aliases of built-in modules, from
	// modules.builtin.modinfo.
	BuiltinAliases []Alias
}

// New makes an index.
func New(c Contents) *Index {
	x := &Index{
		modules:    make(map[string]*Module, len(c.Modules)),
		aliases:    slices.Clone(c.Aliases),
		softdeps:   slices.Clone(c.Softdeps),
		builtin:    make(map[string]string, len(c.Builtin)),
		builtinA:   slices.Clone(c.BuiltinAliases),
		softdepsOf: make(map[string]Softdep, len(c.Softdeps)),
	}
	for _, m := range c.Modules {
		m.Name = Name(m.Path)
		x.modules[m.Name] = &m
	}
	for _, p := range c.Builtin {
		x.builtin[Name(p)] = p
	}
	for _, s := range x.softdeps {
		// A module may have several entries: all of them count.
		all := x.softdepsOf[s.Module]
		all.Module = s.Module
		all.Pre = append(all.Pre, s.Pre...)
		all.Post = append(all.Post, s.Post...)
		all.Other = append(all.Other, s.Other...)
		x.softdepsOf[s.Module] = all
	}
	x.match = newMatcher(x.aliases)
	x.builtinMatch = newMatcher(x.builtinA)
	return x
}

// Len returns the number of loadable modules.
func (x *Index) Len() int { return len(x.modules) }

// All yields every loadable module, sorted by path.
func (x *Index) All() iter.Seq[Module] {
	return func(yield func(Module) bool) {
		for _, m := range x.sorted() {
			if !yield(*m) {
				return
			}
		}
	}
}

func (x *Index) sorted() []*Module {
	return slices.SortedFunc(maps.Values(x.modules), func(a, b *Module) int {
		return strings.Compare(a.Path, b.Path)
	})
}

// Module returns the loadable module of that name, which may be written with
// - or _.
func (x *Index) Module(name string) (Module, bool) {
	m, ok := x.modules[Name(name)]
	if !ok {
		return Module{}, false
	}
	return *m, true
}

// Builtin says whether the module is part of the kernel itself.
func (x *Index) Builtin(name string) bool {
	_, ok := x.builtin[Name(name)]
	return ok
}

// Softdep returns the soft dependencies of a module; most have none.
func (x *Index) Softdep(name string) Softdep {
	if s, ok := x.softdepsOf[Name(name)]; ok {
		return s
	}
	return Softdep{Module: Name(name)}
}

// Match returns the names of the modules that an alias (a device's modalias,
// fs-nfs, crypto-crc32c) stands for, in index order and without repetition.
func (x *Index) Match(alias string) []string { return x.match.find(alias) }

// Lookup returns the modules that a name stands for as modprobe sees it: the
// module of that name, else all whose alias matches. Without a module, known
// says whether the kernel itself has it.
func (x *Index) Lookup(nameOrAlias string) (modules []string, known bool) {
	if !strings.ContainsAny(nameOrAlias, ":/") {
		name := Name(nameOrAlias)
		if x.modules[name] != nil {
			return []string{name}, true
		}
		if x.Builtin(name) {
			return nil, true
		}
	}
	if found := x.Match(nameOrAlias); len(found) > 0 {
		return found, true
	}
	return nil, len(x.builtinMatch.find(nameOrAlias)) > 0
}

// Glob returns the names of the modules whose path matches pattern, sorted by
// path. A pattern that ends in "/" means everything below that folder;
// otherwise it is one of [path.Match] against the path, with or without
// the leading "kernel/", whose file name may lack ".ko".
func (x *Index) Glob(pattern string) []string {
	var names []string
	for _, m := range x.sorted() {
		if globMatch(pattern, m.Path) {
			names = append(names, m.Name)
		}
	}
	return names
}

func globMatch(pattern, p string) bool {
	short := strings.TrimPrefix(p, "kernel/")
	if strings.HasSuffix(pattern, "/") {
		return strings.HasPrefix(p, pattern) || strings.HasPrefix(short, pattern)
	}
	for _, c := range []string{p, short} {
		bare := path.Join(path.Dir(c), stripSuffix(path.Base(c)))
		for _, s := range []string{c, bare} {
			if ok, err := path.Match(pattern, s); ok && err == nil {
				return true
			}
		}
	}
	return false
}

func stripSuffix(base string) string {
	if i := strings.LastIndex(base, ".ko"); i > 0 && isModuleSuffix(base[i:]) {
		return base[:i]
	}
	return base
}
