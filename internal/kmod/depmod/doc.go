// Package depmod reads kernel modules and makes the index that package kmod
// works with, as depmod(8) does.
//
// [Unpack] gives the ELF file of a module that may be packed, [Parse] reads what
// it says of itself (its .modinfo section), [Build] ties all modules of a kernel
// together. It works on bytes, needs no root and no kmod. Only the builder links
// it: it brings ELF, xz and zstd readers that a node has no use for.
//
// All functions may be called from any goroutine; a [Set] is not changed after it
// was built.
package depmod
