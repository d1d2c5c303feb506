package builder

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"

	"muster/builder/deb/debtest"
	"muster/images"
	"muster/initramfs"
)

// TestExamples builds every definition of images/examples from the test's archive and
// looks for what makes it different.
func TestExamples(t *testing.T) {
	checks := map[string]func(t *testing.T, c Contents){
		"parameters.yaml": func(t *testing.T, c Contents) {
			if !strings.HasSuffix(c.Manifest.Cmdline, "panic=10 mitigations=off transparent_hugepage=always") {
				t.Errorf("cmdline is %q", c.Manifest.Cmdline)
			}
		},
		"modules.yaml": func(t *testing.T, c Contents) { wantWords(t, c.Manifest.Modules, "dummy", "virtio_net") },
		"files.yaml": func(t *testing.T, c Contents) {
			if got := c.Files["/etc/site.conf"]; !strings.HasPrefix(got, "0640 0:0 14 bytes") {
				t.Errorf("/etc/site.conf is %q", got)
			}
			if got := c.Files["/etc/motd"]; !strings.HasPrefix(got, "0644 0:0 ") {
				t.Errorf("/etc/motd is %q", got)
			}
		},
		"rescue.yaml": func(t *testing.T, c Contents) {
			wantWords(t, c.Manifest.Commands, "sh", "ip")
			if _, ok := c.Files["/bin/tar"]; ok || len(c.Manifest.Commands) != 10 {
				t.Errorf("commands are %v", c.Manifest.Commands)
			}
		},
		"gocommand.yaml": func(t *testing.T, c Contents) {
			wantWords(t, c.Manifest.Commands, "healthcheck")
			if got := c.Files["/bin/healthcheck"]; !strings.HasPrefix(got, "0755 0:0 ") {
				t.Errorf("/bin/healthcheck is %q", got)
			}
		},
		"trees.yaml": func(t *testing.T, c Contents) {
			if got := c.Files["/etc/rack"]; !strings.HasPrefix(got, "0644 0:0 7 bytes") {
				t.Errorf("/etc/rack is %q", got)
			}
			for name := range c.Files {
				if strings.HasPrefix(name, "/opt") {
					t.Errorf("%s is in the initramfs", name)
				}
			}
		},
		"container.yaml": func(t *testing.T, c Contents) {
			for _, name := range []string{"/usr/bin/sh", "/usr/bin/base", "/etc/motd", "/usr/bin/procps", "/usr/bin/healthcheck", "/usr/lib/muster/init"} {
				if c.Userland[name] == "" {
					t.Errorf("the userland has no %s", name)
				}
			}
			wantWords(t, c.Manifest.Commands, "healthcheck")
		},
		"services.yaml": func(t *testing.T, c Contents) {
			for _, name := range []string{"/etc/muster/node.json", "/etc/passwd", "/etc/group"} {
				if c.Files[name] == "" {
					t.Errorf("there is no %s", name)
				}
			}
		},
		"kernel-deb.yaml": func(t *testing.T, c Contents) { wantWords(t, []string{c.Manifest.Kernel}, "6.12.10-site") },
		"kernel-file.yaml": func(t *testing.T, c Contents) {
			wantWords(t, []string{c.Manifest.Kernel}, ownRelease)
			wantWords(t, c.Manifest.Modules, "virtio_net")
			if c.Files["/etc/modprobe.d/muster.conf"] == "" {
				t.Error("there is no /etc/modprobe.d/muster.conf")
			}
		},
		"ubuntu.yaml":   nil, // of another archive: see TestRealUbuntu
		"snapshot.yaml": func(t *testing.T, c Contents) { wantWords(t, []string{c.Manifest.Kernel}, newKernel) },
	}
	base, err := images.Load("compute")
	if err != nil {
		t.Fatal(err)
	}
	a := testArchive(t, debtest.Programs(base.Packages...)...)
	dir := exampleFolder(t)
	found, err := filepath.Glob(dir + "/*.yaml")
	if err != nil || len(found) != len(checks) {
		t.Fatalf("examples are %v, %v; want %d", found, err, len(checks))
	}
	cache := t.TempDir()
	for _, file := range found {
		t.Run(filepath.Base(file), func(t *testing.T) {
			d, err := images.Load(file)
			if err != nil {
				t.Fatal(err)
			}
			check := checks[filepath.Base(file)]
			if check == nil {
				return
			}
			cfg := testConfig(t, a, testDefinition)
			d.Mirror, cfg.Cache = cfg.Definition.Mirror, cache
			if len(d.Firmware) > 1 {
				d.Firmware = []string{"realtek"} // what the archive has
			}
			cfg.Definition = d
			names := strings.Fields("sh ls cat ip ping dmesg mount umount dd lsmod tar")
			cfg.BusyboxInfo = &initramfs.Busybox{Commands: names}
			mustBuild(t, cfg)
			c, err := ReadContents(cfg.Out)
			if err != nil {
				t.Fatal(err)
			}
			check(t, c)
			readSBOM(t, cfg.Out)
		})
	}
}

// exampleFolder is a copy of images/examples, with kernels as a site would have them there.
func exampleFolder(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("../images/examples")); err != nil {
		t.Fatal(err)
	}
	const release = "6.12.10-site"
	deb := kernelPackages(t, release, "1")[1]
	writeFiles(t, dir, map[string]string{"linux-image-6.12.10-site_1_amd64.deb": string(deb.Deb(t))})
	writeOwnKernel(t, dir)
	base, err := layout.Write(filepath.Join(dir, "base"), empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	if err := base.AppendImage(baseImage(t, "amd64")); err != nil {
		t.Fatal(err)
	}
	return dir
}

func wantWords(t *testing.T, have []string, want ...string) {
	t.Helper()
	for _, w := range want {
		if !strings.Contains(" "+strings.Join(have, " ")+" ", " "+w+" ") {
			t.Errorf("%s is not among %v", w, have)
		}
	}
}
