package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"muster/api"
	"muster/builder"
	"muster/images"
	"muster/internal/need"
	"muster/internal/vm"
)

// mediumBoot is one way to boot a medium.
type mediumBoot struct {
	name     string
	firmware vm.Firmware
	boot     vm.Boot
	secure   bool
	plain    bool   // the firmware sees no El Torito on the stick, only partitions
	long     bool   // only where there is time
	medium   string // that the node says it was booted from
}

var mediumBoots = []mediumBoot{
	{name: "bios-cd", firmware: vm.BIOS, boot: vm.BootCD, long: true, medium: "iso"},
	{name: "bios-usb", firmware: vm.BIOS, boot: vm.BootUSB, medium: "iso"},
	{name: "uefi-cd", firmware: vm.UEFI, boot: vm.BootCD, medium: "iso"},
	{name: "uefi-usb", firmware: vm.UEFI, boot: vm.BootUSB, long: true, medium: "usb"},
	{name: "uefi-usb-partitions", firmware: vm.UEFI, boot: vm.BootUSB, plain: true, long: true, medium: "usb"},
	{name: "secure-cd", firmware: vm.UEFI, boot: vm.BootCD, secure: true, long: true, medium: "iso"},
	{name: "secure-usb", firmware: vm.UEFI, boot: vm.BootUSB, secure: true, medium: "usb"},
}

// TestVMMedia boots machines from the ISO file, as a CD and as a stick, to the
// output of a job. The head answers no network boot, so that nothing else can have started them.
func TestVMMedia(t *testing.T) {
	if err := vm.InstalledSecureBoot(); err != nil {
		need.Missing(t, "%v", err)
	}
	c := startCluster(t, "--dhcp=full")
	manifest := readTestManifest(t, c.image)
	iso, ok := manifest.File(images.KindISO)
	if !ok {
		t.Fatal("the image has no ISO file")
	}
	status, err := c.client.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	medium := filepath.Join(t.TempDir(), "stick.img")
	copyFile(t, filepath.Join(c.image, iso.Name), medium)
	if r := c.muster("", "personalize", medium, "--head", "10.77.0.1", "--pin", status.Pin, "--label", "room 12"); r.status != 0 {
		t.Fatalf("muster personalize: %s", r.stderr)
	}
	before := fileHash(t, medium)
	for _, b := range mediumBoots {
		t.Run(b.name, func(t *testing.T) {
			if b.long && os.Getenv("MUSTER_LONG") != "1" {
				t.Skip("only in make test-vm: one of seven ways to boot a medium")
			}
			medium := medium
			if b.plain {
				from := medium
				medium = filepath.Join(t.TempDir(), "plain.img")
				copyFile(t, from, medium)
				hideElTorito(t, medium)
			}
			c.bootMedium(t, b, medium)
		})
	}
	if fileHash(t, medium) != before {
		t.Error("the medium was written to")
	}
	if _, err := builder.Verify(medium); err != nil {
		t.Errorf("after all boots: %v", err)
	}
}

// bootMedium boots one machine that has a disk of its own, which must not be
// touched.
func (c *cluster) bootMedium(t *testing.T, b mediumBoot, medium string) {
	disk := filepath.Join(t.TempDir(), "disk.img")
	writeSignatures(t, disk)
	before := fileHash(t, disk)
	cfg := vm.Config{Name: b.name, Firmware: b.firmware, Boot: b.boot, SecureBoot: b.secure, Disk: disk}
	if b.boot == vm.BootCD {
		cfg.CDROM = medium
	} else {
		cfg.USB = medium
	}
	outer := c.t
	c.t = t
	defer func() { c.t = outer }()
	second := filepath.Join(t.TempDir(), "sata.img")
	copyFile(t, disk, second)
	cfg.Args = []string{"-drive", "if=none,id=sata,format=raw,cache=unsafe,file=" + second, "-device", "ide-hd,drive=sata,bus=ide.0"}
	g := c.boot(cfg, nil)
	c.waitState(g, api.NodePending)
	if _, err := g.WaitFor(t.Context(), regexp.MustCompile(`muster: medium .*"room 12"; take it out if you like`)); err != nil {
		t.Fatal(err)
	}
	node := c.ready(g)
	if node.Software.Medium != b.medium {
		t.Errorf("the node says that it was booted from %q, want %q", node.Software.Medium, b.medium)
	}
	r := c.muster("", "run", "--on", node.Name, "hostname")
	if got, want := r.stdout, node.Name+"\n"; got != want || r.status != 0 {
		t.Errorf("muster run hostname = %q, status %d (%s), want %q", got, r.status, r.stderr, want)
	}
	for _, e := range c.stages(g) {
		if e.Stage == api.StageScript || e.Stage == api.StageKernel {
			t.Errorf("the machine asked for %s over the network", e.Stage)
		}
	}
	if b.secure {
		r := c.muster("", "run", "--on", node.Name, "--", "cat", "/sys/kernel/security/lockdown")
		if !strings.Contains(r.stdout, "[integrity]") {
			t.Errorf("lockdown is %q (%s), want integrity: Secure Boot is not on", r.stdout, r.stderr)
		}
	}
	// Drivers of disks come after the userland. What nobody sees, nobody writes to: so both are there.
	fi, err := os.Stat(disk)
	if err != nil {
		t.Fatal(err)
	}
	sees := regexp.MustCompile(fmt.Sprintf(`(?m) %d (vd|sd)[a-z]$`, fi.Size()/1024))
	var partitions string
	c.eventually(jobTime, "the machine sees its disks", func(context.Context) (bool, error) {
		partitions = c.muster("", "run", "--on", node.Name, "--", "cat", "/proc/partitions").stdout
		return len(sees.FindAllString(partitions, -1)) == 2, nil
	})
	if array := regexp.MustCompile(`(?m) (md|dm-)\S*$`).FindString(partitions); array != "" {
		t.Errorf("the machine made%s of its disks:\n%s", array, partitions)
	}
	if err := g.PowerButton(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-g.Done():
	case <-time.After(headTime):
		t.Error("the machine did not switch itself off")
		g.Kill()
		<-g.Done()
	}
	for _, file := range []string{disk, second} {
		if fileHash(t, file) != before {
			t.Errorf("the machine's disk %s was written to", filepath.Base(file))
		}
	}
}

// TestVMMediaFindsHead boots a medium that nobody personalized: the machine is told of the head by
// DHCP, shows its fingerprint, and waits for approval.
func TestVMMediaFindsHead(t *testing.T) {
	if os.Getenv("MUSTER_LONG") != "1" {
		t.Skip("only in make test-vm: boots a medium that names no head")
	}
	c := startCluster(t, "--dhcp=full", "--mdns=off")
	iso, ok := readTestManifest(t, c.image).File(images.KindISO)
	if !ok {
		t.Fatal("the image has no ISO file")
	}
	status, err := c.client.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	g := c.boot(vm.Config{Name: "no-head", Firmware: vm.BIOS, Boot: vm.BootCD, CDROM: filepath.Join(c.image, iso.Name)}, nil)
	n := c.waitState(g, api.NodePending)
	if _, err := g.WaitFor(t.Context(), regexp.MustCompile(`muster: fingerprint node `+n.Fingerprint+` head `+status.Fingerprint)); err != nil {
		t.Fatal(err)
	}
	c.ready(g)
}

// hideElTorito removes the boot record: OVMF would use it on a stick too, which
// not all firmware does.
func hideElTorito(t *testing.T, name string) {
	t.Helper()
	f, err := os.OpenFile(name, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteAt([]byte("\x03"), 17*2048) // a partition descriptor, which nobody reads
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
}

// writeSignatures makes a disk that many programs would like to look at, and to mend: a partition with a file system that was not unmounted,
// one of LVM, and one that is half of a RAID.
func writeSignatures(t *testing.T, name string) {
	t.Helper()
	const mib = 1 << 20
	disk := make([]byte, 24*mib)
	le := binary.LittleEndian
	for i, p := range []struct {
		kind        byte
		first, size uint32 // in sectors
	}{{0x83, 2048, 16384}, {0x8e, 18432, 8192}, {0xfd, 26624, 8192}} {
		e := disk[446+16*i:]
		e[4] = p.kind
		le.PutUint32(e[8:], p.first)
		le.PutUint32(e[12:], p.size)
	}
	disk[510], disk[511] = 0x55, 0xaa
	copy(disk[mib:9*mib], dirtyFileSystem(t, 8*mib))
	lvm := disk[9*mib:]
	copy(lvm[512:], "LABELONE")
	le.PutUint64(lvm[520:], 1)  // its sector
	le.PutUint32(lvm[532:], 32) // where its content begins
	copy(lvm[536:], "LVM2 001")
	copy(lvm[544:], "0123456789abcdefghijklmnopqrstuv") // UUID
	// LVM's sum begins with a number of its own and is not inverted at the end.
	le.PutUint32(lvm[528:], ^crc32.Update(^uint32(0xf597a6cf), crc32.IEEETable, lvm[532:1024]))
	raid := disk[13*mib+4096:] // superblock 1.2 lies 4 KiB behind the start
	le.PutUint32(raid, 0xa92b4efc)
	le.PutUint32(raid[4:], 1)
	copy(raid[16:], "array-of-a-test!")
	le.PutUint32(raid[72:], 1)     // level
	le.PutUint64(raid[80:], 4096)  // size
	le.PutUint32(raid[92:], 2)     // disks
	le.PutUint64(raid[128:], 2048) // where the data begins
	le.PutUint64(raid[136:], 4096)
	le.PutUint64(raid[144:], 8) // this superblock
	le.PutUint32(raid[216:], raidChecksum(raid[:256]))
	copy(disk[20*mib:], bytes.Repeat([]byte("data "), 100000)) // what must not be lost
	if err := os.WriteFile(name, disk, 0o644); err != nil {
		t.Fatal(err)
	}
}

// raidChecksum is that of an md superblock 1.x without entries of disks: its words with the sum as 0, added up (include/uapi/linux/raid/md_p.h).
func raidChecksum(b []byte) uint32 {
	var sum uint64
	for i := 0; i < len(b); i += 4 {
		if i != 216 {
			sum += uint64(binary.LittleEndian.Uint32(b[i:]))
		}
	}
	return uint32(sum&0xffffffff) + uint32(sum>>32)
}

// dirtyFileSystem is an ext4 that was not unmounted: mounting it, even read-only, would write to it.
func dirtyFileSystem(t *testing.T, size int) []byte {
	t.Helper()
	image := filepath.Join(t.TempDir(), "ext4.img")
	if err := os.WriteFile(image, make([]byte, size), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(need.Program(t, "mkfs.ext4", "e2fsprogs"), "-q", "-F", "-O", "^metadata_csum", image).CombinedOutput(); err != nil {
		t.Fatalf("mkfs.ext4: %v\n%s", err, out)
	}
	b, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	const super, needsRecovery = 1024, 0x4
	b[super+0x60] |= needsRecovery // the journal has to be gone through
	b[super+0x3a] &^= 1            // not cleanly unmounted
	return b
}

func readTestManifest(t *testing.T, dir string) *images.Manifest {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(dir, "manifest.json"))
	if err != nil {
		t.Fatal(err)
	}
	m, err := images.ParseManifest("manifest.json", raw)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	in, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.Copy(out, in)
	if err := errors.Join(err, out.Close()); err != nil {
		t.Fatal(err)
	}
}

func fileHash(t *testing.T, name string) string {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(h.Sum(nil))
}
