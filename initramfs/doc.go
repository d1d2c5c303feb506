// Package initramfs turns a file tree in memory into the newc cpio archive that
// a Linux kernel unpacks before it starts its first program.
//
// A [Tree] (tree.go) holds files, directories and links with metadata that is
// set by the caller and never taken from the machine that builds. [WriteCPIO]
// (cpio.go) writes it, sorted; [WriteSegments] (segments.go) puts several
// archives behind each other the way the kernel expects them; [ReadCPIO]
// (read.go) reads the result back for checks. The u-root commands that an
// image may carry are in commands.go; program mkbb makes the one binary
// that holds them all.
//
// The tree serves package builder/squashfs too. A tree is not locked: build it
// in one goroutine, then any number may read it.
package initramfs
