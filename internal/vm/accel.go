package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"syscall"
	"time"
)

// Accel is how the code of a machine is run.
type Accel struct {
	KVM    bool   // by the processor's virtualization; else emulated
	Reason string // why, for people
}

func (a Accel) argument() string {
	if a.KVM {
		return "kvm"
	}
	return "tcg,thread=multi"
}

// probeTime is how long the probe guest may take; with KVM it needs under a second.
const probeTime = 5 * time.Second

// DetectAccel finds out whether KVM works here, by booting a guest of one
// sector with it. A /dev/kvm that opens proves little: inside other virtual
// machines it may hang the first guest. It takes up to 5 seconds, at most
// once for a process is enough.
func DetectAccel(ctx context.Context) Accel {
	cpuinfo, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return Accel{Reason: err.Error()}
	}
	if !hasVirtualization(cpuinfo) {
		return Accel{Reason: "the processor offers no virtualization (neither vmx nor svm)"}
	}
	qemu, err := findQEMU()
	if err != nil {
		return Accel{Reason: err.Error()}
	}
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	if err := probeGuest(ctx, qemu, "kvm"); err != nil {
		return Accel{Reason: err.Error()}
	}
	return Accel{KVM: true, Reason: "a probe guest ran"}
}

var virtualizationFlag = regexp.MustCompile(`(?m)^flags\s*:.*\b(vmx|svm)\b`)

func hasVirtualization(cpuinfo []byte) bool { return virtualizationFlag.Match(cpuinfo) }

// probeStatus is QEMU's exit status when the probe guest wrote 0x10 to the
// debug exit port: twice the value, plus one.
const probeStatus = 0x10<<1 | 1

// probeDisk is a disk with a boot sector that writes 0x10 to port 0xf4. SeaBIOS
// does not boot a disk that is much smaller.
func probeDisk() []byte {
	sector := make([]byte, 1<<20)
	copy(sector, []byte{
		0xb0, 0x10, // mov al, 0x10
		0xe6, 0xf4, // out 0xf4, al
		0xf4,       // hlt
		0xeb, 0xfd, // jmp to hlt
	})
	sector[510], sector[511] = 0x55, 0xaa
	return sector
}

// probeGuest boots the probe disk with an accelerator.
func probeGuest(ctx context.Context, qemu, accel string) error {
	dir, err := os.MkdirTemp("", "muster-probe")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	disk := filepath.Join(dir, "disk")
	if err := os.WriteFile(disk, probeDisk(), 0o600); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, qemu, "-no-user-config", "-nodefaults", "-machine", "q35,graphics=off", "-accel", accel, "-cpu", "max",
		"-m", "64", "-display", "none", "-device", "isa-debug-exit,iobase=0xf4,iosize=4",
		"-drive", "if=none,id=d,format=raw,file="+escape(disk), "-device", "virtio-blk-pci,drive=d,bootindex=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("a probe guest with %s did not come up in time: %w", accel, ctx.Err())
	case errors.As(err, &exit) && exit.ExitCode() == probeStatus:
		return nil
	}
	return fmt.Errorf("a probe guest with %s did not run: %v: %s", accel, err, out)
}
