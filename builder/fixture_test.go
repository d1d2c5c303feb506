package builder

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"muster/builder/deb/debtest"
	"muster/images"
	"muster/initramfs"
)

const (
	oldKernel = "6.12.9+deb13-amd64"
	newKernel = "6.12.10+deb13-amd64"
)

// testArchive is a small Debian: a kernel, a newer one in the security suite, network
// boot programs and firmware; and more.
func testArchive(t testing.TB, more ...debtest.Package) *debtest.Archive {
	t.Helper()
	return debtest.Small(t, oldKernel, newKernel, more...)
}

// kernelPackages returns a kernel and its meta package.
func kernelPackages(t testing.TB, release, version string) []debtest.Package {
	t.Helper()
	return debtest.Kernel(t, "linux-image-amd64", release, version)
}

func tinyModule(entries ...string) []byte { return debtest.Module(entries...) }

const testDefinition = `
name: test
arch: amd64
suite: trixie
kernel: {package: linux-image-amd64, cmdline: quiet}
modules: {groups: [base, virtio, ethernet]}
firmware: [realtek]
commands: [ls, sh]
files:
- {path: /etc/motd, content: "hello\n", mode: 0640, owner: 3:4}
`

// testConfig builds the definition from a in folders of its own.
func testConfig(t testing.TB, a *debtest.Archive, definition string) Config {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "test.yaml")
	if err := os.WriteFile(file, []byte(definition), 0o644); err != nil {
		t.Fatal(err)
	}
	d, err := images.Load(file)
	if err != nil {
		t.Fatal(err)
	}
	d.Mirror = a.Serve(t)
	return Config{
		Definition: d, Out: filepath.Join(dir, "out"), Cache: filepath.Join(dir, "cache"),
		Agent: []byte("the agent"), Init: []byte("the init"), Busybox: []byte("the busybox"),
		BusyboxInfo: &initramfs.Busybox{Commands: []string{"cat", "ls", "sh"}},
		Keyring:     a.Key.Keyring(t), Now: func() time.Time { return debtest.Time().Add(time.Hour) },
	}
}

func mustBuild(t testing.TB, cfg Config) *images.Manifest {
	t.Helper()
	m, err := Build(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// contents reads a folder.
func contents(t testing.TB, dir string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	out := make(map[string]string)
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		out[e.Name()] = string(data)
	}
	return out
}

// records reads the initramfs in a folder, by path.
func records(t testing.TB, dir string) map[string]initramfs.Record {
	t.Helper()
	f, err := os.Open(filepath.Join(dir, "initramfs.zst"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	a, err := initramfs.ReadCPIO(f)
	if err != nil {
		t.Fatal(err)
	}
	out := make(map[string]initramfs.Record)
	for _, r := range a.Records {
		out[r.Path] = r
	}
	return out
}
