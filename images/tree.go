package images

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/bzip2"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/therootcompany/xz"
)

// TreeKind is what an entry of a tree is.
type TreeKind string

// The kinds of entries.
const (
	TreeFile     TreeKind = "file"
	TreeDir      TreeKind = "dir"
	TreeSymlink  TreeKind = "symlink"
	TreeHardLink TreeKind = "hardlink"
)

// TreeEntry is one name in a folder or archive. It knows nothing of the host: neither
// owners nor times, and of a folder's modes only whether a file can be executed.
type TreeEntry struct {
	Path   string // below the folder of the image, clean; its bytes may be no UTF-8
	Kind   TreeKind
	Mode   uint32 // permission bits
	Size   int64
	Link   string // target of a symbolic link as it stands there, of a hard link a path of the tree
	SHA256 string // of a file
	Secret string // what private key it holds; ""
}

// Limits of a tree. Its contents are not held in memory.
const (
	maxTreeEntries = 500_000
	maxSecret      = 1 << 20 // files above are not searched for private keys
)

// WalkTree calls fn for everything in the folder or archive of f, in an order that is
// the same wherever it lies. The content of a file is read by fn, or not at all.
// SHA256 and Secret of entries are empty here.
func (f *File) WalkTree(fn func(e TreeEntry, content io.Reader) error) error {
	n := 0
	seen := make(map[string]TreeKind)
	counted := func(e TreeEntry, content io.Reader) error {
		if n++; n > maxTreeEntries {
			return fmt.Errorf("%s has more than %d entries", f.origin(), maxTreeEntries)
		}
		old, twice := seen[e.Path]
		if twice && old == TreeDir && e.Kind == TreeDir {
			return nil
		}
		if twice {
			return fmt.Errorf("%s has %q twice", f.origin(), e.Path)
		}
		seen[e.Path] = e.Kind
		return fn(e, content)
	}
	if f.Tar != "" {
		return f.walkTar(counted)
	}
	return f.walkDir(counted)
}

func (f *File) walkDir(fn func(TreeEntry, io.Reader) error) error {
	// A link to the folder is followed, those in it are not.
	root, err := filepath.EvalSymlinks(f.From)
	if err != nil {
		return err
	}
	if fi, err := os.Stat(root); err != nil || !fi.IsDir() {
		return errors.Join(err, fmt.Errorf("%s is no folder; a single file is given by path and source", f.From))
	}
	return filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil || name == root {
			return err
		}
		rel, err := filepath.Rel(root, name)
		if err != nil {
			return err
		}
		e := TreeEntry{Path: filepath.ToSlash(rel)}
		switch d.Type() {
		case fs.ModeDir:
			e.Kind, e.Mode = TreeDir, 0o755
			return fn(e, nil)
		case fs.ModeSymlink:
			e.Kind = TreeSymlink
			if e.Link, err = os.Readlink(name); err != nil {
				return err
			}
			return fn(e, nil)
		case 0:
			return walkFile(e, name, fn)
		}
		return fmt.Errorf("%s is neither file nor folder nor symbolic link; an image has no others", name)
	})
}

func walkFile(e TreeEntry, name string, fn func(TreeEntry, io.Reader) error) error {
	file, err := os.Open(name)
	if err != nil {
		return err
	}
	defer file.Close()
	fi, err := file.Stat()
	if err != nil {
		return err
	}
	e.Kind, e.Mode, e.Size = TreeFile, 0o644, fi.Size()
	if fi.Mode()&0o100 != 0 {
		e.Mode = 0o755
	}
	return fn(e, file)
}

func (f *File) walkTar(fn func(TreeEntry, io.Reader) error) error {
	file, err := os.Open(f.Tar)
	if err != nil {
		return err
	}
	defer file.Close()
	plain, err := unpacked(file)
	if err != nil {
		return fmt.Errorf("unpacking %s: %w", f.Tar, err)
	}
	defer plain.Close()
	r := tar.NewReader(plain)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("reading archive %s: %w", f.Tar, err)
		}
		e, err := tarEntry(h)
		if err != nil {
			return fmt.Errorf("archive %s: %w", f.Tar, err)
		}
		if e.Path == "." {
			continue
		}
		if err := fn(e, r); err != nil {
			return err
		}
	}
}

// tarEntry makes an entry of a header.
func tarEntry(h *tar.Header) (TreeEntry, error) {
	name, err := tarPath(h.Name)
	if err != nil {
		return TreeEntry{}, err
	}
	e := TreeEntry{Path: name, Mode: uint32(h.Mode) & 0o7777}
	switch h.Typeflag {
	case tar.TypeReg:
		e.Kind, e.Size = TreeFile, h.Size
	case tar.TypeDir:
		e.Kind = TreeDir
	case tar.TypeSymlink:
		e.Kind, e.Mode, e.Link = TreeSymlink, 0, h.Linkname
	case tar.TypeLink:
		e.Kind = TreeHardLink
		if e.Link, err = tarPath(h.Linkname); err != nil {
			return e, err
		}
	default:
		return e, fmt.Errorf("%q is neither file nor folder nor link; an image has no others", h.Name)
	}
	return e, nil
}

func tarPath(name string) (string, error) {
	clean := path.Clean("/" + name)[1:]
	if slices.Contains(strings.Split(name, "/"), "..") || strings.ContainsRune(name, 0) {
		return "", fmt.Errorf("%q leads out of the archive", name)
	}
	if clean == "" {
		return ".", nil
	}
	return clean, nil
}

// unpacked reads what a file holds, packed or not: its first bytes say how.
func unpacked(r io.Reader) (io.ReadCloser, error) {
	b := bufio.NewReaderSize(r, 1<<16)
	magic, err := b.Peek(6)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		return gzip.NewReader(b)
	case bytes.HasPrefix(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		z, err := zstd.NewReader(b)
		if err != nil {
			return nil, err
		}
		return z.IOReadCloser(), nil
	case bytes.HasPrefix(magic, []byte("\xfd7zXZ\x00")):
		x, err := xz.NewReader(b, 0)
		if err != nil {
			return nil, err
		}
		return io.NopCloser(x), nil
	case bytes.HasPrefix(magic, []byte("BZh")):
		return io.NopCloser(bzip2.NewReader(b)), nil
	}
	return io.NopCloser(b), nil
}

// readTree sets Entries and SHA256.
func (f *File) readTree() error {
	f.Entries = nil
	err := f.WalkTree(func(e TreeEntry, content io.Reader) error {
		if e.Kind == TreeFile {
			var err error
			if e.SHA256, e.Secret, err = digest(content, e.Size); err != nil {
				return fmt.Errorf("reading %s: %w", e.Path, err)
			}
		}
		f.Entries = append(f.Entries, e)
		return nil
	})
	if err != nil {
		return err
	}
	return f.orderTree()
}

// orderTree sorts the entries, checks that they fit together, and hashes them. The
// order of an archive has no influence on the image.
func (f *File) orderTree() error {
	slices.SortFunc(f.Entries, func(a, b TreeEntry) int { return strings.Compare(a.Path, b.Path) })
	kinds := make(map[string]TreeKind, len(f.Entries))
	for _, e := range f.Entries {
		kinds[e.Path] = e.Kind
	}
	for _, e := range f.Entries {
		if e.Kind == TreeHardLink && kinds[e.Link] != TreeFile {
			return fmt.Errorf("%s: %q is a hard link to %q, which is no file of it", f.origin(), e.Path, e.Link)
		}
		for dir := path.Dir(e.Path); dir != "."; dir = path.Dir(dir) {
			if kind, ok := kinds[dir]; ok && kind != TreeDir {
				return fmt.Errorf("%s: %q is below %q, which is a %s", f.origin(), e.Path, dir, kind)
			}
		}
	}
	f.SHA256 = TreeHash(f.Entries)
	return nil
}

// TreeHash is the hash of a tree with these entries, in whatever order.
func TreeHash(entries []TreeEntry) string {
	sorted := slices.SortedFunc(slices.Values(entries), func(a, b TreeEntry) int { return strings.Compare(a.Path, b.Path) })
	h := sha256.New()
	for _, e := range sorted {
		// Quoting keeps every name apart from every other, whatever bytes it has.
		fmt.Fprintf(h, "%q %s %o %d %q %s\n", e.Path, e.Kind, e.Mode, e.Size, e.Link, e.SHA256)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// digest hashes a file of a known size, and looks for private keys in a small one.
func digest(r io.Reader, size int64) (sum, secret string, err error) {
	h := sha256.New()
	if size <= maxSecret {
		data, err := io.ReadAll(io.LimitReader(r, size+1))
		if err != nil {
			return "", "", err
		}
		if int64(len(data)) != size {
			return "", "", errors.New("it changes while it is read")
		}
		h.Write(data)
		return hex.EncodeToString(h.Sum(nil)), privateKey(data), nil
	}
	if n, err := io.Copy(h, r); err != nil || n != size {
		return "", "", errors.Join(err, fmt.Errorf("has %d bytes of %d", n, size))
	}
	return hex.EncodeToString(h.Sum(nil)), "", nil
}
