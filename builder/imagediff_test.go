package builder

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestDiffImages(t *testing.T) {
	a := testArchive(t)
	first := testConfig(t, a, testDefinition)
	mustBuild(t, first)
	second := testConfig(t, a, strings.NewReplacer("cmdline: quiet", "cmdline: quiet panic=5", "[ls, sh]", "[cat, sh]",
		"base, virtio, ethernet", "base, ethernet", "hello", "bye").Replace(testDefinition))
	mustBuild(t, second)
	read := func(dir string) Contents {
		t.Helper()
		c, err := ReadContents(dir)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	old, fresh := read(first.Out), read(second.Out)
	if d := DiffImages(old, old); !d.Empty() {
		t.Errorf("an image differs from itself in %+v", d)
	}
	d := DiffImages(old, fresh)
	for what, c := range map[string]struct{ got, want []Change }{
		"parameters": {d.Parameters, []Change{{"panic", "", "panic=5"}}},
		"packages":   {d.Packages, []Change{}},
		"modules":    {d.Modules, []Change{{"net_failover", "yes", ""}, {"virtio_net", "yes", ""}}},
		"commands":   {d.Commands, []Change{{"cat", "", "yes"}, {"ls", "yes", ""}}},
		"image":      {d.Image, []Change{}},
	} {
		if diff := cmp.Diff(c.want, c.got); diff != "" {
			t.Errorf("%s differ (-want +got):\n%s", what, diff)
		}
	}
	files := make(map[string]Change)
	for _, c := range d.Files {
		files[c.Name] = c
	}
	if c := files["/etc/motd"]; !strings.HasPrefix(c.Old, "0640 3:4 6 bytes ") || !strings.HasPrefix(c.New, "0640 3:4 4 bytes ") {
		t.Errorf("/etc/motd is %+v", c)
	}
	if c := files["/bin/ls"]; c.Old != "-> bb" || c.New != "" {
		t.Errorf("/bin/ls is %+v", c)
	}
	if d := DiffImages(Contents{Manifest: old.Manifest}, fresh); d.Files != nil || len(d.Commands) != 2 {
		t.Errorf("with a manifest only: %+v", d)
	}
}

func TestReadContentsErrors(t *testing.T) {
	cfg := testConfig(t, testArchive(t), testDefinition)
	mustBuild(t, cfg)
	if _, err := ReadContents(t.TempDir()); !errors.Is(err, ErrInput) || !strings.Contains(err.Error(), "holds no image") {
		t.Errorf("an empty folder: %v", err)
	}
	archive := filepath.Join(cfg.Out, "initramfs.zst")
	flipBit(t, archive)
	if _, err := ReadContents(cfg.Out); !errors.Is(err, ErrInput) || !strings.Contains(err.Error(), "reading initramfs") {
		t.Errorf("a damaged initramfs: %v", err)
	}
	if err := os.Remove(archive); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadContents(cfg.Out); !errors.Is(err, ErrInput) || !strings.Contains(err.Error(), "is not whole") {
		t.Errorf("without its initramfs: %v", err)
	}
}

func TestParameters(t *testing.T) {
	want := map[string]string{"console": "console=tty0 console=ttyS0", "quiet": "quiet"}
	if diff := cmp.Diff(want, parameters(" console=tty0  quiet console=ttyS0")); diff != "" {
		t.Errorf("parameters() differs (-want +got):\n%s", diff)
	}
}
