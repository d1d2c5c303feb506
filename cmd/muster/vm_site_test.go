package main

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"muster/images"
	"muster/internal/need"
	"muster/internal/vm"
)

// labDefinition is what docs/definition.md shows as a site's own image.
const labDefinition = `name: lab
from: compute-vm
packages: []
userland:
- oci: ./base.tar
- packages: [hostname]
- dir: ./tree
files:
- path: /etc/motd
  content: |
    The lab's own image.
go-commands:
- ./hello
media: [netboot]
`

// writeBase writes a container image as docker save does, busybox and nothing else, and returns its ID.
func writeBase(t *testing.T, file string) string {
	t.Helper()
	busybox, err := os.ReadFile(need.Program(t, "busybox", "busybox-static"))
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	headers := []tar.Header{{Name: "bin/busybox", Mode: 0o755, Size: int64(len(busybox))}}
	for _, n := range []string{"sh", "cat", "ls", "echo"} {
		headers = append(headers, tar.Header{Name: "bin/" + n, Typeflag: tar.TypeSymlink, Linkname: "busybox"})
	}
	for i, h := range headers {
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			if _, err := w.Write(busybox); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil })
	if err != nil {
		t.Fatal(err)
	}
	img, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		t.Fatal(err)
	}
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config = config.DeepCopy()
	config.Architecture, config.OS = "amd64", "linux"
	if img, err = mutate.ConfigFile(img, config); err != nil {
		t.Fatal(err)
	}
	tag, err := name.NewTag("lab/base:1")
	if err != nil {
		t.Fatal(err)
	}
	if err := tarball.WriteToFile(file, tag, img); err != nil {
		t.Fatal(err)
	}
	id, err := img.ConfigName()
	if err != nil {
		t.Fatal(err)
	}
	return id.String()
}

// lockForLab writes a lock of packages that the image of the tests has too, so that no archive is asked.
// base is the ID of the container image.
func lockForLab(t *testing.T, definition, base, file string) {
	t.Helper()
	d, err := images.Load(definition)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(os.Getenv("MUSTER_IMAGE"), "lock.json"))
	if err != nil {
		t.Fatal(err)
	}
	lock, err := images.ParseLock("lock.json", text)
	if err != nil {
		t.Fatal(err)
	}
	asked := d.Request()
	lock.Name, lock.Request, lock.Asked = d.Name, d.RequestHash(), &asked
	lock.Sources = []images.LockedSource{{Kind: images.SourceOCI, Ref: "./base.tar", Digest: base}}
	needed := []string{"hostname", "libc6", "libgcc-s1", "gcc-14-base"}
	lock.Packages = slices.DeleteFunc(lock.Packages, func(p images.LockedPackage) bool {
		return p.Role == images.RoleUserland && !slices.Contains(needed, p.Name)
	})
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, lock.Encode(), 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestVMSiteImage builds and boots an image as a site writes it: a container image as the base, a
// package, a folder, a file and a Go program of its own.
func TestVMSiteImage(t *testing.T) {
	if os.Getenv("MUSTER_LONG") != "1" {
		t.Skip("only in make test-vm: builds and boots the image of a site")
	}
	dir := t.TempDir()
	base := writeBase(t, filepath.Join(dir, "base.tar"))
	for file, text := range map[string]string{
		"lab.yaml": labDefinition, "tree/etc/lab.conf": "lab\n",
		"hello/go.mod": "module hello\n\ngo 1.21\n", "hello/main.go": "package main\n\nfunc main() { print(\"hello\\n\") }\n",
	} {
		file = filepath.Join(dir, file)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	image := filepath.Join(dir, "lab")
	lockForLab(t, filepath.Join(dir, "lab.yaml"), base, filepath.Join(image, "lock.json"))
	bin := need.File(t, os.Getenv("MUSTER_BIN"), "run the tests with make, which builds bin/muster")
	for _, args := range [][]string{{"build", "lab.yaml", "--output", image}, {"verify", image}, {"build", "lab.yaml", "--output", image, "--locked", "--offline"}} {
		cmd := exec.CommandContext(t.Context(), bin, args...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("muster %q: %v\n%s", args, err, out)
		}
	}
	c := startClusterOf(t, image, "--dhcp=full")
	node := c.ready(c.boot(vm.Config{Name: "lab", Firmware: vm.BIOS}, nil))
	r := c.muster("", "run", "--on", node.Name, "--", "sh", "-c", "hello; hostname; cat /etc/motd /etc/lab.conf; ls /bin/busybox /usr/bin/python3")
	if r.stdout != node.Name+"\nThe lab's own image.\nlab\n/bin/busybox\n" || r.status == 0 {
		t.Errorf("%+v", r)
	}
	if !bytes.Contains([]byte(r.stderr), []byte("hello\n")) {
		t.Errorf("the site's program says %q", r.stderr)
	}
}
