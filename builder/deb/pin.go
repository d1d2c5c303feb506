package deb

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// ErrPin is wrapped by errors about a version that was asked for and that no suite has.
var ErrPin = errors.New("there is no such version")

// pin says which versions of a package will do.
type pin struct {
	version string // as asked for, perhaps with a * at its end; "": any
	suite   string // "": any
}

func (p pin) admits(q *Package) bool {
	if p.suite != "" && q.Suite != p.suite {
		return false
	}
	if prefix, open := strings.CutSuffix(p.version, "*"); open {
		return strings.HasPrefix(q.Version, prefix)
	}
	return p.version == "" || CompareVersions(q.Version, p.version) == 0
}

// pin reads the pins of a request and returns the names that are asked for, those of
// local packages first.
func (r *resolver) pin(req Request) ([]string, error) {
	r.pins = make(map[string]pin)
	var names []string
	if req.Local != "" {
		for _, name := range r.index.Names() {
			if !slices.ContainsFunc(r.index.entries[name], func(e entry) bool { return e.suite == req.Local }) {
				continue
			}
			r.pins[name] = pin{suite: req.Local}
			names = append(names, name)
		}
	}
	for _, item := range req.Packages {
		name, version, pinned := strings.Cut(item, "=")
		names = append(names, name)
		if !pinned {
			continue
		}
		p := r.pins[name]
		if p.version != "" && p.version != version {
			return nil, fmt.Errorf("package %s is pinned to %s and to %s; leave one of them out", name, p.version, version)
		}
		p.version = version
		r.pins[name] = p
		if err := r.available(name, p); err != nil {
			return nil, err
		}
	}
	return names, nil
}

// available says what there is where a pin admits none of it. A name that no suite has is not its
// business.
func (r *resolver) available(name string, p pin) error {
	_, err := r.index.find(name, func(q Package) (bool, error) { return p.admits(&q), nil })
	versions := r.index.versions(name)
	if err == nil || len(versions) == 0 {
		return nil
	}
	if p.suite != "" {
		return fmt.Errorf("package %s=%s: %w: the .deb of the definition is version %s; leave out one of them", name, p.version, ErrPin, strings.Join(r.index.versionsIn(name, p.suite), ", "))
	}
	return fmt.Errorf("package %s=%s: %w: the archive has %s; name one of these, or as mirror: a dated snapshot of the time when it had that one (https://snapshot.debian.org/package/%s/ has all versions)",
		name, p.version, ErrPin, strings.Join(versions, ", "), name)
}

// latest returns the highest version that the pin of a package admits.
func (r *resolver) latest(name string) (Package, error) {
	p, ok := r.pins[name]
	if !ok {
		return r.index.Latest(name)
	}
	return r.index.find(name, func(q Package) (bool, error) { return p.admits(&q), nil })
}

// pinHint says which pin would give what a relation asks for, where the archive has it in another version
// than the one that is chosen.
func (r *resolver) pinHint(rel Relation) string {
	if rel.Op == "" {
		return ""
	}
	p, err := r.index.find(rel.Name, func(q Package) (bool, error) { return rel.Admits(q.Version), nil })
	if err != nil {
		return ""
	}
	if pinned, ok := r.pins[rel.Name]; ok && pinned.version != "" {
		return " by its pin " + pinned.version
	}
	return fmt.Sprintf(" (the archive also has %s: pin it as well, %s=%s)", p.Version, rel.Name, p.Version)
}

// versions returns the versions of a package, the highest first.
func (x *Index) versions(name string) []string { return x.versionsIn(name, "") }

func (x *Index) versionsIn(name, suite string) []string {
	var out []string
	for _, e := range x.entries[name] {
		p, err := parsePackage(e)
		if err == nil && !slices.Contains(out, p.Version) && (suite == "" || e.suite == suite) {
			out = append(out, p.Version)
		}
	}
	slices.SortFunc(out, func(a, b string) int { return CompareVersions(b, a) })
	return out
}
