package layers

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/bzip2"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"muster/initramfs"

	"github.com/klauspost/compress/zstd"
	"github.com/therootcompany/xz"
)

// The marks of an image layer (OCI image specification, layer.md): a file .wh.NAME takes NAME away,
// and .wh..wh..opq all that lower layers have in its folder. Others that begin like the second
// belong to the file system that they were made on.
const (
	whiteout = ".wh."
	opaque   = ".wh..wh..opq"
	internal = ".wh..wh."
)

const (
	maxXZDict = 128 << 20 // xz -9 takes 64 MiB
	maxWindow = 128 << 20 // zstd --ultra takes 128 MiB
)

// Options say how [Tree.Apply] reads an archive.
type Options struct {
	// Source names it in messages.
	Source string
	// Image says that it is a layer of a container image: it may take away what
	// lower layers have, and devices in it are left out. In an archive that is none of
	// it, such a mark is a file like others, devices are an error, and the end has to be marked.
	Image bool
	// Only says of which files the content is kept, by the path as the archive has it; nil: of all.
	Only func(name string) bool
	// Skipped is told of each entry that is left out. nil: nobody is.
	Skipped func(name, why string)
}

// Apply reads a tar archive, packed by gzip, zstd, xz, bzip2 or not, as the next layer.
func (t *Tree) Apply(ctx context.Context, r io.Reader, o Options) error {
	t.layer++
	plain, err := Unpack(r)
	if err != nil {
		return fmt.Errorf("unpacking %s: %w", o.Source, err)
	}
	defer plain.Close()
	a := &archive{ctx: ctx, r: io.LimitReader(plain, 2*maxBytes)}
	tr := tar.NewReader(a)
	for n := 0; ; n++ {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			if !o.Image && !a.ended() {
				return fmt.Errorf("reading %s: it is cut short: it has no end mark", o.Source)
			}
			return a.drain(o)
		}
		if err != nil {
			return fmt.Errorf("reading %s: %w", o.Source, cutShort(err))
		}
		if n == 2*maxEntries {
			return fmt.Errorf("reading %s: it has more than %d entries", o.Source, 2*maxEntries)
		}
		if err := t.add(h, tr, o); err != nil {
			return fmt.Errorf("reading %s: %q: %w", o.Source, h.Name, cutShort(err))
		}
	}
}

func cutShort(err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("it is cut short: %w", err)
	}
	return err
}

// archive is the plain text of an archive. It knows whether the last that was read were zeros.
type archive struct {
	ctx   context.Context
	r     io.Reader
	zeros int64 // at the end of what was read
}

func (a *archive) Read(p []byte) (int, error) {
	if err := a.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := a.r.Read(p)
	rest := bytes.TrimRight(p[:n], "\x00")
	if len(rest) > 0 {
		a.zeros = 0
	}
	a.zeros += int64(n - len(rest))
	return n, err
}

// ended says whether the end of the archive is marked, by a block of zeros.
func (a *archive) ended() bool { return a.zeros >= 512 }

// drain reads what is behind the end, so that a checksum behind it counts.
func (a *archive) drain(o Options) error {
	if _, err := io.Copy(io.Discard, a); err != nil {
		return fmt.Errorf("reading %s: %w", o.Source, cutShort(err))
	}
	return nil
}

// The first bytes of what is packed.
const (
	magicGzip  = "\x1f\x8b"
	magicZstd  = "\x28\xb5\x2f\xfd"
	magicXZ    = "\xfd7zXZ\x00"
	magicBzip2 = "BZh"
)

// Packed says whether a file that begins so is packed in a way that [Unpack] knows.
func Packed(head []byte) bool {
	for _, magic := range []string{magicGzip, magicZstd, magicXZ, magicBzip2} {
		if bytes.HasPrefix(head, []byte(magic)) {
			return true
		}
	}
	return false
}

// Unpack reads what may be packed; its first bytes say how. The caller closes it.
func Unpack(r io.Reader) (io.ReadCloser, error) {
	b := bufio.NewReaderSize(r, 1<<16)
	magic, err := b.Peek(6)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	switch {
	case bytes.HasPrefix(magic, []byte(magicGzip)):
		return gzip.NewReader(b)
	case bytes.HasPrefix(magic, []byte(magicZstd)):
		z, err := zstd.NewReader(b, zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, err
		}
		return z.IOReadCloser(), nil
	case bytes.HasPrefix(magic, []byte(magicXZ)):
		x, err := xz.NewReader(b, maxXZDict)
		return io.NopCloser(x), err
	case bytes.HasPrefix(magic, []byte(magicBzip2)):
		return io.NopCloser(bzip2.NewReader(b)), nil
	}
	return io.NopCloser(b), nil
}

// add takes one entry in.
func (t *Tree) add(h *tar.Header, content io.Reader, o Options) error {
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	name, err := safePath(h.Name)
	if err != nil || name == "" { // the top folder is as every userland has it
		return err
	}
	if base := path.Base(name); o.Image && strings.HasPrefix(base, whiteout) {
		return t.takeAway(path.Dir("/" + name)[1:], base)
	}
	n, err := t.inodeOf(h, content, name, o)
	if err != nil || n == nil {
		return err
	}
	name = MergeUsr(name)
	links := 0
	dir, err := t.walk(path.Dir("/" + name)[1:], &links, true)
	if err != nil {
		return err
	}
	if len(dir.path)+1+len(path.Base(name)) > maxPath {
		return fmt.Errorf("links lead it to a path of more than %d bytes", maxPath)
	}
	return t.put(dir, path.Base(name), n)
}

// takeAway heeds a mark.
func (t *Tree) takeAway(dir, base string) error {
	dir = MergeUsr(dir)
	switch {
	case base == opaque:
		return t.empty(dir)
	case strings.HasPrefix(base, internal):
		return nil
	}
	gone, err := safePath(strings.TrimPrefix(base, whiteout))
	if err != nil || gone == "" {
		return errors.Join(err, errors.New("it takes away nothing"))
	}
	return t.remove(MergeUsr(path.Join(dir, gone)))
}

// put gives an inode a name in a folder. A folder that is there stays with what it holds.
func (t *Tree) put(dir place, base string, n *inode) error {
	old := dir.children[base]
	if old == nil {
		if err := t.count(); err != nil {
			return err
		}
	}
	switch {
	case n.entry.Type != initramfs.Dir:
		self := path.Join(dir.path, base)
		if old != nil && n.entry.Type == initramfs.Symlink && MergeUsr(linkTarget(dir.path, n.entry.Target)) == self {
			return nil // /usr/bin/x → /bin/x, which are one here
		}
		if old != nil && old.children != nil && isMergedFolder(self) {
			return nil // /lib64 → /lib beside a /usr/lib64 of its own
		}
		dir.children[base] = &node{inode: n, layer: t.layer}
	case old != nil && old.children != nil:
		old.inode, old.layer = n, t.layer
	case old != nil && old.entry.Type == initramfs.Symlink && isMergedFolder(path.Join(dir.path, base)):
		return nil // what is in it goes where the link leads
	default:
		dir.children[base] = &node{inode: n, children: make(map[string]*node), layer: t.layer}
	}
	return nil
}

func isMergedFolder(name string) bool {
	top, ok := strings.CutPrefix(name, "usr/")
	return ok && merged(top)
}

// inodeOf makes what an entry says; nil for what is left out.
func (t *Tree) inodeOf(h *tar.Header, content io.Reader, name string, o Options) (*inode, error) {
	if h.Uid < 0 || h.Gid < 0 || int64(h.Uid) > 1<<32-1 || int64(h.Gid) > 1<<32-1 {
		return nil, fmt.Errorf("owner is %d:%d", h.Uid, h.Gid)
	}
	n := &inode{entry: initramfs.Entry{
		Mode: uint32(h.Mode) & 0o7777, UID: uint32(h.Uid), GID: uint32(h.Gid), Xattrs: attributes(h), Source: o.Source,
	}}
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse:
		n.entry.Type = initramfs.File
		if o.Only != nil && !o.Only(name) {
			n.entry.Size = h.Size
			return n, nil
		}
		return n, t.keep(n, content, h.Size)
	case tar.TypeDir:
		n.entry.Type = initramfs.Dir
	case tar.TypeSymlink:
		if h.Linkname == "" || strings.ContainsRune(h.Linkname, 0) || len(h.Linkname) > maxPath {
			return nil, fmt.Errorf("target of the link is %.80q", h.Linkname)
		}
		n.entry.Type, n.entry.Mode, n.entry.Target = initramfs.Symlink, 0o777, h.Linkname
		if merged(name) {
			return t.mergedLink(n, name), nil
		}
	case tar.TypeLink:
		return t.linked(h.Linkname)
	case tar.TypeBlock, tar.TypeChar, tar.TypeFifo:
		return nil, special(h, name, o)
	default:
		return nil, fmt.Errorf("type %q; only files, folders and links can be taken", h.Typeflag)
	}
	return n, nil
}

// mergedLink is what a link at the place of a folder that every userland has in /usr stands for:
// bin → usr/bin is what is there anyway, lib64 → usr/lib becomes usr/lib64 → lib.
func (t *Tree) mergedLink(n *inode, name string) *inode {
	target := linkTarget("", n.entry.Target)
	if target == "usr/"+name || target == name {
		return nil
	}
	n.entry.Target = "/" + target
	return n
}

// linked returns the inode of the file that a hard link is another name of.
func (t *Tree) linked(target string) (*inode, error) {
	to, err := safePath(target)
	if err != nil {
		return nil, fmt.Errorf("target of the link: %w", err)
	}
	links := 0
	to = MergeUsr(to)
	dir, err := t.walk(path.Dir("/" + to)[1:], &links, false)
	if err != nil {
		return nil, err
	}
	var old *node
	if dir.node != nil {
		old = dir.children[path.Base("/"+to)]
	}
	switch {
	case old == nil:
		return nil, fmt.Errorf("it is a hard link to %q, which is not there", target)
	case old.children != nil:
		return nil, fmt.Errorf("it is a hard link to %q, which is a folder", target)
	}
	return old.inode, nil
}

// special leaves a device out, or says that it cannot be taken.
func special(h *tar.Header, name string, o Options) error {
	what := "device"
	if h.Typeflag == tar.TypeFifo {
		what = "pipe"
	}
	if o.Image || strings.HasPrefix(name, "dev/") {
		if o.Skipped != nil {
			o.Skipped(name, "a "+what)
		}
		return nil
	}
	return fmt.Errorf("it is a %s; a userland has only files, folders and links: take it out of the archive", what)
}

// keep stores the content of a file.
func (t *Tree) keep(n *inode, content io.Reader, size int64) error {
	if t.bytes += size; size < 0 || t.bytes > maxBytes {
		return fmt.Errorf("the files are larger than %d GiB", maxBytes>>30)
	}
	var err error
	n.entry.Size = size
	n.content, err = t.store(content, size)
	return err
}

// attributes returns the extended attributes that a task could see and a squashfs can hold. Those of
// SELinux and of access lists belong to the machine that the archive was made on.
func attributes(h *tar.Header) map[string][]byte {
	const prefix = "SCHILY.xattr."
	var out map[string][]byte
	for key, value := range h.PAXRecords {
		name, ok := strings.CutPrefix(key, prefix)
		if !ok || name != "security.capability" && (!strings.HasPrefix(name, "user.") || len(name) < len("user.x")) {
			continue
		}
		if len(name) > maxName || len(value) > 64<<10 {
			continue // no file of Linux has it
		}
		if out == nil {
			out = make(map[string][]byte)
		}
		out[name] = []byte(value)
	}
	return out
}

// safePath makes a path of an archive relative and clean, or refuses it. The top folder is "".
func safePath(name string) (string, error) {
	switch {
	case strings.ContainsRune(name, 0):
		return "", errors.New("path has a zero byte")
	case len(name) > maxPath:
		return "", fmt.Errorf("path has more than %d bytes", maxPath)
	}
	for elem := range strings.SplitSeq(name, "/") {
		switch {
		case elem == "..":
			return "", errors.New("path has .. in it")
		case len(elem) > maxName:
			return "", fmt.Errorf("a name in the path has more than %d bytes", maxName)
		}
	}
	return clean(name), nil
}
