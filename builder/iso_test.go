package builder

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"muster/builder/deb/debtest"
	"muster/builder/hybrid"
	"muster/images"

	"github.com/google/go-cmp/cmp"
)

// mediumArchive is the test's Debian with boot loaders for media.
func mediumArchive(t testing.TB) *debtest.Archive {
	t.Helper()
	return testArchive(t, mediumPackages()...)
}

func mediumPackages() []debtest.Package {
	file := func(path string, n int) debtest.File {
		return debtest.File{Path: path, Data: strings.Repeat(filepath.Base(path)+" ", n/(len(filepath.Base(path))+1)) + strings.Repeat(".", n%(len(filepath.Base(path))+1))}
	}
	return []debtest.Package{
		{Name: "isolinux", Version: "6", Arch: "all", Files: []debtest.File{
			file("usr/lib/ISOLINUX/isolinux.bin", 30000), file("usr/lib/ISOLINUX/isohdpfx.bin", 432), file("usr/lib/ISOLINUX/other.bin", 10),
		}},
		{Name: "syslinux-common", Version: "6", Arch: "all", Files: []debtest.File{
			file("usr/lib/syslinux/modules/bios/ldlinux.c32", 1000),
		}},
		{Name: "shim-signed", Version: "16", Arch: "amd64", Files: []debtest.File{file("usr/lib/shim/shimx64.efi.signed", 900000)}},
		{Name: "shim-helpers-amd64-signed", Version: "16", Arch: "amd64", Files: []debtest.File{file("usr/lib/shim/mmx64.efi.signed", 800000)}},
		{Name: "grub-efi-amd64-signed", Version: "2", Arch: "amd64", Files: []debtest.File{file("usr/lib/grub/x86_64-efi-signed/gcdx64.efi.signed", 2000000)}},
	}
}

// isoOf returns the name of the ISO file of a build.
func isoOf(t testing.TB, cfg Config, m *images.Manifest) string {
	t.Helper()
	a, ok := m.File(images.KindISO)
	if !ok {
		t.Fatal("the manifest has no ISO file")
	}
	return filepath.Join(cfg.Out, a.Name)
}

// isoIn opens a medium, and its file system as well.
func isoIn(f *os.File) (*opened, *hybrid.Image, error) {
	o, err := openMedium(f)
	if err != nil {
		return nil, nil, err
	}
	im, err := hybrid.Open(f, o.Size)
	return o, im, err
}

func TestISO(t *testing.T) {
	cfg := testConfig(t, mediumArchive(t), testDefinition)
	m := mustBuild(t, cfg)
	name := isoOf(t, cfg, m)
	checked, err := Verify(cfg.Out)
	if err != nil {
		t.Fatal(err)
	}
	if len(checked) != len(m.Artifacts)+1 { // and the lock
		t.Errorf("%d files were checked, want %d and the lock", len(checked), len(m.Artifacts))
	}
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	o, im, err := isoIn(f)
	if err != nil {
		t.Fatal(err)
	}
	if want := (Medium{Name: "test", ID: m.ID, Kernel: newKernel, Time: o.Time, Size: o.Size}); o.Medium != want || !o.Time.Equal(debtest.Time()) {
		t.Errorf("the medium is %+v, want %+v", o.Medium, want)
	}
	for to, from := range map[string]string{mediumKernel: "vmlinuz", mediumInitramfs: "initramfs.zst"} {
		want, err := os.ReadFile(filepath.Join(cfg.Out, from))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := mediumData(im, to, 1<<30); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s is not %s (%v)", to, from, err)
		}
	}
	for path, wants := range map[string][]string{
		"boot/isolinux/isolinux.cfg": {"KERNEL /boot/vmlinuz", "INITRD /boot/initrd.zst,/boot/site.cpio\n", "APPEND quiet muster.image=" + m.ID + " muster.medium=iso\n", "LOCALBOOT -1", "muster.probe=network"},
		"boot/grub/grub.cfg":         {"linux /boot/vmlinuz quiet muster.image=" + m.ID + " muster.medium=$medium\n", "initrd /boot/initrd.zst /boot/site.cpio\n", "exit 1"},
	} {
		text, err := mediumData(im, path, 1<<20)
		if err != nil {
			t.Error(err)
		}
		for _, want := range wants {
			if !strings.Contains(string(text), want) {
				t.Errorf("%s does not have %q:\n%s", path, want, text)
			}
		}
	}
}

// TestISOSameBytes builds twice, in different folders and at another time of the host.
func TestISOSameBytes(t *testing.T) {
	a := mediumArchive(t)
	one, two := testConfig(t, a, testDefinition), testConfig(t, a, testDefinition)
	first := mustBuild(t, one)
	second := mustBuild(t, two)
	if diff := cmp.Diff(first, second); diff != "" {
		t.Errorf("manifests differ:\n%s", diff)
	}
	x, y := contents(t, one.Out), contents(t, two.Out)
	for name := range x {
		if x[name] != y[name] {
			t.Errorf("%s differs", name)
		}
	}
}

func TestMedia(t *testing.T) {
	a := mediumArchive(t)
	var ids []string
	for name, c := range map[string]struct {
		media string
		kinds []images.ArtifactKind
	}{
		"all":     {"", []images.ArtifactKind{images.KindKernel, images.KindInitramfs, images.KindLoader, images.KindSBOM, images.KindSources, images.KindISO}},
		"netboot": {"media: [netboot]\n", []images.ArtifactKind{images.KindKernel, images.KindInitramfs, images.KindLoader, images.KindSBOM, images.KindSources}},
		"iso":     {"media: [iso]\nsite: {head: h, label: x}\n", []images.ArtifactKind{images.KindKernel, images.KindInitramfs, images.KindSBOM, images.KindSources, images.KindISO}},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := testConfig(t, a, testDefinition+c.media)
			m := mustBuild(t, cfg)
			ids = append(ids, m.ID)
			var kinds []images.ArtifactKind
			for _, x := range m.Artifacts {
				kinds = append(kinds, x.Kind)
			}
			if diff := cmp.Diff(c.kinds, slices.Compact(kinds)); diff != "" {
				t.Errorf("kinds of artifacts differ (-want +got):\n%s", diff)
			}
			if _, err := Verify(cfg.Out); err != nil {
				t.Error(err)
			}
		})
	}
	if len(slices.Compact(ids)) != 1 {
		t.Errorf("media and site change the image ID: %v", ids)
	}
}

func TestISOFromAnArchiveWithoutLoaders(t *testing.T) {
	cfg := testConfig(t, testArchive(t), testDefinition+"media: [iso]\n")
	if _, err := Build(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "has none of the packages with boot loaders") {
		t.Errorf("Build() = %v, want an error about boot loaders", err)
	}
}

func TestSiteOfDefinition(t *testing.T) {
	a := mediumArchive(t)
	cfg := testConfig(t, a, testDefinition+"site: {head: 'head.example.org:99', label: one}\n")
	m := mustBuild(t, cfg)
	check := func(want images.Site) {
		t.Helper()
		checked, err := Verify(isoOf(t, cfg, m))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, checked[0].Medium.Site); diff != "" {
			t.Errorf("the site differs (-want +got):\n%s", diff)
		}
	}
	check(images.Site{Head: "head.example.org:99", Label: "one"})
	// Another site is the same image, and the same hash in the manifest.
	cfg.Definition.Site.Label = "two"
	if again := mustBuild(t, cfg); again.ID != m.ID || again.Artifacts[len(again.Artifacts)-1].SHA256 != m.Artifacts[len(m.Artifacts)-1].SHA256 {
		t.Error("another site changed the manifest")
	}
	check(images.Site{Head: "head.example.org:99", Label: "two"})
}

func TestPersonalize(t *testing.T) {
	cfg := testConfig(t, mediumArchive(t), testDefinition)
	name := isoOf(t, cfg, mustBuild(t, cfg))
	before, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	pin := strings.Repeat("ab", 32)
	for range 2 {
		if _, err := Personalize(name, func(s images.Site) images.Site { s.Head, s.Pin = "10.0.0.1", pin; return s }); err != nil {
			t.Fatal(err)
		}
	}
	m, err := Personalize(name, func(s images.Site) images.Site { s.Label = "stick 3"; return s })
	if err != nil {
		t.Fatal(err)
	}
	if want := (images.Site{Head: "10.0.0.1", Pin: pin, Label: "stick 3"}); m.Site != want {
		t.Errorf("the site is %+v, want %+v", m.Site, want)
	}
	if _, err := Verify(cfg.Out); err != nil {
		t.Errorf("a personalized medium is not accepted: %v", err)
	}
	if _, err := Personalize(name, func(images.Site) images.Site { return images.Site{} }); err != nil {
		t.Fatal(err)
	}
	if after, err := os.ReadFile(name); err != nil || !bytes.Equal(before, after) {
		t.Errorf("an empty site does not give the file as it was built (%v)", err)
	}
}

// TestPersonalizeDamaged writes over a site segment that cannot be read.
func TestPersonalizeDamaged(t *testing.T) {
	cfg := testConfig(t, mediumArchive(t), testDefinition+"site: {head: h}\n")
	m := mustBuild(t, cfg)
	name := isoOf(t, cfg, m)
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte("not an archive"), m.Artifacts[len(m.Artifacts)-1].Site.Offset); err != nil {
		t.Fatal(err)
	}
	if _, err := Verify(name); err == nil || !strings.Contains(err.Error(), "write it again with: muster personalize") {
		t.Errorf("Verify() = %v", err)
	}
	if _, err := Personalize(name, func(s images.Site) images.Site { s.Label = "new"; return s }); err != nil {
		t.Fatal(err)
	}
	checked, err := Verify(name)
	if err != nil || checked[0].Medium.Site != (images.Site{Label: "new"}) {
		t.Errorf("Verify() = %+v, %v", checked, err)
	}
}

func TestPersonalizeRefuses(t *testing.T) {
	cfg := testConfig(t, mediumArchive(t), testDefinition)
	name := isoOf(t, cfg, mustBuild(t, cfg))
	for text, site := range map[string]images.Site{
		"is no address":                  {Head: "http://x/"},
		"is not 64 hexadecimal digits":   {Head: "x", Pin: "12"},
		"no head that it could be of":    {Pin: strings.Repeat("0", 64)},
		"other than printable ASCII":     {Label: "a\nb"},
		"is no list of devices":          {Console: "../etc/passwd"},
		"at most 200 can be":             {Label: strings.Repeat("x", 201)},
		`head "host:port" is no address`: {Head: "host:port"},
	} {
		_, err := Personalize(name, func(images.Site) images.Site { return site })
		if !errors.Is(err, images.ErrSite) || !strings.Contains(err.Error(), text) {
			t.Errorf("Personalize(%+v) = %v, want %q", site, err, text)
		}
	}
	if _, err := Verify(cfg.Out); err != nil {
		t.Errorf("after refused changes: %v", err)
	}
	vmlinuz := filepath.Join(cfg.Out, "vmlinuz")
	if _, err := Personalize(vmlinuz, func(s images.Site) images.Site { return s }); err == nil || !strings.Contains(err.Error(), "is not an ISO file of muster") {
		t.Errorf("Personalize of a kernel = %v", err)
	}
}

// TestVerifyNamesWhatDiffers edits media and folders.
func TestVerifyNamesWhatDiffers(t *testing.T) {
	cfg := testConfig(t, mediumArchive(t), testDefinition)
	m := mustBuild(t, cfg)
	iso := isoOf(t, cfg, m)
	good, err := os.ReadFile(iso)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(iso)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	_, im, err := isoIn(f)
	if err != nil {
		t.Fatal(err)
	}
	at := func(name string) int64 { return im.Files[name].Offset + 100 }
	flip := func(off int64) []byte { b := bytes.Clone(good); b[off] ^= 1; return b }
	for name, c := range map[string]struct {
		b     []byte
		want  string
		alone bool // found without the manifest too
	}{
		"initramfs":   {flip(at(mediumInitramfs)), "boot/initrd.zst differs", true},
		"isolinux":    {flip(at(mediumBoot)), "boot/isolinux/isolinux.bin differs", true},
		"menu":        {flip(at("boot/grub/grub.cfg")), "boot/grub/grub.cfg differs", true},
		"shim":        {bytes.Replace(good, []byte("shimx64.efi.signed shimx64"), []byte("shimx64.efi.signed SHIMx64"), 1), "EFI/BOOT/BOOTX64.EFI in its UEFI partition differs", true},
		"site":        {flip(im.Files[mediumSite].Offset), "site segment", true},
		"boot code":   {flip(20), "is in its boot code, tables or directories", false},
		"truncated":   {good[:len(good)/2], "is truncated", true},
		"text":        {bytes.Repeat([]byte("text "), 1<<18), "is not an ISO file of muster", true},
		"end missing": {good[:len(good)-512], "is truncated", true},
	} {
		t.Run(name, func(t *testing.T) {
			alone := filepath.Join(t.TempDir(), "stick")
			if err := errors.Join(os.WriteFile(iso, c.b, 0o644), os.WriteFile(alone, c.b, 0o644)); err != nil {
				t.Fatal(err)
			}
			want := strings.ReplaceAll(c.want, "is in its", "in its")
			if _, err := Verify(cfg.Out); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), iso) {
				t.Errorf("Verify(folder) = %v, want %q of %s", err, want, iso)
			}
			if _, err := Verify(alone); (err != nil) != c.alone || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("Verify(file) = %v, want %q", err, c.want)
			}
		})
	}
}

func TestVerifyFolder(t *testing.T) {
	cfg := testConfig(t, mediumArchive(t), testDefinition)
	mustBuild(t, cfg)
	flipBit(t, filepath.Join(cfg.Out, "vmlinuz"))
	if _, err := Verify(cfg.Out); err == nil || !strings.Contains(err.Error(), "vmlinuz: its SHA-256 is") {
		t.Errorf("Verify() = %v, want one about vmlinuz", err)
	}
	if checked, err := Verify(filepath.Join(cfg.Out, "initramfs.zst")); err != nil || len(checked) != 1 {
		t.Errorf("Verify of one file = %+v, %v", checked, err)
	}
	if _, err := Verify(t.TempDir()); err == nil || !strings.Contains(err.Error(), "is no image") {
		t.Errorf("Verify of an empty folder = %v", err)
	}
}

// TestISOWhenTheDiskIsFull limits the size of files, as a full disk would.
func TestISOWhenTheDiskIsFull(t *testing.T) {
	cfg := testConfig(t, mediumArchive(t), testDefinition)
	netboot := cfg
	d := *cfg.Definition
	d.Media = []string{images.MediumNetboot}
	netboot.Definition = &d
	mustBuild(t, netboot) // so that only the medium is left to write
	var old syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &old); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: 9 << 20, Max: old.Max}); err != nil {
		t.Fatal(err)
	}
	_, err := Build(t.Context(), cfg)
	if restore := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &old); restore != nil {
		t.Fatal(restore)
	}
	if !errors.Is(err, syscall.EFBIG) {
		t.Fatalf("Build() = %v, want EFBIG", err)
	}
	if left, err := os.ReadDir(filepath.Join(cfg.Cache, "tmp")); err != nil || len(left) > 0 {
		t.Errorf("left in the cache: %v, %v", left, err)
	}
	if _, err := os.Stat(filepath.Join(cfg.Out, "test.iso")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a half ISO file was left: %v", err)
	}
	mustBuild(t, cfg)
	if _, err := Verify(cfg.Out); err != nil {
		t.Error(err)
	}
}

func TestSiteSegmentIsAnArchive(t *testing.T) {
	want := images.Site{Head: "[fd00::1]:7421", Pin: strings.Repeat("0f", 32), Label: `a "b" <c>`, Console: "tty0,ttyS0"}
	b, err := siteSegment(want, time.Unix(1, 0))
	if err != nil {
		t.Fatal(err)
	}
	got, err := readSite(b)
	if err != nil || got != want || len(b) != siteSize {
		t.Errorf("readSite() = %+v, %v (%d bytes), want %+v", got, err, len(b), want)
	}
}

func FuzzReadSite(f *testing.F) {
	b, err := siteSegment(images.Site{Head: "h"}, time.Unix(1, 0))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(bytes.TrimRight(b, "\x00"))
	f.Add([]byte("07070100"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if s, err := readSite(data); err == nil && s.Check() != nil {
			t.Errorf("readSite accepted %+v", s)
		}
	})
}

// TestMenuQuotes: a quote in a title would end it, and with it the menu.
func TestMenuQuotes(t *testing.T) {
	menu := bootMenu{Name: "room-12", Kernel: "6.12", Cmdline: "quiet", ID: strings.Repeat("a", 64)}
	entries := regexp.MustCompile(`(?m)^menuentry '[^']+' --id (\w+) \{$`).FindAllStringSubmatch(string(menu.grub()), -1)
	var ids []string
	for _, e := range entries {
		ids = append(ids, e[1])
	}
	if got, want := strings.Join(ids, " "), "normal verbose noprobe local"; got != want {
		t.Errorf("grub.cfg has the entries %q, want %q:\n%s", got, want, menu.grub())
	}
	if n := strings.Count(string(menu.grub()), "'"); n%2 != 0 {
		t.Errorf("grub.cfg has %d single quotes:\n%s", n, menu.grub())
	}
}
