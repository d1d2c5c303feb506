package deb

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/therootcompany/xz"
)

// Bounds of what a package may hold. The largest packages of Debian are an
// order of magnitude below.
const (
	maxEntries  = 1 << 20
	maxUnpacked = 32 << 30
	maxXZDict   = 128 << 20 // xz -9 takes 64 MiB
	maxWindow   = 128 << 20 // zstd --ultra takes 128 MiB
)

// EntryType is the kind of an entry of a package.
type EntryType uint8

// The types of entries. Packages of Debian hold no others.
const (
	TypeFile EntryType = iota + 1
	TypeDir
	TypeSymlink
	TypeHardLink
)

// Entry is one path of a package.
type Entry struct {
	// Path is relative and clean, never leaves the root, and is below usr/
	// where a system with merged /usr has it: lib/x becomes usr/lib/x.
	Path     string
	Type     EntryType
	Mode     uint32 // permission bits with setuid, setgid and sticky
	UID, GID uint32
	Size     int64  // of a file
	Link     string // text of a symbolic link; path of the file that a hard link is a name of
	MTime    time.Time
}

// Walk reads a .deb and calls fn with everything it installs, in the order of the
// package. content is valid during the call, for files only, and need not be
// read. An error of fn ends the walk and is returned as it is.
func Walk(r io.Reader, fn func(e Entry, content io.Reader) error) error {
	return member(r, "data.tar", func(suffix string, r io.Reader) error { return walkData(suffix, r, fn) })
}

// maxControl bounds a file of a package's control archive.
const maxControl = 16 << 20

// Control reads the control archive of a .deb: the files control, postinst,
// conffiles and what else there is, by name.
func Control(r io.Reader) (map[string][]byte, error) {
	out := make(map[string][]byte)
	err := member(r, "control.tar", func(suffix string, r io.Reader) error {
		return walkTar("control.tar"+suffix, suffix, r, func(h *tar.Header, tr io.Reader) error {
			name, err := safePath(h.Name)
			if err != nil || h.Typeflag != tar.TypeReg {
				return err
			}
			if h.Size > maxControl {
				return fmt.Errorf("it has %d bytes", h.Size)
			}
			out[name], err = io.ReadAll(tr)
			return err
		})
	})
	return out, err
}

// member calls fn with the content of the first member of a .deb whose name begins
// with prefix, and with the rest of its name.
func member(r io.Reader, prefix string, fn func(suffix string, r io.Reader) error) error {
	members := arReader{r: r}
	h, err := members.next()
	if err != nil {
		return fmt.Errorf("reading package: %w", err)
	}
	if h.name != "debian-binary" {
		return fmt.Errorf("reading package: it begins with %q and not with debian-binary", h.name)
	}
	version, err := io.ReadAll(io.LimitReader(&members, 16))
	if err != nil {
		return fmt.Errorf("reading package: debian-binary: %w", err)
	}
	if !bytes.HasPrefix(version, []byte("2.")) {
		return fmt.Errorf("reading package: its format is %.16q, known is 2.0", version)
	}
	for {
		h, err := members.next()
		if errors.Is(err, io.EOF) {
			return fmt.Errorf("reading package: it has no %s", prefix)
		}
		if err != nil {
			return fmt.Errorf("reading package: %w", err)
		}
		if suffix, ok := strings.CutPrefix(h.name, prefix); ok {
			return fn(suffix, &members)
		}
	}
}

func walkData(suffix string, r io.Reader, fn func(Entry, io.Reader) error) error {
	var failed error // of fn, which is returned as it is
	err := walkTar("data.tar"+suffix, suffix, r, func(h *tar.Header, tr io.Reader) error {
		e, skip, err := entryOf(h)
		if err != nil || skip {
			return err
		}
		failed = fn(e, tr)
		return failed
	})
	if failed != nil {
		return failed
	}
	return err
}

// walkTar calls fn with every entry of a packed archive. name is for errors.
func walkTar(name, suffix string, r io.Reader, fn func(*tar.Header, io.Reader) error) error {
	plain, done, err := decompress(suffix, r)
	if err != nil {
		return fmt.Errorf("reading %s: %w", name, err)
	}
	defer done()
	tr := tar.NewReader(io.LimitReader(plain, maxUnpacked))
	for n := 0; ; n++ {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("reading %s: %w", name, err)
		}
		if n == maxEntries {
			return fmt.Errorf("reading %s: it has more than %d entries", name, maxEntries)
		}
		if err := fn(h, tr); err != nil {
			return fmt.Errorf("reading %s: %q: %w", name, h.Name, err)
		}
	}
}

// decompress returns the content of a member whose name ends in suffix.
func decompress(suffix string, r io.Reader) (plain io.Reader, done func(), err error) {
	nothing := func() {}
	switch suffix {
	case "":
		return r, nothing, nil
	case ".xz":
		x, err := xz.NewReader(r, maxXZDict)
		return x, nothing, err
	case ".zst":
		z, err := zstd.NewReader(r, zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, nil, err
		}
		return z, z.Close, nil
	case ".gz":
		g, err := gzip.NewReader(r)
		return g, nothing, err
	}
	return nil, nil, errors.New("its compression is not known; known are .xz, .zst, .gz and none")
}

// entryOf checks a tar header. The root folder itself is skipped.
func entryOf(h *tar.Header) (e Entry, skip bool, err error) {
	p, err := safePath(h.Name)
	if err != nil {
		return e, false, err
	}
	if p == "." {
		return e, true, nil
	}
	e = Entry{Path: p, Mode: uint32(h.Mode) & 0o7777, MTime: h.ModTime.UTC()}
	if h.Uid < 0 || h.Gid < 0 || int64(h.Uid) > 1<<32-1 || int64(h.Gid) > 1<<32-1 {
		return e, false, fmt.Errorf("owner is %d:%d", h.Uid, h.Gid)
	}
	e.UID, e.GID = uint32(h.Uid), uint32(h.Gid)
	switch h.Typeflag {
	case tar.TypeReg:
		e.Type, e.Size = TypeFile, h.Size
	case tar.TypeDir:
		e.Type = TypeDir
	case tar.TypeSymlink:
		e.Type, e.Link = TypeSymlink, h.Linkname
		if e.Link == "" || strings.ContainsRune(e.Link, 0) {
			return e, false, fmt.Errorf("target of the link is %q", e.Link)
		}
		if isMerged(p) {
			return e, false, nil // base-files brings bin → usr/bin itself
		}
	case tar.TypeLink:
		target, err := safePath(h.Linkname)
		if err != nil {
			return e, false, fmt.Errorf("target of the link: %w", err)
		}
		e.Type, e.Link = TypeHardLink, mergeUsr(target)
	default:
		return e, false, fmt.Errorf("type %q; only files, folders and links can be taken", h.Typeflag)
	}
	e.Path = mergeUsr(p)
	return e, false, nil
}

// safePath makes a path of an archive relative and clean, or refuses it.
func safePath(p string) (string, error) {
	if strings.ContainsRune(p, 0) {
		return "", errors.New("path has a zero byte")
	}
	for elem := range strings.SplitSeq(p, "/") {
		if elem == ".." {
			return "", errors.New("path has .. in it")
		}
	}
	c := path.Clean("/" + p)[1:]
	if c == "" {
		return ".", nil
	}
	return c, nil
}

// mergedDirs are the top folders that are links into usr/ on a system with
// merged /usr.
func isMerged(top string) bool {
	switch top {
	case "bin", "sbin", "lib", "lib32", "lib64", "libo32", "libx32":
		return true
	}
	return false
}

func mergeUsr(p string) string {
	if top, _, _ := strings.Cut(p, "/"); isMerged(top) {
		return "usr/" + p
	}
	return p
}

// arReader reads the members of an ar archive one after the other; Read gives the
// content of the current one.
type arReader struct {
	r       io.Reader
	started bool
	left    int64 // of the content of the current member
	pad     int64 // between it and the next
}

type arHeader struct {
	name string
	size int64
}

const (
	arMagic      = "!<arch>\n"
	arHeaderSize = 60
)

func (a *arReader) Read(p []byte) (int, error) {
	if a.left == 0 {
		return 0, io.EOF
	}
	if int64(len(p)) > a.left {
		p = p[:a.left]
	}
	n, err := a.r.Read(p)
	a.left -= int64(n)
	if errors.Is(err, io.EOF) && a.left > 0 {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// next goes to the next member; io.EOF says that there is none.
func (a *arReader) next() (arHeader, error) {
	if !a.started {
		var magic [len(arMagic)]byte
		if _, err := io.ReadFull(a.r, magic[:]); err != nil || string(magic[:]) != arMagic {
			return arHeader{}, errors.New("it is no ar archive")
		}
		a.started = true
	}
	if _, err := io.CopyN(io.Discard, a.r, a.left+a.pad); err != nil {
		if errors.Is(err, io.EOF) && a.left == 0 {
			return arHeader{}, io.EOF // some writers leave out the last padding
		}
		return arHeader{}, fmt.Errorf("it is cut short: %w", err)
	}
	a.left, a.pad = 0, 0
	var raw [arHeaderSize]byte
	if _, err := io.ReadFull(a.r, raw[:]); err != nil {
		if errors.Is(err, io.EOF) {
			return arHeader{}, io.EOF
		}
		return arHeader{}, fmt.Errorf("it is cut short: %w", err)
	}
	if raw[58] != '`' || raw[59] != '\n' {
		return arHeader{}, errors.New("the header of a member is damaged")
	}
	size, err := strconv.ParseInt(strings.TrimRight(string(raw[48:58]), " "), 10, 64)
	if err != nil || size < 0 {
		return arHeader{}, fmt.Errorf("the size of a member is %q", raw[48:58])
	}
	a.left, a.pad = size, size%2
	return arHeader{name: strings.TrimSuffix(strings.TrimRight(string(raw[:16]), " "), "/"), size: size}, nil
}
