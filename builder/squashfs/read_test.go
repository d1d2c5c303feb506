package squashfs_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"muster/builder/squashfs"
	"muster/initramfs"
)

// readFacts are the facts of an image as [squashfs.Read] gives them.
func readFacts(t *testing.T, image string) map[string]fact {
	t.Helper()
	data, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	facts := make(map[string]fact)
	inodes := make(map[uint32][]string)
	dirs := make(map[string]uint64)
	err = squashfs.Read(bytes.NewReader(data), int64(len(data)), func(f squashfs.File) error {
		got := fact{Mode: f.Mode, UID: f.UID, GID: f.GID, MTime: f.MTime.Unix(), Size: f.Size, Target: f.Target}
		switch f.Type {
		case initramfs.Dir:
			got.Mode |= syscall.S_IFDIR
			dirs[path.Dir(f.Path)]++
		case initramfs.Symlink:
			got.Mode |= syscall.S_IFLNK
			got.Size = int64(len(f.Target))
		default:
			got.Mode |= syscall.S_IFREG
			got.SHA256 = hash(t, f.Content)
		}
		inodes[f.Inode] = append(inodes[f.Inode], f.Path)
		facts[f.Path] = got
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	dirs["."]-- // itself
	for _, paths := range inodes {
		for _, p := range paths {
			f := facts[p]
			if f.Nlink = uint64(len(paths)); f.Mode&syscall.S_IFMT == syscall.S_IFDIR {
				f.Nlink = 2 + dirs[p]
			}
			facts[p] = f
		}
	}
	return facts
}

// Our own reader sees what the tree is.
func TestRead(t *testing.T) {
	t.Parallel()
	for _, bs := range []int{4 << 10, 128 << 10, 1 << 20} {
		t.Run(fmt.Sprintf("blocks of %d", bs), func(t *testing.T) {
			tree := special(t, bs)
			want := wantFacts(t, tree)
			for p, f := range want {
				f.Xattrs = ""
				want[p] = f
			}
			if diff := cmp.Diff(want, readFacts(t, writeImage(t, tree, squashfs.Options{BlockSize: bs}))); diff != "" {
				t.Errorf("(-tree +read):\n%.3000s", diff)
			}
		})
	}
}

// Folders come before what is in them, in the order of names, and an error of fn ends it.
func TestReadOrder(t *testing.T) {
	tree := treeOf(t, file("b/x", 0o644, text(3)), file("a", 0o644, text(3)), file("b.c", 0o644, text(3)))
	image, err := os.ReadFile(writeImage(t, tree, squashfs.Options{}))
	if err != nil {
		t.Fatal(err)
	}
	var order []string
	stop := errors.New("enough")
	err = squashfs.Read(bytes.NewReader(image), int64(len(image)), func(f squashfs.File) error {
		if order = append(order, f.Path); f.Path == "b/x" {
			return stop
		}
		return nil
	})
	if got := strings.Join(order, " "); got != ". a b b/x" || !errors.Is(err, stop) {
		t.Errorf("%s, %v", got, err)
	}
}

// readAll reads an image with all content.
func readAll(image []byte) error {
	return squashfs.Read(bytes.NewReader(image), int64(len(image)), func(f squashfs.File) error {
		if f.Content == nil {
			return nil
		}
		_, err := io.Copy(io.Discard, io.LimitReader(f.Content, 16<<20))
		return err
	})
}

func smallImage(t testing.TB) []byte {
	tree := treeOf(t, file("dir/a", 0o644, text(9000)), file("dir/b", 0o644, noise(5000)), file("c", 0o644, text(10)),
		initramfs.Entry{Path: "l", Type: initramfs.Symlink, Target: "c"})
	image, err := os.ReadFile(writeImage(t, tree, squashfs.Options{BlockSize: 4 << 10}))
	if err != nil {
		t.Fatal(err)
	}
	return image
}

func TestReadDamaged(t *testing.T) {
	image := smallImage(t)
	if err := readAll(image); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(b []byte) []byte{
		"empty":         func([]byte) []byte { return nil },
		"another file":  func(b []byte) []byte { copy(b, "ELF!"); return b },
		"cut off":       func(b []byte) []byte { return b[:len(b)/2] },
		"block size":    func(b []byte) []byte { b[12] = 1; return b },
		"table outside": func(b []byte) []byte { b[70] = 0xff; return b },
	} {
		if err := readAll(change(bytes.Clone(image))); !errors.Is(err, squashfs.ErrDamaged) {
			t.Errorf("%s: %v", name, err)
		}
	}
	other := bytes.Clone(image)
	other[20] = 4 // xz
	if err := readAll(other); err == nil || !strings.Contains(err.Error(), "compression 4 cannot be read") {
		t.Errorf("another compression: %v", err)
	}
}

func FuzzRead(f *testing.F) {
	image := smallImage(f)
	f.Add(image)
	f.Add(image[:200])
	f.Fuzz(func(t *testing.T, data []byte) {
		if err := readAll(data); err != nil && strings.Count(err.Error(), "reading /") > 1 {
			t.Errorf("the path is said twice: %v", err)
		}
	})
}
