package builder

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"

	"muster/builder/layers"
)

// maxManifest bounds what describes a container image: its indexes, manifest and
// configuration.
const maxManifest = 8 << 20

// blobFiles are the files of an image layout, in a folder or an archive.
type blobFiles interface {
	// open returns a file; errors wrap fs.ErrNotExist where it is not there.
	open(name string) (io.ReadCloser, error)
	Close() error
}

func readBlob(b blobFiles, name string) ([]byte, error) {
	r, err := b.open(name)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	data, err := io.ReadAll(io.LimitReader(r, maxManifest+1))
	if err == nil && len(data) > maxManifest {
		err = fmt.Errorf("%s is larger than %d MiB", name, maxManifest>>20)
	}
	return data, err
}

// folderBlobs is a layout that is a folder. Links in it cannot lead out of it.
type folderBlobs struct{ *os.Root }

func (b folderBlobs) open(name string) (io.ReadCloser, error) { return b.Open(name) }

// archiveBlobs is a layout, or what docker save writes, in an archive.
type archiveBlobs struct {
	file    *os.File
	temp    bool // it is the unpacked archive
	members map[string]*io.SectionReader
	links   map[string]string
}

func (b *archiveBlobs) open(name string) (io.ReadCloser, error) {
	for range 8 { // docker save writes a link for a layer that it has already
		to, ok := b.links[name]
		if !ok {
			break
		}
		name = path.Join(path.Dir(name), to)
	}
	m, ok := b.members[name]
	if !ok {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return io.NopCloser(io.NewSectionReader(m, 0, m.Size())), nil
}

func (b *archiveBlobs) Close() error {
	if b.temp {
		os.Remove(b.file.Name())
	}
	return b.file.Close()
}

// maxMembers bounds the files of an image in an archive.
const maxMembers = 1 << 16

// openBlobs opens a layout folder, or an archive of one. tmp is a folder for what an
// archive that is packed unpacks to.
func openBlobs(name, tmp string) (blobFiles, error) {
	fi, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if fi.IsDir() {
		root, err := os.OpenRoot(name)
		return folderBlobs{root}, err
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	b := &archiveBlobs{file: f, members: make(map[string]*io.SectionReader), links: make(map[string]string)}
	if err := b.index(tmp); err != nil {
		b.Close()
		return nil, err
	}
	return b, nil
}

// index finds out where in the archive each file is.
func (b *archiveBlobs) index(tmp string) error {
	if err := b.unpack(tmp); err != nil {
		return fmt.Errorf("unpacking it: %w", err)
	}
	tr := tar.NewReader(b.file)
	for n := 0; ; n++ {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if errors.Is(err, io.ErrUnexpectedEOF) {
			return fmt.Errorf("it is cut short: %w", err)
		}
		if err != nil {
			return fmt.Errorf("it is neither a layout folder nor an archive: %w", err)
		}
		if n == maxMembers {
			return fmt.Errorf("it has more than %d files; is it the archive of an image? for files themselves the source is called tar", maxMembers)
		}
		name := path.Clean(h.Name)
		switch h.Typeflag {
		case tar.TypeReg:
			at, err := b.file.Seek(0, io.SeekCurrent)
			if err != nil {
				return err
			}
			b.members[name] = io.NewSectionReader(b.file, at, h.Size)
		case tar.TypeSymlink, tar.TypeLink:
			b.links[name] = h.Linkname
		}
	}
}

// unpack puts what the archive unpacks to in its place, where it is packed.
func (b *archiveBlobs) unpack(tmp string) error {
	magic := make([]byte, 8)
	n, err := b.file.ReadAt(magic, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if !layers.Packed(magic[:n]) {
		return nil
	}
	plain, err := layers.Unpack(b.file)
	if err != nil {
		return err
	}
	defer plain.Close()
	f, err := os.CreateTemp(tmp, "image-*")
	if err != nil {
		return err
	}
	packed := b.file
	defer packed.Close()
	b.file, b.temp = f, true
	const most = 64 << 30
	if n, err := io.Copy(f, io.LimitReader(plain, most)); err != nil || n == most {
		return errors.Join(err, errTooLarge(n == most))
	}
	_, err = f.Seek(0, io.SeekStart)
	return err
}

func errTooLarge(is bool) error {
	if is {
		return errors.New("it is larger than 64 GiB")
	}
	return nil
}

// checkDigest compares data with the digest that it was asked for by.
func checkDigest(what string, data []byte, digest string) error {
	if got := "sha256:" + hashBytes(data); got != digest {
		return fmt.Errorf("%s is damaged: its digest is %s and not %s", what, got, digest)
	}
	return nil
}
