package deb

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// maxTakenBack bounds how many choices between alternatives [Resolve] takes back
// before it gives up.
const maxTakenBack = 1000

// Request is what [Resolve] is asked for.
type Request struct {
	// Packages are names, with "=version" behind them where only that will do; a * at
	// the end of it stands for any ending. A virtual name stands for the only package that provides it.
	Packages []string
	// Local is a suite of which every package is taken, and counts before all others of its name; "": none.
	Local     string
	Essential bool // also those without which a Debian is not expected to work
	// Installed are there already. They fulfill what others need, and are in the answer only where another
	// version has to replace them: one that is higher and asked for by name, or that fits to what else is chosen.
	Installed []Package
	// Nearest names what is similar to a name that does not exist, for error messages; nil: nothing.
	Nearest func(name string, among []string) []string
}

// Resolve returns the packages of a request with all that they depend on, sorted by
// name: the highest version of each, or of those that a pin admits. What is only recommended is left out.
//
// Where there are alternatives, one that is in already for another reason is
// enough; else the first counts, and of those that provide a virtual package
// the one whose priority is highest, then that which comes from the source
// package of who asks, then the first by name. A choice that leads into a
// conflict is taken back. So the same index gives the same answer.
func Resolve(x *Index, req Request) ([]Package, error) {
	if err := x.prepare(); err != nil {
		return nil, err
	}
	r := &resolver{index: x, nearest: req.Nearest, known: make(map[string]*node)}
	names, err := r.pin(req)
	if err != nil {
		return nil, err
	}
	s := state{chosen: make(map[string]*node), why: make(map[string]string)}
	if err := r.setInstalled(&s, req.Installed); err != nil {
		return nil, err
	}
	if req.Essential {
		for _, name := range x.essential {
			if err := r.ask(&s, name, "every userland has it"); err != nil {
				return nil, err
			}
		}
	}
	for _, name := range names {
		if err := r.ask(&s, name, "asked for"); err != nil {
			return nil, err
		}
	}
	if s, err = r.solve(s); err != nil {
		return nil, err
	}
	var out []Package
	for _, n := range s.chosen {
		out = append(out, n.Package)
	}
	slices.SortFunc(out, func(a, b Package) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

// node is a package with its relations parsed.
type node struct {
	Package
	needs []Alternatives
}

type resolver struct {
	index     *Index
	pins      map[string]pin // by name of package
	nearest   func(string, []string) []string
	known     map[string]*node
	takenBack int
}

// state is a partial answer.
type state struct {
	installed map[string]*node // by name; those that are not chosen are there. Never changed
	chosen    map[string]*node
	why       map[string]string // by name: who needs it
	open      []need            // not looked at yet, or with a choice
}

// need is a dependency of a chosen package.
type need struct {
	by *node
	of Alternatives
}

func (s state) clone() state {
	c := state{installed: s.installed, chosen: make(map[string]*node, len(s.chosen)), why: make(map[string]string, len(s.why)), open: slices.Clone(s.open)}
	for k, v := range s.chosen {
		c.chosen[k] = v
	}
	for k, v := range s.why {
		c.why[k] = v
	}
	return c
}

// get returns the newest package of a name, or nil.
func (r *resolver) get(name string) (*node, error) {
	if n, ok := r.known[name]; ok {
		return n, nil
	}
	p, err := r.latest(name)
	if errors.Is(err, ErrNoPackage) {
		r.known[name] = nil
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	n := &node{Package: p}
	if n.needs, err = ParseRelations(p.Depends); err != nil {
		return nil, fmt.Errorf("package %s %s: Depends: %w", p.Name, p.Version, err)
	}
	r.known[name] = n
	return n, nil
}

// ask adds a package that somebody named.
func (r *resolver) ask(s *state, name, why string) error {
	if there, err := r.isInstalled(s, name); err != nil || there {
		return err
	}
	found, err := r.candidates(Alternatives{{Name: name}}, "")
	if err != nil {
		return err
	}
	switch {
	case len(found) == 0:
		return fmt.Errorf("package %s: %w%s", name, ErrNoPackage, r.like(name))
	case found[0].Name != name && len(found) > 1:
		var names []string
		for _, n := range found {
			names = append(names, n.Name)
		}
		return fmt.Errorf("package %s is a name for what several packages provide; name one of them: %s", name, strings.Join(names, ", "))
	}
	return s.add(found[0], why)
}

// like says which names are similar.
func (r *resolver) like(name string) string {
	if r.nearest == nil {
		return ""
	}
	if near := r.nearest(name, r.index.Names()); len(near) > 0 {
		return "; like it are: " + strings.Join(near, ", ")
	}
	return ""
}

// candidates returns the packages that fulfill a, the best first. source is that of the
// package that asks.
func (r *resolver) candidates(a Alternatives, source string) ([]*node, error) {
	var out []*node
	add := func(n *node) {
		if n != nil && !slices.Contains(out, n) {
			out = append(out, n)
		}
	}
	for _, rel := range a {
		real, err := r.get(rel.Name)
		if err != nil {
			return nil, err
		}
		if real != nil && rel.matches(&real.Package) {
			add(real)
		}
		var providers []*node
		for _, name := range r.index.providers[rel.Name] {
			n, err := r.get(name)
			if err != nil {
				return nil, err
			}
			if n != nil && rel.providedBy(&n.Package) {
				providers = append(providers, n)
			}
		}
		slices.SortStableFunc(providers, func(a, b *node) int { return rank(a, source) - rank(b, source) })
		for _, n := range providers {
			add(n)
		}
	}
	return out, nil
}

var priorities = []string{"required", "important", "standard", "optional", "extra"}

// rank orders those that provide the same: lower is better.
func rank(n *node, source string) int {
	r := slices.Index(priorities, n.Priority)
	if r < 0 {
		r = len(priorities)
	}
	r *= 2
	if n.Source != source {
		r++
	}
	return r
}

// add takes n into s, unless something there excludes it.
func (s *state) add(n *node, why string) error {
	if s.chosen[n.Name] != nil {
		return nil
	}
	for _, name := range sortedNames(s.chosen) {
		other := s.chosen[name]
		if rel, ok := excludes(n, other); ok {
			return s.conflict(n, why, other, rel)
		}
		if rel, ok := excludes(other, n); ok {
			return s.conflict(other, s.why[other.Name], n, rel, why)
		}
	}
	s.chosen[n.Name], s.why[n.Name] = n, why
	for _, of := range n.needs {
		s.open = append(s.open, need{n, of})
	}
	return nil
}

// conflict says that a and b cannot be together. whyB is why b is wanted, if
// it is not in s yet.
func (s *state) conflict(a *node, whyA string, b *node, rel Relation, whyB ...string) error {
	why := s.why[b.Name]
	if len(whyB) > 0 {
		why = whyB[0]
	}
	return fmt.Errorf("package %s %s (%s) and package %s %s (%s) cannot be in one userland: %s has a conflict with %s; leave one of them out",
		a.Name, a.Version, whyA, b.Name, b.Version, why, a.Name, rel)
}

// excludes says whether a conflicts with or breaks b. A package never excludes itself.
func excludes(a, b *node) (Relation, bool) {
	if a.Name == b.Name {
		return Relation{}, false
	}
	for _, group := range a.Conflicts {
		for _, rel := range group {
			if rel.means(&b.Package) {
				return rel, true
			}
		}
	}
	return Relation{}, false
}

// solve takes in all that s needs: first whatever leaves no choice, so that a
// choice finds in place what others decide for it.
func (r *resolver) solve(s state) (state, error) {
	for {
		changed, err := r.propagate(&s)
		if err != nil {
			return s, err
		}
		if !changed {
			changed, err = r.mend(&s)
		}
		if err != nil {
			return s, err
		}
		if changed {
			continue
		}
		if len(s.open) == 0 {
			return s, nil
		}
		next := s.open[0]
		s.open = s.open[1:]
		found, err := r.candidates(next.of, next.by.Source)
		if err != nil {
			return s, err
		}
		return r.choose(s, next, found)
	}
}

// choose tries the candidates of a need in turn.
func (r *resolver) choose(s state, n need, found []*node) (state, error) {
	var first error
	for _, c := range found {
		try := s.clone()
		err := try.add(c, neededBy(n))
		if err == nil {
			var done state
			if done, err = r.solve(try); err == nil {
				return done, nil
			}
		}
		if first == nil {
			first = err
		}
		if r.takenBack++; r.takenBack > maxTakenBack {
			return s, fmt.Errorf("after %d choices between alternatives: %w", maxTakenBack, first)
		}
	}
	return s, first
}

// propagate looks once at every open need and keeps those with a choice.
func (r *resolver) propagate(s *state) (changed bool, err error) {
	open := s.open
	s.open = nil
	var choices []need
	for _, n := range open {
		if s.fulfills(n.of) {
			continue
		}
		found, err := r.candidates(n.of, n.by.Source)
		if err != nil {
			return false, err
		}
		switch len(found) {
		case 0:
			return false, r.unmet(s, n)
		case 1:
			if err := s.add(found[0], neededBy(n)); err != nil {
				return false, err
			}
			changed = true
		default:
			choices = append(choices, n)
		}
	}
	s.open = append(choices, s.open...)
	return changed, nil
}

func (s *state) fulfills(a Alternatives) bool {
	for _, rel := range a {
		if n := s.at(rel.Name); n != nil && rel.matches(&n.Package) {
			return true
		}
	}
	provides := func(n *node) bool {
		return slices.ContainsFunc(a, func(rel Relation) bool { return rel.providedBy(&n.Package) })
	}
	for _, n := range s.chosen {
		if provides(n) {
			return true
		}
	}
	for name, n := range s.installed {
		if s.chosen[name] == nil && provides(n) {
			return true
		}
	}
	return false
}

func neededBy(n need) string { return "needed by " + n.by.Name }

// unmet says which dependency nothing fulfills, and how it came to be needed.
func (r *resolver) unmet(s *state, n need) error {
	var have []string
	for _, rel := range n.of {
		if p := r.known[rel.Name]; p != nil {
			have = append(have, fmt.Sprintf("%s is version %s", p.Name, p.Version)+r.pinHint(rel))
		} else {
			have = append(have, fmt.Sprintf("no package %s%s", rel.Name, r.like(rel.Name)))
		}
	}
	return fmt.Errorf("package %s %s (%s) depends on %s, and the archive has %s: %w",
		n.by.Name, n.by.Version, s.why[n.by.Name], n.of, strings.Join(have, ", "), ErrNoPackage)
}

func sortedNames(m map[string]*node) []string {
	out := make([]string, 0, len(m))
	for name := range m {
		out = append(out, name)
	}
	slices.Sort(out)
	return out
}
