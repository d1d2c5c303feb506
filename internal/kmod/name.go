package kmod

import (
	"path"
	"strings"
)

// Name returns the name of the module in a file, or of a module that a person
// wrote: without folder and suffixes (.ko, .ko.xz, .ko.zst, .ko.gz), with every -
// as _. The kernel knows modules by such names only, while file names are mixed
// (nls_iso8859-1.ko).
func Name(file string) string {
	base := path.Base(file)
	if i := strings.LastIndex(base, ".ko"); i > 0 && isModuleSuffix(base[i:]) {
		base = base[:i]
	}
	return strings.ReplaceAll(base, "-", "_")
}

// IsModuleFile says whether a file name is that of a module, packed or not.
func IsModuleFile(file string) bool {
	base := path.Base(file)
	i := strings.LastIndex(base, ".ko")
	return i > 0 && isModuleSuffix(base[i:])
}

func isModuleSuffix(s string) bool {
	switch s {
	case ".ko", ".ko.xz", ".ko.zst", ".ko.gz":
		return true
	}
	return false
}
