package layers

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// memory keeps contents for a tree.
func memory() Store {
	return func(content io.Reader, size int64) (*io.SectionReader, error) {
		var b bytes.Buffer
		if _, err := io.CopyN(&b, content, size); err != nil {
			return nil, err
		}
		return io.NewSectionReader(bytes.NewReader(b.Bytes()), 0, size), nil
	}
}

func tarOf(t testing.TB, headers ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		content := h.Uname // a place for the content in these tests
		h.Uname, h.Size, h.Mode = "", int64(len(content)), 0o644
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func file(name, content string) tar.Header {
	return tar.Header{Name: name, Typeflag: tar.TypeReg, Uname: content}
}

func link(name, target string) tar.Header {
	return tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: target}
}

// list says what is in a tree.
func list(t testing.TB, tree *Tree) []string {
	t.Helper()
	var out []string
	for f := range tree.All() {
		line := fmt.Sprintf("%v %s", f.Type, f.Path)
		if f.Target != "" {
			line += " -> " + f.Target
		}
		if f.Content != nil {
			b, err := io.ReadAll(io.NewSectionReader(f.Content, 0, f.Size))
			if err != nil {
				t.Fatal(err)
			}
			line += " " + string(b)
		}
		out = append(out, line)
	}
	return out
}

// Layers of images: what a later one has counts, a whiteout takes away what earlier ones have, and
// nothing leads out of the tree.
func TestApply(t *testing.T) {
	for name, c := range map[string]struct {
		layers [][]tar.Header
		want   []string
	}{
		"later counts":     {[][]tar.Header{{file("etc/a", "1"), file("etc/b", "1")}, {file("etc/a", "2")}}, []string{"file etc/a 2", "file etc/b 1"}},
		"whiteout":         {[][]tar.Header{{file("etc/a", "1"), file("etc/b", "1")}, {file("etc/.wh.a", "")}}, []string{"file etc/b 1"}},
		"opaque":           {[][]tar.Header{{file("etc/a", "1"), file("etc/b", "1")}, {file("etc/.wh..wh..opq", ""), file("etc/c", "2")}}, []string{"file etc/c 2"}},
		"through a link":   {[][]tar.Header{{file("real/a", "1"), link("alias", "real")}, {file("alias/b", "2")}}, []string{"symbolic link alias -> real", "file real/a 1", "file real/b 2"}},
		"link to the host": {[][]tar.Header{{link("out", "/"), file("out/etc/x", "1")}}, []string{"file etc/x 1", "symbolic link out -> /"}},
		"link upwards":     {[][]tar.Header{{link("a/out", "../../../..")}, {file("a/out/x", "1")}}, []string{"symbolic link a/out -> ../../../..", "file x 1"}},
		"merged usr":       {[][]tar.Header{{file("bin/sh", "1")}}, []string{"file usr/bin/sh 1"}},
		"devices":          {[][]tar.Header{{{Name: "dev/sda", Typeflag: tar.TypeBlock}, file("etc/a", "1")}}, []string{"file etc/a 1"}},
	} {
		t.Run(name, func(t *testing.T) {
			tree := New(memory())
			for _, l := range c.layers {
				if err := tree.Apply(t.Context(), bytes.NewReader(tarOf(t, l...)), Options{Source: name, Image: true, Skipped: func(string, string) {}}); err != nil {
					t.Fatal(err)
				}
			}
			if diff := cmp.Diff(c.want, list(t, tree)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestApplyRefuses(t *testing.T) {
	whole := tarOf(t, file("a", strings.Repeat("x", 3000)))
	for name, data := range map[string][]byte{
		"a name that leads out": tarOf(t, file("../etc/passwd", "x")),
		"cut in a file":         whole[:2000],
		"cut before its end":    whole[:3600],
		"no archive":            []byte(strings.Repeat("no archive ", 100)),
		"link to nothing":       tarOf(t, tar.Header{Name: "a", Typeflag: tar.TypeLink, Linkname: "b"}),
	} {
		if err := New(memory()).Apply(t.Context(), bytes.NewReader(data), Options{Source: name}); err == nil {
			t.Errorf("%s: it is taken", name)
		}
	}
}

func FuzzApply(f *testing.F) {
	f.Add(tarOf(f, file("bin/sh", "x"), link("usr/out", "../../.."), file("usr/out/y", "z"), file("etc/.wh.y", "")))
	f.Add(tarOf(f, file("a/b", "1"), tar.Header{Name: "c", Typeflag: tar.TypeLink, Linkname: "a/b"}, file(".wh..wh..opq", "")))
	f.Fuzz(func(t *testing.T, data []byte) {
		tree := New(memory())
		_ = tree.Apply(t.Context(), bytes.NewReader(data), Options{Source: "fuzz", Image: true, Skipped: func(string, string) {}})
		for e := range tree.All() {
			if !fs.ValidPath(strings.ToValidUTF8(e.Path, "?")) || e.Path == "." {
				t.Errorf("%q is no path below the root", e.Path)
			}
		}
	})
}
