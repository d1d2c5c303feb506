package builder

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/compression"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"muster/builder/deb/debtest"
	"muster/images"
)

// imageFor is an image of these layers.
func imageFor(t testing.TB, arch string, layers ...v1.Layer) v1.Image {
	t.Helper()
	img, err := mutate.AppendLayers(mutate.MediaType(empty.Image, types.OCIManifestSchema1), layers...)
	if err != nil {
		t.Fatal(err)
	}
	c, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	c = c.DeepCopy()
	c.Architecture, c.OS = arch, "linux"
	if img, err = mutate.ConfigFile(img, c); err != nil {
		t.Fatal(err)
	}
	return img
}

// indexOf is an index with an image for each architecture, in a further index as some
// tools write it.
func indexOf(t testing.TB, all map[string]v1.Image) v1.ImageIndex {
	t.Helper()
	inner := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, arch := range sortedKeys(all) {
		inner = mutate.AppendManifests(inner, mutate.IndexAddendum{
			Add: all[arch], Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}},
		})
	}
	return inner
}

// writeLayout writes what add puts into a layout, and returns its folder.
func writeLayout(t testing.TB, add func(layout.Path) error) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "layout")
	p, err := layout.Write(dir, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	if err := add(p); err != nil {
		t.Fatal(err)
	}
	return dir
}

// zstdLayer is layerOf, packed in another way.
func zstdLayer(t testing.TB, data []byte) v1.Layer {
	t.Helper()
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil },
		tarball.WithCompression(compression.ZStd), tarball.WithMediaType(types.OCILayerZStd))
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func onlyOCI(ref string) string {
	return testDefinition + "\nuserland:\n  - oci: " + ref + "\n"
}

// Of an index the image for this architecture counts; layers may be packed by zstd, and have hard links,
// links in place of merged folders, devices, and take away folders as a whole.
func TestImageOfAnIndex(t *testing.T) {
	var second bytes.Buffer
	w := tar.NewWriter(&second)
	for _, h := range []*tar.Header{
		{Name: "./lib64", Typeflag: tar.TypeSymlink, Linkname: "usr/lib"},
		{Name: "dev/sda", Typeflag: tar.TypeBlock},
		{Name: "usr/bin/other", Typeflag: tar.TypeLink, Linkname: "bin/sh"},
		{Name: "var/cache/.wh..wh..opq", Typeflag: tar.TypeReg},
		{Name: "var/cache/new", Typeflag: tar.TypeReg, Mode: 0o644},
	} {
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	ours := imageFor(t, "amd64", layerOf(t, [2]string{"bin/sh", "shell"}, [2]string{"usr/lib/libc.so", "libc"}, [2]string{"var/cache/old", "x"}), zstdLayer(t, second.Bytes()))
	foreign := imageFor(t, "arm64", layerOf(t, [2]string{"bin/sh", "foreign"}))
	index := indexOf(t, map[string]v1.Image{"amd64": ours, "arm64": foreign})
	dir := writeLayout(t, func(p layout.Path) error { return p.AppendIndex(index) })
	a := userlandArchive(t)
	cfg := testConfig(t, a, onlyOCI(dir))
	got := userlandFilesOf(t, cfg, "cat bin/sh usr/bin/other; echo; stat -c %h usr/bin/sh; readlink usr/lib64; ls var/cache dev")
	if diff := cmp.Diff("shellshell\n2\n/usr/lib\ndev:\n\nvar/cache:\nnew\n", got); diff != "" {
		t.Error(diff)
	}

	digest, err := foreign.Digest()
	if err != nil {
		t.Fatal(err)
	}
	both := writeLayout(t, func(p layout.Path) error {
		return errors.Join(p.AppendImage(ours), p.AppendImage(imageFor(t, "amd64", layerOf(t, [2]string{"a", "b"}))))
	})
	only := writeLayout(t, func(p layout.Path) error { return p.AppendIndex(indexOf(t, map[string]v1.Image{"arm64": foreign})) })
	for name, c := range map[string]struct{ ref, want string }{
		"none for the architecture": {only, "it is for linux/arm64, and the definition is for amd64"},
		"a digest of another":       {dir + "@" + digest.String(), "it is for linux/arm64"},
		"several":                   {both, "it has several images: sha256:"},
	} {
		_, err := Build(t.Context(), testConfig(t, a, onlyOCI(c.ref)))
		if err == nil || !errors.Is(err, ErrInput) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

// A layout that is not whole is wrong input that says what is wrong with it.
func TestDamagedLayouts(t *testing.T) {
	a := userlandArchive(t)
	layer := layerOf(t, [2]string{"bin/sh", "shell"})
	digest, err := layer.Digest()
	if err != nil {
		t.Fatal(err)
	}
	blob := filepath.Join("blobs", digest.Algorithm, digest.Hex)
	for name, c := range map[string]struct {
		damage func(dir string) error
		want   string
	}{
		"no index":        {func(dir string) error { return os.Remove(filepath.Join(dir, "index.json")) }, "it has neither index.json, as a layout has"},
		"index cut":       {func(dir string) error { return os.Truncate(filepath.Join(dir, "index.json"), 20) }, "reading its index"},
		"layer missing":   {func(dir string) error { return os.Remove(filepath.Join(dir, blob)) }, digest.Hex},
		"layer truncated": {func(dir string) error { return os.Truncate(filepath.Join(dir, blob), 60) }, "layer 1 of oci"},
		"another layer": {func(dir string) error {
			data, err := io.ReadAll(must(layerOf(t, [2]string{"bin/sh", "wrong"}).Compressed()))
			return errors.Join(err, os.WriteFile(filepath.Join(dir, blob), data, 0o644))
		}, "is damaged: its digest is"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := writeLayout(t, func(p layout.Path) error { return p.AppendImage(imageFor(t, "amd64", layer)) })
			if err := c.damage(dir); err != nil {
				t.Fatal(err)
			}
			cfg := testConfig(t, a, onlyOCI(dir))
			if _, err := Build(t.Context(), cfg); err == nil || !errors.Is(err, ErrInput) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want wrong input with %q", err, c.want)
			}
		})
	}
}

// registryServer is a registry with an image, whose answers change can replace: it says whether it did.
func registryServer(t testing.TB, img v1.Image, change func(w http.ResponseWriter, r *http.Request) bool) (ref string) {
	t.Helper()
	inner := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	writing := true
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if writing || change == nil || !change(w, r) {
			inner.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(server.Close)
	ref = strings.TrimPrefix(server.URL, "http://") + "/team/base:1"
	tag, err := name.NewTag(ref, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(tag, img); err != nil {
		t.Fatal(err)
	}
	writing = false
	return ref
}

// What a registry answers instead of an image is a failure of the fetch that says whose, and what to do.
func TestRegistryAnswers(t *testing.T) {
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	a := userlandArchive(t)
	img := imageFor(t, "amd64", layerOf(t, [2]string{"bin/sh", "shell"}))
	layer := must(img.Layers())[0]
	digest, err := layer.Digest()
	if err != nil {
		t.Fatal(err)
	}
	status := func(code int, part string) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, r *http.Request) bool {
			if strings.Contains(r.URL.Path, part) {
				w.WriteHeader(code)
				return true
			}
			return false
		}
	}
	for name, c := range map[string]struct {
		change func(http.ResponseWriter, *http.Request) bool
		wrong  bool // it counts as wrong input
		want   []string
	}{
		"a layer is gone": {status(404, digest.Hex), false, []string{"has no 127.0.0.1:"}},
		"too much of it":  {status(429, digest.Hex), false, []string{"(429): wait, or log in"}},
		"a web page":      {send([]byte("<html>"), "/manifests/"), true, []string{"it is no container image but text/html"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Build(t.Context(), testConfig(t, a, onlyOCI(registryServer(t, img, c.change))))
			if err == nil {
				t.Fatal("it builds")
			}
			if errors.Is(err, ErrInput) != c.wrong {
				t.Errorf("%v counts as wrong input: %v", err, !c.wrong)
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%v, want %q", err, want)
				}
			}
		})
	}
	t.Run("silent", func(t *testing.T) {
		server := httptest.NewTLSServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
		t.Cleanup(server.Close)
		transport := server.Client().Transport.(*http.Transport).Clone()
		transport.ResponseHeaderTimeout = time.Second
		var dialer net.Dialer
		transport.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
			if address == "example.com:443" {
				address = server.Listener.Addr().String()
			}
			return dialer.DialContext(ctx, network, address)
		}
		cfg := testConfig(t, a, onlyOCI("example.com/team/base:1"))
		cfg.HTTP = &http.Client{Transport: transport}
		if _, err := Build(t.Context(), cfg); err == nil || errors.Is(err, ErrInput) || !strings.Contains(err.Error(), "registry example.com does not answer") {
			t.Errorf("a registry that does not answer: %v", err)
		}
	})
}

// must is for what cannot fail but by the fault of a test.
func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// send answers with data for a path with part in it.
func send(data []byte, part string) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, part) {
			return false
		}
		w.Write(data)
		return true
	}
}

// A folder holds only what an image can hold, and is the same from the lock to the end of the build.
func TestFolderSources(t *testing.T) {
	a := userlandArchive(t)
	for name, c := range map[string]struct {
		put  func(dir string) error
		want string
	}{
		"pipe":   {func(dir string) error { return syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o644) }, "pipe is neither file nor folder"},
		"socket": {func(dir string) error { return listen(t, filepath.Join(dir, "s")) }, "s is neither file nor folder"},
		"key": {func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "id"), []byte("-----BEGIN OPENSSH PRIVATE KEY-----\nx\n-----END OPENSSH PRIVATE KEY-----\n"), 0o644)
		}, "everybody on the boot network can fetch a userland"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := c.put(dir); err != nil {
				t.Fatal(err)
			}
			_, err := Build(t.Context(), testConfig(t, a, testDefinition+"\nuserland:\n  - packages: [tool]\n  - dir: "+dir+"\n"))
			if err == nil || !errors.Is(err, ErrInput) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want wrong input with %q", err, c.want)
			}
		})
	}
	t.Run("changing", func(t *testing.T) {
		dir := t.TempDir()
		if err := errors.Join(os.WriteFile(filepath.Join(dir, "a"), []byte("1"), 0o644), os.Symlink("usr/lib", filepath.Join(dir, "lib64"))); err != nil {
			t.Fatal(err)
		}
		spool, err := os.Create(filepath.Join(t.TempDir(), "spool"))
		if err != nil {
			t.Fatal(err)
		}
		defer spool.Close()
		s := images.Source{Dir: dir}
		locked, err := lockDir(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		r := newRoot(debtest.Time(), spool)
		if err := r.addDir(t.Context(), s, *locked); err != nil {
			t.Errorf("a folder that stays: %v", err)
		}
		if e := r.tree.Lookup("usr/lib64"); e == nil || e.Target != "/usr/lib" {
			t.Errorf("lib64 is %+v", e)
		}
		if err := os.WriteFile(filepath.Join(dir, "a"), []byte("2"), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := newRoot(debtest.Time(), spool).addDir(t.Context(), s, *locked); !errors.Is(err, errChanging) {
			t.Errorf("a folder that changed: %v", err)
		}
	})
}

func listen(t testing.TB, name string) error {
	l, err := net.Listen("unix", name)
	if err == nil {
		t.Cleanup(func() { l.Close() })
	}
	return err
}

// What dpkg says of an image is there for packages that lie on it: nothing of it comes again, unless it has to.
// What it says stays true, and the bill names it.
func TestPackagesOnAnImage(t *testing.T) {
	status := func(packages ...string) string {
		var b strings.Builder
		for _, p := range packages {
			name, version, _ := strings.Cut(p, " ")
			b.WriteString("Package: " + name + "\nStatus: install ok installed\nVersion: " + version + "\nArchitecture: amd64\n\n")
		}
		return b.String()
	}
	system := func(status string) v1.Image {
		return imageFor(t, "amd64", layerOf(t,
			[2]string{"bin/sh", "shell"}, [2]string{"var/lib/dpkg/status", status},
			[2]string{"var/lib/dpkg/info/gawk.list", "/.\n/usr\n/usr/bin\n/usr/bin/gawk\n/usr/bin/obsolete\n"}, [2]string{"var/lib/dpkg/info/libc.list", "/usr/lib/libc.so\n"},
			[2]string{"usr/bin/gawk", "of the image"}, [2]string{"usr/bin/obsolete", "x"}, [2]string{"usr/lib/libc.so", "of the image"},
			[2]string{"usr/share/doc/libc/copyright", "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n\nFiles: *\nLicense: MIT\n"}))
	}
	a := userlandArchive(t,
		debtest.Package{Name: "libc", Version: "2", Arch: "amd64", Files: []debtest.File{{Path: "usr/lib/libc.so", Data: "of the archive"}}},
		debtest.Package{Name: "prog", Version: "1", Arch: "amd64", Depends: "libc, gawk (>= 1)", Files: []debtest.File{{Path: "usr/bin/prog", Data: "prog"}}})
	dir := filepath.Join(t.TempDir(), "base")
	write := func(img v1.Image) {
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
		if err := must(layout.Write(dir, empty.Index)).AppendImage(img); err != nil {
			t.Fatal(err)
		}
	}
	write(system(status("libc 1", "gawk 0")))
	cfg := testConfig(t, a, testDefinition+"\nuserland:\n  - oci: "+dir+"\n  - packages: [prog]\n")
	const script = `cat usr/bin/gawk usr/lib/libc.so; echo; test ! -e usr/bin/obsolete; grep -A2 -E '^Package: (gawk|libc|prog)' var/lib/dpkg/status | grep -E 'Package|Version'`
	want := "gawkof the image\nPackage: libc\nVersion: 1\nPackage: gawk\nVersion: 1\nPackage: prog\nVersion: 1\n"
	if diff := cmp.Diff(want, userlandFilesOf(t, cfg, script)); diff != "" {
		t.Error(diff)
	}
	lock := must(images.ParseLock("lock.json", must(os.ReadFile(filepath.Join(cfg.Out, "lock.json")))))
	var names []string
	for _, p := range lock.ByRole(images.RoleUserland) {
		names = append(names, p.Name)
	}
	if diff := cmp.Diff([]string{"gawk", "prog"}, names); diff != "" {
		t.Error(diff)
	}
	sources := string(must(os.ReadFile(filepath.Join(cfg.Out, "SOURCES"))))
	for _, want := range []string{"oci " + dir + "\n  " + lock.Sources[0].Digest, "libc 1, built from libc 1"} {
		if !strings.Contains(sources, want) {
			t.Errorf("SOURCES lacks %q", want)
		}
	}
	if strings.Contains(sources, "gawk 0") {
		t.Error("SOURCES names the package of the image that was replaced")
	}
	bill := readSBOM(t, cfg.Out)
	found := 0
	for _, p := range bill.Packages {
		if p.PackageName == "libc" && p.PackageVersion == "1" && p.PackageLicenseDeclared == "MIT" || p.PackageName == "oci "+dir && p.PackageChecksums[0].Value == strings.TrimPrefix(lock.Sources[0].Digest, "sha256:") {
			found++
		}
	}
	if found != 2 {
		t.Errorf("of image and its package the bill has %d", found)
	}

	// Another image below: what is needed is asked again, and offline it cannot be.
	write(system(status("libc 1", "gawk 1")))
	cfg.Offline = true
	if _, err := Build(t.Context(), cfg); err == nil || !errors.Is(err, ErrInput) || !strings.Contains(err.Error(), "which packages are needed depends on it; offline no lock can be made") {
		t.Errorf("offline with another image: %v", err)
	}
	cfg.Offline = false
	if got := userlandFilesOf(t, cfg, "cat usr/bin/gawk usr/bin/prog"); got != "of the imageprog" {
		t.Errorf("on the other image: %q", got)
	}
}

// A lock that lacks the image that packages lie on, as one that was edited may, is made again.
func TestLockWithoutItsImage(t *testing.T) {
	dir := writeLayout(t, func(p layout.Path) error {
		return p.AppendImage(imageFor(t, "amd64", layerOf(t, [2]string{"bin/sh", "shell"})))
	})
	cfg := testConfig(t, userlandArchive(t), onlyOCI(dir)+"  - packages: [tool]\n")
	want := mustBuild(t, cfg)
	cfg.LockFile = filepath.Join(cfg.Out, "lock.json")
	text, err := os.ReadFile(cfg.LockFile)
	if err != nil {
		t.Fatal(err)
	}
	lock, err := images.ParseLock(cfg.LockFile, text)
	if err != nil {
		t.Fatal(err)
	}
	lock.Sources = nil
	if err := os.WriteFile(cfg.LockFile, lock.Encode(), 0o644); err != nil {
		t.Fatal(err)
	}
	cfg.LockFile = ""
	if got := mustBuild(t, cfg); got.ID != want.ID {
		t.Errorf("the image is %s, want %s", got.ID, want.ID)
	}
}
