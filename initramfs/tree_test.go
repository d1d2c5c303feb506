package initramfs_test

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"muster/initramfs"
)

var testTime = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// treeOf makes a tree and fails the test on a conflict.
func treeOf(t testing.TB, entries ...initramfs.Entry) *initramfs.Tree {
	t.Helper()
	tree := initramfs.NewTree(testTime)
	for _, e := range entries {
		if err := tree.Add(e); err != nil {
			t.Fatal(err)
		}
	}
	return tree
}

func file(path string, data string) initramfs.Entry {
	return initramfs.Entry{Path: path, Type: initramfs.File, Mode: 0o644, Data: []byte(data), Source: "a.deb"}
}

func dir(path string, mode uint32) initramfs.Entry {
	return initramfs.Entry{Path: path, Type: initramfs.Dir, Mode: mode, Source: "a.deb"}
}

func symlink(path, target string) initramfs.Entry {
	return initramfs.Entry{Path: path, Type: initramfs.Symlink, Target: target, Source: "a.deb"}
}

func hardLink(path, target string) initramfs.Entry {
	return initramfs.Entry{Path: path, Type: initramfs.HardLink, Target: target, Source: "a.deb"}
}

func paths(tree *initramfs.Tree) []string {
	var all []string
	for e := range tree.All() {
		all = append(all, e.Path)
	}
	return all
}

func TestTreeParentsAndOrder(t *testing.T) {
	t.Parallel()
	tree := treeOf(t, file("usr/lib/x", ""), file("/usr/bin/b", ""), file("./usr/bin/a", ""), dir("etc/", 0o700), file("usr/bin-x", ""), file(".hidden", ""), file("..x/y", ""))
	want := []string{"..x", "..x/y", ".hidden", "etc", "usr", "usr/bin", "usr/bin-x", "usr/bin/a", "usr/bin/b", "usr/lib", "usr/lib/x"}
	if diff := cmp.Diff(want, paths(tree)); diff != "" {
		t.Errorf("All() (-want +got):\n%s", diff)
	}
	if tree.Len() != len(want) {
		t.Errorf("Len() = %d, want %d", tree.Len(), len(want))
	}
	usr := tree.Lookup("/usr/")
	if usr == nil || usr.Type != initramfs.Dir || usr.Mode != 0o755 || usr.UID != 0 || !usr.MTime.Equal(testTime) {
		t.Errorf("Lookup(usr) = %+v, want a directory 0755 of root with the tree's time", usr)
	}
	if root := tree.Root(); root.Path != "." || root.Mode != 0o755 || tree.Lookup("/") != root {
		t.Errorf("Root() = %+v", root)
	}
	if got := tree.Lookup("usr/nosuch"); got != nil {
		t.Errorf("Lookup(usr/nosuch) = %+v", got)
	}
}

func TestTreeAddErrors(t *testing.T) {
	t.Parallel()
	base := []initramfs.Entry{file("bin/sh", "x"), symlink("lib", "usr/lib"), dir("tmp", 0o1777), file("etc/passwd", "")}
	tests := map[string]struct {
		entry initramfs.Entry
		want  string
		exist bool
	}{
		"file on file": {
			initramfs.Entry{Path: "bin/sh", Type: initramfs.File, Mode: 0o755, Source: "dash.deb"},
			"add bin/sh: file (mode 0755, owner 0:0) from dash.deb, but a file (mode 0644, owner 0:0) from a.deb is there: file already exists", true,
		},
		"directory on file": {dir("bin/sh", 0o755), "add bin/sh: directory (mode 0755, owner 0:0) from a.deb, but a file (mode 0644, owner 0:0) from a.deb is there: file already exists", true},
		"link on an implied directory": {
			initramfs.Entry{Path: "bin", Type: initramfs.Symlink, Target: "usr/bin", Source: "base.deb"},
			"add bin: symbolic link (mode 0777, owner 0:0) from base.deb, but a directory (mode 0755, owner 0:0) from a.deb is there: file already exists", true,
		},
		"directory with another mode": {dir("tmp", 0o755), "add tmp: directory (mode 0755, owner 0:0) from a.deb, but a directory (mode 1777, owner 0:0) from a.deb is there: file already exists", true},
		"below a link":                {file("lib/x", ""), "add lib/x: from a.deb, but lib is a symbolic link from a.deb: file already exists", true},
		"below a file":                {file("bin/sh/x", ""), "add bin/sh/x: from a.deb, but bin/sh is a file from a.deb: file already exists", true},
		"up":                          {file("../x", ""), `adding "../x" from a.deb: path is empty or not clean`, false},
		"up within":                   {file("a/../x", ""), `adding "a/../x" from a.deb: path is empty or not clean`, false},
		"double slash":                {file("a//x", ""), `adding "a//x" from a.deb: path is empty or not clean`, false},
		"empty":                       {file("", ""), `adding "" from a.deb: path is empty or not clean`, false},
		"zero byte":                   {file("a\x00b", ""), `adding "a\x00b" from a.deb: path has a zero byte`, false},
		"long name":                   {file(strings.Repeat("n", 257), ""), `adding "` + strings.Repeat("n", 257) + `" from a.deb: name of 257 bytes is longer than 256`, false},
		"device": {
			initramfs.Entry{Path: "dev/console", Type: initramfs.File, Mode: 0o020600},
			"adding dev/console from an unnamed source: mode 020600 has bits that are not permissions; device nodes and other special files cannot be added", false,
		},
		"no type":           {initramfs.Entry{Path: "x", Source: "a.deb"}, "adding x from a.deb: unknown entry type 0", false},
		"root as file":      {file(".", ""), "adding . from a.deb: the root cannot be a file", false},
		"link to nothing":   {symlink("x", ""), `adding x from a.deb: "" cannot be the target of a symbolic link`, false},
		"link out":          {hardLink("x", "../y"), `adding x from a.deb: target "../y" of the hard link: path is empty or not clean`, false},
		"data and open":     {initramfs.Entry{Path: "x", Type: initramfs.File, Data: []byte("x"), Open: func() (io.ReadCloser, error) { return nil, nil }}, "adding x from an unnamed source: file has both Data and Open", false},
		"negative size":     {initramfs.Entry{Path: "x", Type: initramfs.File, Size: -1, Open: func() (io.ReadCloser, error) { return nil, nil }}, "adding x from an unnamed source: size is -1", false},
		"target with zero ": {symlink("x", "a\x00"), `adding x from a.deb: "a\x00" cannot be the target of a symbolic link`, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			err := treeOf(t, base...).Add(tt.entry)
			if err == nil || err.Error() != tt.want {
				t.Errorf("Add() error = %v\nwant %s", err, tt.want)
			}
			if errors.Is(err, fs.ErrExist) != tt.exist {
				t.Errorf("errors.Is(%v, ErrExist) = %v, want %v", err, !tt.exist, tt.exist)
			}
		})
	}
}

func TestTreeDirectories(t *testing.T) {
	t.Parallel()
	later := testTime.Add(time.Hour)
	tree := treeOf(t,
		file("var/tmp/x", ""),
		initramfs.Entry{Path: "var/tmp", Type: initramfs.Dir, Mode: 0o1777, GID: 5, Source: "base"}, // implied until here
		initramfs.Entry{Path: "var/tmp", Type: initramfs.Dir, Mode: 0o1777, GID: 5, Source: "other", MTime: later},
		initramfs.Entry{Path: "var/tmp", Type: initramfs.Dir, Mode: 0o1777, GID: 5, Source: "third"},
		initramfs.Entry{Path: "/", Type: initramfs.Dir, Mode: 0o700},
	)
	if got := tree.Lookup("var/tmp"); got.Mode != 0o1777 || got.GID != 5 || !got.MTime.Equal(later) {
		t.Errorf("Lookup(var/tmp) = %+v, want mode 1777, group 5 and the later time", got)
	}
	if got := tree.Root().Mode; got != 0o700 {
		t.Errorf("Root().Mode = %o, want 0700", got)
	}
	err := tree.Add(initramfs.Entry{Path: "var/tmp", Type: initramfs.Dir, Mode: 0o1777, GID: 5, Xattrs: map[string][]byte{"user.a": nil}})
	if !errors.Is(err, fs.ErrExist) {
		t.Errorf("Add() of a directory with other attributes: error = %v, want ErrExist", err)
	}
}

func TestTreeMetadata(t *testing.T) {
	t.Parallel()
	odd := time.Date(2020, 1, 2, 3, 4, 5, 678, time.FixedZone("x", 3600))
	tree := initramfs.NewTree(time.Date(2026, 3, 1, 12, 0, 0, 999, time.FixedZone("y", -3600)))
	if err := tree.Add(initramfs.Entry{Path: "bin/su", Type: initramfs.File, Mode: 0o4755, UID: 1, GID: 2, Data: []byte("abc"), MTime: odd}); err != nil {
		t.Fatal(err)
	}
	got := tree.Lookup("bin/su")
	if got.Size != 3 || got.Mode != 0o4755 || got.UID != 1 || got.GID != 2 {
		t.Errorf("Lookup(bin/su) = %+v", got)
	}
	if want := "2020-01-02 02:04:05 +0000 UTC"; got.MTime.String() != want {
		t.Errorf("MTime = %v, want %s", got.MTime, want)
	}
	if want := "2026-03-01 13:00:00 +0000 UTC"; tree.Time().String() != want {
		t.Errorf("Time() = %v, want %s", tree.Time(), want)
	}
}

func TestTreeHardLinks(t *testing.T) {
	t.Parallel()
	tree := treeOf(t, hardLink("a/link", "z/file"), file("z/file", "x"))
	if err := tree.Check(); err != nil {
		t.Errorf("Check() = %v", err)
	}
	e, err := tree.Resolve(tree.Lookup("a/link"))
	if err != nil || e.Path != "z/file" {
		t.Errorf("Resolve(a/link) = %+v, %v", e, err)
	}
	bad := treeOf(t, hardLink("a", "nosuch"), hardLink("b", "d"), dir("d", 0o755), hardLink("c", "b"))
	err = bad.Check()
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Check() = %v, want ErrNotExist", err)
	}
	want := `hard link a from a.deb: its target nosuch is not in the tree: file does not exist
hard link b from a.deb: its target d is a directory; link to the file itself
hard link c from a.deb: its target b is a hard link; link to the file itself`
	if err == nil || err.Error() != want {
		t.Errorf("Check() = %v\nwant %s", err, want)
	}
}

func TestTreeMergeAndRemove(t *testing.T) {
	t.Parallel()
	a := treeOf(t, dir("usr", 0o700), file("usr/a", "a"))
	b := treeOf(t, file("usr/b", "b"), file("usr/sub/c", "c"))
	if err := a.Merge(b); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"usr", "usr/a", "usr/b", "usr/sub", "usr/sub/c"}, paths(a)); diff != "" {
		t.Errorf("after Merge (-want +got):\n%s", diff)
	}
	if got := a.Lookup("usr").Mode; got != 0o700 {
		t.Errorf("Merge changed the mode of usr to %o", got)
	}
	if err := a.Merge(treeOf(t, file("usr/a", "other"))); !errors.Is(err, fs.ErrExist) {
		t.Errorf("Merge() error = %v, want ErrExist", err)
	}
	a.Remove("usr/sub")
	a.Remove("usr/nosuch")
	a.Remove("usr/a")
	if diff := cmp.Diff([]string{"usr", "usr/b"}, paths(a)); diff != "" {
		t.Errorf("after Remove (-want +got):\n%s", diff)
	}
	if b.Lookup("usr/sub/c") == nil {
		t.Error("Remove took an entry out of the other tree")
	}
}

func TestTreeAddFile(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), "host")
	if err := os.WriteFile(name, []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	tree := initramfs.NewTree(testTime)
	if err := tree.AddFile("etc/x", 0o644, name, "the definition"); err != nil {
		t.Fatal(err)
	}
	e := tree.Lookup("etc/x")
	if e.Mode != 0o644 || e.Size != 7 || !e.MTime.Equal(testTime) {
		t.Errorf("AddFile took metadata of the host: %+v", e)
	}
	for range 2 { // content can be read more than once
		r, err := e.Content()
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := io.ReadAll(r); string(got) != "content" {
			t.Errorf("Content() = %q", got)
		}
		r.Close()
	}
	if _, err := tree.Lookup("etc").Content(); err == nil {
		t.Error("Content() of a directory gives no error")
	}
	if err := tree.AddFile("etc/y", 0o644, name+".nosuch", "the definition"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("AddFile(nosuch) error = %v, want ErrNotExist", err)
	}
	if err := tree.AddFile("etc/y", 0o644, t.TempDir(), "the definition"); err == nil {
		t.Error("AddFile of a folder gives no error")
	}
}
