package boot

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// leaveRootfs gives PID 1, and with it the kernel's threads and
// everything that is started from now on, a root that is an ordinary mount.
//
// The kernel's first root has no parent mount: pivot_root(2) refuses it (a
// task's sandbox needs that call) and criu cannot describe what is based on
// it. The usual way out copies everything to a new tmpfs and deletes the
// old files, which takes time and, for a while, the memory twice. A bind
// mount of the same tree, moved over the old root, is as good a root and
// copies nothing. Nothing may be mounted yet: a bind mount does not
// bring the mounts below it along.
func leaveRootfs(over string) error {
	if err := unix.Mount("/", over, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("binding the root to %s: %w", over, err)
	}
	if err := unix.Chdir(over); err != nil {
		return fmt.Errorf("entering the new root: %w", err)
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("moving the new root over the old one: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("changing to the new root: %w", err)
	}
	return unix.Chdir("/")
}
