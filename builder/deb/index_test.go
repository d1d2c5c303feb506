package deb

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const hashOfNothing = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

func stanza(name, version, more string) string {
	return "Package: " + name + "\nVersion: " + version + "\nArchitecture: amd64\n" + more +
		"Filename: pool/" + name + ".deb\nSize: 1\nSHA256: " + hashOfNothing + "\n\n"
}

func testIndex(t *testing.T) *Index {
	t.Helper()
	x := NewIndex()
	for suite, text := range map[string]string{
		"trixie":          stanza("linux", "6.12.9-1", "Source: linux-signed (6.12.9+1)\nPre-Depends: a\nDepends: b | c, d (>= 1)\n") + stanza("tool", "1", ""),
		"trixie-security": "Section: x\n" + stanza("linux", "6.12.10-1", "Description: long\n text\n"),
	} {
		if err := x.Add(suite, []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	return x
}

func TestIndexLatest(t *testing.T) {
	x := testIndex(t)
	got, err := x.Latest("linux")
	if err != nil || got.Version != "6.12.10-1" || got.Suite != "trixie-security" {
		t.Errorf("Latest(linux) = %+v, %v; want that of the security suite", got, err)
	}
	got, err = x.Satisfying("linux (<< 6.12.10)")
	want := Package{
		Name: "linux", Version: "6.12.9-1", Arch: "amd64", Source: "linux-signed", SourceVersion: "6.12.9+1",
		Depends: "a, b | c, d (>= 1)", Suite: "trixie", Path: "pool/linux.deb", FileHash: FileHash{1, hashOfNothing},
	}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("Satisfying() differs: %v (-want +got):\n%s", err, diff)
	}
	if diff := cmp.Diff([]string{"a", "b", "d (>= 1)"}, Relations(got.Depends)); diff != "" {
		t.Errorf("Relations() differs:\n%s", diff)
	}
	if diff := cmp.Diff([]string{"linux", "tool"}, x.Names()); diff != "" {
		t.Errorf("Names() differs:\n%s", diff)
	}
}

func TestIndexErrors(t *testing.T) {
	x := testIndex(t)
	if _, err := x.Latest("nosuch"); !errors.Is(err, ErrNoPackage) {
		t.Errorf("Latest(nosuch) = %v, want ErrNoPackage", err)
	}
	if _, err := x.Satisfying("linux (>= 7)"); !errors.Is(err, ErrNoPackage) || !strings.Contains(err.Error(), "6.12.9-1") {
		t.Errorf("Satisfying(linux (>= 7)) = %v, want ErrNoPackage and the versions there are", err)
	}
	for _, relation := range []string{"", "linux (6)", "linux (~ 6)", "LINUX", "linux (>= 6) x"} {
		if _, err := x.Satisfying(relation); err == nil || errors.Is(err, ErrNoPackage) {
			t.Errorf("Satisfying(%q) = %v, want an error about the relation", relation, err)
		}
	}
	for name, change := range map[string][2]string{
		"climbing path": {"pool/tool.deb", "../tool.deb"},
		"absolute path": {"pool/tool.deb", "/tool.deb"},
		"no hash":       {hashOfNothing, "x"},
		"no size":       {"Size: 1", "Size: -1"},
		"no version":    {"Version: 1", "Version:"},
	} {
		x := NewIndex()
		if err := x.Add("trixie", []byte(strings.Replace(stanza("tool", "1", ""), change[0], change[1], 1))); err != nil {
			t.Fatal(err)
		}
		if p, err := x.Latest("tool"); err == nil {
			t.Errorf("%s: Latest() = %+v, want an error", name, p)
		}
	}
	if err := NewIndex().Add("trixie", []byte("Version: 1\n")); err == nil {
		t.Error("a paragraph without a package is no error")
	}
}

func FuzzIndex(f *testing.F) {
	f.Add([]byte(stanza("linux", "1", "") + stanza("b", "2", "Depends: linux\n")))
	f.Add([]byte("\n\n\nPackage: a\n\n \n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		x := NewIndex()
		if x.Add("trixie", data) != nil {
			return
		}
		for _, name := range x.Names() {
			p, err := x.Latest(name)
			if err == nil && (p.Path == "" || strings.HasPrefix(p.Path, "/") || strings.Contains("/"+p.Path+"/", "/../")) {
				t.Errorf("path %q of package %q", p.Path, name)
			}
			for _, r := range Relations(p.Depends) {
				x.Satisfying(r)
			}
		}
	})
}
