package initramfs_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"muster/initramfs"
	"muster/internal/need"
)

func writeCPIO(t testing.TB, tree *initramfs.Tree, opts initramfs.CPIOOptions) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := initramfs.WriteCPIO(&b, tree, opts); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func readCPIO(t testing.TB, archive []byte) *initramfs.Archive {
	t.Helper()
	a, err := initramfs.ReadCPIO(bytes.NewReader(archive))
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func mixedTree(t testing.TB) *initramfs.Tree {
	t.Helper()
	return treeOf(t,
		file("init", "#!/bin/sh\n"),
		file("etc/empty", ""),
		symlink("bin/sh", "busybox"),
		initramfs.Entry{Path: "bin/busybox", Type: initramfs.File, Mode: 0o4755, UID: 12, GID: 34, Data: []byte("ELF"), MTime: time.Unix(1, 0)},
		dir("tmp", 0o1777),
		hardLink("a/first", "m/name"), file("m/name", "shared"), hardLink("z/last", "m/name"),
		hardLink("etc/empty.too", "etc/empty"),
		file("not\xff\xfeutf8", "x"),
		file(strings.Repeat("d/", 100)+strings.Repeat("n", 255), "deep"),
	)
}

func TestWriteCPIO(t *testing.T) {
	t.Parallel()
	got := readCPIO(t, writeCPIO(t, treeOf(t,
		file("init", "#!"), symlink("bin/sh", "bb"), dir("tmp", 0o1777),
		hardLink("a", "m"), file("m", "shared"), hardLink("z", "m"),
		initramfs.Entry{Path: "su", Type: initramfs.File, Mode: 0o4711, UID: 4294967295, GID: 7, Data: []byte("x"), MTime: time.Unix(4294967295, 0)},
	), initramfs.CPIOOptions{}))
	rec := func(r initramfs.Record) initramfs.Record {
		if r.MTime.IsZero() {
			r.MTime = testTime
		}
		return r
	}
	want := []initramfs.Record{
		rec(initramfs.Record{Path: "a", Mode: 0o100644, Inode: 1, Links: 3}),
		rec(initramfs.Record{Path: "bin", Mode: 0o040755, Inode: 2, Links: 2}),
		rec(initramfs.Record{Path: "bin/sh", Mode: 0o120777, Inode: 3, Links: 1, Target: "bb"}),
		rec(initramfs.Record{Path: "init", Mode: 0o100644, Inode: 4, Links: 1, Data: []byte("#!")}),
		rec(initramfs.Record{Path: "m", Mode: 0o100644, Inode: 1, Links: 3}),
		rec(initramfs.Record{Path: "su", Mode: 0o104711, UID: 4294967295, GID: 7, Inode: 5, Links: 1, Data: []byte("x"), MTime: time.Unix(4294967295, 0).UTC()}),
		rec(initramfs.Record{Path: "tmp", Mode: 0o041777, Inode: 6, Links: 2}),
		rec(initramfs.Record{Path: "z", Mode: 0o100644, Inode: 1, Links: 3, Data: []byte("shared")}),
	}
	if diff := cmp.Diff(want, got.Records, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("records (-want +got):\n%s", diff)
	}
	for _, name := range []string{"a", "m", "z"} {
		if c, err := got.Content(name); err != nil || string(c) != "shared" {
			t.Errorf("Content(%s) = %q, %v", name, c, err)
		}
	}
}

// The same entries in any order give the same bytes.
func TestWriteCPIODeterministic(t *testing.T) {
	t.Parallel()
	tree := mixedTree(t)
	backwards := initramfs.NewTree(testTime)
	var all []initramfs.Entry
	for e := range tree.All() {
		all = append(all, *e)
	}
	for i := range all {
		if err := backwards.Add(all[len(all)-1-i]); err != nil {
			t.Fatal(err)
		}
	}
	first := writeCPIO(t, tree, initramfs.CPIOOptions{})
	if !bytes.Equal(first, writeCPIO(t, backwards, initramfs.CPIOOptions{})) || !bytes.Equal(first, writeCPIO(t, tree, initramfs.CPIOOptions{})) {
		t.Error("archives of equal trees differ")
	}
}

// GNU cpio unpacks what the tree is.
func TestGNUCpio(t *testing.T) {
	t.Parallel()
	cpio := need.Program(t, "cpio", "cpio")
	need.Root(t)
	root := t.TempDir()
	cmd := exec.Command(cpio, "-idm", "--no-absolute-filenames", "--quiet")
	cmd.Dir = root
	tree := mixedTree(t)
	cmd.Stdin = bytes.NewReader(writeCPIO(t, tree, initramfs.CPIOOptions{}))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("cpio: %v: %s", err, out)
	}
	inodes := make(map[string]uint64)
	for e := range tree.All() {
		var st syscall.Stat_t
		name := filepath.Join(root, e.Path)
		if err := syscall.Lstat(name, &st); err != nil {
			t.Errorf("%q: %v", e.Path, err)
			continue
		}
		inodes[e.Path] = st.Ino
		f, _ := tree.Resolve(e)
		got := fmt.Sprintf("%o %d:%d", st.Mode&0o7777, st.Uid, st.Gid)
		if want := fmt.Sprintf("%o %d:%d", f.Mode, f.UID, f.GID); got != want {
			t.Errorf("%q is %s, want %s", e.Path, got, want)
		}
		if f.Type == initramfs.File {
			if data, err := os.ReadFile(name); err != nil || !bytes.Equal(data, f.Data) {
				t.Errorf("%q has %q, %v, want %q", e.Path, data, err, f.Data)
			}
			if st.Mtim.Sec != f.MTime.Unix() {
				t.Errorf("%q has time %d, want %d", e.Path, st.Mtim.Sec, f.MTime.Unix())
			}
		}
	}
	if inodes["a/first"] != inodes["m/name"] || inodes["z/last"] != inodes["m/name"] || inodes["etc/empty.too"] != inodes["etc/empty"] {
		t.Errorf("names of one file are different files: %v", inodes)
	}
}

func TestWriteCPIOErrors(t *testing.T) {
	t.Parallel()
	content := func(r io.Reader, err error) func() (io.ReadCloser, error) {
		return func() (io.ReadCloser, error) { return io.NopCloser(r), err }
	}
	tests := map[string]struct {
		entry initramfs.Entry
		opts  initramfs.CPIOOptions
		want  string
	}{
		"4 GiB":            {initramfs.Entry{Path: "big", Type: initramfs.File, Size: 4 << 30, Open: content(nil, errTest), Source: "x"}, initramfs.CPIOOptions{}, "writing cpio: big from x: 4294967296 bytes, but a cpio archive holds files below 4 GiB; put it into the userland"},
		"before 1970":      {initramfs.Entry{Path: "f", Type: initramfs.File, MTime: time.Unix(-1, 0), Source: "x"}, initramfs.CPIOOptions{}, "writing cpio: f from x: time 1969-12-31 23:59:59 +0000 UTC is outside 1970 to 2106"},
		"after 2106":       {initramfs.Entry{Path: "f", Type: initramfs.File, MTime: time.Unix(1<<32, 0), Source: "x"}, initramfs.CPIOOptions{}, "writing cpio: f from x: time 2106-02-07 06:28:16 +0000 UTC is outside 1970 to 2106"},
		"trailer":          {file("TRAILER!!!", ""), initramfs.CPIOOptions{}, "writing cpio: TRAILER!!! from a.deb: a file of this name would end the archive"},
		"long path":        {file(strings.Repeat("d/", 2048), ""), initramfs.CPIOOptions{}, ""},
		"too long path":    {file(strings.Repeat("d/", 2048)+"d", ""), initramfs.CPIOOptions{}, "writing cpio: " + strings.Repeat("d/", 30) + "… from a.deb: path of 4097 bytes is longer than the kernel's 4095"},
		"name of 256":      {file(strings.Repeat("n", 256), ""), initramfs.CPIOOptions{}, "writing cpio: " + strings.Repeat("n", 60) + "… from a.deb: a name is longer than the 255 bytes that tmpfs allows"},
		"long link":        {symlink("l", strings.Repeat("t", 4096)), initramfs.CPIOOptions{}, "writing cpio: l from a.deb: link text of 4096 bytes is longer than the kernel's 4095"},
		"attributes":       {initramfs.Entry{Path: "f", Type: initramfs.File, Xattrs: map[string][]byte{"user.a": nil}, Source: "x"}, initramfs.CPIOOptions{}, "writing cpio: f from x: a cpio archive has no extended attributes; drop them or put the file into a squashfs"},
		"drop attributes":  {initramfs.Entry{Path: "f", Type: initramfs.File, Xattrs: map[string][]byte{"user.a": nil}}, initramfs.CPIOOptions{DropXattrs: true}, ""},
		"link to nothing":  {hardLink("l", "nosuch"), initramfs.CPIOOptions{}, "writing cpio: hard link l from a.deb: its target nosuch is not in the tree: file does not exist"},
		"cannot be opened": {initramfs.Entry{Path: "f", Type: initramfs.File, Size: 1, Open: content(nil, errTest), Source: "x"}, initramfs.CPIOOptions{}, "writing cpio: f from x: test error"},
		"short":            {initramfs.Entry{Path: "f", Type: initramfs.File, Size: 5, Open: content(strings.NewReader("123"), nil), Source: "x"}, initramfs.CPIOOptions{}, "writing cpio: f from x: content ends after 3 of 5 bytes"},
		"long":             {initramfs.Entry{Path: "f", Type: initramfs.File, Size: 2, Open: content(strings.NewReader("123"), nil), Source: "x"}, initramfs.CPIOOptions{}, "writing cpio: f from x: content is longer than its 2 bytes"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if tt.entry.Path == strings.Repeat("d/", 2048) { // 4095 bytes without the last slash
				tt.entry.Path = strings.TrimSuffix(tt.entry.Path, "/")
			}
			err := initramfs.WriteCPIO(io.Discard, treeOf(t, tt.entry), tt.opts)
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || err.Error() != tt.want) {
				t.Errorf("WriteCPIO() error = %v\nwant %q", err, tt.want)
			}
		})
	}
}

var errTest = errors.New("test error")

// fullDisk takes so many bytes.
type fullDisk struct{ left int }

func (f *fullDisk) Write(p []byte) (int, error) {
	if len(p) > f.left {
		return 0, errTest
	}
	f.left -= len(p)
	return len(p), nil
}

func TestWriteCPIOFullDisk(t *testing.T) {
	t.Parallel()
	tree := treeOf(t, file("f", strings.Repeat("content", 1000)), symlink("l", "f"), dir("d", 0o700), file("z", "1"))
	size := len(writeCPIO(t, tree, initramfs.CPIOOptions{}))
	for n := 0; n < size; n++ {
		if n > 1000 && n < size-1000 {
			n += 90 // most of it is alike
		}
		if err := initramfs.WriteCPIO(&fullDisk{n}, tree, initramfs.CPIOOptions{}); !errors.Is(err, errTest) {
			t.Fatalf("disk of %d of %d bytes: error = %v, want the disk's", n, size, err)
		}
	}
	if err := initramfs.WriteCPIO(&fullDisk{size}, tree, initramfs.CPIOOptions{}); err != nil {
		t.Errorf("disk of the right size: %v", err)
	}
}

func BenchmarkWriteCPIO(b *testing.B) {
	tree := initramfs.NewTree(testTime)
	data := bytes.Repeat([]byte{1}, 100<<10)
	for i := range 1000 {
		if err := tree.AddBytes(fmt.Sprintf("f/%d", i), 0o644, data, "bench"); err != nil {
			b.Fatal(err)
		}
	}
	b.SetBytes(100 << 20)
	for b.Loop() {
		if err := initramfs.WriteCPIO(io.Discard, tree, initramfs.CPIOOptions{}); err != nil {
			b.Fatal(err)
		}
	}
}
