package squashfs_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"muster/builder/squashfs"
	"muster/initramfs"
	"muster/internal/need"
)

// writeImage writes tree into a file of the test.
func writeImage(t testing.TB, tree *initramfs.Tree, o squashfs.Options) string {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "image.squashfs"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := squashfs.Write(context.Background(), f, tree, o); err != nil {
		t.Fatal(err)
	}
	return f.Name()
}

// mount mounts an image on a loop device until the test ends.
func mount(t *testing.T, image string) string {
	t.Helper()
	need.Root(t)
	dir := t.TempDir()
	if out, err := exec.Command("mount", "-t", "squashfs", "-o", "loop,ro", image, dir).CombinedOutput(); err != nil {
		// A kernel that has squashfs must mount what we write.
		known, _ := os.ReadFile("/proc/filesystems")
		if strings.Contains(string(known), "squashfs") && !strings.Contains(string(out), "loop device") {
			t.Fatalf("mounting: %v: %s", err, out)
		}
		need.Missing(t, "this kernel cannot mount squashfs images: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("unmounting: %v: %s", err, out)
		}
	})
	return dir
}

// fact is what a reader can see of one path.
type fact struct {
	Mode   uint32
	UID    uint32
	GID    uint32
	MTime  int64
	Size   int64
	Nlink  uint64
	SHA256 string
	Target string
	Xattrs string
}

// wantFacts are the facts of a tree.
func wantFacts(t *testing.T, tree *initramfs.Tree) map[string]fact {
	t.Helper()
	names := make(map[*initramfs.Entry]uint64)
	dirs := make(map[string]uint64)
	for e := range tree.All() {
		file, err := tree.Resolve(e)
		if err != nil {
			t.Fatal(err)
		}
		names[file]++
		if e.Type == initramfs.Dir {
			dirs[filepath.Dir(e.Path)]++
		}
	}
	facts := make(map[string]fact)
	add := func(path string, e *initramfs.Entry) {
		f := fact{Mode: e.Mode, UID: e.UID, GID: e.GID, MTime: e.MTime.Unix(), Nlink: names[e], Xattrs: formatXattrs(e.Xattrs)}
		switch e.Type {
		case initramfs.Dir:
			f.Mode |= syscall.S_IFDIR
			f.Nlink = 2 + dirs[path]
		case initramfs.Symlink:
			f.Mode |= syscall.S_IFLNK
			f.Target = e.Target
			f.Size = int64(len(e.Target))
		default:
			f.Mode |= syscall.S_IFREG
			f.Size = e.Size
			r, err := e.Content()
			if err != nil {
				t.Fatal(err)
			}
			f.SHA256 = hash(t, r)
			r.Close()
		}
		facts[path] = f
	}
	add(".", tree.Root())
	for e := range tree.All() {
		file, _ := tree.Resolve(e)
		add(e.Path, file)
	}
	return facts
}

func hash(t *testing.T, r io.Reader) string {
	t.Helper()
	h := sha256.New()
	if _, err := io.Copy(h, r); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", h.Sum(nil))
}

// dirFacts are the facts of a mounted folder.
func dirFacts(t *testing.T, dir string) map[string]fact {
	t.Helper()
	facts := make(map[string]fact)
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st syscall.Stat_t
		if err := syscall.Lstat(p, &st); err != nil {
			return fmt.Errorf("lstat %s: %w", p, err)
		}
		f := fact{Mode: st.Mode, UID: st.Uid, GID: st.Gid, MTime: st.Mtim.Sec, Nlink: uint64(st.Nlink), Xattrs: formatXattrs(readXattrs(t, p))}
		switch d.Type() {
		case 0:
			f.Size = st.Size
			file, err := os.Open(p)
			if err != nil {
				return err
			}
			f.SHA256 = hash(t, file)
			file.Close()
		case fs.ModeSymlink:
			f.Size = st.Size
			f.Target, err = os.Readlink(p)
		}
		rel, _ := filepath.Rel(dir, p)
		facts[rel] = f
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return facts
}

// A folder of the host: by default its documents, which have many small files
// and links.
func TestMountHost(t *testing.T) {
	dir := os.Getenv("MUSTER_BENCH_TREE")
	if dir == "" {
		dir = "/usr/share/doc"
	}
	if _, err := os.Stat(dir); err != nil {
		t.Skipf("%s is not here; set MUSTER_BENCH_TREE to a folder", dir)
	}
	compareMounted(t, hostTree(t, dir), squashfs.Options{})
}
