package boot

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Paths of the initramfs, see docs/initramfs.md.
const (
	earlyList   = "/etc/muster/early"
	filesList   = "/etc/muster/files"
	imageFile   = "/etc/muster/image"
	runtimeFile = "/etc/muster/runtime"
	moduleImage = "/modules.sqfs"
)

// earlyModule is a line of /etc/muster/early.
type earlyModule struct{ path, params string }

func parseEarly(text string) []earlyModule {
	var list []earlyModule
	for line := range strings.Lines(text) {
		path, params, _ := strings.Cut(strings.TrimSpace(line), " ")
		if path != "" {
			list = append(list, earlyModule{path, strings.TrimSpace(params)})
		}
	}
	return list
}

// loadEarly loads the modules without which the module image cannot be
// mounted, in the order of the list.
func loadEarly() error {
	text, err := os.ReadFile(earlyList)
	if err != nil {
		return fmt.Errorf("reading the list of early modules: %w", err)
	}
	var errs []error
	for _, m := range parseEarly(string(text)) {
		if err := insertModule(m.path, m.params); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func insertModule(path, params string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("opening an early module: %w", err)
	}
	defer f.Close()
	if err := unix.FinitModule(int(f.Fd()), params, 0); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("loading %s: %w", path, err)
	}
	return nil
}

// mountModules mounts the squashfs at image on target.
func mountModules(image, target string) error {
	if err := os.MkdirAll(target, 0o755); err != nil {
		return fmt.Errorf("making the folder for modules: %w", err)
	}
	dev, err := attachLoop(image)
	if err != nil {
		return err
	}
	defer dev.Close() // the mount keeps the device
	if err := unix.Mount(dev.Name(), target, "squashfs", unix.MS_RDONLY|unix.MS_NODEV|unix.MS_NOSUID, ""); err != nil {
		return fmt.Errorf("mounting %s on %s: %w", image, target, err)
	}
	return nil
}

// attachLoop gives path a loop device, read-only, which is freed when its last
// user has gone.
func attachLoop(path string) (*os.File, error) {
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

// kernelRelease is what uname -r says.
func kernelRelease() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return ""
	}
	return unix.ByteSliceToString(u.Release[:])
}
