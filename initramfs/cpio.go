package initramfs

import (
	"fmt"
	"io"
	"math"
	"path"

	"github.com/cavaliergopher/cpio"
)

// Limits of the newc format and of the kernel that unpacks it.
const (
	maxCPIOSize = math.MaxUint32 // eight hexadecimal digits
	maxCPIOTime = math.MaxUint32
	maxCPIOPath = 4095 // PATH_MAX with its zero byte: init/initramfs.c skips longer ones silently
	maxCPIOName = 255  // NAME_MAX of the tmpfs it is unpacked to

	cpioTrailer = "TRAILER!!!" // the name that ends an archive
)

// CPIOOptions says how a tree that newc cannot hold whole is written.
type CPIOOptions struct {
	// DropXattrs writes files without their extended attributes, which newc
	// has no place for. Without it such a file is an error.
	DropXattrs bool
}

// WriteCPIO writes t as one newc archive without padding behind the trailer,
// sorted by path; the same tree gives the same bytes. All names of a file share
// its inode number, and its content is written with the last of them, as
// other cpio programs expect.
//
// It returns an error for what the format or the kernel cannot take: files of
// 4 GiB and more, times before 1970 or after 2106, paths longer than the
// kernel allows, extended attributes (see [CPIOOptions]).
func WriteCPIO(w io.Writer, t *Tree, opts CPIOOptions) error {
	names, err := namesOfFiles(t)
	if err != nil {
		return fmt.Errorf("writing cpio: %w", err)
	}
	out := &errorWriter{w: w}
	a := cpioWriter{w: cpio.NewWriter(out), tree: t, names: names, inodes: make(map[*Entry]int64)}
	for e := range t.All() {
		if err := checkCPIO(e, opts); err != nil {
			return fmt.Errorf("writing cpio: %w", err)
		}
		if err := a.write(e); err != nil {
			return fmt.Errorf("writing cpio: %s from %s: %w", e.Path, sourceOf(e), err)
		}
	}
	if err := a.w.Close(); err != nil {
		return fmt.Errorf("writing cpio: trailer: %w", err)
	}
	if out.err != nil {
		return fmt.Errorf("writing cpio: %w", out.err)
	}
	return nil
}

// errorWriter remembers the first error. The library forgets those of headers.
type errorWriter struct {
	w   io.Writer
	err error
}

func (e *errorWriter) Write(p []byte) (int, error) {
	if e.err != nil {
		return 0, e.err
	}
	n, err := e.w.Write(p)
	e.err = err
	return n, err
}

// fileNames counts the names of one file and knows the one that comes last.
type fileNames struct {
	count int
	last  string
}

// namesOfFiles returns the names of every file that has more than one.
func namesOfFiles(t *Tree) (map[*Entry]fileNames, error) {
	names := make(map[*Entry]fileNames)
	for e := range t.All() {
		if e.Type != HardLink {
			continue
		}
		file, err := t.Resolve(e)
		if err != nil {
			return nil, err
		}
		n, ok := names[file]
		if !ok {
			n = fileNames{count: 1, last: file.Path}
		}
		n.count++
		n.last = max(n.last, e.Path)
		names[file] = n
	}
	return names, nil
}

// checkCPIO says why e cannot be in a newc archive.
func checkCPIO(e *Entry, opts CPIOOptions) error {
	sec := e.MTime.Unix()
	switch {
	case e.Path == cpioTrailer:
		return fmt.Errorf("%s from %s: a file of this name would end the archive", e.Path, sourceOf(e))
	case len(e.Path) > maxCPIOPath:
		return fmt.Errorf("%.60s… from %s: path of %d bytes is longer than the kernel's %d", e.Path, sourceOf(e), len(e.Path), maxCPIOPath)
	case len(path.Base(e.Path)) > maxCPIOName:
		return fmt.Errorf("%.60s… from %s: a name is longer than the %d bytes that tmpfs allows", e.Path, sourceOf(e), maxCPIOName)
	case e.Type == Symlink && len(e.Target) > maxCPIOPath:
		return fmt.Errorf("%s from %s: link text of %d bytes is longer than the kernel's %d", e.Path, sourceOf(e), len(e.Target), maxCPIOPath)
	case e.Size > maxCPIOSize:
		return fmt.Errorf("%s from %s: %d bytes, but a cpio archive holds files below 4 GiB; put it into the userland", e.Path, sourceOf(e), e.Size)
	case sec < 0 || sec > maxCPIOTime:
		return fmt.Errorf("%s from %s: time %v is outside 1970 to 2106", e.Path, sourceOf(e), e.MTime)
	case len(e.Xattrs) > 0 && !opts.DropXattrs:
		return fmt.Errorf("%s from %s: a cpio archive has no extended attributes; drop them or put the file into a squashfs", e.Path, sourceOf(e))
	}
	return nil
}

// cpioWriter writes entries in the order it gets them.
type cpioWriter struct {
	w      *cpio.Writer
	tree   *Tree
	names  map[*Entry]fileNames
	inodes map[*Entry]int64 // of files with several names
	last   int64            // inode number given last
}

func (a *cpioWriter) write(e *Entry) error {
	file, err := a.tree.Resolve(e)
	if err != nil {
		return err
	}
	// Header.Checksum stays zero: set once, it changes the magic of every
	// archive that this process writes afterwards.
	h := &cpio.Header{
		Name: e.Path, Inode: a.inode(file), Links: 1,
		Mode: cpio.FileMode(file.Mode), Uid: int(file.UID), Guid: int(file.GID), ModTime: file.MTime,
	}
	switch file.Type {
	case Dir:
		h.Mode |= cpio.TypeDir
		h.Links = 2
		return a.w.WriteHeader(h)
	case Symlink:
		h.Mode |= cpio.TypeSymlink
		h.Size = int64(len(file.Target))
		if err := a.w.WriteHeader(h); err != nil {
			return err
		}
		_, err := io.WriteString(a.w, file.Target)
		return err
	default:
		h.Mode |= cpio.TypeReg
		return a.writeFile(h, file)
	}
}

// writeFile writes a header, and the content where it belongs to this name.
func (a *cpioWriter) writeFile(h *cpio.Header, file *Entry) error {
	if n, several := a.names[file]; several {
		h.Links = n.count
		if n.last != h.Name {
			return a.w.WriteHeader(h)
		}
	}
	h.Size = file.Size
	if err := a.w.WriteHeader(h); err != nil {
		return err
	}
	r, err := file.Content()
	if err != nil {
		return err
	}
	defer r.Close()
	n, err := io.Copy(a.w, io.LimitReader(r, file.Size))
	if err != nil {
		return err
	}
	return checkLength(r, n, file.Size)
}

// checkLength fails unless r was read to its end after n = size bytes.
func checkLength(r io.Reader, n, size int64) error {
	if n < size {
		return fmt.Errorf("content ends after %d of %d bytes", n, size)
	}
	var one [1]byte
	switch m, err := io.ReadFull(r, one[:]); {
	case m > 0:
		return fmt.Errorf("content is longer than its %d bytes", size)
	case err != io.EOF:
		return err
	}
	return nil
}

// inode returns the inode number of file: the same one for all its names.
func (a *cpioWriter) inode(file *Entry) int64 {
	if n := a.inodes[file]; n != 0 {
		return n
	}
	a.last++
	if _, several := a.names[file]; several {
		a.inodes[file] = a.last
	}
	return a.last
}
