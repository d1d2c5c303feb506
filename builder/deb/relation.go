package deb

import (
	"fmt"
	"strings"
)

// Relation is what a package says of one other: a name, real or virtual, and
// perhaps which versions are meant (Debian Policy 7.1).
type Relation struct {
	Name    string
	Arch    string // any, native, or an architecture; "": not said
	Op      string // <<, <=, =, >=, >>; "": every version
	Version string
}

// String returns r as a control file writes it.
func (r Relation) String() string {
	s := r.Name
	if r.Arch != "" {
		s += ":" + r.Arch
	}
	if r.Op != "" {
		s += " (" + r.Op + " " + r.Version + ")"
	}
	return s
}

// Alternatives are relations of which one is enough, the preferred one first.
type Alternatives []Relation

// String returns a as a control file writes it.
func (a Alternatives) String() string {
	parts := make([]string, len(a))
	for i, r := range a {
		parts[i] = r.String()
	}
	return strings.Join(parts, " | ")
}

// ParseRelations reads a field such as Depends, Conflicts or Provides.
func ParseRelations(field string) ([]Alternatives, error) {
	var out []Alternatives
	for group := range strings.SplitSeq(field, ",") {
		if strings.TrimSpace(group) == "" {
			continue // Policy forbids it, archives have it
		}
		var a Alternatives
		for text := range strings.SplitSeq(group, "|") {
			m := relationRE.FindStringSubmatch(strings.TrimSpace(text))
			if m == nil {
				return nil, fmt.Errorf("%q is no relation to a package", strings.TrimSpace(text))
			}
			a = append(a, Relation{Name: m[1], Arch: m[2], Op: m[3], Version: m[4]})
		}
		out = append(out, a)
	}
	return out, nil
}

// Admits says whether version is one of those that r means.
func (r Relation) Admits(version string) bool {
	if r.Op == "" {
		return true
	}
	ok, err := satisfies(version, r.Op, r.Version)
	return ok && err == nil
}

// matches says whether p itself, by its own name, is what r means.
func (r Relation) matches(p *Package) bool {
	return p.Name == r.Name && r.archFits(p) && r.Admits(p.Version)
}

// archFits knows a single architecture: of it are all packages of an index.
func (r Relation) archFits(p *Package) bool {
	switch r.Arch {
	case "", "native":
		return true
	case "any":
		return p.MultiArch == "allowed"
	}
	return r.Arch == p.Arch || p.Arch == "all"
}

// providedBy says whether p provides what r means. A version is asked of
// what is provided, not of who provides it.
func (r Relation) providedBy(p *Package) bool {
	for _, group := range p.Provides {
		for _, v := range group {
			if v.Name == r.Name && (r.Arch == "" || r.archFits(p)) && (r.Op == "" || v.Op == "=" && r.Admits(v.Version)) {
				return true
			}
		}
	}
	return false
}

// means says whether having p is having what r means.
func (r Relation) means(p *Package) bool { return r.matches(p) || r.providedBy(p) }
