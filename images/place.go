package images

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
)

// noUserland says what is wrong with asking for something in it.
const noUserland = "this image has no userland; give packages, or leave it out"

// HasUserland says whether tasks see a file system of their own.
func (d *Definition) HasUserland() bool { return len(d.Packages) > 0 || len(d.Userland) > 0 }

// PlacesOf returns where in an image of d a file or tree is. Where f does not say it,
// a file is in both and a tree, which may be large, in the userland alone; without a
// userland, all is in the initramfs.
func (d *Definition) PlacesOf(f *File) []Place {
	switch {
	case f.In == InBoth || f.In == "" && !f.IsTree() && d.HasUserland():
		return []Place{InInitramfs, InUserland}
	case f.In != "":
		return []Place{f.In}
	case d.HasUserland():
		return []Place{InUserland}
	}
	return []Place{InInitramfs}
}

// IsTree says whether f is a folder or an archive rather than one file.
func (f *File) IsTree() bool { return f.From != "" || f.Tar != "" || f.To != "" }

// reserved are the places that belong to muster: of the initramfs, and of the userland. A
// path that ends in a slash covers everything below it.
func reserved(p Place) []string {
	if p == InUserland {
		return []string{"/usr/lib/muster/", "/dev/", "/proc/", "/sys/", "/run/", "/tmp/", "/var/tmp/"}
	}
	return []string{
		"/init", "/sbin/modprobe", "/bin/bb", "/modules.sqfs", "/lib/modules/", "/usr/lib/muster/", "/dev/", "/proc/", "/sys/", "/run/",
		"/etc/muster/image", "/etc/muster/runtime", "/etc/muster/early", "/etc/muster/files", "/etc/muster/site.json", UserlandFile,
		"/etc/muster/userland.json", NodeFile, ModprobeFile,
	}
}

// ModprobeFile is where an initramfs has the parameters of modules.
const ModprobeFile = "/etc/modprobe.d/muster.conf"

// Reserved says whether a path belongs to muster in one of the places.
func Reserved(name string, places ...Place) bool {
	for _, p := range places {
		for _, r := range reserved(p) {
			if name == strings.TrimSuffix(r, "/") || strings.HasSuffix(r, "/") && strings.HasPrefix(name, r) {
				return true
			}
		}
	}
	return false
}

// checkFiles checks all files and trees, and that no path is there twice.
func (d *Definition) checkFiles() error {
	var errs []error
	seen := make(map[Place]map[string]*File)
	for i := range d.Files {
		f := &d.Files[i]
		if f.Mode == 0 && !f.IsTree() {
			f.Mode = defaultMode
		}
		places := d.PlacesOf(f)
		if err := d.checkFile(f, places); err != nil {
			errs = append(errs, err)
			continue
		}
		for _, p := range places {
			if seen[p] == nil {
				seen[p] = make(map[string]*File)
			}
			errs = append(errs, noteFiles(seen[p], f))
		}
	}
	return errors.Join(dedup(errs)...)
}

// dedup leaves out errors that say the same: what is wrong in two places is said once.
func dedup(errs []error) []error {
	said := make(map[string]bool)
	return slices.DeleteFunc(errs, func(err error) bool {
		if err == nil || said[err.Error()] {
			return true
		}
		said[err.Error()] = true
		return false
	})
}

// noteFiles notes the paths of f, and names the first that was there before and that f
// does not say to replace.
func noteFiles(seen map[string]*File, f *File) error {
	note := func(name string) error {
		if other := seen[name]; other != nil && !f.Replace {
			return fmt.Errorf("files: %s is there twice: in %s and in %s; leave one out, or say replace: true at the second", name, other.origin(), f.origin())
		}
		seen[name] = f
		return nil
	}
	if !f.IsTree() {
		return note(f.Path)
	}
	for _, e := range f.Entries {
		if e.Kind == TreeDir {
			continue
		}
		if err := note(path.Join(f.To, e.Path)); err != nil {
			return err
		}
	}
	return nil
}

// origin names f and where the definition has it.
func (f *File) origin() string {
	switch {
	case f.From != "":
		return "folder " + f.From + where(f.At)
	case f.Tar != "":
		return "archive " + f.Tar + where(f.At)
	case f.Source != "":
		return "file " + f.Source + where(f.At)
	}
	if f.At != "" {
		return "a file" + where(f.At)
	}
	return "a file of the definition"
}

func (d *Definition) checkFile(f *File, places []Place) error {
	if f.In != "" && f.In != InInitramfs && !d.HasUserland() {
		return fmt.Errorf("files: %s%s: in: %s: %s", f.Path+f.To, where(f.At), f.In, noUserland)
	}
	if f.IsTree() {
		return f.checkTree(places)
	}
	if !isClean(f.Path) || f.Path == "/" {
		return fmt.Errorf("files: path %q has to be absolute and without . or .. in it", f.Path)
	}
	if Reserved(f.Path, places...) {
		return fmt.Errorf("files: %s belongs to muster (docs/initramfs.md)", f.Path)
	}
	if kind := privateKey(f.Data); kind != "" && !f.Public {
		return fmt.Errorf("files: %s holds %s: everybody on the boot network can fetch an image; leave it out, or say public: true at this file if that is meant", f.Path, kind)
	}
	return nil
}

func isClean(name string) bool {
	return strings.HasPrefix(name, "/") && name == path.Clean(name) && !strings.ContainsRune(name, 0)
}

func (f *File) checkTree(places []Place) error {
	if !isClean(f.To) {
		return fmt.Errorf("files: %s: to %q has to be a folder of the image, absolute and without . or .. in it", f.origin(), f.To)
	}
	for _, e := range f.Entries {
		name := path.Join(f.To, e.Path)
		if e.Kind != TreeDir && Reserved(name, places...) {
			return fmt.Errorf("files: %s of %s belongs to muster (docs/initramfs.md)", name, f.origin())
		}
		if e.Secret != "" && !f.Public {
			return fmt.Errorf("files: %s of %s holds %s: everybody on the boot network can fetch an image; leave it out, or say public: true there if that is meant", name, f.origin(), e.Secret)
		}
	}
	return nil
}
