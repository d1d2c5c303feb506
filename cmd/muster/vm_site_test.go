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

// writeBase writes a container image as docker save does, busybox and nothing else, and returns how a
// lock has it as ./base.tar.
func writeBase(t *testing.T, file string) images.LockedSource {
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
	text, err := img.RawConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	return images.LockedSource{
		Kind: images.SourceOCI, Ref: "./base.tar", Digest: id.String(),
		Config: &images.LockedBlob{Digest: id.String(), Size: int64(len(text))},
		Layers: []images.LockedBlob{{Digest: config.RootFS.DiffIDs[0].String()}},
	}
}

// lockOf writes a lock with those packages of the image of the tests that are named, and what is needed
// to boot, so that no archive is asked. base is the container image.
func lockOf(t *testing.T, definition string, base images.LockedSource, file string, userland ...string) {
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
	lock.Sources = []images.LockedSource{base}
	lock.Packages = slices.DeleteFunc(lock.Packages, func(p images.LockedPackage) bool {
		own := p.Role == images.RoleKernel && d.Kernel.Package == ""
		return own || p.Role == images.RoleUserland && !slices.Contains(userland, p.Name)
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
	lockOf(t, filepath.Join(dir, "lab.yaml"), base, filepath.Join(image, "lock.json"), "hostname", "libc6", "libgcc-s1", "gcc-14-base")
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

// TestVMOwnKernel boots an image whose kernel is a file beside the definition with a folder of modules, as
// who compiles a kernel has them, with a parameter for one of these.
func TestVMOwnKernel(t *testing.T) {
	if os.Getenv("MUSTER_LONG") != "1" {
		t.Skip("only in make test-vm: builds and boots an image with a kernel of its own")
	}
	shipped, dir := os.Getenv("MUSTER_IMAGE"), t.TempDir()
	bin := need.File(t, os.Getenv("MUSTER_BIN"), "run the tests with make, which builds bin/muster")
	release := readTestManifest(t, shipped).Kernel
	modules := filepath.Join(dir, "modules/lib/modules", release)
	run := func(name string, args ...string) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), name, args...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s %q: %v\n%s", name, args, err, out)
		}
	}
	if err := os.MkdirAll(modules, 0o755); err != nil {
		t.Fatal(err)
	}
	run("tar", "-xf", filepath.Join(shipped, "modules.tar"), "-C", "modules")
	run(need.Program(t, "unsquashfs", "squashfs-tools"), "-f", "-d", "userland", filepath.Join(shipped, "userland.sqfs"), "usr/lib/modules")
	for _, text := range []string{"modules.builtin", "modules.builtin.modinfo"} {
		run("cp", filepath.Join("userland/usr/lib/modules", release, text), modules)
	}
	run("cp", filepath.Join(shipped, "vmlinuz"), "bzImage")
	definition := `name: compiled
from: compute-vm
kernel:
  file: ./bzImage
  modules: ./modules
modules:
  groups: [base, virtio, hypervisor]
  options:
    loop: max_loop=11
packages: []
userland:
- oci: ./base.tar
media: [netboot]
`
	if err := os.WriteFile(filepath.Join(dir, "compiled.yaml"), []byte(definition), 0o644); err != nil {
		t.Fatal(err)
	}
	image := filepath.Join(dir, "compiled")
	base := writeBase(t, filepath.Join(dir, "base.tar"))
	lockOf(t, filepath.Join(dir, "compiled.yaml"), base, filepath.Join(image, "lock.json"))
	run(bin, "build", "compiled.yaml", "--output", image)
	run(bin, "verify", image)
	c := startClusterOf(t, image, "--dhcp=full")
	node := c.ready(c.boot(vm.Config{Name: "compiled", Firmware: vm.BIOS}, nil))
	r := c.muster("", "run", "--on", node.Name, "--", "cat", "/sys/module/loop/parameters/max_loop", "/proc/sys/kernel/osrelease")
	if r.stdout != "11\n"+release+"\n" || r.status != 0 {
		t.Errorf("%+v, want max_loop 11 and kernel %s", r, release)
	}
}
