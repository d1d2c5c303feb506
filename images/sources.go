package images

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// Source is one source of the userland, as an item of userland: says it. Exactly one of
// its fields is set. Later sources lie over earlier ones; docs/userland.md has the rules.
type Source struct {
	// OCI is a container image: a registry reference, or the path of a layout folder or of an
	// archive, which begins with ./, ../ or /. A digest may stand behind it: @sha256:….
	OCI string `yaml:"oci" json:"oci,omitempty"`
	Tar string `yaml:"tar" json:"tar,omitempty"` // archive of files, packed or not
	Dir string `yaml:"dir" json:"dir,omitempty"` // folder
	// Debs are package files of the site's own, and Packages those of the archive. Both
	// are resolved together with [Definition.Packages].
	Debs     []string `yaml:"debs" json:"debs,omitempty"`
	Packages []string `yaml:"packages" json:"packages,omitempty"`

	// base is the folder of the definition that the source stands in: paths are
	// relative to it, and written as they are there wherever they are kept.
	base string
	// inherited marks the item "...".
	inherited bool
}

// UnmarshalYAML reads an item of userland:, which is a mapping or the word "...".
func (s *Source) UnmarshalYAML(unmarshal func(any) error) error {
	var word string
	if unmarshal(&word) == nil {
		if word != Inherited {
			return fmt.Errorf("userland: %q is no source; one is written - dir: ./tree, and %s stands for what is inherited", word, Inherited)
		}
		s.inherited = true
		return nil
	}
	type plain Source
	return unmarshal((*plain)(s))
}

// SourceKind says what a [Source] is.
type SourceKind string

// The kinds of sources.
const (
	SourceOCI      SourceKind = "oci"
	SourceTar      SourceKind = "tar"
	SourceDir      SourceKind = "dir"
	SourceDebs     SourceKind = "debs"
	SourcePackages SourceKind = "packages"
)

// Kind returns the kind of s; "" where none or more than one is given.
func (s Source) Kind() SourceKind {
	kinds := s.kinds()
	if len(kinds) != 1 {
		return ""
	}
	return kinds[0]
}

func (s Source) kinds() []SourceKind {
	var out []SourceKind
	for _, k := range []struct {
		kind SourceKind
		is   bool
	}{
		{SourceOCI, s.OCI != ""},
		{SourceTar, s.Tar != ""},
		{SourceDir, s.Dir != ""},
		{SourceDebs, s.Debs != nil},
		{SourcePackages, s.Packages != nil},
	} {
		if k.is {
			out = append(out, k.kind)
		}
	}
	return out
}

// Ref is what the definition says of an oci, tar or dir source.
func (s Source) Ref() string { return s.OCI + s.Tar + s.Dir }

// String returns s as error messages name it: "dir ./tree".
func (s Source) String() string {
	switch k := s.Kind(); k {
	case SourceDebs:
		return string(k) + " " + strings.Join(s.Debs, ", ")
	case SourcePackages:
		return string(k) + " " + strings.Join(s.Packages, ", ")
	default:
		return string(k) + " " + s.Ref()
	}
}

// Path returns the file or folder of the host that ref, a path of s, means.
func (s Source) Path(ref string) string {
	if filepath.IsAbs(ref) {
		return ref
	}
	return filepath.Join(s.base, ref)
}

// IsLocal says whether an OCI source is a folder or file, and no reference to a registry.
func (s Source) IsLocal() bool {
	return s.OCI == "" || strings.HasPrefix(s.OCI, "/") || isRelative(s.OCI)
}

// digestRE is a digest at the end of an OCI source.
var digestRE = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

// OCIDigest splits what an OCI source says at its digest, which may be missing.
func (s Source) OCIDigest() (ref, digest string) {
	ref, digest, _ = strings.Cut(s.OCI, "@")
	return ref, digest
}

// AllPackages returns the names of all packages that d asks the archive for, with the pins
// behind them: those of packages: and of the sources in userland:.
func (d *Definition) AllPackages() []string {
	out := d.Packages
	for _, s := range d.Userland {
		for _, p := range s.Packages {
			if !slices.Contains(out, p) {
				out = append(slices.Clip(out), p)
			}
		}
	}
	return out
}

// Stack returns the sources of the userland from the lowest to the highest. All Debian packages are
// one layer, since they depend on each other, which is at most one item, of kind [SourcePackages]:
// at the place of the first item that asks for some, and where there is none, over
// the OCI images that the list begins with.
func (d *Definition) Stack() []Source {
	if !d.HasUserland() {
		return nil
	}
	at := slices.IndexFunc(d.Userland, Source.isPackages)
	if at < 0 && len(d.Packages) > 0 {
		at = slices.IndexFunc(d.Userland, func(s Source) bool { return s.Kind() != SourceOCI })
		if at < 0 {
			at = len(d.Userland)
		}
	}
	var out []Source
	packages := Source{Packages: append([]string{}, d.AllPackages()...)} // not nil, also where there are only files
	for i, s := range d.Userland {
		if i == at {
			out = append(out, packages)
		}
		if !s.isPackages() {
			out = append(out, s)
		}
	}
	if at == len(d.Userland) {
		out = append(out, packages)
	}
	return out
}

func (s Source) isPackages() bool { return s.Kind() == SourcePackages || s.Kind() == SourceDebs }

func checkSource(s Source) error {
	kinds := s.kinds()
	const ways = "oci, tar, dir, debs or packages"
	switch len(kinds) {
	case 0:
		return fmt.Errorf("userland: a source is empty; it has to have one of %s", ways)
	case 1:
	default:
		return fmt.Errorf("userland: one source has %s and %s; each has one of %s, and is an item of its own", kinds[0], kinds[1], ways)
	}
	switch kinds[0] {
	case SourceOCI:
		return checkOCI(s)
	case SourceDebs:
		if len(s.Debs) == 0 {
			return errors.New("userland: debs: is empty")
		}
		for _, f := range s.Debs {
			if !strings.HasSuffix(f, ".deb") {
				return fmt.Errorf("userland: debs: %s does not end in .deb; packages of the archive belong under packages", f)
			}
		}
	case SourcePackages:
		return checkPackages("userland: packages", s.Packages)
	}
	if strings.ContainsRune(s.Ref(), 0) {
		return fmt.Errorf("userland: %s: %q has a zero byte", kinds[0], s.Ref())
	}
	return nil
}

func checkOCI(s Source) error {
	ref, digest := s.OCIDigest()
	switch {
	case strings.Contains(s.OCI, "@") && !digestRE.MatchString(digest):
		return fmt.Errorf("userland: oci: %s: %q is no digest; one is sha256: and 64 digits", s.OCI, digest)
	case ref == "":
		return fmt.Errorf("userland: oci: %s names no image", s.OCI)
	case strings.Contains(ref, "://"):
		return fmt.Errorf("userland: oci: %s: a registry is named without %s", s.OCI, ref[:strings.Index(ref, "://")+3])
	case strings.HasPrefix(ref, "docker-daemon:"):
		return fmt.Errorf("userland: oci: %s: muster asks no docker daemon; write it to a file with: docker save IMAGE -o image.tar, and name that: ./image.tar", s.OCI)
	}
	return nil
}

// packageAskRE is an item of packages: a name, and perhaps a version, whose end may be
// open: python3-numpy=1:2.2.4*.
var packageAskRE = regexp.MustCompile(`^([a-z0-9][a-z0-9+.-]+)(?:=([0-9A-Za-z][0-9A-Za-z.+~:-]*\*?))?$`)

// SplitPackage splits an item of packages: into the name and the version that it is pinned to,
// "" where it is not.
func SplitPackage(item string) (name, version string) {
	name, version, _ = strings.Cut(item, "=")
	return name, version
}

// checkPackages checks a list of packages with pins.
func checkPackages(key string, items []string) error {
	var errs []error
	pins := make(map[string]string)
	for _, item := range items {
		name, version := SplitPackage(item)
		if !packageAskRE.MatchString(item) {
			what := "cannot be the name of a Debian package"
			if strings.Contains(item, "=") {
				what = "is no package at a version; one is written name=1.2-3, or name=1.2* for all that begin so"
			}
			errs = append(errs, fmt.Errorf("%s: %q %s", key, item, what))
			continue
		}
		if version == "" {
			continue
		}
		if old, ok := pins[name]; ok && old != version {
			errs = append(errs, fmt.Errorf("%s: %s is pinned to %s and to %s; leave one of them out", key, name, old, version))
		}
		pins[name] = version
	}
	return errors.Join(errs...)
}

// checkUserland checks the sources and all packages together.
func checkUserland(d *Definition) error {
	var errs []error
	for _, s := range d.Userland {
		errs = append(errs, checkSource(s))
	}
	return errors.Join(append(errs, checkPackages("packages", d.AllPackages()), checkUserlandIn(d))...)
}

// mergeSources is mergeList for sources.
func mergeSources(base, child []Source) []Source {
	if child == nil {
		return base
	}
	out := []Source{}
	for _, s := range child {
		if s.inherited {
			out = append(out, base...)
		} else {
			out = append(out, s)
		}
	}
	return out
}

// WalkDir calls fn for everything in the folder of a dir source, as [File.WalkTree] does.
func (s Source) WalkDir(fn func(e TreeEntry, content io.Reader) error) error {
	f := &File{From: s.Path(s.Dir)}
	return f.WalkTree(fn)
}

// ReadDir lists the folder of a dir source with the hashes of its files, as [TreeHash] takes it. A private
// key in it is an error: everybody on the boot network can fetch a userland.
func (s Source) ReadDir(ctx context.Context) ([]TreeEntry, error) {
	var entries []TreeEntry
	err := s.WalkDir(func(e TreeEntry, content io.Reader) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		if e.Kind == TreeFile {
			var err error
			if e.SHA256, e.Secret, err = digest(content, e.Size); err != nil {
				return fmt.Errorf("reading %s: %w", e.Path, err)
			}
			if e.Secret != "" {
				return fmt.Errorf("%s holds %s: everybody on the boot network can fetch a userland; leave it out", e.Path, e.Secret)
			}
		}
		entries = append(entries, e)
		return nil
	})
	return entries, err
}
