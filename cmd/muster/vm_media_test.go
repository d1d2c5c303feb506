package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

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
	g.Kill()
	if fileHash(t, disk) != before {
		t.Error("the machine's disk was written to")
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

// writeSignatures makes a disk that many programs would like to look at: the
// magic numbers of ext4, LVM and RAID.
func writeSignatures(t *testing.T, name string) {
	t.Helper()
	disk := make([]byte, 16<<20)
	copy(disk[0x438:], []byte{0x53, 0xef})                    // ext4
	copy(disk[512:], "LABELONE")                              // LVM
	copy(disk[536:], "LVM2 001")                              // LVM
	copy(disk[4096:], []byte{0xfc, 0x4e, 0x2b, 0xa9, 1})      // RAID, version 1.2
	copy(disk[8<<20:], bytes.Repeat([]byte("data "), 100000)) // what must not be lost
	if err := os.WriteFile(name, disk, 0o644); err != nil {
		t.Fatal(err)
	}
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
