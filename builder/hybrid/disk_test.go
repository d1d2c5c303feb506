package hybrid

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"muster/internal/need"
)

const program = "EFI/BOOT/BOOTX64.EFI"

func testDisk(t testing.TB, size int) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "test.img")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	dir := t.TempDir()
	l := DiskLayout{
		Time: time.Date(2026, 2, 3, 4, 5, 6, 0, time.UTC), Seed: sha256.Sum256([]byte("seed")),
		ESP: []File{{Path: program, Data: bytes.Repeat([]byte("program "), size/8)}},
	}
	if err := WriteDisk(f, l, dir); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("WriteDisk left %v in its folder (%v)", left, err)
	}
	return name
}

func TestDisk(t *testing.T) {
	for _, size := range []int{8000, 30 << 20, 100 << 20} {
		b := read(t, testDisk(t, size))
		stick := append(bytes.Clone(b), make([]byte, 3*mib)...)
		for name, data := range map[string][]byte{"file": b, "stick": stick} {
			d, err := OpenDisk(bytes.NewReader(data), int64(len(data)))
			if err != nil {
				t.Fatalf("%s with %d bytes: %v", name, size, err)
			}
			p := d.Files[program]
			if d.Size != int64(len(b)) || p.Size != int64(size) || !bytes.HasPrefix(data[p.Offset:], []byte("program program")) {
				t.Errorf("%s: size %d with the program at %+v", name, d.Size, p)
			}
		}
		if !bytes.Equal(b, read(t, testDisk(t, size))) {
			t.Error("two disks with the same contents differ")
		}
	}
}

func TestOpenDiskRefuses(t *testing.T) {
	good := read(t, testDisk(t, 8000))
	flip := func(at int) []byte { b := bytes.Clone(good); b[at] ^= 1; return b }
	for name, c := range map[string]struct {
		b    []byte
		want string
	}{
		"nothing":    {nil, "is not a disk of muster"},
		"MBR":        {flip(450), "is not a disk of muster"},
		"GPT":        {flip(sector + 40), "GPT: the checksum of its head is wrong"},
		"entries":    {flip(2*sector + 33), "GPT: the checksum of its entries is wrong"},
		"backup GPT": {flip(len(good) - sector + 40), "backup GPT: the checksum"},
		"truncated":  {good[:len(good)-mib], "is truncated"},
		"FAT":        {flip(mib + 510), "ESP: file system is no FAT16"},
		"an ISO":     {read(t, writeTest(t, testLayout(t))), "is not a disk of muster"},
	} {
		if _, err := OpenDisk(bytes.NewReader(c.b), int64(len(c.b))); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: OpenDisk() = %v, want %q", name, err, c.want)
		}
	}
	d, err := OpenDisk(bytes.NewReader(good), int64(len(good)))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Reader("EFI/NOSUCH"); err == nil {
		t.Error("a file that is not there was opened")
	}
	if _, err := OpenDisk(bytes.NewReader(nil), 10*mib); errors.Is(err, ErrDisk) || err == nil {
		t.Errorf("a disk that cannot be read: %v", err)
	}
}

// TestDiskOfOthers asks programs that others wrote.
func TestDiskOfOthers(t *testing.T) {
	name := testDisk(t, 20<<20)
	out, err := exec.Command(need.Program(t, "sgdisk", "gdisk"), "--verify", "--print", name).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "No problems found") || !strings.Contains(string(out), "EF00") {
		t.Errorf("sgdisk: %v\n%s", err, out)
	}
	b := read(t, name)
	esp := filepath.Join(t.TempDir(), "esp")
	if err := os.WriteFile(esp, b[mib:len(b)-mib], 0o644); err != nil {
		t.Fatal(err)
	}
	// It ends with 1 for one cluster that the library leaves marked and belongs to no file.
	out, _ = exec.Command(need.Program(t, "fsck.vfat", "dosfstools"), "-n", "-v", esp).CombinedOutput()
	if !strings.Contains(string(out), ": 4 files") || strings.Contains(string(out), "Bad") {
		t.Errorf("fsck.vfat:\n%s", out)
	}
}

// FuzzOpenDisk changes a good disk.
func FuzzOpenDisk(f *testing.F) {
	good := read(f, testDisk(f, 8000))
	f.Add(uint32(sector+72), []byte{2, 0, 0})
	f.Add(uint32(mib+13), []byte{1})
	f.Add(uint32(mib+4096), []byte("\xff\xff\x03\x00"))
	f.Fuzz(func(t *testing.T, at uint32, change []byte) {
		b := bytes.Clone(good)
		if int(at) < len(b) {
			copy(b[at:], change)
		}
		d, err := OpenDisk(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			return
		}
		for name, p := range d.Files {
			if p.Offset < 0 || p.Size < 0 || p.Offset+p.Size > int64(len(b)) {
				t.Errorf("%s is at %+v of %d", name, p, len(b))
			}
		}
	})
}
