package boot

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"muster/api"
	"muster/internal/kmod"
)

// ReadSetup returns what the image below root asks of its node beside joining. An image
// that asks for nothing has no such file.
func ReadSetup(root string) (api.NodeSetup, error) {
	var s api.NodeSetup
	b, err := os.ReadFile(filepath.Join(root, api.NodeFile))
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return s, fmt.Errorf("reading what the node shall do: %w", err)
	}
	if err := json.Unmarshal(b, &s); err != nil {
		return s, fmt.Errorf("reading %s: %w", api.NodeFile, err)
	}
	return s, nil
}

// applySysctls makes the settings below dir, which is /proc/sys. It returns those whose
// name the kernel does not know, or not yet: a module may bring it.
func applySysctls(dir string, all []api.NodeSysctl) (unknown []api.NodeSysctl, errs []error) {
	for _, s := range all {
		err := applySysctl(dir, s)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			unknown = append(unknown, s)
		case err != nil:
			errs = append(errs, err)
		}
	}
	return unknown, errs
}

func applySysctl(dir string, s api.NodeSysctl) error {
	name := strings.NewReplacer(".", "/", "/", ".").Replace(s.Name)
	if !filepath.IsLocal(name) {
		return fmt.Errorf("setting %s: it is no name of a setting", s.Name)
	}
	f, err := os.OpenFile(filepath.Join(dir, name), os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("setting %s: %w", s.Name, err)
	}
	_, err = f.WriteString(s.Value + "\n") // without the newline some are refused
	if err = errors.Join(err, f.Close()); err == nil {
		return nil
	}
	hint := ""
	if errors.Is(err, unix.EINVAL) {
		hint = "; this kernel takes another value"
	}
	var number unix.Errno
	if errors.As(err, &number) {
		err = number
	}
	return fmt.Errorf("setting %s to %s: %w%s", s.Name, s.Value, err, hint)
}

// ModuleConf is what the image and the kernel command line say about modules, of which
// the latter counts more.
func ModuleConf(root string) (kmod.Conf, error) {
	conf, err := kmod.ReadConf(os.DirFS(root), "etc/modprobe.d")
	cmdline, _ := os.ReadFile(filepath.Join(root, "proc/cmdline")) // without it there are no parameters
	return conf.Merge(kmod.ParseCmdline(string(cmdline))), err
}
