package vm

import (
	"fmt"
	"strconv"
	"strings"
)

// files are descriptors and paths that a machine's command line names.
type files struct {
	fw   ovmf   // code as installed, vars as copied for this machine
	qmp  int    // descriptor of the QMP socket in QEMU
	nics []link // one for each network card
}

// link is how a network card is connected.
type link struct {
	fd     int  // descriptor in QEMU; 0: not connected
	stream bool // it is a stream socket to the relay, not a tap
}

// arguments returns QEMU's command line for a checked cfg.
func arguments(cfg Config, f files) []string {
	args := []string{
		"-name", cfg.Name,
		"-no-user-config", "-nodefaults",
		// Without graphics SeaBIOS, and with it the boot ROM, writes to the
		// serial port.
		"-machine", cfg.machine(),
		"-accel", cfg.Accel.argument(),
		"-cpu", "max",
		"-m", strconv.Itoa(cfg.MemMiB),
		"-smp", strconv.Itoa(cfg.CPUs),
		"-display", "none",
		"-chardev", "stdio,id=console,signal=off",
		"-serial", "chardev:console",
		"-chardev", fmt.Sprintf("socket,id=qmp,fd=%d", f.qmp),
		"-mon", "chardev=qmp,mode=control",
		// Without it a guest waits for entropy at its first key.
		"-device", "virtio-rng-pci",
	}
	if cfg.UUID != "" {
		args = append(args, "-uuid", cfg.UUID)
	}
	if cfg.NoReboot {
		args = append(args, "-no-reboot")
	}
	if cfg.Firmware == UEFI {
		args = append(args, uefiArguments(cfg.Boot, f.fw)...)
	} else {
		args = append(args, "-boot", "strict=on")
	}
	if cfg.Kernel != "" {
		args = append(args, "-kernel", cfg.Kernel)
		if cfg.Initrd != "" {
			args = append(args, "-initrd", cfg.Initrd)
		}
		if cfg.Append != "" {
			args = append(args, "-append", cfg.Append)
		}
	}
	if cfg.Disk != "" {
		args = append(args, "-drive", "if=none,id=disk,format=raw,cache=unsafe,file="+escape(cfg.Disk),
			"-device", "virtio-blk-pci,drive=disk"+bootIndex(cfg.Boot == BootDisk, 0))
	}
	if cfg.CDROM != "" {
		args = append(args, "-drive", "if=none,id=cd,format=raw,media=cdrom,readonly=on,file="+escape(cfg.CDROM),
			"-device", "ide-cd,drive=cd"+bootIndex(cfg.Boot == BootCD, 0))
	}
	if cfg.USB != "" {
		args = append(args, "-device", "qemu-xhci,id=xhci", "-drive", "if=none,id=stick,format=raw,cache=unsafe,file="+escape(cfg.USB),
			"-device", "usb-storage,id="+stickID+",bus=xhci.0,drive=stick,removable=on"+bootIndex(cfg.Boot == BootUSB, 0))
	}
	if cfg.SecureBoot {
		// Variables can be changed by the firmware only, in system management mode.
		args = append(args, "-global", "driver=cfi.pflash01,property=secure,value=on", "-global", "ICH9-LPC.disable_s3=1")
	}
	for i, n := range cfg.NICs {
		args = append(args, nicArguments(cfg, i, n, f.nics[i])...)
	}
	return append(args, cfg.Args...)
}

// stickID is how the USB stick is called when it is pulled.
const stickID = "usb-stick"

// machine is the kind of machine.
func (cfg Config) machine() string {
	if cfg.SecureBoot {
		return "q35,graphics=off,smm=on"
	}
	return "q35,graphics=off"
}

// uefiArguments give the flash with the firmware, and choose the kind of
// network boot. OVMF would try PXE over IPv4 and IPv6, then HTTP, each for
// more than a minute.
func uefiArguments(boot Boot, fw ovmf) []string {
	args := []string{
		"-drive", "if=pflash,unit=0,format=raw,readonly=on,file=" + escape(fw.code),
		"-drive", "if=pflash,unit=1,format=raw,file=" + escape(fw.vars),
		"-fw_cfg", "name=opt/org.tianocore/IPv6PXESupport,string=no",
	}
	if boot == BootHTTP {
		args = append(args, "-fw_cfg", "name=opt/org.tianocore/IPv4PXESupport,string=no")
	}
	return args
}

func nicArguments(cfg Config, i int, n NIC, l link) []string {
	id := "net" + strconv.Itoa(i)
	device := fmt.Sprintf("%s,mac=%s", n.Model, n.MAC)
	var args []string
	switch {
	case l.fd == 0:
	case l.stream:
		args = append(args, "-netdev", fmt.Sprintf("socket,id=%s,fd=%d", id, l.fd))
		device += ",netdev=" + id
	default:
		args = append(args, "-netdev", fmt.Sprintf("tap,id=%s,fd=%d", id, l.fd))
		device += ",netdev=" + id
	}
	if cfg.Firmware == UEFI && n.Model == defaultModel {
		// OVMF has a driver of its own for this card; the ROM would put
		// iPXE in its place.
		device += ",romfile="
	}
	network := cfg.Boot == BootPXE || cfg.Boot == BootHTTP
	return append(args, "-device", device+bootIndex(network && cfg.Kernel == "", i))
}

func bootIndex(wanted bool, i int) string {
	if !wanted {
		return ""
	}
	return ",bootindex=" + strconv.Itoa(i+1)
}

// escape doubles commas, which separate options.
func escape(path string) string { return strings.ReplaceAll(path, ",", ",,") }
