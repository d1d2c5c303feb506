package images

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func writeFiles(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// What is inherited is where "..." stands, and each path is relative to the definition that it is written in.
func TestStack(t *testing.T) {
	dir := t.TempDir()
	const head = "name: x\nfrom: compute-vm\npackages: [bash=5*]\n"
	writeFiles(t, dir, map[string]string{
		"base/base.yaml": head + "userland:\n- oci: ./image\n- oci: registry.example.org/a/b:1\n- dir: ./tree\n",
		"more.yaml":      "name: y\nfrom: base/base.yaml\nuserland: [..., {tar: ./site.tar}]\n",
		"placed.yaml":    "name: z\nfrom: base/base.yaml\nuserland:\n- tar: ./root.tar\n- debs: [./own.deb, /abs.deb]\n- ...\n- packages: [dash, bash=5*]\n",
		"none.yaml":      "name: n\nfrom: base/base.yaml\npackages: []\nuserland: []\n",
	})
	for name, want := range map[string][]string{
		"base/base.yaml": {"oci ./image base/image", "oci registry.example.org/a/b:1", "packages bash=5*", "dir ./tree base/tree"},
		"more.yaml":      {"oci ./image base/image", "oci registry.example.org/a/b:1", "packages bash=5*", "dir ./tree base/tree", "tar ./site.tar site.tar"},
		"placed.yaml":    {"tar ./root.tar root.tar", "packages bash=5*, dash", "oci ./image base/image", "oci registry.example.org/a/b:1", "dir ./tree base/tree"},
		"none.yaml":      nil,
	} {
		d, err := Load(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, s := range d.Stack() {
			line := s.String()
			if s.Kind() != SourcePackages && s.IsLocal() {
				rel, err := filepath.Rel(dir, s.Path(s.Ref()))
				if err != nil {
					t.Fatal(err)
				}
				line += " " + rel
			}
			got = append(got, line)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		if d.HasUserland() != (want != nil) {
			t.Errorf("%s: HasUserland() = %v", name, d.HasUserland())
		}
	}
}

func TestSourcesRefused(t *testing.T) {
	for text, want := range map[string]string{
		"userland: [{}]":                                        "a source is empty; it has to have one of oci, tar, dir, debs or packages",
		"userland: [{dir: a, oci: b}]":                          "one source has oci and dir",
		"userland: [./tree]":                                    `"./tree" is no source; one is written - dir: ./tree`,
		"userland: [{dri: ./tree}]":                             `unknown key "dri" (did you mean "dir"?)`,
		"userland: [{oci: a@sha256:12}]":                        `"sha256:12" is no digest`,
		"userland: [{oci: https://r/a}]":                        "a registry is named without https://",
		"userland: [{oci: docker-daemon:a}]":                    "docker save",
		"userland: [{debs: []}]":                                "debs: is empty",
		"userland: [{debs: [bash]}]":                            "bash does not end in .deb",
		"userland: [{packages: [Bash]}]":                        `"Bash" cannot be the name of a Debian package`,
		"packages: [bash=]":                                     `"bash=" is no package at a version`,
		"packages: ['bash=*']":                                  `"bash=*" is no package at a version`,
		"packages: [bash=5]\nuserland: [{packages: [bash=6*]}]": "bash is pinned to 5 and to 6*",
	} {
		file := filepath.Join(t.TempDir(), "d.yaml")
		if err := os.WriteFile(file, []byte("name: x\nfrom: mini\n"+text+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := Load(file); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
}

// The hash of a folder is of names, contents, links and the right to execute, and of nothing that another
// checkout has otherwise.
func TestReadDir(t *testing.T) {
	hash := func(dir string) string {
		t.Helper()
		entries, err := Source{Dir: dir}.ReadDir(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return TreeHash(entries)
	}
	make := func() string {
		dir := t.TempDir()
		writeFiles(t, dir, map[string]string{"a/x": "1", "a/y": "2", "b \xff\n": "3"})
		if err := os.Symlink("x", filepath.Join(dir, "a/link")); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	first := make()
	want := hash(first)
	for name, c := range map[string]struct {
		change func(dir string) error
		same   bool
	}{
		"nothing":      {func(string) error { return nil }, true},
		"umask":        {func(dir string) error { return os.Chmod(filepath.Join(dir, "a/x"), 0o600) }, true},
		"folder's":     {func(dir string) error { return os.Chmod(filepath.Join(dir, "a"), 0o700) }, true},
		"times":        {func(dir string) error { return os.Chtimes(filepath.Join(dir, "a/x"), time.Time{}, time.Unix(1, 0)) }, true},
		"owner":        {func(dir string) error { return os.Lchown(filepath.Join(dir, "a/x"), os.Getuid(), os.Getgid()) }, true},
		"executable":   {func(dir string) error { return os.Chmod(filepath.Join(dir, "a/x"), 0o755) }, false},
		"content":      {func(dir string) error { return os.WriteFile(filepath.Join(dir, "a/x"), []byte("2"), 0o644) }, false},
		"name":         {func(dir string) error { return os.Rename(filepath.Join(dir, "a/x"), filepath.Join(dir, "a/z")) }, false},
		"link":         {func(dir string) error { return os.Symlink("x", filepath.Join(dir, "a/other")) }, false},
		"empty folder": {func(dir string) error { return os.Mkdir(filepath.Join(dir, "c"), 0o755) }, false},
	} {
		dir := make()
		if err := c.change(dir); err != nil {
			t.Fatal(err)
		}
		if got := hash(dir); (got == want) != c.same {
			t.Errorf("%s: the hash is the same: %v, want %v", name, got == want, c.same)
		}
	}
}
