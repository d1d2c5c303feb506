// Package kmod knows the kernel modules of one kernel: which there are, what
// needs what, which aliases a device has, and how a module is loaded.
//
// An [Index] (index.go) is what depmod writes: modules.dep, modules.alias,
// modules.softdep and modules.builtin, in kmod's text formats, read by
// [Read] and written by [Index.Files] (format.go). The builder asks it for
// closures (closure.go); PID 1 of a node loads modules through a [Loader]
// (load_linux.go), also when the kernel calls /sbin/modprobe.
//
// The agent links this package, so it imports the standard library and
// golang.org/x/sys only. Reading modules themselves, packed or not, is in package
// depmod below it, which only the builder links.
//
// An Index is not changed after it was made and may be used from any goroutine,
// as may a Loader.
package kmod
