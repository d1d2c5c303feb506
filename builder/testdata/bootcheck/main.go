// Bootcheck is an /init that does with an initramfs what docs/initramfs.md says, tells
// on the console what it found, and turns the machine off.
package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"muster/internal/kmod"

	"golang.org/x/sys/unix"
)

func main() {
	if err := run(); err != nil {
		fmt.Println("BOOTCHECK FAIL:", err)
	}
	fmt.Println("BOOTCHECK END")
	unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

func run() error {
	for _, m := range [][3]string{{"proc", "/proc", "proc"}, {"sysfs", "/sys", "sysfs"}, {"devtmpfs", "/dev", "devtmpfs"}} {
		if err := unix.Mount(m[0], m[1], m[2], 0, ""); err != nil {
			return fmt.Errorf("mounting %s: %w", m[1], err)
		}
	}
	if err := checkFiles(); err != nil {
		return err
	}
	dir, err := mountModules()
	if err != nil {
		return err
	}
	return loadAll(dir)
}

func checkFiles() error {
	text, err := os.ReadFile("/etc/muster/files")
	if err != nil {
		return err
	}
	n := 0
	for line := range strings.Lines(string(text)) {
		var size int64
		var name string
		if _, err := fmt.Sscan(line, &size, &name); err != nil {
			return fmt.Errorf("%q: %w", line, err)
		}
		fi, err := os.Stat(name)
		if err != nil {
			return err
		}
		if fi.Size() != size {
			return fmt.Errorf("%s has %d bytes, want %d", name, fi.Size(), size)
		}
		n++
	}
	image, err := os.ReadFile("/etc/muster/image")
	fmt.Printf("BOOTCHECK files %d image %s\n", n, strings.TrimSpace(string(image)))
	return err
}

func mountModules() (dir string, err error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "", err
	}
	dir = filepath.Join("/lib/modules", unix.ByteSliceToString(u.Release[:]))
	early, err := os.ReadFile("/etc/muster/early")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(early)) {
		if err := (kmod.LinuxKernel{}).Insert(strings.TrimSpace(line), ""); err != nil && !errors.Is(err, fs.ErrExist) {
			return "", err
		}
	}
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return "", err
	}
	n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
	if err != nil {
		return "", err
	}
	loop, err := os.OpenFile(fmt.Sprintf("/dev/loop%d", n), os.O_RDWR, 0)
	if err != nil {
		return "", err
	}
	image, err := os.Open("/modules.sqfs")
	if err != nil {
		return "", err
	}
	if err := unix.IoctlSetInt(int(loop.Fd()), unix.LOOP_SET_FD, int(image.Fd())); err != nil {
		return "", err
	}
	return dir, unix.Mount(loop.Name(), dir, "squashfs", unix.MS_RDONLY, "")
}

// loadAll loads every module of the image that a machine can load without its
// device.
func loadAll(dir string) error {
	loader, err := kmod.NewLoader(kmod.LoaderConfig{Dir: dir})
	if err != nil {
		return err
	}
	var loaded, refused int
	for m := range loader.Index().All() {
		err := loader.Load(m.Name)
		switch {
		case err == nil:
			loaded++
		case errors.Is(err, unix.ENODEV), errors.Is(err, unix.EBUSY), errors.Is(err, unix.EIO):
			refused++ // it found no device it is for
		default:
			return fmt.Errorf("module %s: %w", m.Name, err)
		}
	}
	links, err := os.ReadDir("/sys/class/net")
	var names []string
	for _, l := range links {
		names = append(names, l.Name())
	}
	fmt.Printf("BOOTCHECK modules loaded %d without device %d links %s\n", loaded, refused, strings.Join(names, " "))
	return err
}
