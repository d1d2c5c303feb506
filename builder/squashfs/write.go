package squashfs

import (
	"io"
	"time"

	"muster/initramfs"
)

// Level says how hard zstd tries.
type Level uint8

// The levels, with the size of a root of Debian packages and the CPU time for it
// compared with Fast.
const (
	Fast Level = iota // for development and tests
	Better
	Best // smallest, for releases
)

// Options says how an image is written. The zero value is usable.
type Options struct {
	BlockSize int       // a power of two from 4 KiB to 1 MiB; 0: 128 KiB
	Level     Level     // of compression
	Time      time.Time // of the image; zero: the time of the tree
	Workers   int       // goroutines that pack; 0: one per CPU
}

// Stats tells what was written.
type Stats struct {
	Size      int64 // bytes of the image, a multiple of 4096
	Inodes    int
	Files     int
	DataBytes int64 // of all files, before packing
	Blocks    int   // full data blocks
	Fragments int   // blocks of file ends
}

// Write writes t as one squashfs image that begins at offset 0 of w. It writes
// the superblock last, so that an image that was cut short cannot be mounted.
//
// Hard links become one inode. Open of several entries is called at the same
// time.
func Write(w io.WriterAt, t *initramfs.Tree, o Options) (Stats, error) {
	panic("not yet written")
}
