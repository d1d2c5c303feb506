package boot

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// mounter is the part of mount(2) that PID 1 uses.
type mounter interface {
	mount(source, target, fstype string, flags uintptr, data string) error
}

// kernelMounter asks the kernel.
type kernelMounter struct{}

func (kernelMounter) mount(source, target, fstype string, flags uintptr, data string) error {
	if err := unix.Mount(source, target, fstype, flags, data); err != nil {
		return fmt.Errorf("mounting %s on %s: %w", fstype, target, err)
	}
	return nil
}

// pseudoMount is a file system that needs no device.
type pseudoMount struct {
	fstype, target string
	flags          uintptr
	data           string
	needed         bool // its absence is a problem worth telling
}

const noSuidDevExec = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC

// pseudoMounts is in the order of mounting. /run and /tmp are given sizes so
// that a runaway program cannot take the memory of the whole machine; what
// is not written costs nothing.
var pseudoMounts = [...]pseudoMount{
	{"proc", "/proc", noSuidDevExec, "", true},
	{"sysfs", "/sys", noSuidDevExec, "", true},
	{"devtmpfs", "/dev", unix.MS_NOSUID | unix.MS_NOEXEC, "mode=0755", true},
	{"tmpfs", "/run", unix.MS_NOSUID | unix.MS_NODEV, "mode=0755,size=50%", true},
	{"tmpfs", "/tmp", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777,size=50%", true},
	{"devpts", "/dev/pts", unix.MS_NOSUID | unix.MS_NOEXEC, "ptmxmode=0666,mode=0620,gid=5", true},
	{"tmpfs", "/dev/shm", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777", true},
	{"cgroup2", "/sys/fs/cgroup", noSuidDevExec, "nsdelegate,memory_recursiveprot", true},
	{"securityfs", "/sys/kernel/security", noSuidDevExec, "", false},
	{"efivarfs", "/sys/firmware/efi/efivars", noSuidDevExec, "", false},
	{"bpf", "/sys/fs/bpf", noSuidDevExec, "mode=0700", false},
}

// mountPseudo mounts the pseudo file systems below root and returns what went
// wrong with the needed ones. One that is mounted already is left alone.
func mountPseudo(m mounter, root string) []error {
	var errs []error
	for _, p := range pseudoMounts {
		target := filepath.Join(root, p.target)
		// Below /sys a folder is the kernel's to make: where there is none,
		// it has no such file system.
		if strings.HasPrefix(p.target, "/sys/") {
			if _, err := os.Stat(target); err != nil {
				if p.needed {
					errs = append(errs, fmt.Errorf("mounting %s: %w", p.fstype, err))
				}
				continue
			}
		} else if err := os.MkdirAll(target, 0o755); err != nil {
			errs = append(errs, fmt.Errorf("mounting %s: %w", p.fstype, err))
			continue
		}
		err := m.mount(p.fstype, target, p.fstype, p.flags, p.data)
		if err != nil && p.needed && !errors.Is(err, unix.EBUSY) {
			errs = append(errs, err)
		}
	}
	return errs
}

// linkDev makes the links in /dev that programs expect and devtmpfs lacks.
func linkDev(root string) []error {
	var errs []error
	for _, l := range [...]struct{ name, target string }{
		{"fd", "/proc/self/fd"},
		{"stdin", "/proc/self/fd/0"},
		{"stdout", "/proc/self/fd/1"},
		{"stderr", "/proc/self/fd/2"},
	} {
		if err := os.Symlink(l.target, filepath.Join(root, "dev", l.name)); err != nil && !errors.Is(err, os.ErrExist) {
			errs = append(errs, err)
		}
	}
	return errs
}

// delegateControllers lets groups below the root cgroup use every controller
// that the kernel has.
func delegateControllers(cgroupRoot string) error {
	list, err := os.ReadFile(filepath.Join(cgroupRoot, "cgroup.controllers"))
	if err != nil {
		return fmt.Errorf("reading the cgroup controllers: %w", err)
	}
	var errs []error
	for _, name := range strings.Fields(string(list)) {
		// One at a time: a controller that refuses must not keep the others.
		err := os.WriteFile(filepath.Join(cgroupRoot, "cgroup.subtree_control"), []byte("+"+name), 0)
		if err != nil {
			errs = append(errs, fmt.Errorf("enabling cgroup controller %s: %w", name, err))
		}
	}
	return errors.Join(errs...)
}
