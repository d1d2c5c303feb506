package builder

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"muster/images"
	"muster/initramfs"
)

// spool keeps the contents of files, one behind the other, until a tree has been written.
type spool struct {
	file *os.File
	end  int64
}

func newSpool(c *cache, name string) (*spool, error) {
	f, err := os.CreateTemp(filepath.Join(c.dir, "tmp"), name+"-*")
	if err != nil {
		return nil, err
	}
	return &spool{file: f}, nil
}

func (s *spool) close() {
	s.file.Close()
	os.Remove(s.file.Name())
}

// store copies the content of a file behind all others.
func (s *spool) store(n *initramfs.Entry, size int64, content io.Reader) error {
	at := s.end
	if _, err := io.CopyN(io.NewOffsetWriter(s.file, at), content, size); err != nil {
		return fmt.Errorf("unpacking %s: %w", n.Path, err)
	}
	s.end += size
	n.Size = size
	n.Open = func() (io.ReadCloser, error) { return io.NopCloser(io.NewSectionReader(s.file, at, size)), nil }
	return nil
}

// filler puts what a definition brings into one of the places of an image.
type filler struct {
	tree  *initramfs.Tree
	place images.Place
	store func(n *initramfs.Entry, size int64, content io.Reader) error
}

// addFilesOf adds the files and trees of d that belong there.
func (f *filler) addFilesOf(d *images.Definition) error {
	var errs []error
	for i := range d.Files {
		file := &d.Files[i]
		switch {
		case !slices.Contains(d.PlacesOf(file), f.place):
		case file.IsTree():
			errs = append(errs, f.addTree(d, file))
		default:
			errs = append(errs, f.add(initramfs.Entry{
				Path: file.Path[1:], Type: initramfs.File, Mode: uint32(file.Mode), UID: file.Owner.UID, GID: file.Owner.GID,
				Source: "definition " + d.Name + at(file.At),
			}, int64(len(file.Data)), bytes.NewReader(file.Data), file.Replace))
		}
	}
	return errors.Join(errs...)
}

// at puts a place behind a name.
func at(place string) string {
	if place == "" {
		return ""
	}
	return " (" + place + ")"
}

// addTree adds a folder or archive. It is read a second time here: contents that
// are not those that the image ID stands for are an error.
func (f *filler) addTree(d *images.Definition, file *images.File) error {
	known := make(map[string]images.TreeEntry, len(file.Entries))
	for _, e := range file.Entries {
		known[e.Path] = e
	}
	source := file.From + file.Tar + at(file.At)
	changed := func(name string) error {
		return fmt.Errorf("files: %s changed while the image was built: %q; build again", source, name)
	}
	links := []initramfs.Entry{}
	err := file.WalkTree(func(e images.TreeEntry, content io.Reader) error {
		want, ok := known[e.Path]
		delete(known, e.Path)
		e.SHA256, e.Secret = want.SHA256, want.Secret
		if !ok || e != want {
			return changed(e.Path)
		}
		n := initramfs.Entry{
			Path: strings.TrimPrefix(path.Join(file.To, e.Path), "/"), Mode: e.Mode, UID: file.Owner.UID, GID: file.Owner.GID, Source: source,
		}
		switch e.Kind {
		case images.TreeDir:
			n.Type = initramfs.Dir
		case images.TreeSymlink:
			n.Type, n.Target = initramfs.Symlink, e.Link
		case images.TreeHardLink:
			n.Type, n.Target = initramfs.HardLink, strings.TrimPrefix(path.Join(file.To, e.Link), "/")
			links = append(links, n)
			return nil
		case images.TreeFile:
			n.Type = initramfs.File
			sum := sha256.New()
			if err := f.add(n, e.Size, io.TeeReader(content, sum), file.Replace); err != nil {
				return err
			}
			if hex.EncodeToString(sum.Sum(nil)) != want.SHA256 {
				return changed(e.Path)
			}
			return nil
		}
		return f.add(n, 0, nil, file.Replace)
	})
	if err != nil {
		return err
	}
	for name := range known {
		return changed(name)
	}
	for _, n := range links { // whose targets have their final place now
		n.Target = f.resolve(n.Target)
		if err := f.add(n, 0, nil, file.Replace); err != nil {
			return err
		}
	}
	return nil
}

// add adds one entry where the folders above it, which may be links, lead. Folders are
// never replaced, and two of one path are one.
func (f *filler) add(n initramfs.Entry, size int64, content io.Reader, replace bool) error {
	asked := n.Path
	n.Path = f.resolve(n.Path)
	if n.Type != initramfs.Dir && images.Reserved("/"+n.Path, f.place) {
		return inputErrorf("files: /%s of %s is /%s here, which belongs to muster (docs/initramfs.md)", asked, n.Source, n.Path)
	}
	old := f.tree.Lookup(n.Path)
	switch {
	case old == nil:
	case n.Type == initramfs.Dir && old.Type == initramfs.Dir, n.Type == initramfs.Dir && old.Type == initramfs.Symlink:
		return nil
	case old.Type == initramfs.Dir:
		return inputErrorf("files: /%s of %s is no folder, but one of %s in the %s", n.Path, n.Source, old.Source, f.place)
	case !replace:
		return inputErrorf("files: /%s is in %s and in %s (%s); leave one out, or say replace: true at the file", n.Path, old.Source, n.Source, f.place)
	default:
		f.tree.Remove(n.Path)
	}
	if n.Type == initramfs.File {
		if err := f.store(&n, size, content); err != nil {
			return err
		}
	}
	return asInput(f.tree.Add(n))
}

// maxLinks is how many links the kernel follows (path_resolution(7)).
const maxLinks = 40

// resolve follows the links among the folders above name.
func (f *filler) resolve(name string) string {
	done := ""
	rest := strings.Split(name, "/")
	for links := 0; len(rest) > 1; {
		next := path.Join(done, rest[0])
		rest = rest[1:]
		e := f.tree.Lookup(next)
		if e == nil || e.Type != initramfs.Symlink || links == maxLinks {
			done = next
			continue
		}
		links++
		target := e.Target
		if !strings.HasPrefix(target, "/") {
			target = path.Join("/", done, target)
		}
		target = path.Clean(target)[1:]
		done = ""
		if target != "" {
			rest = append(strings.Split(target, "/"), rest...)
		}
	}
	return path.Join(done, rest[0])
}

// ownInUserland is the hash of what d itself brings into the userland; "" for nothing.
func ownInUserland(d *images.Definition) string {
	var own struct {
		Files  []images.File
		Users  []images.User
		Groups []images.Group
	}
	for i := range d.Files {
		if slices.Contains(d.PlacesOf(&d.Files[i]), images.InUserland) {
			own.Files = append(own.Files, d.Files[i])
		}
	}
	own.Users, own.Groups = d.Users, d.Groups
	if len(own.Files)+len(own.Users)+len(own.Groups) == 0 {
		return ""
	}
	return hashOf(own)
}

// addOwn adds the files that the definition brings.
func (r *root) addOwn() error {
	f := &filler{tree: r.tree, place: images.InUserland, store: func(n *initramfs.Entry, size int64, content io.Reader) error {
		delete(r.owners, n.Path) // what was there is replaced
		return r.store(n, size, content)
	}}
	return f.addFilesOf(r.definition)
}
