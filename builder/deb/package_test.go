package deb

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"muster/builder/deb/debtest"

	"github.com/google/go-cmp/cmp"
)

// collect lists what Walk finds.
func collect(data []byte) ([]string, error) {
	var out []string
	err := Walk(bytes.NewReader(data), func(e Entry, r io.Reader) error {
		text, err := io.ReadAll(r)
		if e.Type != TypeFile {
			text = []byte("→ " + e.Link)
		}
		out = append(out, e.Path+" "+string(text))
		return err
	})
	return out, err
}

func TestWalk(t *testing.T) {
	p := debtest.Package{Name: "p", Version: "1", Arch: "all", Files: []debtest.File{
		{Path: ""},
		{Path: "lib/"},
		{Path: "lib/modules/x.ko", Data: "module"},
		{Path: "usr/bin/tool", Data: "tool"},
		{Path: "bin", Link: "usr/bin"},
		{Path: "sbin/x", Link: "../usr/bin/tool"},
		{Path: "etc/empty"},
	}}
	want := []string{"usr/lib → ", "usr/lib/modules/x.ko module", "usr/bin/tool tool", "bin → usr/bin", "usr/sbin/x → ../usr/bin/tool", "etc/empty "}
	for _, compression := range []string{"", ".gz", ".xz", ".zst"} {
		p.Compression = compression
		got, err := collect(p.Deb(t))
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("data.tar%s: %v (-want +got):\n%s", compression, err, diff)
		}
	}
}

func TestWalkStopsAtTheCallersError(t *testing.T) {
	data := debtest.Package{Files: []debtest.File{{Path: "a"}, {Path: "b"}}}.Deb(t)
	stop := errors.New("stop")
	n := 0
	err := Walk(bytes.NewReader(data), func(Entry, io.Reader) error { n++; return stop })
	if err != stop || n != 1 {
		t.Errorf("Walk() = %v after %d calls, want the caller's error after one", err, n)
	}
}

// rawTar returns a tar of headers that debtest does not make.
func rawTar(t testing.TB, headers ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestWalkErrors(t *testing.T) {
	version := debtest.Member{Name: "debian-binary", Data: []byte("2.0\n")}
	data := func(headers ...tar.Header) []byte {
		return debtest.Ar(version, debtest.Member{Name: "data.tar", Data: rawTar(t, headers...)})
	}
	good := debtest.Package{Files: []debtest.File{{Path: "a", Data: strings.Repeat("x", 5000)}}, Compression: ".xz"}.Deb(t)
	for name, c := range map[string]struct {
		data []byte
		want string
	}{
		"empty":               {nil, "no ar archive"},
		"other format":        {[]byte("#!/bin/sh\necho hello"), "no ar archive"},
		"no debian-binary":    {debtest.Ar(debtest.Member{Name: "data.tar"}), `begins with "data.tar"`},
		"version 3":           {debtest.Ar(debtest.Member{Name: "debian-binary", Data: []byte("3.0\n")}), `format is "3.0`},
		"no data":             {debtest.Ar(version), "no data.tar"},
		"unknown compression": {debtest.Ar(version, debtest.Member{Name: "data.tar.lzma"}), "compression is not known"},
		"cut short":           {good[:len(good)-40], "unexpected EOF"},
		"damaged header":      {bytes.Replace(good, []byte("`\n2.0"), []byte("??2.0"), 1), "damaged"},
		"size":                {bytes.Replace(good, []byte("4         `\n2.0"), []byte("-1        `\n2.0"), 1), "size of a member"},
		"climbing":            {data(tar.Header{Name: "a/../../etc/passwd", Typeflag: tar.TypeReg}), ".. in it"},
		"climbing hard link":  {data(tar.Header{Name: "a", Linkname: "../../etc/passwd", Typeflag: tar.TypeLink}), ".. in it"},
		"device":              {data(tar.Header{Name: "dev/sda", Typeflag: tar.TypeBlock}), "only files, folders and links"},
		"fifo":                {data(tar.Header{Name: "fifo", Typeflag: tar.TypeFifo}), "only files, folders and links"},
		"link to nothing":     {data(tar.Header{Name: "l", Typeflag: tar.TypeSymlink}), "target of the link"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := collect(c.data)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("Walk() = %v, want %q", err, c.want)
			}
		})
	}
}

func TestWalkHardLink(t *testing.T) {
	data := debtest.Ar(debtest.Member{Name: "debian-binary", Data: []byte("2.0\n")},
		debtest.Member{Name: "data.tar", Data: rawTar(t,
			tar.Header{Name: "./bin/a", Typeflag: tar.TypeReg, Mode: 0o4755},
			tar.Header{Name: "/bin/b", Linkname: "./bin/a", Typeflag: tar.TypeLink})})
	got, err := collect(data)
	if diff := cmp.Diff([]string{"usr/bin/a ", "usr/bin/b → usr/bin/a"}, got); err != nil || diff != "" {
		t.Errorf("Walk(): %v (-want +got):\n%s", err, diff)
	}
}

func FuzzWalk(f *testing.F) {
	for _, compression := range []string{"", ".gz", ".xz", ".zst"} {
		f.Add(debtest.Package{Compression: compression, Files: []debtest.File{{Path: "lib/x", Data: "data"}, {Path: "l", Link: "x"}}}.Deb(f))
	}
	f.Add(debtest.Ar(debtest.Member{Name: "debian-binary", Data: []byte("2.0\n")}, debtest.Member{Name: "data.tar", Data: rawTar(f, tar.Header{Name: "a/../../b", Typeflag: tar.TypeReg})}))
	f.Fuzz(func(t *testing.T, data []byte) {
		Walk(bytes.NewReader(data), func(e Entry, r io.Reader) error {
			for _, p := range []string{e.Path, map[bool]string{true: e.Link}[e.Type == TypeHardLink]} {
				if strings.HasPrefix(p, "/") || strings.Contains("/"+p+"/", "/../") || strings.ContainsRune(p, 0) {
					t.Errorf("path %q leaves the root", p)
				}
			}
			_, err := io.Copy(io.Discard, r)
			return err
		})
	})
}
