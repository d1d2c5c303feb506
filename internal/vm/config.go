package vm

import (
	"fmt"
	"log/slog"
	"net"
	"regexp"
)

// Firmware is what a machine starts with.
type Firmware string

// The kinds of firmware: SeaBIOS and OVMF.
const (
	BIOS Firmware = "bios"
	UEFI Firmware = "uefi"
)

// Boot is what the firmware boots from.
type Boot string

// The ways to boot. BIOS knows no HTTP boot.
const (
	BootPXE  Boot = "pxe"
	BootHTTP Boot = "http"
	BootDisk Boot = "disk"
	BootCD   Boot = "cd"
	BootUSB  Boot = "usb"
)

// Config is a machine. Name, Dir and Firmware are required.
type Config struct {
	// Name is part of file names in Dir and of messages: letters, digits,
	// dots, dashes.
	Name string

	// Dir is an existing folder that gets NAME.console (what the serial
	// console said, as it came), NAME.qemu (what QEMU said) and NAME.vars
	// (the firmware's variables). They stay.
	Dir string

	Firmware Firmware
	Boot     Boot // "": PXE
	MemMiB   int  // 0: 512
	CPUs     int  // 0: 1
	UUID     string
	NICs     []NIC

	// Kernel, with Initrd and Append, is booted directly when set; the
	// firmware then looks at nothing else.
	Kernel, Initrd, Append string

	Disk  string // raw disk image, opened for writing; "": none
	CDROM string // ISO image; "": none
	USB   string // raw image of a USB stick, opened for writing; "": none

	// SecureBoot enforces it, with Microsoft's keys enrolled. UEFI only.
	SecureBoot bool

	// Cert is the certificate (DER) that is enrolled in place of Microsoft's: only
	// programs signed by its key start. It needs SecureBoot.
	Cert []byte

	// Accel is how the machine's code is run; the zero value emulates.
	// See [DetectAccel].
	Accel Accel

	// NoReboot ends QEMU where the machine would restart.
	NoReboot bool

	// Args are appended to QEMU's command line.
	Args []string

	// Line is called with each line of the serial console, without control
	// sequences, in order, by one goroutine. While it blocks, the machine
	// blocks when it writes. nil: nobody is told.
	Line func(line string)

	// Log gets the start and end. nil: no log.
	Log *slog.Logger
}

// NIC is a network card.
type NIC struct {
	Port  *Port            // where its cable goes; nil: nowhere
	MAC   net.HardwareAddr // required
	Model string           // of QEMU; "": virtio-net-pci

	// Filter sees and may change or drop (by returning nil) each frame that
	// the machine sends, before it reaches the port. It is called by one
	// goroutine and may keep the frame. nil: frames go as they are.
	Filter func(frame []byte) []byte
}

const (
	defaultMemMiB = 512
	defaultModel  = "virtio-net-pci"
)

var nameRule = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9.-]*$`)

// check returns cfg with its defaults, or what is wrong with it.
func (cfg Config) check() (Config, error) {
	if !nameRule.MatchString(cfg.Name) {
		return cfg, fmt.Errorf("machine name %q: want letters, digits, dots and dashes", cfg.Name)
	}
	fail := func(format string, args ...any) (Config, error) {
		return cfg, fmt.Errorf("machine "+cfg.Name+": "+format, args...)
	}
	if cfg.Boot == "" {
		cfg.Boot = BootPXE
	}
	if cfg.MemMiB == 0 {
		cfg.MemMiB = defaultMemMiB
	}
	if cfg.CPUs == 0 {
		cfg.CPUs = 1
	}
	switch {
	case cfg.Dir == "":
		return fail("no folder for its files")
	case cfg.Firmware != BIOS && cfg.Firmware != UEFI:
		return fail("firmware %q: want %s or %s", cfg.Firmware, BIOS, UEFI)
	case cfg.Firmware == BIOS && cfg.Boot == BootHTTP:
		return fail("a BIOS cannot boot by HTTP")
	case cfg.Kernel == "" && (cfg.Initrd != "" || cfg.Append != ""):
		return fail("an initramfs or command line without a kernel")
	case cfg.Kernel == "" && cfg.Boot == BootDisk && cfg.Disk == "", cfg.Kernel == "" && cfg.Boot == BootCD && cfg.CDROM == "",
		cfg.Kernel == "" && cfg.Boot == BootUSB && cfg.USB == "":
		return fail("nothing to boot from: no image for %s", cfg.Boot)
	case cfg.SecureBoot && cfg.Firmware != UEFI:
		return fail("a BIOS has no Secure Boot")
	case cfg.Cert != nil && !cfg.SecureBoot:
		return fail("a certificate without Secure Boot")
	case cfg.MemMiB < 0 || cfg.CPUs < 0:
		return fail("negative memory or CPUs")
	}
	cfg.NICs = append([]NIC(nil), cfg.NICs...)
	for i := range cfg.NICs {
		n := &cfg.NICs[i]
		if n.Model == "" {
			n.Model = defaultModel
		}
		if len(n.MAC) != 6 || n.MAC[0]&1 != 0 {
			return fail("network card %d: %q is no MAC of a machine", i, n.MAC)
		}
		if n.Filter != nil && n.Port == nil {
			return fail("network card %d: a filter without a port", i)
		}
	}
	return cfg, nil
}
