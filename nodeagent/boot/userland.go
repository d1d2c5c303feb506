package boot

import (
	"log/slog"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// userlandDir is where the agent mounts the userland. It has all modules of the
// kernel, where the initramfs has those that joining needs.
const userlandDir = runDir + "/userland"

// UserlandModules is the folder with all modules of each kernel release, once
// the userland is mounted.
const UserlandModules = userlandDir + "/usr/lib/modules"

// signalDevices asks PID 1 to look at all devices again.
const signalDevices = unix.SIGHUP

// UserlandMounted makes the drivers and the firmware of a userland that was just mounted
// on root known to the kernel and to PID 1.
func UserlandMounted(root string, log *slog.Logger) {
	firmware := filepath.Join(root, "usr/lib/firmware")
	if _, err := os.Stat(firmware); err == nil {
		// The kernel looks there first, and then where it did before.
		if err := os.WriteFile("/sys/module/firmware_class/parameters/path", []byte(firmware), 0); err != nil {
			log.Warn("the userland's firmware is not used", "err", err)
		}
	}
	if !hasIndex(moduleDir(UserlandModules)) {
		return
	}
	if err := unix.Kill(1, signalDevices); err != nil {
		log.Warn("the userland's drivers are not used", "err", err)
	}
}

// moduleDir is the folder of the running kernel's modules.
func moduleDir(dir string) string { return filepath.Join(dir, kernelRelease()) }

func hasIndex(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, "modules.dep"))
	return err == nil
}
