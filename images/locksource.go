package images

import (
	"fmt"
	"slices"
	"strings"
)

// LocalSuite is the suite of packages that come from files of the site's own.
const LocalSuite = "local"

// LockedSource is an oci, tar or dir source, exactly.
type LockedSource struct {
	Kind SourceKind `json:"kind"`
	Ref  string     `json:"ref"` // as the definition says it
	// Digest is that of the image's manifest (of its configuration where it is an archive of docker save,
	// which has no manifest), of the archive, or of the folder's content as docs/userland.md
	// defines it; sha256:….
	Digest string `json:"digest"`
	Size   int64  `json:"size,omitempty"` // of the archive, or of all files in the folder
	// Of an image: its parts, which Digest is a hash of.
	Config *LockedBlob  `json:"config,omitempty"`
	Layers []LockedBlob `json:"layers,omitempty"`
}

// LockedBlob is a part of a container image.
type LockedBlob struct {
	Digest string `json:"digest"`         // sha256:…
	Size   int64  `json:"size,omitempty"` // 0: not known
}

// String returns s as messages name it: "dir ./tree".
func (s LockedSource) String() string { return string(s.Kind) + " " + s.Ref }

func (s LockedSource) check() error {
	switch {
	case s.Kind != SourceOCI && s.Kind != SourceTar && s.Kind != SourceDir:
		return fmt.Errorf("source %q: kind %q is not known", s.Ref, s.Kind)
	case s.Ref == "":
		return fmt.Errorf("a source of kind %s has no ref", s.Kind)
	case !digestRE.MatchString(s.Digest):
		return fmt.Errorf("source %s: digest %q is no SHA-256", s, s.Digest)
	case s.Size < 0:
		return fmt.Errorf("source %s: size is %d", s, s.Size)
	case s.Kind == SourceOCI && s.Config == nil:
		return fmt.Errorf("source %s: has no config", s)
	}
	blobs := slices.Clone(s.Layers)
	if s.Config != nil {
		blobs = append(blobs, *s.Config)
	}
	for _, b := range blobs {
		if !digestRE.MatchString(b.Digest) || b.Size < 0 {
			return fmt.Errorf("source %s: %q with %d bytes is no part of an image", s, b.Digest, b.Size)
		}
	}
	return nil
}

// sourcesAsked says in words what sources d has, in their order. A definition with packages
// alone has none.
func (d *Definition) sourcesAsked() []string {
	if len(d.Userland) == 0 {
		return nil
	}
	var out []string
	for _, s := range d.Stack() {
		if s.Kind() == SourcePackages {
			out = append(out, "packages")
			continue
		}
		out = append(out, s.String())
	}
	for _, f := range d.Debs() {
		out = append(out, "deb "+f.Ref)
	}
	return out
}

// LocalDeb is a package file of the site's own.
type LocalDeb struct {
	Ref  string // as the definition says it
	Path string // of the file on the host
}

// Debs returns the package files of all sources, each once.
func (d *Definition) Debs() []LocalDeb {
	var out []LocalDeb
	for _, s := range d.Userland {
		for _, ref := range s.Debs {
			deb := LocalDeb{ref, s.Path(ref)}
			if !slices.Contains(out, deb) {
				out = append(out, deb)
			}
		}
	}
	return out
}

// diffSources returns the sources that differ.
func diffSources(old, fresh *Lock) []LockChange {
	digests := func(l *Lock) map[string]string {
		out := make(map[string]string)
		if l == nil {
			return out
		}
		for _, s := range l.Sources {
			name := s.String()
			for out[name] != "" { // one source twice
				name += " (again)"
			}
			out[name] = s.Digest
		}
		return out
	}
	was, is := digests(old), digests(fresh)
	var changes []LockChange
	for name, digest := range is {
		if was[name] != digest {
			changes = append(changes, LockChange{Package: name, Old: was[name], New: digest})
		}
	}
	for name, digest := range was {
		if is[name] == "" {
			changes = append(changes, LockChange{Package: name, Old: digest})
		}
	}
	slices.SortFunc(changes, func(a, b LockChange) int { return strings.Compare(a.Package, b.Package) })
	return changes
}
