package boot

import (
	"errors"
	"fmt"
	"os"
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

// kernelRelease is what uname -r says.
func kernelRelease() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return ""
	}
	return unix.ByteSliceToString(u.Release[:])
}
