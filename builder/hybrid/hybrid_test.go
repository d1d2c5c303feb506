package hybrid

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"muster/internal/need"
)

func testLayout(t testing.TB) Layout {
	t.Helper()
	kernel := filepath.Join(t.TempDir(), "blob")
	if err := os.WriteFile(kernel, bytes.Repeat([]byte("kernel "), 3000), 0o600); err != nil {
		t.Fatal(err)
	}
	return Layout{
		Volume: "MUSTER_TEST", Time: time.Date(2026, 2, 3, 4, 5, 6, 0, time.UTC), Seed: sha256.Sum256([]byte("seed")),
		Files: []File{
			{Path: ".disk/info", Data: []byte("test\n")},
			{Path: "boot/vmlinuz", From: kernel},
			{Path: "boot/site.cpio", Data: make([]byte, 64<<10)},
			{Path: "boot/grub/grub.cfg", Data: []byte("menu")},
			{Path: "boot/isolinux/isolinux.bin", Data: bytes.Repeat([]byte("iso"), 9000)},
			{Path: "boot/isolinux/isolinux.cfg", Data: []byte("menu")},
		},
		ESP: []File{
			{Path: "EFI/BOOT/BOOTX64.EFI", Data: bytes.Repeat([]byte("shim"), 200000)},
			{Path: "EFI/BOOT/GRUBX64.EFI", Data: bytes.Repeat([]byte("grub"), 600000)},
		},
		BootImage: "boot/isolinux/isolinux.bin", MBR: bytes.Repeat([]byte{0x90}, mbrCode),
	}
}

func writeTest(t testing.TB, l Layout) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "test.iso")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	dir := t.TempDir()
	if err := Write(f, l, dir); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("Write left %v in its folder (%v)", left, err)
	}
	return name
}

func read(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestWriteAndOpen(t *testing.T) {
	l := testLayout(t)
	b := read(t, writeTest(t, l))
	im, err := Open(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range l.Files {
		want, err := x.contents()
		if err != nil {
			t.Fatal(err)
		}
		p, ok := im.Files[x.Path]
		if !ok || p.Size != int64(len(want)) {
			t.Errorf("%s is %+v, want %d bytes", x.Path, p, len(want))
			continue
		}
		got := b[p.Offset : p.Offset+p.Size]
		if x.Path == l.BootImage { // it has a table in it: bytes 8 to 63
			got, want = got[64:], want[64:]
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s has another content", x.Path)
		}
	}
	for _, x := range l.ESP {
		if !bytes.Equal(im.ESP[x.Path], x.Data) {
			t.Errorf("%s of the ESP has another content", x.Path)
		}
	}
	if im.Size != int64(len(b)) || im.Volume != l.Volume {
		t.Errorf("size %d and volume %q, want %d and %q", im.Size, im.Volume, len(b), l.Volume)
	}
}

// TestStick reads what was written to a larger stick.
func TestStick(t *testing.T) {
	b := read(t, writeTest(t, testLayout(t)))
	stick := append(b, make([]byte, 5*mib)...)
	im, err := Open(bytes.NewReader(stick), int64(len(stick)))
	if err != nil || im.Size != int64(len(b)) {
		t.Fatalf("Open of a stick = %+v, %v; want the size %d", im, err, len(b))
	}
}

// TestSameBytes writes again later, with other modes and in another time zone.
func TestSameBytes(t *testing.T) {
	l := testLayout(t)
	want := read(t, writeTest(t, l))
	for i, x := range l.Files {
		if x.From != "" {
			if err := errors.Join(os.Chmod(x.From, 0o644), os.Chtimes(x.From, time.Unix(1, 0), time.Unix(1, 0))); err != nil {
				t.Fatal(err)
			}
		}
		l.Files[i] = x
	}
	t.Setenv("TZ", "Asia/Kathmandu")
	got := read(t, writeTest(t, l))
	if len(got) != len(want) {
		t.Fatalf("%d bytes, then %d", len(want), len(got))
	}
	for i := range want {
		if got[i] != want[i] {
			t.Fatalf("byte %d (block %d) differs", i, i/block)
		}
	}
}

// TestNoTimeOfNow looks for the current year in places of dates.
func TestNoTimeOfNow(t *testing.T) {
	l := testLayout(t)
	l.Time = time.Date(1999, 12, 31, 0, 0, 0, 0, time.UTC)
	b := read(t, writeTest(t, l))
	if now := fmt.Sprint(time.Now().Year()); bytes.Contains(b[pvdAt:pvdAt+block], []byte(now)) {
		t.Errorf("the volume descriptor has the year %s", now)
	}
	if err := walkISO(bytes.NewReader(b), func(name string, rec record, list []field) error {
		if rec.b[18] != 99 {
			t.Errorf("%s has the year %d", name, 1900+int(rec.b[18]))
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

func TestOpenRefuses(t *testing.T) {
	good := read(t, writeTest(t, testLayout(t)))
	im, err := Open(bytes.NewReader(good), int64(len(good)))
	if err != nil {
		t.Fatal(err)
	}
	esp := im.Files[espPath].Offset
	flip := func(at int64) func([]byte) []byte {
		return func(b []byte) []byte { b[at] ^= 0x20; return b }
	}
	for name, c := range map[string]struct {
		change func([]byte) []byte
		want   string
	}{
		"empty":          {func(b []byte) []byte { return nil }, "is not an ISO file of muster"},
		"text":           {func(b []byte) []byte { return bytes.Repeat([]byte("text "), 1<<18) }, "is not an ISO file of muster"},
		"half":           {func(b []byte) []byte { return b[:len(b)/2] }, "is truncated"},
		"without end":    {func(b []byte) []byte { return b[:len(b)-1] }, "is truncated"},
		"MBR":            {flip(mbrTable + 8), "MBR: partition 1"},
		"boot code":      {flip(mbrCode), "MBR: the boot code looks for isolinux at sector"},
		"signature":      {flip(510), "MBR: has no signature"},
		"GPT":            {flip(sector + 40), "GPT: the checksum of its head is wrong"},
		"GPT entries":    {flip(2*sector + 32), "GPT: the checksum of its entries is wrong"},
		"backup GPT":     {flip(int64(len(good)) - sector + 40), "backup GPT: the checksum"},
		"boot record":    {flip(bootAt + 10), "El Torito: there is no boot record"},
		"ESP":            {flip(esp + 510), "ESP: file system is no FAT16"},
		"root record":    {flip(pvdAt + rootInPVD + 4), "ISO 9660"},
		"no file system": {flip(pvdAt + 1), "is not an ISO file of muster"},
	} {
		t.Run(name, func(t *testing.T) {
			b := c.change(bytes.Clone(good))
			if _, err := Open(bytes.NewReader(b), int64(len(b))); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("Open() = %v, want %q", err, c.want)
			}
		})
	}
}

// FuzzOpen changes the heads of a good file.
func FuzzOpen(f *testing.F) {
	good := read(f, writeTest(f, testLayout(f)))
	f.Add(uint32(pvdAt+rootInPVD), []byte{1, 2, 3})
	f.Add(uint32(mbrTable), []byte("text"))
	f.Fuzz(func(t *testing.T, at uint32, change []byte) {
		b := bytes.Clone(good)
		if int(at) < len(b) {
			copy(b[at:], change)
		}
		im, err := Open(bytes.NewReader(b), int64(len(b)))
		if err == nil && im.Size > int64(len(b)) {
			t.Errorf("size %d of %d", im.Size, len(b))
		}
	})
}

// FuzzFAT reads what may be a FAT.
func FuzzFAT(f *testing.F) {
	good, err := makeESP(testLayout(f).ESP, time.Unix(1<<30, 0), f.TempDir())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(uint16(13), []byte{1, 0, 0})
	f.Add(uint16(2048), bytes.Repeat([]byte{7}, 600))
	f.Fuzz(func(t *testing.T, at uint16, change []byte) {
		b := bytes.Clone(good)
		copy(b[at:], change)
		if x, err := openFAT(b); err == nil {
			_, _ = x.files() // it has to end
		}
	})
}

// TestOtherPrograms asks programs that others wrote, where they are installed.
func TestOtherPrograms(t *testing.T) {
	name := writeTest(t, testLayout(t))
	b := read(t, name)
	im, err := Open(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	p := im.Files[espPath]
	esp := filepath.Join(t.TempDir(), "esp.img")
	if err := os.WriteFile(esp, b[p.Offset:p.Offset+p.Size], 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		program string
		debian  string // package; "": it is not asked for where it is not installed
		args    []string
		want    []string
	}{
		{"xorriso", "xorriso", []string{"-indev", name, "-report_el_torito", "plain", "-report_system_area", "plain", "-find", "/"}, []string{"UEFI", "/boot/isolinux/isolinux.bin", "MBR partition"}},
		{"sgdisk", "gdisk", []string{"--verify", "--print", name}, []string{"No problems found", "EF00"}},
		{"fsck.vfat", "dosfstools", []string{"-n", "-v", esp}, []string{"files"}},
		{"isoinfo", "", []string{"-R", "-f", "-i", name}, []string{"/boot/site.cpio", "/efi/esp.img"}},
	} {
		t.Run(c.program, func(t *testing.T) {
			program, err := exec.LookPath(c.program)
			switch {
			case c.debian != "":
				program = need.Program(t, c.program, c.debian)
			case err != nil:
				t.Skipf("%s is not installed", c.program)
			}
			out, err := exec.CommandContext(t.Context(), program, c.args...).CombinedOutput()
			if err != nil && c.program != "fsck.vfat" {
				t.Errorf("%s: %v\n%s", c.program, err, out)
			}
			for _, want := range c.want {
				if !strings.Contains(string(out), want) {
					t.Errorf("%s does not say %q:\n%s", c.program, want, out)
				}
			}
		})
	}
}
