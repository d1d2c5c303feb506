package kmod

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// compressedFile is MODULE_INIT_COMPRESSED_FILE of linux/module.h: the kernel
// unpacks the file itself (5.17 and later, CONFIG_MODULE_DECOMPRESS).
const compressedFile = 4

// LinuxKernel is the running kernel.
type LinuxKernel struct {
	Sys string // where sysfs is; empty: /sys
}

// Loaded reads the state in sysfs. A module that is built in, still starting or
// going away is not loaded.
func (k LinuxKernel) Loaded(name string) bool {
	sys := k.Sys
	if sys == "" {
		sys = "/sys"
	}
	state, err := os.ReadFile(filepath.Join(sys, "module", name, "initstate"))
	return err == nil && strings.TrimSpace(string(state)) == "live"
}

// Insert calls finit_module, or init_module where the kernel has no
// finit_module or cannot read modules from the file system of the file.
func (LinuxKernel) Insert(file, params string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	return insert(f, file, params)
}

// InsertData loads a module that is in memory; file is its name.
func (LinuxKernel) InsertData(file string, data []byte, params string) error {
	fd, err := unix.MemfdCreate("module", unix.MFD_CLOEXEC)
	if err != nil {
		return fmt.Errorf("inserting %s: making memory for it: %w", file, err)
	}
	f := os.NewFile(uintptr(fd), file)
	defer f.Close()
	if _, err := f.Write(data); err != nil {
		return fmt.Errorf("inserting %s: %w", file, err)
	}
	return insert(f, file, params)
}

// insert loads the module in f, whose name is file.
func insert(f *os.File, file, params string) error {
	flags := 0
	if filepath.Ext(file) != ".ko" {
		flags = compressedFile
	}
	err := unix.FinitModule(int(f.Fd()), params, flags)
	switch {
	case err == nil:
		return nil
	case flags == 0 && (errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EOPNOTSUPP)):
		return initModule(f, file, params)
	case flags != 0 && (errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP)):
		return fmt.Errorf("inserting %s: this kernel does not unpack modules; store them as .ko: %w", file, err)
	}
	return insertError(file, err)
}

func initModule(f *os.File, file, params string) error {
	st, err := f.Stat()
	if err != nil {
		return err
	}
	image := make([]byte, st.Size())
	if _, err := f.ReadAt(image, 0); err != nil {
		return err
	}
	if err := unix.InitModule(image, params); err != nil {
		return insertError(file, err)
	}
	return nil
}

// insertError says what the kernel means by the errors it gives here.
func insertError(file string, err error) error {
	hint := ""
	switch {
	case errors.Is(err, unix.ENOENT):
		hint = " (it needs a symbol that no loaded module has, or has an unknown parameter; see dmesg)"
	case errors.Is(err, unix.ENOEXEC):
		hint = " (it is no module for this kernel)"
	case errors.Is(err, unix.EKEYREJECTED):
		hint = " (its signature is not trusted and Secure Boot asks for one)"
	case errors.Is(err, unix.EPERM):
		hint = " (needs root and a kernel that allows loading)"
	}
	return fmt.Errorf("inserting %s: %w%s", file, err, hint)
}
