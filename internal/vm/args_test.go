package vm

import (
	"errors"
	"io/fs"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestArguments compares what differs between machines; the rest is the same
// for all.
func TestArguments(t *testing.T) {
	port := &Port{}
	nic := NIC{Port: port, MAC: mac("52:54:00:00:00:01")}
	tap := []link{{fd: 4}}
	base := func(change func(*Config)) Config {
		cfg := Config{Name: "m", Dir: "/d", Firmware: BIOS, NICs: []NIC{nic}}
		change(&cfg)
		return cfg
	}
	fw := ovmf{"/code,4M.fd", "/d/m.vars"}
	cases := map[string]struct {
		cfg   Config
		links []link
		want  []string // each with the arguments that follow one another
		not   []string
	}{
		"BIOS network": {base(func(*Config) {}), tap, []string{
			"-machine q35,graphics=off", "-accel tcg,thread=multi", "-cpu max", "-m 512", "-smp 1", "-chardev socket,id=qmp,fd=3", "-boot strict=on",
			"-netdev tap,id=net0,fd=4 -device virtio-net-pci,mac=52:54:00:00:00:01,netdev=net0,bootindex=1",
		}, []string{"pflash", "romfile", "-kernel", "-no-reboot"}},
		"UEFI PXE": {base(func(c *Config) { c.Firmware = UEFI }), tap, []string{
			"-drive if=pflash,unit=0,format=raw,readonly=on,file=/code,,4M.fd", "-drive if=pflash,unit=1,format=raw,file=/d/m.vars",
			"-fw_cfg name=opt/org.tianocore/IPv6PXESupport,string=no", "romfile=,bootindex=1",
		}, []string{"IPv4PXESupport"}},
		"UEFI HTTP": {base(func(c *Config) { c.Firmware, c.Boot = UEFI, BootHTTP }), tap, []string{
			"-fw_cfg name=opt/org.tianocore/IPv4PXESupport,string=no",
		}, nil},
		"another card keeps its ROM": {base(func(c *Config) { c.Firmware = UEFI; c.NICs[0].Model = "e1000" }), tap, []string{
			"-device e1000,mac=52:54:00:00:00:01,netdev=net0,bootindex=1",
		}, []string{"romfile"}},
		"KVM": {base(func(c *Config) { c.Accel.KVM = true }), tap, []string{"-accel kvm"}, []string{"tcg"}},
		"kernel": {base(func(c *Config) { c.Kernel, c.Initrd, c.Append = "/k", "/i", "quiet panic=1"; c.NoReboot = true }), tap, []string{
			"-kernel /k -initrd /i -append quiet panic=1", "-no-reboot",
		}, []string{"bootindex"}},
		"disk": {base(func(c *Config) { c.Disk, c.Boot = "/a,b", BootDisk }), tap, []string{
			"file=/a,,b -device virtio-blk-pci,drive=disk,bootindex=1",
		}, nil},
		"CD": {base(func(c *Config) { c.CDROM, c.Boot = "/x.iso", BootCD }), tap, []string{"-device ide-cd,drive=cd,bootindex=1"}, nil},
		"stick": {base(func(c *Config) { c.USB, c.Boot = "/x,y.iso", BootUSB }), tap, []string{
			"-device qemu-xhci,id=xhci", "file=/x,,y.iso -device usb-storage,id=usb-stick,bus=xhci.0,drive=stick,removable=on,bootindex=1",
		}, nil},
		"Secure Boot": {base(func(c *Config) { c.Firmware, c.SecureBoot = UEFI, true }), tap, []string{
			"-machine q35,graphics=off,smm=on", "driver=cfi.pflash01,property=secure,value=on",
		}, nil},
		"network first": {base(func(c *Config) { c.CDROM = "/x.iso" }), tap, []string{"-device ide-cd,drive=cd -netdev"}, nil},
		"no cable":      {base(func(c *Config) { c.NICs[0].Port = nil }), []link{{}}, []string{"-device virtio-net-pci,mac=52:54:00:00:00:01,bootindex=1"}, []string{"-netdev"}},
		"relay":         {base(func(c *Config) { c.NICs[0].Filter = new(PlainROM).Filter }), []link{{fd: 5, stream: true}}, []string{"-netdev socket,id=net0,fd=5"}, []string{"tap"}},
		"more": {base(func(c *Config) {
			c.CPUs, c.MemMiB, c.UUID, c.Args = 4, 1024, "u-u", []string{"-device", "i6300esb"}
		}), tap, []string{"-m 1024", "-smp 4", "-uuid u-u", "-device i6300esb"}, nil},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			cfg, err := c.cfg.check()
			if err != nil {
				t.Fatal(err)
			}
			got := " " + strings.Join(arguments(cfg, files{fw: fw, qmp: 3, nics: c.links}), " ") + " "
			for _, w := range c.want {
				if !strings.Contains(got, w+" ") {
					t.Errorf("arguments = %s\nwant %q in it", got, w)
				}
			}
			for _, n := range c.not {
				if strings.Contains(got, n) {
					t.Errorf("arguments = %s\nwant no %q", got, n)
				}
			}
		})
	}
}

func TestConfigCheck(t *testing.T) {
	good := Config{Name: "m", Dir: "/d", Firmware: UEFI}
	cases := map[string]struct {
		change func(*Config)
		want   string // in the error
	}{
		"good":               {func(*Config) {}, ""},
		"kernel from a disk": {func(c *Config) { c.Boot, c.Kernel = BootDisk, "/k" }, ""},
		"no name":            {func(c *Config) { c.Name = "" }, "machine name"},
		"path as name":       {func(c *Config) { c.Name = "../x" }, "machine name"},
		"no folder":          {func(c *Config) { c.Dir = "" }, "no folder"},
		"no firmware":        {func(c *Config) { c.Firmware = "" }, "want bios or uefi"},
		"BIOS and HTTP":      {func(c *Config) { c.Firmware, c.Boot = BIOS, BootHTTP }, "cannot boot by HTTP"},
		"no kernel":          {func(c *Config) { c.Initrd = "/i" }, "without a kernel"},
		"no disk":            {func(c *Config) { c.Boot = BootDisk }, "nothing to boot from"},
		"no CD":              {func(c *Config) { c.Boot = BootCD }, "nothing to boot from"},
		"no stick":           {func(c *Config) { c.Boot = BootUSB }, "nothing to boot from"},
		"BIOS, Secure Boot":  {func(c *Config) { c.Firmware, c.SecureBoot = BIOS, true }, "has no Secure Boot"},
		"certificate alone":  {func(c *Config) { c.Firmware, c.Cert = UEFI, []byte("x") }, "a certificate without Secure Boot"},
		"negative":           {func(c *Config) { c.MemMiB = -1 }, "negative"},
		"no MAC":             {func(c *Config) { c.NICs = []NIC{{}} }, "no MAC"},
		"group MAC":          {func(c *Config) { c.NICs = []NIC{{MAC: mac("01:00:5e:00:00:01")}} }, "no MAC"},
		"filter on nothing": {func(c *Config) {
			c.NICs = []NIC{{MAC: mac("52:54:00:00:00:01"), Filter: new(PlainROM).Filter}}
		}, "filter without a port"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			cfg := good
			c.change(&cfg)
			before := slices.Clone(cfg.NICs)
			_, err := cfg.check()
			if (c.want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("check() = %v, want %q", err, c.want)
			}
			if len(before) > 0 && before[0].Model != cfg.NICs[0].Model {
				t.Error("check changed the caller's network cards")
			}
		})
	}
}

func TestFindsFirmware(t *testing.T) {
	having := func(names ...string) statFunc {
		return func(name string) (fs.FileInfo, error) {
			if slices.Contains(names, name) {
				return nil, nil
			}
			return nil, os.ErrNotExist
		}
	}
	debian := ovmf{"/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"}
	fedora := ovmf{"/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"}
	if got, err := findOVMF(having(debian.code, debian.vars, fedora.code, fedora.vars), ovmfPlaces); err != nil || got != debian {
		t.Errorf("findOVMF() = %v, %v, want %v", got, err, debian)
	}
	if got, err := findOVMF(having(debian.code, fedora.code, fedora.vars), ovmfPlaces); err != nil || got != fedora {
		t.Errorf("findOVMF() without Debian's variables = %v, %v, want %v", got, err, fedora)
	}
	_, err := findOVMF(having(), ovmfPlaces)
	if m, ok := errors.AsType[*Missing](err); !ok || m.Package != "ovmf" || !strings.Contains(err.Error(), "apt-get install ovmf") {
		t.Errorf("findOVMF() with nothing = %v, want one that names the package ovmf", err)
	}
	if err := findROM(having("/usr/share/qemu/efi-e1000.rom"), "e1000"); err != nil {
		t.Errorf("findROM() = %v", err)
	}
	err = findROM(having(), defaultModel)
	if m, ok := errors.AsType[*Missing](err); !ok || m.Package != "ipxe-qemu" {
		t.Errorf("findROM() with nothing = %v, want one that names the package ipxe-qemu", err)
	}
	if err := findROM(having(), "ne2k_isa"); err != nil {
		t.Errorf("findROM() of an unknown model = %v, want none", err)
	}
}

func TestNoQEMU(t *testing.T) {
	t.Setenv("PATH", "/nonexistent")
	_, err := Start(Config{Name: "m", Dir: t.TempDir(), Firmware: BIOS})
	if m, ok := errors.AsType[*Missing](err); !ok || m.Package != "qemu-system-x86" {
		t.Errorf("Start() without QEMU = %v, want one that names the package", err)
	}
	if err := Installed(BIOS); err == nil {
		t.Error("Installed() without QEMU passed")
	}
}

func TestHasVirtualization(t *testing.T) {
	for text, want := range map[string]bool{
		"flags\t\t: fpu vmx sse\n": true, "flags : fpu svm\n": true, "flags\t\t: fpu sse\nvmx flags\t: vnmi\n": false, "bugs : vmx\n": false, "flags\t: vmxoff\n": false, "": false,
	} {
		if diff := cmp.Diff(want, hasVirtualization([]byte(text))); diff != "" {
			t.Errorf("hasVirtualization(%q) (-want +got):\n%s", text, diff)
		}
	}
}
