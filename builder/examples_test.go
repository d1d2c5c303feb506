package builder

import (
	"path/filepath"
	"strings"
	"testing"

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
		"snapshot.yaml": func(t *testing.T, c Contents) { wantWords(t, []string{c.Manifest.Kernel}, newKernel) },
	}
	base, err := images.Load("compute")
	if err != nil {
		t.Fatal(err)
	}
	a := testArchive(t, debtest.Programs(base.Packages...)...)
	found, err := filepath.Glob("../images/examples/*.yaml")
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
			cfg := testConfig(t, a, testDefinition)
			d.Mirror, cfg.Cache = cfg.Definition.Mirror, cache
			if len(d.Firmware) > 1 {
				d.Firmware = []string{"realtek"} // what the archive has
			}
			d.Packages = nil // those of compute, which the archive does not have
			cfg.Definition = d
			names := strings.Fields("sh ls cat ip ping dmesg mount umount dd lsmod tar")
			cfg.BusyboxInfo = &initramfs.Busybox{Commands: names}
			mustBuild(t, cfg)
			c, err := ReadContents(cfg.Out)
			if err != nil {
				t.Fatal(err)
			}
			checks[filepath.Base(file)](t, c)
			readSBOM(t, cfg.Out)
		})
	}
}

func wantWords(t *testing.T, have []string, want ...string) {
	t.Helper()
	for _, w := range want {
		if !strings.Contains(" "+strings.Join(have, " ")+" ", " "+w+" ") {
			t.Errorf("%s is not among %v", w, have)
		}
	}
}
