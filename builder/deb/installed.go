package deb

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// ParseStatus returns the packages that are installed by what dpkg's status says. What cannot be read is left out:
// a package that is not known to be there is only installed again.
func ParseStatus(status []byte) []Package {
	var out []Package
	paragraphs(status, func(text []byte) bool {
		s, err := ParseStanza(text)
		if err != nil || s.Field("Package") == "" {
			return true
		}
		if is := s.Field("Status"); is != "" && !strings.HasSuffix(is, " installed") {
			return true
		}
		p, err := parseRelated(s)
		if err != nil {
			return true
		}
		if _, err := ParseRelations(p.Depends); err == nil {
			out = append(out, p)
		}
		return true
	})
	return out
}

// errOfImage says that what an image has cannot be together with what shall lie on it.
var errOfImage = errors.New("the image below has it, and the archive has no version that fits")

// setInstalled notes what is there already. Of what a package there needs counts only what is there too: an image
// may have left out what it never uses.
func (r *resolver) setInstalled(s *state, packages []Package) error {
	s.installed = make(map[string]*node)
	for _, p := range packages {
		n := &node{Package: p}
		var err error
		if n.needs, err = ParseRelations(p.Depends); err != nil {
			return fmt.Errorf("package %s %s, which the image below has: Depends: %w", p.Name, p.Version, err)
		}
		s.installed[p.Name] = n
	}
	for _, n := range s.installed {
		n.needs = slices.DeleteFunc(n.needs, func(of Alternatives) bool { return !s.fulfills(of) })
	}
	return nil
}

// isInstalled says whether what is asked for by name is there already, in a version that its pin admits and, without
// a version in it, that is the highest that can be had.
func (r *resolver) isInstalled(s *state, name string) (bool, error) {
	if len(s.installed) == 0 {
		return false, nil
	}
	latest, err := r.get(name)
	if err != nil {
		return false, err
	}
	if n := s.installed[name]; n != nil {
		pin := r.pins[name]
		return pin.admits(&n.Package) && (latest == nil || pin.version != "" || CompareVersions(n.Version, latest.Version) >= 0), nil
	}
	return latest == nil && s.fulfills(Alternatives{{Name: name}}), nil
}

// mend replaces what is installed and does not fit to what was chosen by what the archive has. A
// chosen package may so lose what it needs: that is looked for again.
func (r *resolver) mend(s *state) (changed bool, err error) {
	if len(s.installed) == 0 {
		return false, nil
	}
	for _, name := range sortedNames(s.installed) {
		if s.chosen[name] != nil {
			continue
		}
		n := s.installed[name]
		why, broken := s.breaks(n)
		if !broken {
			continue
		}
		next, err := r.get(name)
		if err != nil {
			return false, err
		}
		if next == nil || next.Version == n.Version {
			return false, fmt.Errorf("package %s %s: %s: %w", n.Name, n.Version, why, errOfImage)
		}
		return true, s.add(next, why)
	}
	if len(s.open) > 0 {
		return false, nil
	}
	for _, name := range sortedNames(s.chosen) {
		for _, of := range s.chosen[name].needs {
			if !s.fulfills(of) {
				s.open = append(s.open, need{s.chosen[name], of})
			}
		}
	}
	return len(s.open) > 0, nil
}

// breaks says what of the chosen an installed package cannot be together with.
func (s *state) breaks(n *node) (why string, broken bool) {
	for _, name := range sortedNames(s.chosen) {
		c := s.chosen[name]
		if rel, ok := excludes(c, n); ok {
			return fmt.Sprintf("%s %s (%s) has a conflict with %s", c.Name, c.Version, s.why[name], rel), true
		}
		if rel, ok := excludes(n, c); ok {
			return fmt.Sprintf("it has a conflict with %s, which %s %s is (%s)", rel, c.Name, c.Version, s.why[name]), true
		}
	}
	for _, of := range n.needs {
		if !s.fulfills(of) {
			return fmt.Sprintf("it depends on %s, which is replaced", of), true
		}
	}
	return "", false
}

// at returns the package of a name that s comes to, or nil.
func (s *state) at(name string) *node {
	if n := s.chosen[name]; n != nil {
		return n
	}
	return s.installed[name]
}
