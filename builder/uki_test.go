package builder

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"muster/builder/deb/debtest"
	"muster/builder/uki"
	"muster/builder/uki/ukitest"
	"muster/images"
)

// ukiArchive is the test's Debian with a boot stub.
func ukiArchive(t testing.TB) *debtest.Archive {
	t.Helper()
	return testArchive(t, stubPackage())
}

// stubPackage has the boot stub of a UKI.
func stubPackage() debtest.Package {
	return debtest.Package{Name: "systemd-boot-efi", Version: "257", Arch: "amd64", Files: []debtest.File{
		{Path: stubFile, Data: string(ukitest.Stub())},
	}}
}

const ukiDefinition = testDefinition + "media: [uki, img]\n"

func testSigner(t testing.TB, name string) *uki.Signer {
	t.Helper()
	p := ukitest.NewPair(t, name, 2048, false)
	s, err := uki.NewSigner("k", p.Key, "c", p.Cert)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// ukisOf are the names of the UKI and of the disk of a build.
func ukisOf(cfg Config) []string {
	return []string{filepath.Join(cfg.Out, "test.efi"), filepath.Join(cfg.Out, "test.img")}
}

func readBytes(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestUKI(t *testing.T) {
	cfg := testConfig(t, ukiArchive(t), ukiDefinition)
	m := mustBuild(t, cfg)
	checked, err := Verify(cfg.Out)
	if err != nil || len(checked) != len(m.Artifacts)+1 { // and the lock
		t.Fatalf("Verify() checked %d files of %d: %v", len(checked), len(m.Artifacts), err)
	}
	u, err := readUKI(readBytes(t, ukisOf(cfg)[0]))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		sectionCmdline: "quiet muster.image=" + m.ID + " muster.medium=uki",
		sectionRelease: newKernel,
		sectionKernel:  string(readBytes(t, filepath.Join(cfg.Out, "vmlinuz"))),
		sectionOS:      "ID=muster\nNAME=muster\nPRETTY_NAME=\"muster test\"\nIMAGE_ID=\"test\"\nIMAGE_VERSION=" + m.ID + "\n",
	} {
		if s, _ := u.Section(name); string(s.Data) != want {
			t.Errorf("section %s is %.80q, want %.80q", name, s.Data, want)
		}
	}
	initrd, _ := u.Section(sectionInitramfs)
	if !bytes.HasPrefix(initrd.Data, readBytes(t, filepath.Join(cfg.Out, "initramfs.zst"))) || len(initrd.Data)%4 != 0 {
		t.Errorf("section %s is no initramfs with a site segment", sectionInitramfs)
	}
	for _, name := range ukisOf(cfg) {
		alone := filepath.Join(t.TempDir(), "alone")
		if err := os.WriteFile(alone, readBytes(t, name), 0o644); err != nil {
			t.Fatal(err)
		}
		c, err := Verify(alone)
		if err != nil || c[0].Medium.ID != m.ID || c[0].Against != againstList || !strings.HasSuffix(c[0].What, ", not signed") {
			t.Errorf("Verify of a file alone = %+v, %v", c, err)
		}
	}
}

// TestUKIMedia checks which media make which files.
func TestUKIMedia(t *testing.T) {
	a := ukiArchive(t)
	for media, want := range map[string][]images.ArtifactKind{
		"":                      {images.KindUKI},
		"media: [netboot]":      nil,
		"media: [img]":          {images.KindIMG},
		"media: [netboot, uki]": {images.KindUKI},
		"media: [img, uki]":     {images.KindUKI, images.KindIMG},
	} {
		m := mustBuild(t, testConfig(t, a, testDefinition+media+"\n"))
		var got []images.ArtifactKind
		for _, x := range m.Artifacts {
			if x.Kind == images.KindUKI || x.Kind == images.KindIMG {
				got = append(got, x.Kind)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%q makes %v, want %v", media, got, want)
		}
		if _, ok := m.Netboot().File(images.KindUKI); ok {
			t.Error("a UKI that is not signed is published")
		}
	}
}

// TestUKIWithoutStub builds from an archive that has none.
func TestUKIWithoutStub(t *testing.T) {
	a := testArchive(t)
	if _, ok := mustBuild(t, testConfig(t, a, testDefinition)).File(images.KindUKI); ok {
		t.Error("there is a UKI without a stub")
	}
	for name, change := range map[string]func(*Config){
		"named":  func(c *Config) { c.Definition.Media = []string{images.MediumUKI} },
		"disk":   func(c *Config) { c.Definition.Media = []string{images.MediumIMG} },
		"signed": func(c *Config) { c.Signer = testSigner(t, "site") },
	} {
		cfg := testConfig(t, a, testDefinition)
		change(&cfg)
		if _, err := Build(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "suite trixie has no package systemd-boot-efi") {
			t.Errorf("%s: Build() = %v", name, err)
		}
	}
	cfg := testConfig(t, ukiArchive(t), testDefinition+"media: [netboot]\n")
	cfg.Signer = testSigner(t, "site")
	if _, err := Build(t.Context(), cfg); !errors.Is(err, ErrInput) || !strings.Contains(err.Error(), "there is nothing to sign") {
		t.Errorf("nothing to sign: Build() = %v", err)
	}
}

// TestUKISigned builds the same image unsigned, signed and signed again: one image ID, the same bytes but for
// the signature, and the same signature.
func TestUKISigned(t *testing.T) {
	a, s := ukiArchive(t), testSigner(t, "our site")
	const site = "site: {head: 10.0.0.1, label: room}\n"
	plain, one, two := testConfig(t, a, ukiDefinition+site), testConfig(t, a, ukiDefinition+site), testConfig(t, a, ukiDefinition+site)
	one.Signer, two.Signer = s, s
	m, signed, again := mustBuild(t, plain), mustBuild(t, one), mustBuild(t, two)
	if m.ID != signed.ID || m.ID != again.ID {
		t.Errorf("a signature changes the image ID: %s, %s, %s", m.ID, signed.ID, again.ID)
	}
	x, y := contents(t, one.Out), contents(t, two.Out)
	for name := range x {
		if x[name] != y[name] {
			t.Errorf("%s differs between two signed builds", name)
		}
	}
	im, err := uki.Parse(readBytes(t, ukisOf(one)[0]))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(im.Unsigned(), readBytes(t, ukisOf(plain)[0])) {
		t.Error("without its signature the UKI is not that of the unsigned build")
	}
	checked, err := VerifySigned(one.Out, s.Chain[0])
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, c := range checked {
		if c.Signature == nil {
			continue
		}
		found++
		if c.Signature.Subject != "CN=our site" || c.Medium.Site.Label != "room" || !strings.HasSuffix(c.What, "signed by CN=our site") {
			t.Errorf("%s: %+v, site %+v", c.Name, c.Signature, c.Medium.Site)
		}
	}
	if found != 2 {
		t.Errorf("%d files are signed, want 2", found)
	}
	for _, name := range ukisOf(one) {
		before := readBytes(t, name)
		if _, err := Personalize(name, func(s images.Site) images.Site { s.Label = "x"; return s }); !errors.Is(err, ErrSigned) || !strings.Contains(err.Error(), "in the definition") {
			t.Errorf("Personalize of a signed file = %v", err)
		}
		if !bytes.Equal(before, readBytes(t, name)) {
			t.Error("a signed file was changed")
		}
	}
	netboot := signed.Netboot()
	if u, ok := netboot.File(images.KindUKI); !ok || u.Signer != uki.Fingerprint(s.Chain[0]) {
		t.Errorf("a signed UKI is not published: %+v", u)
	}
	if _, ok := netboot.File(images.KindIMG); ok {
		t.Error("a disk is published")
	}
	one.Signer = nil
	mustBuild(t, one) // unsigned again, in the same folder
	if _, err := VerifySigned(one.Out, s.Chain[0]); err == nil || !strings.Contains(err.Error(), "test.efi: it is not signed") {
		t.Errorf("VerifySigned of an unsigned image = %v", err)
	}
}

func TestUKIPersonalize(t *testing.T) {
	cfg := testConfig(t, ukiArchive(t), ukiDefinition)
	mustBuild(t, cfg)
	for _, name := range ukisOf(cfg) {
		before := readBytes(t, name)
		if _, err := Personalize(name, func(s images.Site) images.Site { s.Head = "10.0.0.1"; return s }); err != nil {
			t.Fatal(err)
		}
		checked, err := Verify(name)
		if err != nil || checked[0].Medium.Site.Head != "10.0.0.1" {
			t.Errorf("Verify of a personalized %s = %+v, %v", name, checked, err)
		}
		if _, err := Personalize(name, func(images.Site) images.Site { return images.Site{} }); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(before, readBytes(t, name)) {
			t.Error("an empty site does not give the file as it was built")
		}
	}
}

// TestVerifyUKINamesWhatDiffers edits signed and unsigned files.
func TestVerifyUKINamesWhatDiffers(t *testing.T) {
	a, s := ukiArchive(t), testSigner(t, "site")
	cfg, signed := testConfig(t, a, ukiDefinition), testConfig(t, a, ukiDefinition)
	signed.Signer = s
	mustBuild(t, cfg)
	mustBuild(t, signed)
	plain, good, disk := readBytes(t, ukisOf(cfg)[0]), readBytes(t, ukisOf(signed)[0]), readBytes(t, ukisOf(cfg)[1])
	other, err := uki.Sign(plain, testSigner(t, "stranger"))
	if err != nil {
		t.Fatal(err)
	}
	im, err := uki.Parse(good) // the sections are where they are in the unsigned one
	if err != nil {
		t.Fatal(err)
	}
	at := func(section string) int {
		x, ok := im.Section(section)
		if !ok {
			t.Fatalf("there is no %s", section)
		}
		return int(x.Offset)
	}
	flip := func(data []byte, off int) []byte { b := bytes.Clone(data); b[off] ^= 1; return b }
	kernelOnDisk := bytes.Index(disk, []byte("MZ")) + at(sectionKernel)
	for name, c := range map[string]struct {
		cfg  Config
		file int
		b    []byte
		want string
	}{
		"kernel":            {cfg, 0, flip(plain, at(sectionKernel)), "section .linux differs"},
		"command line":      {cfg, 0, flip(plain, at(sectionCmdline)), "section .cmdline differs"},
		"initramfs":         {cfg, 0, flip(plain, at(sectionInitramfs)), "section .initrd differs"},
		"stub":              {cfg, 0, flip(plain, at(".text")), "section .text differs"},
		"list":              {cfg, 0, flip(plain, at(sectionList)), "its list, section .muster, cannot be read"},
		"header":            {cfg, 0, flip(plain, 0x60), "its SHA-256 without the site segment is"},
		"truncated":         {cfg, 0, plain[:len(plain)/2], "is truncated: section"},
		"longer":            {cfg, 0, append(bytes.Clone(plain), make([]byte, 512)...), "has 512 bytes behind its last section"},
		"no UKI":            {cfg, 0, ukitest.Stub(), "is no UKI of muster"},
		"signed by others":  {cfg, 0, other, "it is signed by CN=stranger, the manifest says that it is not signed"},
		"signed, kernel":    {signed, 0, flip(good, at(sectionKernel)), "section .linux differs"},
		"signed, entry":     {signed, 0, flip(good, 0x68), "signature 1: it is of other contents"},
		"not signed":        {signed, 0, plain, "it is not signed, the manifest says that it is"},
		"signed by another": {signed, 0, other, "it is signed with certificate"},
		"disk, kernel":      {cfg, 1, flip(disk, kernelOnDisk), "section .linux differs"},
		"disk, GPT":         {cfg, 1, flip(disk, 512+56), "GPT: the checksum of its head is wrong"},
		"disk, truncated":   {cfg, 1, disk[:len(disk)-512], "is truncated"},
		"disk, FAT":         {cfg, 1, flip(disk, 1<<20+510), "ESP: file system is no FAT16"},
		"nothing":           {cfg, 1, nil, "is not an ISO file of muster"},
	} {
		t.Run(name, func(t *testing.T) {
			file := ukisOf(c.cfg)[c.file]
			before := readBytes(t, file)
			if err := os.WriteFile(file, c.b, 0o644); err != nil {
				t.Fatal(err)
			}
			if checked, err := Verify(file); err == nil || len(checked) > 0 || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), file) {
				t.Errorf("Verify() = %+v, %v, want %q of %s", checked, err, c.want, file)
			}
			if err := os.WriteFile(file, before, 0o644); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestVerifySignedRefuses(t *testing.T) {
	s := testSigner(t, "site")
	cfg := testConfig(t, ukiArchive(t), ukiDefinition)
	cfg.Signer = s
	mustBuild(t, cfg)
	if _, err := VerifySigned(ukisOf(cfg)[1], testSigner(t, "other").Chain[0]); err == nil || !strings.Contains(err.Error(), "it is signed by CN=site") {
		t.Errorf("VerifySigned by another = %v", err)
	}
	if _, err := VerifySigned(filepath.Join(cfg.Out, "vmlinuz"), s.Chain[0]); err == nil || !strings.Contains(err.Error(), "nothing that could be signed") {
		t.Errorf("VerifySigned of a kernel = %v", err)
	}
}
