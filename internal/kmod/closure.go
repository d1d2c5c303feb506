package kmod

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// NotFoundError names a module, alias or pattern that a kernel does not have.
type NotFoundError struct {
	Name string
	Near []string // names of modules that look like it
}

func (e *NotFoundError) Error() string {
	s := fmt.Sprintf("kernel has no module %s", e.Name)
	if len(e.Near) > 0 {
		s += "; the nearest are " + strings.Join(e.Near, ", ")
	}
	return s
}

// Closure returns the named modules with everything they need and, where the
// kernel has them, their soft dependencies and what those need, sorted by
// name. A name is a module, an alias (fs-nfs) or, where it has a "/", a pattern of
// [Index.Glob]. What is built into the kernel needs no module. A name that
// this kernel does not know is a [*NotFoundError].
func (x *Index) Closure(names ...string) ([]string, error) {
	set := make(map[string]bool)
	for _, name := range names {
		found, err := x.expand(name)
		if err != nil {
			return nil, err
		}
		for _, f := range found {
			x.collect(set, f)
		}
	}
	return slices.Sorted(maps.Keys(set)), nil
}

func (x *Index) expand(name string) ([]string, error) {
	if strings.Contains(name, "/") {
		if found := x.Glob(name); len(found) > 0 {
			return found, nil
		}
		return nil, &NotFoundError{Name: name}
	}
	found, known := x.Lookup(name)
	if !known {
		return nil, &NotFoundError{Name: name, Near: x.near(name)}
	}
	return found, nil
}

// collect adds name and all it wants to set.
func (x *Index) collect(set map[string]bool, name string) {
	m := x.modules[name]
	if m == nil || set[name] {
		return
	}
	set[name] = true
	for _, d := range m.Deps {
		x.collect(set, d)
	}
	soft := x.Softdep(name)
	for _, wanted := range slices.Concat(soft.Pre, soft.Post, soft.Other) {
		found, _ := x.Lookup(wanted)
		for _, f := range found {
			x.collect(set, f)
		}
	}
}

// near returns up to three names of modules that differ little from name.
func (x *Index) near(name string) []string {
	type candidate struct {
		name string
		dist int
	}
	name = Name(name)
	limit := 1 + len(name)/4
	var all []candidate
	for n := range x.modules {
		if d := distance(n, name); d <= limit {
			all = append(all, candidate{n, d})
		}
	}
	slices.SortFunc(all, func(a, b candidate) int {
		if a.dist != b.dist {
			return a.dist - b.dist
		}
		return strings.Compare(a.name, b.name)
	})
	var names []string
	for _, c := range all[:min(3, len(all))] {
		names = append(names, c.name)
	}
	return names
}

// distance is the number of bytes to insert, delete or replace to make a from b.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j+1]+1, row[j]+1)
		}
	}
	return row[len(b)]
}

// Subset returns an index of the named modules only, with their aliases and soft
// dependencies; names that are not loadable modules are left out. Built-in modules
// stay.
func (x *Index) Subset(names []string) *Index {
	keep := make(map[string]bool, len(names))
	for _, n := range names {
		keep[Name(n)] = true
	}
	c := Contents{BuiltinAliases: x.builtinA}
	for _, m := range x.sorted() {
		if keep[m.Name] {
			c.Modules = append(c.Modules, *m)
		}
	}
	for _, a := range x.aliases {
		if keep[a.Module] {
			c.Aliases = append(c.Aliases, a)
		}
	}
	for _, s := range x.softdeps {
		if keep[s.Module] {
			c.Softdeps = append(c.Softdeps, s)
		}
	}
	c.Builtin = slices.Sorted(maps.Values(x.builtin))
	return New(c)
}
