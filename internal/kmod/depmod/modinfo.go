package depmod

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"muster/internal/kmod"
)

// Info is what a module says of itself.
type Info struct {
	Path     string // relative to /lib/modules/RELEASE, as the caller gave it
	Name     string // as the kernel knows it, with _
	Depends  []string
	Aliases  []string
	Softdeps []string // "pre: a b post: c"
	Firmware []string // files below /lib/firmware
	Params   []string // names of its parameters
	Vermagic string
}

// ErrNotModule is wrapped by errors about files that are no kernel modules.
var ErrNotModule = errors.New("not a kernel module")

// maxModinfo bounds the section that is read. The longest in Debian's kernels
// has 200 kB.
const maxModinfo = 16 << 20

// Parse reads the ELF file of a module. path is kept in the result and gives
// the name where the module itself has none.
func Parse(path string, ko io.ReaderAt) (Info, error) {
	info, err := parse(path, ko)
	if err != nil {
		return Info{}, fmt.Errorf("reading module %s: %w", path, err)
	}
	return info, nil
}

func parse(path string, ko io.ReaderAt) (info Info, err error) {
	f, err := elf.NewFile(ko)
	if err != nil {
		return Info{}, fmt.Errorf("%w: %w", ErrNotModule, err)
	}
	defer f.Close()
	section := f.Section(".modinfo")
	if section == nil {
		return Info{}, fmt.Errorf("%w: it has no .modinfo section", ErrNotModule)
	}
	if section.Type == elf.SHT_NOBITS || section.Size > maxModinfo {
		return Info{}, fmt.Errorf("%w: its .modinfo section has type %v and %d bytes", ErrNotModule, section.Type, section.Size)
	}
	data, err := section.Data()
	if err != nil {
		return Info{}, fmt.Errorf("%w: its .modinfo section: %w", ErrNotModule, err)
	}
	return ParseModinfo(path, data), nil
}

// ParseModinfo reads the content of a .modinfo section: entries "key=value"
// that end in a zero byte.
func ParseModinfo(path string, section []byte) Info {
	info := Info{Path: path, Name: kmod.Name(path)}
	for entry := range bytes.SplitSeq(section, []byte{0}) {
		key, value, ok := strings.Cut(string(entry), "=")
		if !ok {
			continue
		}
		switch key {
		case "name":
			info.Name = kmod.Name(value)
		case "depends":
			info.Depends = append(info.Depends, splitDepends(value)...)
		case "alias":
			info.Aliases = append(info.Aliases, value)
		case "softdep":
			info.Softdeps = append(info.Softdeps, value)
		case "firmware":
			info.Firmware = append(info.Firmware, value)
		case "vermagic":
			info.Vermagic = value
		case "parmtype", "parm": // some parameters have only a type, others only a description
			if name, _, ok := strings.Cut(value, ":"); ok && !slices.Contains(info.Params, name) {
				info.Params = append(info.Params, name)
			}
		}
	}
	return info
}

func splitDepends(value string) []string {
	var names []string
	for name := range strings.SplitSeq(value, ",") {
		if name = strings.TrimSpace(name); name != "" {
			names = append(names, kmod.Name(name))
		}
	}
	return names
}
