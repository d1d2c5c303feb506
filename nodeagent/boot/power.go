package boot

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// initMark is there while PID 1 is [Init], so that an agent
	// on another kind of system does not ask its PID 1 for a reboot.
	initMark = "/run/muster/init"

	stopGrace = 5 * time.Second  // between TERM and KILL
	syncGrace = 10 * time.Second // for unmounting and writing back
)

// ErrNotInit says that PID 1 of this system is not muster's.
var ErrNotInit = errors.New("the machine was not started by muster")

// Owned says whether PID 1 of this system is muster's, so that network,
// clock, host name and consoles are the agent's to handle.
func Owned() bool {
	_, err := os.Stat(initMark)
	return err == nil
}

// Reboot asks PID 1 to end everything and start the machine again. It returns
// at once; ErrNotInit means that nothing was done.
func Reboot() error { return askInit(unix.SIGTERM) }

// PowerOff asks PID 1 to end everything and switch the machine off.
func PowerOff() error { return askInit(unix.SIGUSR2) }

func askInit(sig unix.Signal) error {
	if !Owned() {
		return ErrNotInit
	}
	if err := unix.Kill(1, sig); err != nil {
		return fmt.Errorf("asking PID 1: %w", err)
	}
	return nil
}

// shutdown ends every process, unmounts what can be lost, and calls reboot(2).
// It returns only if the kernel refuses.
func shutdown(r *reaper, cmd int, log *slog.Logger) error {
	ctx, cancel := context.WithTimeout(context.Background(), stopGrace)
	defer cancel()
	unix.Kill(-1, unix.SIGTERM) //nolint:errcheck // ESRCH: nobody is left
	for r.reap() && wait(ctx, 20*time.Millisecond) {
	}
	unix.Kill(-1, unix.SIGKILL) //nolint:errcheck
	r.reap()

	// A dead file server must not keep the machine from going down.
	done := make(chan struct{})
	go func() {
		defer close(done)
		mounts, _ := os.ReadFile("/proc/self/mounts")
		for _, target := range realMounts(mounts) {
			unix.Unmount(target, unix.MNT_DETACH) //nolint:errcheck
		}
		unix.Sync()
	}()
	select {
	case <-done:
	case <-time.After(syncGrace):
		log.Error("gave up writing back", "dur", syncGrace)
	}
	if cmd == unix.LINUX_REBOOT_CMD_KEXEC {
		// Everything has ended: without the other kernel it starts from its medium again.
		log.Error("the loaded kernel was not started", "err", unix.Reboot(cmd))
		cmd = unix.LINUX_REBOOT_CMD_RESTART
	}
	return unix.Reboot(cmd)
}

// realMounts picks from /proc/self/mounts what holds data outside of this
// machine's memory, the last mounted first.
func realMounts(table []byte) []string {
	pseudo := []string{
		"rootfs", "proc", "sysfs", "devtmpfs", "tmpfs", "ramfs", "devpts", "cgroup2",
		"securityfs", "efivarfs", "bpf", "squashfs", "overlay", "mqueue", "debugfs", "tracefs", "nsfs",
	}
	var targets []string
	sc := bufio.NewScanner(bytes.NewReader(table))
	for sc.Scan() {
		f := strings.Fields(sc.Text())
		if len(f) < 3 || slices.Contains(pseudo, f[2]) {
			continue
		}
		targets = append(targets, unescapeMount(f[1]))
	}
	slices.Reverse(targets)
	return targets
}

// unescapeMount undoes the octal escapes of /proc/self/mounts.
func unescapeMount(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}
