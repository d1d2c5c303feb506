package builder

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"muster/images"
)

const ownRelease = "6.19.0-rack"

// bzImage is the least that says its release.
func bzImage(release string) string {
	b := make([]byte, 0x400)
	copy(b[headerMagic:], "HdrS")
	binary.LittleEndian.PutUint16(b[headerVersion:], 0x100)
	copy(b[0x300:], release+" (builder@host) #1 SMP\x00")
	return string(b)
}

func writeFiles(t testing.TB, dir string, files map[string]string) {
	t.Helper()
	for name, data := range files {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(data), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// writeOwnKernel writes bzImage and modules as make modules_install does.
func writeOwnKernel(t testing.TB, dir string) {
	t.Helper()
	files := map[string]string{"bzImage": bzImage(ownRelease)}
	for _, f := range kernelPackages(t, ownRelease, "1")[1].Files {
		if name, ok := strings.CutPrefix(f.Path, "usr/"); ok && strings.HasPrefix(name, "lib/modules") {
			files["modules/"+name] = f.Data
		}
	}
	writeFiles(t, dir, files)
	if err := os.Symlink("/home/me/linux", filepath.Join(dir, "modules/lib/modules", ownRelease, "build")); err != nil {
		t.Fatal(err)
	}
}

const ownDefinition = `
name: test
arch: amd64
suite: trixie
kernel: {file: ./bzImage, modules: ./modules}
modules: {groups: [base, virtio]}
commands: [ls, sh]
media: [netboot]
`

// A kernel of one's own is in the image as it is, and the links to where it was compiled
// have no influence.
func TestOwnKernel(t *testing.T) {
	var ids []string
	for _, link := range []string{"/home/me/linux", "/home/you/linux"} {
		cfg := ownConfig(t, func(dir string) {
			name := filepath.Join(dir, "modules/lib/modules", ownRelease, "build")
			if err := errors.Join(os.Remove(name), os.Symlink(link, name)); err != nil {
				t.Fatal(err)
			}
		}, ownDefinition)
		m := mustBuild(t, cfg)
		ids = append(ids, m.ID)
		if m.Kernel != ownRelease || contents(t, cfg.Out)["vmlinuz"] != bzImage(ownRelease) {
			t.Errorf("the kernel is %s", m.Kernel)
		}
		wantWords(t, m.Modules, "virtio_net", "net_failover", "loop", "squashfs")
		for _, p := range m.Packages {
			if strings.HasPrefix(p.Name, "linux-image") {
				t.Errorf("the manifest names the package %s", p.Name)
			}
		}
	}
	if ids[0] != ids[1] {
		t.Error("the image depends on where the kernel was compiled")
	}
}

func ownConfig(t *testing.T, change func(dir string), definition string) Config {
	t.Helper()
	cfg := testConfig(t, testArchive(t), testDefinition)
	dir := t.TempDir()
	writeOwnKernel(t, dir)
	writeFiles(t, dir, map[string]string{"test.yaml": definition})
	change(dir)
	d, err := images.Load(filepath.Join(dir, "test.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	d.Mirror = cfg.Definition.Mirror
	cfg.Definition = d
	return cfg
}

func TestOwnKernelErrors(t *testing.T) {
	for name, c := range map[string]struct {
		change     func(dir string)
		definition string
		want       string
	}{
		"another release": {
			func(dir string) { writeFiles(t, dir, map[string]string{"bzImage": bzImage("6.1.0")}) }, ownDefinition,
			"they are of " + ownRelease + ", and the kernel",
		},
		"no kernel": {
			func(dir string) { writeFiles(t, dir, map[string]string{"bzImage": "\x7fELF"}) }, ownDefinition,
			"it is no bzImage for x86; it is arch/x86/boot/bzImage of a kernel that was compiled",
		},
		"cut off": {
			func(dir string) { writeFiles(t, dir, map[string]string{"bzImage": bzImage(ownRelease)[:0x210]}) }, ownDefinition,
			"it does not say its release; the file is damaged",
		},
		"no modules": {func(dir string) {
			if err := os.RemoveAll(filepath.Join(dir, "modules/lib")); err != nil {
				t.Fatal(err)
			}
		}, ownDefinition, "there is no lib/modules/" + ownRelease + " in it, nor is it that folder itself"},
		"no Debian package": {
			func(dir string) { writeFiles(t, dir, map[string]string{"k.deb": "no"}) },
			strings.Replace(ownDefinition, "file: ./bzImage, modules: ./modules", "deb: ./k.deb", 1), "kernel: deb: ",
		},
		"package without kernel": {func(dir string) {
			p := kernelPackages(t, ownRelease, "1")[0]
			writeFiles(t, dir, map[string]string{"k.deb": string(p.Deb(t))})
		}, strings.Replace(ownDefinition, "file: ./bzImage, modules: ./modules", "deb: [./k.deb]", 1), "linux-image-amd64: there is no /boot/vmlinuz-* in it"},

		"unknown options": {
			func(string) {}, strings.Replace(ownDefinition, "virtio]}", "virtio], options: {virtio_nte: x=1}}", 1),
			"kernel " + ownRelease + ": modules: options: there is no module virtio_nte (DIR/test.yaml:6:45); like it are: virtio_net",
		},
		"unknown parameter": {
			func(string) {}, strings.Replace(ownDefinition, "virtio]}", "virtio], options: {loop: max_loops=1}}", 1),
			"modules: options: loop has no parameter max_loops (DIR/test.yaml:6:45); it names: max_loop, max_part (one that it does not name can be given on the kernel command line: loop.max_loops=1)",
		},
		"no parameters": {
			func(string) {}, strings.Replace(ownDefinition, "virtio]}", "virtio], options: {dummy: a=1}}", 1),
			"modules: options: dummy has no parameter a (DIR/test.yaml:6:45); it names none",
		},
		"built in": {
			func(string) {}, strings.Replace(ownDefinition, "virtio]}", "virtio], options: {virtio_pci: a=1}}", 1),
			"modules: options: virtio_pci is built into the kernel (DIR/test.yaml:6:45); give its parameters on the kernel command line: kernel: cmdline: ... virtio_pci.a=1",
		},
		"no such name": {
			func(string) {}, strings.Replace(ownDefinition, "virtio]}", "virtio], names: [dumy]}", 1),
			"kernel " + ownRelease + ": there is no module dumy (DIR/test.yaml:6:43); like it are: dummy",
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := ""
			cfg := ownConfig(t, func(d string) { dir = d; c.change(d) }, c.definition)
			_, err := Build(t.Context(), cfg)
			if c.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if want := strings.ReplaceAll(c.want, "DIR", dir); err == nil || !strings.Contains(err.Error(), want) || !errors.Is(err, ErrInput) {
				t.Errorf("Build() = %v\nwant %s", err, want)
			}
		})
	}
}

// What is read for the build has to be what the image ID was made of.
func TestOwnKernelChanges(t *testing.T) {
	for name, file := range map[string]string{"kernel": "bzImage", "modules": "modules/lib/modules/" + ownRelease + "/modules.order"} {
		t.Run(name, func(t *testing.T) {
			dir := ""
			cfg := ownConfig(t, func(d string) { dir = d }, ownDefinition)
			writeFiles(t, dir, map[string]string{file: bzImage(ownRelease) + " "})
			if _, err := Build(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "changed while the image was built; build again") {
				t.Errorf("Build() = %v", err)
			}
		})
	}
}

// Modules that updates/ has count more than those of the kernel itself.
func TestPreferUpdates(t *testing.T) {
	k := &kernelPackage{modules: make(map[string][]byte), texts: make(map[string][]byte)}
	for _, name := range []string{"kernel/net/a-b.ko", "updates/a_b.ko.xz", "extra/c.ko", "kernel/c.ko", "kernel/d.ko", "weird/e.ko", "modules.dep", "source"} {
		k.take(name, []byte(name))
	}
	k.preferUpdates()
	if diff := cmp.Diff([]string{"extra/c.ko", "kernel/d.ko", "updates/a_b.ko.xz"}, sortedKeys(k.modules)); diff != "" {
		t.Errorf("modules (-want +got):\n%s", diff)
	}
}
