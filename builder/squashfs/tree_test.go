package squashfs_test

import (
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"muster/initramfs"
)

var testTime = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// hostTree is the tree of a folder of this machine, without special files.
func hostTree(t testing.TB, dir string) *initramfs.Tree {
	t.Helper()
	tree := initramfs.NewTree(testTime)
	first := make(map[uint64]string) // inode to the name it was added by
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, p)
		var st syscall.Stat_t
		if err := syscall.Lstat(p, &st); err != nil {
			return err
		}
		e := initramfs.Entry{
			Path: rel, Mode: st.Mode & 0o7777, UID: st.Uid, GID: st.Gid,
			MTime: time.Unix(st.Mtim.Sec, 0), Source: p, Xattrs: readXattrs(t, p),
		}
		switch {
		case d.IsDir():
			e.Type = initramfs.Dir
		case d.Type() == fs.ModeSymlink:
			e.Type = initramfs.Symlink
			if e.Target, err = os.Readlink(p); err != nil {
				return err
			}
		case !d.Type().IsRegular():
			return nil
		case first[st.Ino] != "":
			return tree.AddHardLink(rel, first[st.Ino], p)
		default:
			e.Type, e.Size = initramfs.File, st.Size
			e.Open = func() (io.ReadCloser, error) { return os.Open(p) }
			if st.Nlink > 1 {
				first[st.Ino] = rel
			}
		}
		return tree.Add(e)
	})
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

// readXattrs returns the attributes that squashfs can hold.
func readXattrs(t testing.TB, p string) map[string][]byte {
	t.Helper()
	list := make([]byte, 64<<10)
	n, err := unix.Llistxattr(p, list)
	if err != nil {
		return nil
	}
	attrs := make(map[string][]byte)
	for name := range strings.SplitSeq(strings.TrimSuffix(string(list[:n]), "\x00"), "\x00") {
		if name == "" {
			continue
		}
		value := make([]byte, 64<<10)
		n, err := unix.Lgetxattr(p, name, value)
		if err != nil {
			t.Fatalf("reading attribute %s of %s: %v", name, p, err)
		}
		attrs[name] = value[:n]
	}
	return attrs
}

func formatXattrs(attrs map[string][]byte) string {
	var s []string
	for _, name := range slices.Sorted(maps.Keys(attrs)) {
		s = append(s, fmt.Sprintf("%s=%x", name, attrs[name]))
	}
	return strings.Join(s, " ")
}

// cpuTime is what this process has used.
func cpuTime() time.Duration {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		return 0
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}
