package builder

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"muster/images"
	"muster/initramfs"
)

// treeConfig builds a definition with files in the folder of the definition.
func treeConfig(t *testing.T, definition string, prepare func(dir string)) Config {
	t.Helper()
	cfg := testConfig(t, userlandArchive(t), testDefinition)
	dir := t.TempDir()
	prepare(dir)
	writeFiles(t, dir, map[string]string{"test.yaml": definition})
	d, err := images.Load(filepath.Join(dir, "test.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	d.Mirror = cfg.Definition.Mirror
	cfg.Definition = d
	return cfg
}

const (
	noFiles = `
name: test
arch: amd64
suite: trixie
kernel: {package: linux-image-amd64, cmdline: quiet}
commands: [ls, sh]
media: [netboot]
packages: [tool]
`
	treeList = noFiles + `
files:
- {from: ./tree, to: /, in: both}
- {from: ./deep, to: /bin/x, owner: 7:8}
- {path: /etc/both, content: b}
- {path: /etc/small, content: s, in: initramfs}
- {path: /usr/bin/tool, content: mine, mode: 0755, in: userland, replace: true}
`
)

func strangeTree(umask os.FileMode, at time.Time) func(dir string) {
	return func(dir string) {
		for _, name := range []string{"tree/bin/hello", "tree/etc/with space", "tree/etc/with\nnewline", `tree/etc/back\slash`, "tree/etc/latin-\xfc", "deep/f"} {
			file := filepath.Join(dir, name)
			mode := 0o666 &^ umask
			if name == "tree/bin/hello" {
				mode = 0o777 &^ umask
			}
			if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o777&^umask), os.WriteFile(file, []byte(name), mode), os.Chmod(file, mode), os.Chtimes(file, at, at)); err != nil {
				panic(err)
			}
			if os.Getuid() == 0 {
				if err := os.Chown(file, int(umask), int(umask)); err != nil {
					panic(err)
				}
			}
		}
		if err := os.Symlink("hello", filepath.Join(dir, "tree/bin/hi")); err != nil {
			panic(err)
		}
	}
}

// A folder is in the image as it lies there, through the links of the image, whoever owns it
// on the host and whatever umask and clock it was made under.
func TestTreesInImages(t *testing.T) {
	cfg := treeConfig(t, treeList, strangeTree(0o022, time.Unix(1e9, 0)))
	m := mustBuild(t, cfg)
	got := inUserland(t, cfg.Out, `find usr/bin/h* usr/bin/x usr/bin/tool etc/w* etc/b* etc/la* etc/small -printf '%p|%M %U:%G %l|' 2>/dev/null | sed 's/|/\n/g'; cat usr/bin/tool bin/hi`)
	want := strings.ReplaceAll(`usr/bin/hello
-rwxr-xr-x 0:0 
usr/bin/hi
lrwxrwxrwx 0:0 hello
usr/bin/x
drwxr-xr-x 0:0 
usr/bin/x/f
-rw-r--r-- 7:8 
usr/bin/tool
-rwxr-xr-x 0:0 
etc/with
newline
-rw-r--r-- 0:0 
etc/with space
-rw-r--r-- 0:0 
etc/back\slash
-rw-r--r-- 0:0 
etc/both
-rw-r--r-- 0:0 
etc/latin-`+"\xfc"+`
-rw-r--r-- 0:0 
minetree/bin/hello`, "", "")
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("userland (-want +got):\n%s", diff)
	}
	files := records(t, cfg.Out)
	for _, name := range []string{"bin/hello", "etc/with space", "etc/with\nnewline", "etc/latin-\xfc", "etc/both", "etc/small"} {
		if _, ok := files[name]; !ok {
			t.Errorf("the initramfs has no %q", name)
		}
	}
	if _, ok := files["bin/x/f"]; ok {
		t.Error("a folder without in: is in the initramfs too")
	}
	if _, err := Verify(cfg.Out); err != nil {
		t.Errorf("verify: %v", err)
	}

	other := treeConfig(t, treeList, strangeTree(0o077, time.Unix(1.7e9, 0)))
	if again := mustBuild(t, other); again.ID != m.ID {
		t.Error("modes, owners or times of the host have an influence on the image ID")
	}
	for name, data := range contents(t, cfg.Out) {
		if contents(t, other.Out)[name] != data {
			t.Errorf("%s differs", name)
		}
	}
}

func TestTreeConflictsInImages(t *testing.T) {
	for name, c := range map[string]struct{ files, want string }{
		"a package's file":   {"- {path: /usr/bin/tool, in: userland}", "files: /usr/bin/tool is in package tool 2 and in definition test (D/test.yaml:10:3) (userland); leave one out, or say replace: true at the file"},
		"through a link":     {"- {path: /bin/tool, in: userland}", "files: /usr/bin/tool is in package tool 2 and in definition test"},
		"of a folder":        {"- {from: ./tree, to: /usr, in: userland}", "files: /usr/bin/tool is in package tool 2 and in D/tree (D/test.yaml:10:3) (userland)"},
		"a folder as a file": {"- {path: /usr/bin, in: userland}", "files: /usr/bin of definition test (D/test.yaml:10:3) is no folder, but one of package "},
		"a command":          {"- {path: /bin/ls, in: initramfs}", "files: /bin/ls is in "},
		"muster's by a link": {"- {path: /bbin/bb, in: initramfs, replace: true}", "files: /bbin/bb of definition test (D/test.yaml:10:3) is /bin/bb here, which belongs to muster"},
		"two through a link": {"- {path: /bin/new, in: userland}\n- {path: /usr/bin/new, in: userland}", "files: /usr/bin/new is in definition test (D/test.yaml:10:3) and in definition test (D/test.yaml:11:3) (userland)"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := ""
			cfg := treeConfig(t, noFiles+"files:\n"+c.files+"\n", func(d string) {
				dir = d
				writeFiles(t, d, map[string]string{"tree/bin/tool": "x"})
			})
			_, err := Build(t.Context(), cfg)
			if want := strings.ReplaceAll(c.want, "D/", dir+"/"); err == nil || !strings.Contains(err.Error(), want) || !errors.Is(err, ErrInput) {
				t.Errorf("Build() = %v\nwant %s", err, want)
			}
		})
	}
}

// What a folder held when the image ID was made of it has to be there still.
func TestTreeChanges(t *testing.T) {
	for name, change := range map[string]func(dir string) error{
		"content":  func(dir string) error { return os.WriteFile(filepath.Join(dir, "tree/a"), []byte("y"), 0o644) },
		"size":     func(dir string) error { return os.WriteFile(filepath.Join(dir, "tree/a"), []byte("long"), 0o644) },
		"one more": func(dir string) error { return os.WriteFile(filepath.Join(dir, "tree/b"), nil, 0o644) },
		"one less": func(dir string) error { return os.Remove(filepath.Join(dir, "tree/a")) },
		"mode":     func(dir string) error { return os.Chmod(filepath.Join(dir, "tree/a"), 0o755) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := ""
			cfg := treeConfig(t, noFiles+"files: [{from: ./tree, to: /}]\n", func(d string) {
				dir = d
				writeFiles(t, d, map[string]string{"tree/a": "x"})
			})
			if err := change(dir); err != nil {
				t.Fatal(err)
			}
			if _, err := Build(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "changed while the image was built: \"") {
				t.Errorf("Build() = %v", err)
			}
		})
	}
}

func TestResolve(t *testing.T) {
	tree := initramfs.NewTree(time.Unix(0, 0))
	for link, target := range map[string]string{
		"bin": "usr/bin", "abs": "/usr/lib", "chain": "abs/deep", "usr/up": "../etc", "loop": "loop2", "loop2": "loop", "root": "/", "out": "../../..",
	} {
		if err := tree.AddSymlink(link, target, "test"); err != nil {
			t.Fatal(err)
		}
	}
	f := &filler{tree: tree}
	for name, want := range map[string]string{
		"x": "x", "bin": "bin", "bin/x": "usr/bin/x", "abs/x/y": "usr/lib/x/y", "chain/x": "usr/lib/deep/x", "usr/up/x": "etc/x",
		"root/bin/x": "usr/bin/x", "out/etc": "etc", "a/b/c": "a/b/c",
	} {
		if got := f.resolve(name); got != want {
			t.Errorf("resolve(%s) = %s, want %s", name, got, want)
		}
	}
	if got := f.resolve("loop/x"); !strings.HasPrefix(got, "loop") {
		t.Errorf("resolve(loop/x) = %s", got)
	}
}
