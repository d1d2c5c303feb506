package loop

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// Mount mounts the squashfs at image on target, read-only. The folder is made.
// The loop device is freed when the mount ends.
func Mount(image, target string) error {
	if err := os.MkdirAll(target, 0o755); err != nil {
		return fmt.Errorf("making the folder %s: %w", target, err)
	}
	dev, err := Attach(image)
	if err != nil {
		return err
	}
	defer dev.Close() // the mount keeps the device
	return MountDevice(dev.Name(), target)
}

// MountDevice mounts the squashfs on a block device on target, which is there, read-only.
func MountDevice(dev, target string) error {
	if err := unix.Mount(dev, target, "squashfs", unix.MS_RDONLY|unix.MS_NODEV|unix.MS_NOSUID, ""); err != nil {
		return fmt.Errorf("mounting %s on %s: %w", dev, target, err)
	}
	return nil
}

// Attach gives path a loop device, read-only, which is freed when its last
// user has gone: the caller closes it when another has it open.
func Attach(path string) (*os.File, error) {
	back, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("opening a loop device's file: %w", err)
	}
	defer back.Close()
	ctl, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("opening the loop control device: %w", err)
	}
	defer ctl.Close()
	for {
		n, err := unix.IoctlRetInt(int(ctl.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, fmt.Errorf("asking for a free loop device: %w", err)
		}
		dev, err := os.OpenFile(filepath.Join("/dev", "loop"+strconv.Itoa(n)), os.O_RDONLY, 0)
		if err != nil {
			return nil, fmt.Errorf("opening a loop device: %w", err)
		}
		cfg := unix.LoopConfig{
			Fd: uint32(back.Fd()),
			// The largest block that squashfs reads by default is fine
			// with any; the page size saves splitting.
			Size: uint32(os.Getpagesize()),
			Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_READ_ONLY | unix.LO_FLAGS_AUTOCLEAR},
		}
		err = unix.IoctlLoopConfigure(int(dev.Fd()), &cfg)
		if err == nil {
			return dev, nil
		}
		dev.Close()
		if !errors.Is(err, unix.EBUSY) { // somebody else took it: ask again
			return nil, fmt.Errorf("attaching %s to %s: %w", path, dev.Name(), err)
		}
	}
}
