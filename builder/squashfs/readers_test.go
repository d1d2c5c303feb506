package squashfs_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	diskfile "github.com/diskfs/go-diskfs/backend/file"
	diskfs "github.com/diskfs/go-diskfs/filesystem/squashfs"
	"github.com/google/go-cmp/cmp"

	"muster/builder/squashfs"
	"muster/initramfs"
	"muster/internal/need"
)

// squashfs-tools unpack the image to what the tree is.
func TestUnsquashfs(t *testing.T) {
	unsquashfs := need.Program(t, "unsquashfs", "squashfs-tools")
	need.Root(t)
	for name, o := range map[string]squashfs.Options{
		"small blocks": {BlockSize: 4 << 10},
		"large blocks": {BlockSize: 1 << 20, Level: squashfs.Better},
	} {
		t.Run(name, func(t *testing.T) {
			tree := special(t, o.BlockSize)
			image := writeImage(t, tree, o)
			dir := filepath.Join(t.TempDir(), "root")
			if out, err := exec.Command(unsquashfs, "-n", "-strict-errors", "-d", dir, image).CombinedOutput(); err != nil {
				t.Fatalf("unsquashfs: %v: %s", err, out)
			}
			if diff := cmp.Diff(wantFacts(t, tree), dirFacts(t, dir)); diff != "" {
				t.Errorf("(-tree +unpacked):\n%.3000s", diff)
			}
		})
	}
}

// A reader in Go, which shares no code with the kernel or squashfs-tools. It
// does not show owners, links or attributes.
func TestDiskfs(t *testing.T) {
	t.Parallel()
	tree := special(t, 128<<10)
	// go-diskfs 1.9.4 cannot list a directory with entries of several
	// attributes, and opens paths in UTF-8 only.
	for _, p := range []string{"bin/ping", "bin/ping6", "bin/xattr.name", "trusted", "link.with.xattr", "dir.with.xattr", "names/not\xff\xfeutf8\x01"} {
		tree.Remove(p)
	}
	image := writeImage(t, tree, squashfs.Options{})
	f, err := os.Open(image)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	fsys, err := diskfs.Read(diskfile.New(f, true), fi.Size(), 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	want, got := make(map[string]string), make(map[string]string)
	for e := range tree.All() {
		target, err := tree.Resolve(e)
		if err != nil {
			t.Fatal(err)
		}
		if target.Type == initramfs.File {
			want[e.Path] = hash(t, bytes.NewReader(target.Data))
		}
	}
	for e := range tree.All() {
		if _, ok := want[e.Path]; !ok {
			continue
		}
		data, err := fsys.ReadFile(e.Path)
		if err != nil {
			t.Errorf("reading %q: %v", e.Path, err)
			continue
		}
		got[e.Path] = hash(t, bytes.NewReader(data))
	}
	if len(want) < 20 {
		t.Errorf("only %d files compared", len(want))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-tree +read):\n%.3000s", diff)
	}
}
