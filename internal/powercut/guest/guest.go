package guest

import (
	"context"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"
)

// device is the disk, and Disk is where it is mounted, with options.
const (
	device = "/dev/nvme0n1"
	Disk   = "/disk"

	// options: QEMU's NVMe disk (7.2) says that it can write past its cache
	// and then does not. By default ext4's journal ends each transaction so,
	// and the last one would be lost; with these it flushes the cache.
	options = "data=writeback,journal_async_commit"
)

// Patience is how long anything may take at the start.
const Patience = 2 * time.Minute

// Main mounts the disk and runs the program, which has the words of the
// kernel's command line as its arguments. When that returns, the machine is
// switched off.
func Main(run func(ctx context.Context, args []string) error) {
	if err := start(run); err != nil {
		fmt.Println("guest: error:", err)
	}
	_ = syscall.Reboot(syscall.LINUX_REBOOT_CMD_POWER_OFF) // the console said why
}

func start(run func(ctx context.Context, args []string) error) error {
	ctx := context.Background()
	for _, m := range [][2]string{{"devtmpfs", "/dev"}, {"proc", "/proc"}, {"sysfs", "/sys"}, {"tmpfs", "/tmp"}} {
		if err := syscall.Mount(m[0], m[1], m[0], 0, ""); err != nil {
			return fmt.Errorf("mounting %s: %w", m[1], err)
		}
	}
	// The kernel looks for disks while the first program runs already.
	if err := Retry(ctx, func() error { return syscall.Mount(device, Disk, "ext4", 0, options) }); err != nil {
		return fmt.Errorf("mounting %s: %w", device, err)
	}
	cmdline, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return err
	}
	return run(ctx, strings.Fields(string(cmdline)))
}

// Kept says that something is there at the start.
func Kept(what string) { fmt.Printf("guest: kept %s\n", what) }

// Started says that everything was named that is there at the start.
func Started() { fmt.Println("guest: started") }

// Acknowledged says that something was acknowledged.
func Acknowledged(what string) { fmt.Printf("guest: acknowledged %s\n", what) }

// Retry calls f until it succeeds, [Patience] is over or ctx is done, and
// returns its last error.
func Retry(ctx context.Context, f func() error) error {
	ctx, cancel := context.WithTimeout(ctx, Patience)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f()
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return err
		}
	}
}
