package builder

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"muster/builder/deb/debtest"
	"muster/images"
)

// layerOf is a layer with these files: content by name, "->target" for a link, "=>target" for a hard link, and names
// that end in a slash for folders.
func layerOf(t testing.TB, files ...[2]string) v1.Layer {
	t.Helper()
	data := tarOf(t, files...)
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil })
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func tarOf(t testing.TB, files ...[2]string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		h := &tar.Header{Name: f[0], Mode: 0o755, Size: int64(len(f[1])), Typeflag: tar.TypeReg}
		if target, ok := strings.CutPrefix(f[1], "->"); ok {
			h.Typeflag, h.Linkname, h.Size, f[1] = tar.TypeSymlink, target, 0, ""
		} else if target, ok := strings.CutPrefix(f[1], "=>"); ok {
			h.Typeflag, h.Linkname, h.Size, f[1] = tar.TypeLink, target, 0, ""
		} else if strings.HasSuffix(f[0], "/") {
			h.Typeflag = tar.TypeDir
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(f[1])); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// baseImage is a small system of two layers: the second takes a file away.
func baseImage(t testing.TB, arch string) v1.Image {
	t.Helper()
	img, err := mutate.AppendLayers(empty.Image,
		layerOf(t, [2]string{"bin/", ""}, [2]string{"bin/sh", "old shell"}, [2]string{"etc/passwd", "root:x:0:0::/:/bin/sh\n"}, [2]string{"etc/group", "root:x:0:\n"},
			[2]string{"usr/bin/base", "base"}, [2]string{"etc/gone", "x"}, [2]string{"usr/lib/os-release", "ID=base\n"}),
		layerOf(t, [2]string{"etc/.wh.gone", ""}, [2]string{"bin/sh", "new shell"}, [2]string{"usr/bin/link", "->base"}))
	if err != nil {
		t.Fatal(err)
	}
	img, err = mutate.ConfigFile(img, &v1.ConfigFile{Architecture: arch, OS: "linux", RootFS: v1.RootFS{Type: "layers"}})
	if err != nil {
		t.Fatal(err)
	}
	layers, err := baseLayers(t, img)
	if err != nil {
		t.Fatal(err)
	}
	return layers
}

// baseLayers makes the configuration name the layers again.
func baseLayers(t testing.TB, img v1.Image) (v1.Image, error) {
	t.Helper()
	all, err := img.Layers()
	if err != nil {
		return nil, err
	}
	c, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	c = c.DeepCopy()
	c.RootFS.DiffIDs = nil
	for _, l := range all {
		id, err := l.DiffID()
		if err != nil {
			return nil, err
		}
		c.RootFS.DiffIDs = append(c.RootFS.DiffIDs, id)
	}
	return mutate.ConfigFile(img, c)
}

// userlandFilesOf builds and returns what the userland has at some paths.
func userlandFilesOf(t testing.TB, cfg Config, script string) string {
	t.Helper()
	mustBuild(t, cfg)
	return inUserland(t, cfg.Out, script)
}

func TestUserlandFromSources(t *testing.T) {
	a := userlandArchive(t)
	dir := t.TempDir()
	path, err := layout.Write(filepath.Join(dir, "layout"), empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	img := baseImage(t, "amd64")
	if err := path.AppendImage(img); err != nil {
		t.Fatal(err)
	}
	docker := filepath.Join(dir, "docker.tar")
	tag, err := name.NewTag("base:1")
	if err != nil {
		t.Fatal(err)
	}
	if err := tarball.WriteToFile(docker, tag, img); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(server.Close)
	ref := strings.TrimPrefix(server.URL, "http://") + "/team/base:1"
	remoteTag, err := name.NewTag(ref, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(remoteTag, img); err != nil {
		t.Fatal(err)
	}
	site := filepath.Join(dir, "site.tar")
	if err := os.WriteFile(site, tarOf(t, [2]string{"opt/site/tool", "of the archive"}, [2]string{"usr/bin/base", "of the archive"}), 0o644); err != nil {
		t.Fatal(err)
	}
	tree := filepath.Join(dir, "tree")
	if err := os.MkdirAll(filepath.Join(tree, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(tree, "etc/site.conf"), []byte("conf"), 0o600); err != nil {
		t.Fatal(err)
	}
	const script = `cat bin/sh; echo; cat usr/bin/base usr/bin/link; echo; ls -d etc/gone etc/site.conf opt/site/tool usr/lib/muster/init usr/bin/tool 2>/dev/null || true; for d in dev proc sys run tmp; do test -d $d; done; grep -c root etc/passwd`
	for _, base := range []string{filepath.Join(dir, "layout"), docker, ref} {
		t.Run(filepath.Base(base), func(t *testing.T) {
			cfg := testConfig(t, a, testDefinition+fmt.Sprintf("\nuserland:\n  - oci: %s\n  - packages: [tool]\n  - tar: %s\n  - dir: %s\n", base, site, tree))
			want := "new shell\nof the archiveof the archive\netc/site.conf\nopt/site/tool\nusr/bin/tool\nusr/lib/muster/init\n1\n"
			if diff := cmp.Diff(want, userlandFilesOf(t, cfg, script)); diff != "" {
				t.Error(diff)
			}
			text, err := os.ReadFile(filepath.Join(cfg.Out, "lock.json"))
			if err != nil {
				t.Fatal(err)
			}
			lock, err := images.ParseLock("lock.json", text)
			if err != nil || len(lock.Sources) != 3 {
				t.Fatalf("%v: sources are %+v", err, lock)
			}
			// The same bytes again, with another cache, and with nobody to ask.
			first, err := os.ReadFile(filepath.Join(cfg.Out, "userland.sqfs"))
			if err != nil {
				t.Fatal(err)
			}
			if err := os.Remove(filepath.Join(cfg.Out, "userland.sqfs")); err != nil {
				t.Fatal(err)
			}
			cfg.Offline = true
			mustBuild(t, cfg)
			again, err := os.ReadFile(filepath.Join(cfg.Out, "userland.sqfs"))
			if err != nil || !bytes.Equal(first, again) {
				t.Errorf("another build differs: %v", err)
			}
		})
	}
	t.Run("a folder that changed", func(t *testing.T) {
		cfg := testConfig(t, a, testDefinition+fmt.Sprintf("\nuserland:\n  - packages: [tool]\n  - dir: %s\n", tree))
		m := mustBuild(t, cfg)
		if err := os.WriteFile(filepath.Join(tree, "etc/site.conf"), []byte("other"), 0o600); err != nil {
			t.Fatal(err)
		}
		cfg.Locked = true
		if _, err := Build(t.Context(), cfg); err == nil || !errors.Is(err, ErrInput) || !strings.Contains(err.Error(), "changed: dir "+tree) {
			t.Errorf("a locked build says %v", err)
		}
		cfg.Locked = false
		if again := mustBuild(t, cfg); again.ID == m.ID {
			t.Error("the image is the same")
		}
		if got := inUserland(t, cfg.Out, "cat etc/site.conf; stat -c %a etc/site.conf"); got != "other644\n" {
			t.Errorf("site.conf is %q", got)
		}
	})
}

// A package file of the site's own counts before the archive's, brings its dependencies, and a pin
// chooses among the versions of the archive.
func TestDebsAndPins(t *testing.T) {
	a := userlandArchive(t, debtest.Package{Name: "tool", Version: "1", Arch: "amd64", Files: []debtest.File{{Path: "usr/bin/tool", Data: "old tool"}}})
	dir := t.TempDir()
	own := filepath.Join(dir, "tool_9_amd64.deb")
	deb := debtest.Package{Name: "tool", Version: "9", Arch: "amd64", Depends: "awk", Files: []debtest.File{{Path: "usr/bin/tool", Data: "own tool"}}}
	if err := os.WriteFile(own, deb.Deb(t), 0o644); err != nil {
		t.Fatal(err)
	}
	foreign := filepath.Join(dir, "tool_9_arm64.deb")
	deb.Arch = "arm64"
	if err := os.WriteFile(foreign, deb.Deb(t), 0o644); err != nil {
		t.Fatal(err)
	}
	again, twice, cut := filepath.Join(dir, "again", "tool_9_amd64.deb"), filepath.Join(dir, "tool_9_twice.deb"), filepath.Join(dir, "tool_9_cut.deb")
	deb.Arch = "amd64"
	data := deb.Deb(t)
	if err := errors.Join(os.Mkdir(filepath.Dir(again), 0o755), os.WriteFile(again, data, 0o644), os.WriteFile(twice, data, 0o644), os.WriteFile(cut, data[:len(data)-1500], 0o644)); err != nil {
		t.Fatal(err)
	}
	deb.Arch = "arm64"
	const script = "cat usr/bin/tool; echo; ls usr/bin/gawk"
	cfg := testConfig(t, a, testDefinition+"\nuserland:\n  - debs: ["+own+"]\n")
	if got := userlandFilesOf(t, cfg, script); got != "own tool\nusr/bin/gawk\n" {
		t.Errorf("with a .deb: %q", got)
	}
	if err := os.WriteFile(own, append(deb.Deb(t), '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
	cfg.Out = filepath.Join(dir, "out")
	cfg.LockFile = filepath.Join(filepath.Dir(cfg.Cache), "out", "lock.json")
	cfg.Cache = filepath.Join(dir, "cache")
	if _, err := Build(t.Context(), cfg); err == nil || !errors.Is(err, ErrInput) || !strings.Contains(err.Error(), "tool_9_amd64.deb changed since the lock") {
		t.Errorf("a .deb that changed: %v", err)
	}
	pinned := testConfig(t, a, testDefinition+"\npackages: [tool=1*]\n")
	if got := userlandFilesOf(t, pinned, "cat usr/bin/tool"); got != "old tool" {
		t.Errorf("with a pin: %q", got)
	}
	for definition, want := range map[string]string{
		"packages: [tool=3]":                                  "the archive has 2, 1",
		"userland:\n  - debs: [" + foreign + "]":              "is for arm64, and the image for amd64",
		"userland:\n  - debs: [" + again + ", " + twice + "]": "are both package tool",
		"userland:\n  - debs: [" + cut + "]":                  "tool_9_cut.deb",
	} {
		if _, err := Build(t.Context(), testConfig(t, a, testDefinition+"\n"+definition+"\n")); err == nil || !errors.Is(err, ErrInput) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", definition, err, want)
		}
	}
}

func deviceTar(t testing.TB) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := errors.Join(w.WriteHeader(&tar.Header{Name: "srv/disk", Typeflag: tar.TypeBlock}), w.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// Sources without a package are a userland too.
func TestUserlandWithoutPackages(t *testing.T) {
	site := filepath.Join(t.TempDir(), "site.tar")
	if err := os.WriteFile(site, tarOf(t, [2]string{"bin/tool", "tool"}, [2]string{"run/gone", "x"}, [2]string{"tmp/gone", "x"}), 0o644); err != nil {
		t.Fatal(err)
	}
	cfg := testConfig(t, userlandArchive(t), testDefinition+"\nuserland:\n  - tar: "+site+"\n")
	m := mustBuild(t, cfg)
	if _, ok := m.File(images.KindUserland); !ok {
		t.Error("the manifest has no userland")
	}
	if got := inUserland(t, cfg.Out, "cat usr/bin/tool; echo; ls usr/lib/muster; ls -d dev proc sys run tmp; ls run tmp"); got != "tool\ninit\ndev\nproc\nrun\nsys\ntmp\nrun:\n\ntmp:\n" {
		t.Errorf("the userland has %q", got)
	}
}

func TestSourceErrors(t *testing.T) {
	a := userlandArchive(t)
	dir := t.TempDir()
	wrongArch, err := layout.Write(filepath.Join(dir, "arm"), empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	if err := wrongArch.AppendImage(baseImage(t, "arm64")); err != nil {
		t.Fatal(err)
	}
	write := func(name string, data []byte) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, data, 0o644); err != nil {
			t.Fatal(err)
		}
		return file
	}
	good := tarOf(t, [2]string{"a", strings.Repeat("x", 5000)})
	for name, c := range map[string]struct{ source, want string }{
		"no folder":       {"dir: " + dir + "/none", "does not exist"},
		"no archive":      {"tar: " + dir + "/none.tar", "does not exist"},
		"no image":        {"oci: " + dir + "/none", "does not exist"},
		"no registry":     {"oci: 127.0.0.1:1/x:1", "127.0.0.1:1"},
		"architecture":    {"oci: " + dir + "/arm", "arm64"},
		"digest":          {"oci: " + dir + "/arm@sha256:" + strings.Repeat("0", 64), "sha256:0000"},
		"truncated":       {"tar: " + write("cut.tar", good[:3000]), "cut.tar"},
		"out of the tree": {"tar: " + write("up.tar", tarOf(t, [2]string{"../../etc/passwd", "x"})), "../../etc/passwd"},
		"no deb":          {"debs: [" + write("x.deb", []byte("no deb")) + "]", "x.deb"},
		"below a file":    {"tar: " + write("below.tar", tarOf(t, [2]string{"usr/bin/tool/x", "x"})), "package tool 2"},
		"device":          {"tar: " + write("device.tar", deviceTar(t)), "it is a device; a userland has only files, folders and links"},
		"folder and file": {"tar: " + write("file.tar", tarOf(t, [2]string{"usr/bin", "x"})), "usr/bin"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := testConfig(t, a, testDefinition+"\nuserland:\n  - packages: [tool]\n  - "+c.source+"\n")
			_, err := Build(t.Context(), cfg)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
			if name != "no registry" && !errors.Is(err, ErrInput) {
				t.Errorf("%v counts as a failure, not as wrong input", err)
			}
			if _, err := os.Stat(filepath.Join(cfg.Out, "userland.sqfs")); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("a userland was written: %v", err)
			}
		})
	}
}
