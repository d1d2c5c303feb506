package builder

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"muster/images"
)

// testRegistry answers for images that were written to it, unless front answers before.
type testRegistry struct {
	host string

	mu    sync.Mutex
	front func(w http.ResponseWriter, r *http.Request) bool
}

func newTestRegistry(t testing.TB) *testRegistry {
	t.Helper()
	// Nobody's credentials are read or asked for.
	t.(*testing.T).Setenv("DOCKER_CONFIG", t.TempDir())
	reg := &testRegistry{}
	behind := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		reg.mu.Lock()
		front := reg.front
		reg.mu.Unlock()
		if front == nil || !front(w, r) {
			behind.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(server.Close)
	reg.host = strings.TrimPrefix(server.URL, "http://")
	return reg
}

func (r *testRegistry) before(f func(w http.ResponseWriter, r *http.Request) bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.front = f
}

func (r *testRegistry) push(t testing.TB, ref string, img remote.Taggable) {
	t.Helper()
	tag, err := name.ParseReference(r.host + "/" + ref)
	if err != nil {
		t.Fatal(err)
	}
	switch x := img.(type) {
	case v1.Image:
		err = remote.Write(tag, x)
	case v1.ImageIndex:
		err = remote.WriteIndex(tag, x)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// severalArches is an index with an image for each.
func severalArches(t testing.TB, arches ...string) v1.ImageIndex {
	t.Helper()
	var index v1.ImageIndex = empty.Index
	for _, arch := range arches {
		index = mutate.AppendManifests(index, mutate.IndexAddendum{
			Add: baseImage(t, arch), Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}},
		})
	}
	return index
}

func sourceConfig(t testing.TB, source string) Config {
	t.Helper()
	return testConfig(t, userlandArchive(t), testDefinition+"\nuserland:\n  - "+source+"\n")
}

// A registry that answers otherwise than with the image: each answer is said in words, with the way out,
// and counts as a failed fetch.
func TestRegistryErrors(t *testing.T) {
	reg := newTestRegistry(t)
	img := baseImage(t, "amd64")
	reg.push(t, "base:1", img)
	reg.push(t, "arm:1", severalArches(t, "arm64", "s390x"))
	answer := func(status int) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, r *http.Request) bool {
			if strings.Contains(r.URL.Path, "/manifests/") {
				http.Error(w, "{}", status)
				return true
			}
			return false
		}
	}
	digest, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	other := "sha256:" + strings.Repeat("1", 64)
	for name, c := range map[string]struct {
		ref   string
		front func(http.ResponseWriter, *http.Request) bool
		want  string
		input bool
	}{
		"not allowed":    {"base:1", answer(http.StatusUnauthorized), "refuses it (401): the name may be wrong, or it is private: log in with docker login " + reg.host, false},
		"forbidden":      {"base:1", answer(http.StatusForbidden), "refuses it (403)", false},
		"no such tag":    {"base:2", nil, "has no " + reg.host + "/base:2", false},
		"no such name":   {"none:1", nil, "has no " + reg.host + "/none:1", false},
		"too much asked": {"base:1", answer(http.StatusTooManyRequests), "too much was asked (429)", false},
		"no such digest": {"base@" + other, nil, "has no ", false},
		"other arches":   {"arm:1", nil, "it is for linux/arm64, linux/s390x, and the definition is for amd64", true},
		"no name":        {"Base:1", nil, "is no name of an image", true},
		"other than asked": {"base@" + other, func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.HasSuffix(r.URL.Path, other) {
				return false
			}
			raw, err := img.RawManifest()
			if err != nil {
				t.Error(err)
			}
			w.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
			_, _ = w.Write(raw)
			return true
		}, "does not match requested digest", false},
		"a layer that is damaged": {"base@" + digest.String(), func(w http.ResponseWriter, r *http.Request) bool {
			layers, err := img.Layers()
			if err != nil {
				t.Error(err)
			}
			d, err := layers[0].Digest()
			if err != nil || !strings.HasSuffix(r.URL.Path, "/blobs/"+d.String()) {
				return false
			}
			size, err := layers[0].Size()
			if err != nil {
				t.Error(err)
			}
			_, _ = w.Write(make([]byte, size))
			return true
		}, "hash is wrong", false},
	} {
		t.Run(name, func(t *testing.T) {
			reg.before(c.front)
			cfg := sourceConfig(t, "oci: "+reg.host+"/"+c.ref)
			_, err := Build(t.Context(), cfg)
			if err == nil || !strings.Contains(err.Error(), c.want) || errors.Is(err, ErrInput) != c.input {
				t.Errorf("Build() = %v, wrong input %v; want %q, %v", err, errors.Is(err, ErrInput), c.want, c.input)
			}
			if _, err := os.Stat(filepath.Join(cfg.Out, "manifest.json")); err == nil {
				t.Error("a manifest was written")
			}
		})
	}
}

// What of a layer came before a connection broke is not fetched again, and what the lock
// names is fetched though the tag means another image by then.
func TestRegistryResume(t *testing.T) {
	reg := newTestRegistry(t)
	big := layerOf(t, [2]string{"usr/share/big", noise(1 << 20)})
	img, err := mutate.AppendLayers(baseImage(t, "amd64"), big)
	if err != nil {
		t.Fatal(err)
	}
	reg.push(t, "base:1", severalIndex(t, img))
	digest, err := big.Digest()
	if err != nil {
		t.Fatal(err)
	}
	size, err := big.Size()
	if err != nil {
		t.Fatal(err)
	}
	var ranges []string
	reg.before(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodGet || !strings.HasSuffix(r.URL.Path, "/blobs/"+digest.String()) {
			return false
		}
		ranges = append(ranges, r.Header.Get("Range"))
		rest, err := big.Compressed()
		if err != nil {
			t.Error(err)
		}
		defer rest.Close()
		data, err := io.ReadAll(rest)
		if err != nil {
			t.Error(err)
		}
		from := 0
		if _, err := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &from); err == nil {
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, size-1, size))
			w.Header().Set("Content-Length", strconv.Itoa(len(data)-from))
			w.WriteHeader(http.StatusPartialContent)
			_, _ = w.Write(data[from:])
			return true
		}
		w.Header().Set("Content-Length", strconv.Itoa(len(data)))
		_, _ = w.Write(data[:len(data)/2])
		panic(http.ErrAbortHandler)
	})
	cfg := sourceConfig(t, "oci: "+reg.host+"/base:1")
	first := mustBuild(t, cfg)
	if len(ranges) != 2 || ranges[0] != "" || !strings.HasPrefix(ranges[1], "bytes=") {
		t.Errorf("ranges asked for are %q, want all and then the rest", ranges)
	}

	reg.before(nil)
	reg.push(t, "base:1", baseImage(t, "amd64"))
	cfg.Locked = true
	if again := mustBuild(t, cfg); again.ID != first.ID {
		t.Error("the tag moved, and the image of the lock with it")
	}
	cfg.Locked = false
	r, err := Relock(t.Context(), cfg, false)
	if err != nil || len(r.Changes) != 1 || r.Changes[0].Package != "oci "+reg.host+"/base:1" {
		t.Errorf("Relock() = %+v, %v; want the image as the one change", r, err)
	}
	cfg.Cache, cfg.Offline = t.TempDir(), true
	if _, err := Build(t.Context(), cfg); !errors.Is(err, ErrOffline) {
		t.Errorf("offline with an empty cache: %v", err)
	}
}

// severalIndex is an index with img among others.
func severalIndex(t testing.TB, img v1.Image) v1.ImageIndex {
	t.Helper()
	return mutate.AppendManifests(severalArches(t, "arm64"), mutate.IndexAddendum{
		Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "amd64"}},
	})
}

// noise is text that cannot be packed.
func noise(n int) string {
	b := make([]byte, n)
	x := uint32(1)
	for i := range b {
		x = x*1664525 + 1013904223
		b[i] = byte(x >> 24)
	}
	return string(b)
}

// Images on this host that are not as they ought to be.
func TestLocalImageErrors(t *testing.T) {
	good := func(t *testing.T) string { return imageOf(t, layerOf(t, [2]string{"etc/x", "x"})) }
	remove := func(pattern string) func(*testing.T) string {
		return func(t *testing.T) string {
			dir := good(t)
			found, err := filepath.Glob(filepath.Join(dir, pattern))
			if err != nil || len(found) == 0 {
				t.Fatalf("%s: %v, %v", pattern, found, err)
			}
			for _, f := range found {
				if err := os.RemoveAll(f); err != nil {
					t.Fatal(err)
				}
			}
			return dir
		}
	}
	archive := func(files ...[2]string) func(*testing.T) string {
		return func(t *testing.T) string {
			file := filepath.Join(t.TempDir(), "image.tar")
			if err := os.WriteFile(file, tarOf(t, files...), 0o644); err != nil {
				t.Fatal(err)
			}
			return file
		}
	}
	for name, c := range map[string]struct {
		make func(t *testing.T) string
		want string
	}{
		"no index":           {remove("index.json"), "it is no image: it has neither index.json, as a layout has, nor manifest.json"},
		"no blobs":           {remove("blobs/sha256/*"), "it is not whole"},
		"empty folder":       {func(t *testing.T) string { return t.TempDir() }, "it is no image"},
		"no archive":         {func(t *testing.T) string { return "/dev/null" }, "it is no image"},
		"files and no image": {archive([2]string{"etc/x", "x"}), "it is no image"},
		"no JSON":            {archive([2]string{"index.json", "{"}), "reading its index"},
		"configuration gone": {archive([2]string{"manifest.json", `[{"Config":"c.json","Layers":[]}]`}), "manifest.json names c.json"},
		"out of the archive": {archive([2]string{"manifest.json", `[{"Config":"../../../../etc/passwd","Layers":[]}]`}), "manifest.json names ../../../../etc/passwd"},
		"two images": {func(t *testing.T) string {
			dir := good(t)
			path, err := layout.FromPath(dir)
			if err != nil {
				t.Fatal(err)
			}
			if err := path.AppendImage(baseImage(t, "amd64")); err != nil {
				t.Fatal(err)
			}
			return dir
		}, "it has several images"},
		"a layer with bytes behind it": {func(t *testing.T) string {
			dir := t.TempDir() + "/layout"
			path, err := layout.Write(dir, empty.Index)
			if err != nil {
				t.Fatal(err)
			}
			img := baseImage(t, "amd64")
			if err := path.AppendImage(img); err != nil {
				t.Fatal(err)
			}
			layers, err := img.Layers()
			if err != nil {
				t.Fatal(err)
			}
			d, err := layers[0].Digest()
			if err != nil {
				t.Fatal(err)
			}
			// Bytes behind the end of what is packed: only the digest tells.
			f, err := os.OpenFile(filepath.Join(dir, "blobs/sha256", d.Hex), os.O_APPEND|os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			_, err = f.Write(bytes.Repeat([]byte{0}, 8))
			if err := errors.Join(err, f.Close()); err != nil {
				t.Fatal(err)
			}
			return dir
		}, "layer 1 of oci"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Build(t.Context(), sourceConfig(t, "oci: "+c.make(t)))
			if err == nil || !strings.Contains(err.Error(), c.want) || !errors.Is(err, ErrInput) {
				t.Errorf("Build() = %v, wrong input %v; want %q", err, errors.Is(err, ErrInput), c.want)
			}
		})
	}
}

// An archive that is packed, and a folder and archive with what no userland can have.
func TestPackedAndSpecial(t *testing.T) {
	dir := t.TempDir()
	fifo := filepath.Join(dir, "tree", "pipe")
	if err := os.MkdirAll(filepath.Dir(fifo), 0o755); err != nil {
		t.Fatal(err)
	}
	mkfifo(t, fifo)
	var special bytes.Buffer
	w := tar.NewWriter(&special)
	if err := errors.Join(w.WriteHeader(&tar.Header{Name: "opt/disk", Typeflag: tar.TypeBlock, Mode: 0o600}), w.Close()); err != nil {
		t.Fatal(err)
	}
	device := filepath.Join(dir, "device.tar")
	if err := os.WriteFile(device, special.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	key := filepath.Join(dir, "keys", "id")
	if err := errors.Join(os.Mkdir(filepath.Dir(key), 0o755), os.WriteFile(key, []byte("-----BEGIN PRIVATE KEY-----\n"), 0o600)); err != nil {
		t.Fatal(err)
	}
	for source, want := range map[string]string{
		"dir: " + filepath.Dir(fifo):                "pipe is neither file nor folder nor symbolic link",
		"tar: " + device:                            "it is a device; a userland has only files, folders and links",
		"dir: " + filepath.Dir(key):                 "id holds a private key",
		"tar: " + dir:                               "is a directory",
		"dir: " + device:                            "is no folder",
		"oci: docker-daemon:x":                      "docker save",
		"debs: [" + dir + "/none.deb]":              "does not exist",
		"oci: " + dir + "/none@sha256:xyz":          "is no digest",
		"{dir: " + dir + ", tar: " + device + "}":   "one source has tar and dir",
		"oci: https://registry.example.org/base:12": "without https://",
	} {
		file := filepath.Join(t.TempDir(), "d.yaml")
		text := testDefinition + "\nuserland:\n  - " + source + "\n"
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		_, err := images.Load(file)
		if err == nil {
			_, err = Build(t.Context(), sourceConfig(t, source))
			if !errors.Is(err, ErrInput) {
				t.Errorf("%s: %v counts as a failure, not as wrong input", source, err)
			}
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", source, err, want)
		}
	}
}

func mkfifo(t testing.TB, name string) {
	t.Helper()
	if err := syscall.Mkfifo(name, 0o600); err != nil {
		t.Fatal(err)
	}
}
