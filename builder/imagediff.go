package builder

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"muster/builder/squashfs"
	"muster/images"
	"muster/initramfs"
)

// Contents is what of an image can be compared.
type Contents struct {
	Manifest *images.Manifest
	// Files says of each path in the initramfs what is there. It is nil where only the
	// manifest is known.
	Files map[string]string
	// Userland is the same of its userland, with nothing in it where the image has none.
	Userland map[string]string
}

// ReadContents reads the image in a folder. A folder that holds none, or one that is
// damaged, is an [ErrInput].
func ReadContents(dir string) (Contents, error) {
	name := filepath.Join(dir, manifestName)
	text, err := os.ReadFile(name)
	if err != nil {
		return Contents{}, inputErrorf("%s holds no image: %w", dir, err)
	}
	m, err := images.ParseManifest(name, text)
	if err != nil {
		return Contents{}, inputError{err}
	}
	c := Contents{Manifest: m}
	a, _ := m.File(images.KindInitramfs)
	f, err := os.Open(filepath.Join(dir, filepath.FromSlash(a.Name)))
	if err != nil {
		return Contents{}, inputErrorf("image in %s is not whole: %w", dir, err)
	}
	defer f.Close()
	archive, err := initramfs.ReadCPIO(f)
	if err != nil {
		return Contents{}, inputErrorf("image in %s: %w", dir, err)
	}
	c.Files = make(map[string]string)
	for _, r := range archive.Records {
		c.Files["/"+r.Path] = fileText(r)
	}
	if c.Userland, err = userlandContents(dir, m); err != nil {
		return Contents{}, inputErrorf("image in %s: %w", dir, err)
	}
	return c, nil
}

// userlandContents says of each path in the userland of an image what is there.
func userlandContents(dir string, m *images.Manifest) (map[string]string, error) {
	out := make(map[string]string)
	a, ok := m.File(images.KindUserland)
	if !ok {
		return out, nil
	}
	return out, readUserland(filepath.Join(dir, filepath.FromSlash(a.Name)), func(f squashfs.File) error {
		text := fmt.Sprintf("%04o %d:%d", f.Mode, f.UID, f.GID)
		switch f.Type {
		case initramfs.Symlink:
			text = "-> " + f.Target
		case initramfs.Dir:
			text += " folder"
		case initramfs.File:
			sum, err := hashReader(f.Content)
			if err != nil {
				return err
			}
			text = fmt.Sprintf("%s %d bytes %s", text, f.Size, sum.SHA256[:12])
		}
		if f.Path != "." {
			out["/"+f.Path] = text
		}
		return nil
	})
}

// readUserland calls fn for every path of a squashfs.
func readUserland(name string, fn func(squashfs.File) error) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	return squashfs.Read(f, info.Size(), fn)
}

// fileText says in one line what a path is.
func fileText(r initramfs.Record) string {
	text := fmt.Sprintf("%04o %d:%d", r.Mode&0o7777, r.UID, r.GID)
	switch r.Mode & syscall.S_IFMT {
	case syscall.S_IFLNK:
		return "-> " + r.Target
	case syscall.S_IFDIR:
		return text + " folder"
	case syscall.S_IFREG:
		return fmt.Sprintf("%s %d bytes %s", text, len(r.Data), hashBytes(r.Data)[:12])
	}
	return text + " other"
}

// Change is one thing that two images have differently. "" is not there.
type Change struct {
	Name string `json:"name"`
	Old  string `json:"old,omitempty"`
	New  string `json:"new,omitempty"`
}

// ImageDiff is what differs between two images.
type ImageDiff struct {
	Old        string   `json:"old"` // image IDs
	New        string   `json:"new"`
	Image      []Change `json:"image"`      // name, kernel and time
	Parameters []Change `json:"parameters"` // of the kernel; in another order is no difference
	Packages   []Change `json:"packages"`
	Modules    []Change `json:"modules"`
	Commands   []Change `json:"commands"`
	Artifacts  []Change `json:"artifacts"`
	// Files is nil where one of the images is known by its manifest only.
	Files    []Change `json:"files"`
	Userland []Change `json:"userland"` // likewise
}

// Empty says whether nothing differs.
func (d *ImageDiff) Empty() bool {
	return len(d.Image)+len(d.Parameters)+len(d.Packages)+len(d.Modules)+len(d.Commands)+len(d.Artifacts)+len(d.Files)+len(d.Userland) == 0
}

// DiffImages compares two images.
func DiffImages(a, b Contents) *ImageDiff {
	m, n := a.Manifest, b.Manifest
	d := &ImageDiff{
		Old: m.ID, New: n.ID,
		Image: changes(
			map[string]string{"name": m.Name, "kernel": m.Kernel, "time": m.Time.UTC().String()},
			map[string]string{"name": n.Name, "kernel": n.Kernel, "time": n.Time.UTC().String()}),
		Parameters: changes(parameters(m.Cmdline), parameters(n.Cmdline)),
		Packages: changes(
			mapOf(m.Packages, func(p images.Package) (string, string) { return p.Name, p.Version }),
			mapOf(n.Packages, func(p images.Package) (string, string) { return p.Name, p.Version })),
		Modules:  changes(present(m.Modules), present(n.Modules)),
		Commands: changes(present(m.Commands), present(n.Commands)),
		Artifacts: changes(
			mapOf(m.Artifacts, artifactText), mapOf(n.Artifacts, artifactText)),
	}
	if a.Files != nil && b.Files != nil {
		d.Files, d.Userland = changes(a.Files, b.Files), changes(a.Userland, b.Userland)
	}
	return d
}

func artifactText(a images.Artifact) (string, string) {
	return a.Name, fmt.Sprintf("%d bytes %s", a.Size, a.SHA256[:12])
}

// parameters splits a kernel command line by name. One that is there several times
// (console) has all its values.
func parameters(cmdline string) map[string]string {
	out := make(map[string]string)
	for _, word := range strings.Fields(cmdline) {
		name, _, _ := strings.Cut(word, "=")
		if out[name] != "" {
			word = out[name] + " " + word
		}
		out[name] = word
	}
	return out
}

func present(names []string) map[string]string {
	return mapOf(names, func(n string) (string, string) { return n, "yes" })
}

func mapOf[T any](items []T, entry func(T) (key, value string)) map[string]string {
	out := make(map[string]string, len(items))
	for _, i := range items {
		k, v := entry(i)
		out[k] = v
	}
	return out
}

// changes compares two maps by key.
func changes(a, b map[string]string) []Change {
	out := []Change{}
	keys := make(map[string]bool)
	for k := range a {
		keys[k] = true
	}
	for k := range b {
		keys[k] = true
	}
	for _, k := range slices.Sorted(maps.Keys(keys)) {
		if a[k] != b[k] {
			out = append(out, Change{k, a[k], b[k]})
		}
	}
	return out
}

// IsImage says whether a folder has the manifest of an image.
func IsImage(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, manifestName))
	return !errors.Is(err, os.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR)
}
