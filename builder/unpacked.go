package builder

import (
	"bytes"
	"context"
	"encoding/gob"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"muster/builder/deb"
	"muster/images"
	"muster/initramfs"
)

// unpackedFiles are packages of a userland as they were unpacked. They are kept, so that a
// definition which adds a file does not unpack everything once more.
type unpackedFiles struct {
	Contents deb.FileHash // of all files, one behind the other
	Index    deb.FileHash // unpackedIndex
}

func (u unpackedFiles) blobs() []deb.FileHash { return []deb.FileHash{u.Contents, u.Index} }

// unpackedIndex says what is in unpackedFiles.
type unpackedIndex struct {
	Entries []unpackedEntry // sorted by path
	Scripts []string
}

type unpackedEntry struct {
	Path, Target, Source string
	Type                 initramfs.Type
	Mode, UID, GID       uint32
	At, Size             int64 // of a file, in the contents
	Owner                string
}

// unpackStep fetches packages and unpacks them one over the other.
func unpackStep(ctx context.Context, cfg Config, c *cache, client *deb.Client, packages []images.LockedPackage) (unpackedFiles, error) {
	in := []any{userlandFormat, hashesOf(packages)}
	out, _, err := runStep(ctx, c, "unpacked", in, func() (u unpackedFiles, err error) {
		files, err := fetchAll(ctx, cfg, client, packages)
		if err != nil {
			return u, err
		}
		// base-files says how the folders are that all others put something in.
		slices.SortStableFunc(files, func(a, b fetched) int { return baseFirst(a) - baseFirst(b) })
		var index []byte
		u.Contents, err = c.put(func(f *os.File) error {
			r := newRoot(time.Time{}, f)
			for i, p := range files {
				cfg.Progress(Event{Step: StepUserland, Detail: fmt.Sprintf("unpacking %s (%d of %d)", p.Name, i+1, len(files))})
				if err := r.unpack(ctx, p); err != nil {
					return err
				}
			}
			index, err = r.index()
			return err
		})
		if err != nil {
			return u, err
		}
		u.Index, err = c.putBytes(index)
		return u, err
	})
	return out, err
}

// index lists what was unpacked.
func (r *root) index() ([]byte, error) {
	x := unpackedIndex{Scripts: r.scripts}
	for _, name := range sortedKeys(r.owners) {
		e := r.tree.Lookup(name)
		u := unpackedEntry{
			Path: name, Target: e.Target, Source: e.Source, Type: e.Type, Mode: e.Mode, UID: e.UID, GID: e.GID,
			Size: e.Size, Owner: r.owners[name].name,
		}
		if content := r.contents[name]; content != nil && e.Type == initramfs.File {
			_, u.At, _ = content.Outer()
		}
		x.Entries = append(x.Entries, u)
	}
	var b bytes.Buffer
	err := gob.NewEncoder(&b).Encode(x)
	return b.Bytes(), err
}

// addUnpacked adds what unpackStep kept. contents has to stay open as long as the tree is used.
func (r *root) addUnpacked(index []byte, contents io.ReaderAt) error {
	var x unpackedIndex
	if err := gob.NewDecoder(bytes.NewReader(index)).Decode(&x); err != nil {
		return fmt.Errorf("reading what packages were unpacked to: %w", err)
	}
	r.scripts = x.Scripts
	owners := make(map[string]*installed)
	for _, u := range x.Entries {
		e := initramfs.Entry{Path: u.Path, Target: u.Target, Source: u.Source, Type: u.Type, Mode: u.Mode, UID: u.UID, GID: u.GID}
		if u.Type == initramfs.File {
			r.setContent(&e, io.NewSectionReader(contents, u.At, u.Size))
		}
		if owners[u.Owner] == nil {
			owners[u.Owner] = &installed{name: u.Owner}
		}
		r.owners[u.Path] = owners[u.Owner]
		if err := r.tree.Add(e); err != nil {
			return err
		}
	}
	return nil
}

// setContent makes a part of a file that stays open the content of an entry.
func (r *root) setContent(e *initramfs.Entry, content *io.SectionReader) {
	e.Size = content.Size()
	r.contents[e.Path] = content
	file, at, n := content.Outer()
	e.Open = func() (io.ReadCloser, error) { return io.NopCloser(io.NewSectionReader(file, at, n)), nil }
}
