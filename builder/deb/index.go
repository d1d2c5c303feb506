package deb

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Package is one entry of a package index.
type Package struct {
	Name, Version, Arch   string
	Source, SourceVersion string
	Depends               string // with Pre-Depends
	BuiltUsing            string // other sources that are in it
	Provides              []Alternatives
	Conflicts             []Alternatives // with Breaks
	Priority              string         // required, important, standard, optional
	MultiArch             string         // allowed, foreign, same; "": no
	Essential             bool
	Suite                 string // that the index is of
	Path                  string // of the file, below the base URL of a mirror
	FileHash
}

// Index holds the packages of one or several suites.
type Index struct {
	entries map[string][]entry

	// Made when first asked for; nil before.
	providers map[string][]string // names of packages by what they provide, sorted
	essential []string            // sorted
}

// entry is a paragraph that is parsed when somebody asks for it: an archive has
// 60,000 of them and a build asks for ten.
type entry struct {
	suite string
	text  []byte
}

// NewIndex returns an index without packages.
func NewIndex() *Index { return &Index{entries: make(map[string][]entry)} }

// Add adds the paragraphs of a Packages file, which must not be changed
// afterwards.
func (x *Index) Add(suite string, packages []byte) error {
	var bad error
	paragraphs(packages, func(p []byte) bool {
		line, _, _ := bytes.Cut(p, []byte("\n"))
		name, ok := bytes.CutPrefix(line, []byte("Package: "))
		if !ok {
			var err error
			if name, err = packageField(p); err != nil {
				bad = err
				return false
			}
		}
		key := string(bytes.TrimSpace(name))
		x.entries[key] = append(x.entries[key], entry{suite, p})
		x.providers = nil
		return true
	})
	if bad != nil {
		return fmt.Errorf("reading package index of %s: %w", suite, bad)
	}
	return nil
}

// packageField finds the name in a paragraph that does not begin with it.
func packageField(p []byte) ([]byte, error) {
	s, err := ParseStanza(p)
	if err != nil {
		return nil, err
	}
	if s.Field("Package") == "" {
		return nil, fmt.Errorf("a paragraph has no field Package: %.60q", p)
	}
	return []byte(s.Field("Package")), nil
}

// Names returns the names of all packages, sorted.
func (x *Index) Names() []string { return slices.Sorted(maps.Keys(x.entries)) }

// ErrNoPackage is wrapped by errors about a package that no suite has.
var ErrNoPackage = errors.New("there is no such package")

// Latest returns the highest version of a package.
func (x *Index) Latest(name string) (Package, error) {
	return x.find(name, func(Package) (bool, error) { return true, nil })
}

// Satisfying returns the highest version of the package named in one relation of
// a Depends field: "name", or "name (>= version)".
func (x *Index) Satisfying(relation string) (Package, error) {
	m := relationRE.FindStringSubmatch(strings.TrimSpace(relation))
	if m == nil {
		return Package{}, fmt.Errorf("%q is no relation to a package", relation)
	}
	name, op, version := m[1], m[3], m[4]
	return x.find(name, func(p Package) (bool, error) {
		if op == "" {
			return true, nil
		}
		return satisfies(p.Version, op, version)
	})
}

// relationRE is one alternative of Debian Policy 7.1, without architecture
// lists, which binary packages do not have.
var relationRE = regexp.MustCompile(`^([a-z0-9][a-z0-9+.-]+)(?::([a-z0-9]+))?(?:\s*\(\s*(<<|<=|=|>=|>>)\s*([^\s)]+)\s*\))?$`)

func (x *Index) find(name string, ok func(Package) (bool, error)) (Package, error) {
	var best Package
	var seen []string
	for _, e := range x.entries[name] {
		p, err := parsePackage(e)
		if err != nil {
			return Package{}, fmt.Errorf("package %s in %s: %w", name, e.suite, err)
		}
		seen = append(seen, p.Version)
		good, err := ok(p)
		if err != nil {
			return Package{}, fmt.Errorf("package %s in %s: %w", name, e.suite, err)
		}
		if good && (best.Name == "" || CompareVersions(p.Version, best.Version) > 0) {
			best = p
		}
	}
	switch {
	case best.Name != "":
		return best, nil
	case len(seen) > 0:
		return Package{}, fmt.Errorf("package %s: versions are %s, and none is fit: %w", name, strings.Join(seen, ", "), ErrNoPackage)
	}
	return Package{}, fmt.Errorf("package %s: %w", name, ErrNoPackage)
}

// prepare finds out who provides what and which packages are essential. Only
// the paragraphs that have these fields are parsed. A package that cannot be
// read provides nothing; it is an error for whoever needs it.
func (x *Index) prepare() error {
	if x.providers != nil {
		return nil
	}
	providers := make(map[string][]string)
	x.essential = nil
	for _, name := range x.Names() {
		interesting := slices.ContainsFunc(x.entries[name], func(e entry) bool {
			return bytes.Contains(e.text, []byte("\nProvides:")) || bytes.Contains(e.text, []byte("\nEssential: yes"))
		})
		if !interesting {
			continue
		}
		p, err := x.Latest(name)
		if err != nil && slices.ContainsFunc(x.entries[name], func(e entry) bool { return bytes.Contains(e.text, []byte("\nEssential: yes")) }) {
			return err
		}
		if err != nil {
			continue
		}
		if p.Essential {
			x.essential = append(x.essential, name)
		}
		// A pin may choose any version: what one of them provides is asked again of that which is chosen.
		for _, e := range x.entries[name] {
			p, err := parsePackage(e)
			if err != nil {
				continue
			}
			for _, group := range p.Provides {
				for _, v := range group {
					if list := providers[v.Name]; len(list) == 0 || list[len(list)-1] != name {
						providers[v.Name] = append(list, name)
					}
				}
			}
		}
	}
	x.providers = providers
	return nil
}

func parsePackage(e entry) (Package, error) {
	s, err := ParseStanza(e.text)
	if err != nil {
		return Package{}, err
	}
	p, err := parseRelated(s)
	if err != nil {
		return Package{}, err
	}
	p.Suite, p.Path, p.FileHash = e.suite, s.Field("Filename"), FileHash{SHA256: s.Field("SHA256")}
	if p.Size, err = strconv.ParseInt(s.Field("Size"), 10, 64); err != nil || p.Size <= 0 {
		return Package{}, fmt.Errorf("size is %q", s.Field("Size"))
	}
	switch {
	case !sha256RE.MatchString(p.SHA256):
		return Package{}, fmt.Errorf("SHA256 is %q", p.SHA256)
	case p.Path == "" || p.Path != path.Clean(p.Path) || path.IsAbs(p.Path) || strings.HasPrefix(p.Path, ".."):
		return Package{}, fmt.Errorf("file name %q does not stay below the mirror", p.Path)
	}
	return p, nil
}

// parseRelated reads what a package is and how it stands to others, and nothing of its file.
func parseRelated(s Stanza) (Package, error) {
	p := Package{
		Name: s.Field("Package"), Version: s.Field("Version"), Arch: s.Field("Architecture"), BuiltUsing: s.Field("Built-Using"),
		Priority: s.Field("Priority"), MultiArch: s.Field("Multi-Arch"), Essential: s.Field("Essential") == "yes",
	}
	if p.Version == "" {
		return Package{}, errors.New("has no version")
	}
	p.Source, p.SourceVersion = SourceOf(p.Name, p.Version, s.Field("Source"))
	var err error
	if p.Provides, err = ParseRelations(s.Field("Provides")); err != nil {
		return Package{}, fmt.Errorf("reading Provides: %w", err)
	}
	if p.Conflicts, err = ParseRelations(s.Field("Conflicts") + "," + s.Field("Breaks")); err != nil {
		return Package{}, fmt.Errorf("reading Conflicts and Breaks: %w", err)
	}
	p.Depends = strings.Join(slices.DeleteFunc([]string{s.Field("Pre-Depends"), s.Field("Depends")}, func(s string) bool { return s == "" }), ", ")
	return p, nil
}

// SourceOf reads the Source field of a package: "name", "name (version)", or nothing where source
// and package are called the same.
func SourceOf(pkg, pkgVersion, field string) (name, version string) {
	name, rest, _ := strings.Cut(field, " ")
	version = strings.Trim(rest, "() ")
	return cmp.Or(name, pkg), cmp.Or(version, pkgVersion)
}

// Relations splits a Depends field into its relations, of whose alternatives
// only the first is returned.
func Relations(depends string) []string {
	var out []string
	for r := range strings.SplitSeq(depends, ",") {
		first, _, _ := strings.Cut(r, "|")
		if first = strings.TrimSpace(first); first != "" {
			out = append(out, first)
		}
	}
	return out
}
