package main

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/diskfs/go-diskfs/backend/file"
	"github.com/diskfs/go-diskfs/filesystem/fat16"

	"muster/api"
	"muster/internal/vm"
)

// localMarker is what the system on the local disk says.
const localMarker = "the local disk was booted"

// TestVMMenu chooses each entry of a medium's boot menu, on a BIOS and with UEFI.
func TestVMMenu(t *testing.T) {
	if os.Getenv("MUSTER_LONG") != "1" {
		t.Skip("only in make test-vm: every entry of the boot menu")
	}
	c := startCluster(t, "--dhcp=full")
	medium := c.personalized(t)
	for _, firmware := range []vm.Firmware{vm.BIOS, vm.UEFI} {
		for i, entry := range []string{"normal", "verbose", "noprobe", "local"} {
			t.Run(string(firmware)+"-"+entry, func(t *testing.T) {
				c.during(t)
				disk := filepath.Join(t.TempDir(), "disk.img")
				if firmware == vm.BIOS {
					writeBootSector(t, disk)
				} else {
					writeBootApplication(t, disk)
				}
				g := c.boot(vm.Config{
					Name: string(firmware) + "-" + entry, Firmware: firmware, Boot: vm.BootCD, CDROM: medium,
					Args: []string{"-drive", "if=none,id=local,format=raw,file=" + disk, "-device", "ide-hd,drive=local,bus=ide.0,bootindex=2"},
				}, nil)
				c.choose(g, firmware, i, entry)
				c.checkEntry(g, entry)
				g.Kill()
			})
		}
	}
}

// choose types what chooses an entry of the menu: its word for isolinux, arrows for GRUB.
func (c *cluster) choose(g *guest, firmware vm.Firmware, index int, word string) {
	c.t.Helper()
	shown, text := `Type a word and Enter`, word+"\r"
	if firmware == vm.UEFI {
		shown, text = `will be executed automatically`, strings.Repeat("\x1b[B", index)+"\r"
	}
	if _, err := g.WaitFor(c.t.Context(), regexp.MustCompile(shown)); err != nil {
		c.t.Fatal(err)
	}
	if err := g.Type(text); err != nil {
		c.t.Fatal(err)
	}
}

// checkEntry checks that an entry does what it is there for.
func (c *cluster) checkEntry(g *guest, entry string) {
	c.t.Helper()
	if entry == "local" {
		if _, err := g.WaitFor(c.t.Context(), regexp.MustCompile(localMarker)); err != nil {
			c.t.Fatal(err)
		}
		return
	}
	n := c.ready(g)
	words := strings.Fields(c.muster("", "run", "--on", n.Name, "--", "cat", "/proc/cmdline").stdout)
	if !slices.Contains(words, "muster.medium=iso") {
		c.t.Errorf("the command line is %q", words)
	}
	if got, want := slices.Contains(words, "muster.probe=network"), entry == "noprobe"; got != want {
		c.t.Errorf("probing of the network alone is %v, want %v: %q", got, want, words)
	}
	if got, want := slices.Contains(words, "ignore_loglevel"), entry == "verbose"; got != want {
		c.t.Errorf("verbose is %v, want %v: %q", got, want, words)
	}
	// A message of the kernel's on the console.
	if got, want := strings.Contains(g.ConsoleTail(10000), "Run /init as init process"), entry == "verbose"; got != want {
		c.t.Errorf("the kernel's messages are on the console: %v, want %v", got, want)
	}
}

// TestVMMediumTakenOut takes the medium out once the machine is up: a job runs, and a second machine
// starts from it.
func TestVMMediumTakenOut(t *testing.T) {
	if os.Getenv("MUSTER_LONG") != "1" {
		t.Skip("only in make test-vm: takes the medium out")
	}
	c := startCluster(t, "--dhcp=full")
	medium := c.personalized(t)
	for _, b := range []vm.Config{
		{Name: "cd", Firmware: vm.UEFI, Boot: vm.BootCD, CDROM: medium},
		{Name: "stick", Firmware: vm.BIOS, Boot: vm.BootUSB, USB: medium},
	} {
		t.Run(b.Name, func(t *testing.T) {
			c.during(t)
			g := c.boot(b, nil)
			c.waitState(g, api.NodePending)
			if _, err := g.WaitFor(t.Context(), regexp.MustCompile(`muster: medium .*take it out if you like`)); err != nil {
				t.Fatal(err)
			}
			if err := g.TakeOut(); err != nil {
				t.Fatal(err)
			}
			n := c.ready(g)
			r := c.muster("", "run", "--on", n.Name, "--", "sh", "-c", "ls /; hostname")
			if r.status != 0 || !strings.HasSuffix(r.stdout, n.Name+"\n") {
				t.Errorf("the job wrote %q, status %d: %s", r.stdout, r.status, r.stderr)
			}
			g.Kill()
		})
	}
}

// writeBootSector makes a disk whose boot sector writes the marker to the first serial line.
func writeBootSector(t *testing.T, name string) {
	t.Helper()
	code := []byte{
		0x31, 0xc0, 0x8e, 0xd8, // ds = 0
		0xbe, 0x22, 0x7c, 0xfc, // si = text
		0xac, 0x84, 0xc0, 0x74, 0x12, // next byte; zero: end
		0x88, 0xc4, 0xba, 0xfd, 0x03, // dx = line status
		0xec, 0xa8, 0x20, 0x74, 0xfb, // until it takes a byte
		0xba, 0xf8, 0x03, 0x88, 0xe0, 0xee, 0xeb, 0xe9, // write it
		0xf4, 0xeb, 0xfd, // halt
	}
	disk := make([]byte, 4<<20)
	copy(disk, append(code, localMarker+"\r\n\x00"...))
	disk[510], disk[511] = 0x55, 0xaa
	if err := os.WriteFile(name, disk, 0o644); err != nil {
		t.Fatal(err)
	}
}

// writeBootApplication makes a disk with a UEFI application that writes the marker to the first serial line.
func writeBootApplication(t *testing.T, name string) {
	t.Helper()
	code := []byte{
		0x48, 0x8d, 0x35, 0x1c, 0, 0, 0, // rsi = text
		0xac, 0x84, 0xc0, 0x74, 0x14, // next byte; zero: end
		0x88, 0xc4, 0x66, 0xba, 0xfd, 0x03, // dx = line status
		0xec, 0xa8, 0x20, 0x74, 0xfb, // until it takes a byte
		0x66, 0xba, 0xf8, 0x03, 0x88, 0xe0, 0xee, 0xeb, 0xe7, // write it
		0xf4, 0xeb, 0xfd, // halt
	}
	app := portableExecutable(append(code, localMarker+"\r\n\x00"...))
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const size = 16 << 20
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	fs, err := fat16.Create(file.New(f, false), size, 0, 512, "LOCAL", true)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(fs.Mkdir("/EFI"), fs.Mkdir("/EFI/BOOT")); err != nil {
		t.Fatal(err)
	}
	out, err := fs.OpenFile("/EFI/BOOT/BOOTX64.EFI", os.O_CREATE|os.O_RDWR)
	if err != nil {
		t.Fatal(err)
	}
	_, err = out.Write(app)
	if err := errors.Join(err, out.Close()); err != nil {
		t.Fatal(err)
	}
}

// portableExecutable is a UEFI application for x86-64 of one section with position-independent code (PE/COFF
// specification 3 and 4).
func portableExecutable(code []byte) []byte {
	const headers, text = 0x200, 0x1000
	b := make([]byte, headers+0x200)
	le := binary.LittleEndian
	copy(b, "MZ")
	le.PutUint32(b[0x3c:], 0x40)
	copy(b[0x40:], "PE\x00\x00")
	coff := b[0x44:]
	le.PutUint16(coff, 0x8664)
	le.PutUint16(coff[2:], 1)     // sections
	le.PutUint16(coff[16:], 240)  // size of the optional header
	le.PutUint16(coff[18:], 0x22) // executable, large addresses
	opt := coff[20:]
	le.PutUint16(opt, 0x20b)
	le.PutUint32(opt[4:], 0x200)    // size of code
	le.PutUint32(opt[16:], text)    // entry
	le.PutUint32(opt[20:], text)    // base of code
	le.PutUint32(opt[32:], 0x1000)  // section alignment
	le.PutUint32(opt[36:], 0x200)   // file alignment
	le.PutUint32(opt[56:], 2*text)  // size of image
	le.PutUint32(opt[60:], headers) // size of headers
	le.PutUint16(opt[68:], 10)      // UEFI application
	le.PutUint32(opt[108:], 16)     // directories
	section := opt[240:]
	copy(section, ".text")
	le.PutUint32(section[8:], uint32(len(code)))
	le.PutUint32(section[12:], text)
	le.PutUint32(section[16:], 0x200)
	le.PutUint32(section[20:], headers)
	le.PutUint32(section[36:], 0x60000020) // code, execute, read
	copy(b[headers:], code)
	return b
}
