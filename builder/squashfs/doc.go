// Package squashfs writes squashfs 4.0 images with zstd compression.
//
// The same tree and options give the same bytes, on any number of CPUs: the
// contents are packed in parallel, but written in an order that follows from the
// tree (order.go). It needs no root, no loop device and no mksquashfs. Call [Write]
// (write.go); the parts of the format are blocks of file content (data.go), metadata
// blocks (meta.go), inodes (inode.go), directories (dir.go) and extended attributes
// (xattr.go).
//
// Nothing in the package is shared between calls.
package squashfs
