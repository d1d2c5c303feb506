package squashfs

import (
	"encoding/binary"
	"math"

	"muster/initramfs"
)

const (
	dirHeaderSize = 12
	dirEntrySize  = 8 // before the name

	// maxRun is how many entries may follow one header.
	maxRun = 256

	// maxIndex is how many index entries an inode can count.
	maxIndex = math.MaxUint16
)

// indexEntry says where in a large directory the names from name on are, so
// that the kernel need not read all of it to find one.
type indexEntry struct {
	offset int // of a header, in the listing
	block  int // metadata block that the header is in
	name   string
}

// listing writes the entries of n in runs: a header and entries whose inodes are
// in one metadata block and near each other in number. A run ends with its
// metadata block, and the first run in each further block gets an index entry.
func (w *inodeWriter) listing(n *node) (size int, index []indexEntry) {
	first, _ := w.dirs.pos()
	indexed := first
	for rest := n.entries; len(rest) > 0; {
		block, offset := w.dirs.pos()
		if block != indexed && len(index) < maxIndex {
			index = append(index, indexEntry{size, block, rest[0].name})
			indexed = block
		}
		run := nextRun(rest, offset)
		b := encodeRun(run)
		w.dirs.write(b)
		size += len(b)
		rest = rest[len(run):]
	}
	return size, index
}

// nextRun returns the longest run that entries begin with, when its header is
// written at offset of a metadata block.
func nextRun(entries []dirEntry, offset int) []dirEntry {
	first := entries[0].node
	end := offset + dirHeaderSize
	for i, e := range entries {
		diff := int64(e.node.num) - int64(first.num)
		near := math.MinInt16 <= diff && diff <= math.MaxInt16
		if i == maxRun || e.node.ref>>16 != first.ref>>16 || !near || i > 0 && end >= metaSize {
			return entries[:i]
		}
		end += dirEntrySize + len(e.name)
	}
	return entries
}

func encodeRun(run []dirEntry) []byte {
	le := binary.LittleEndian
	first := run[0].node
	var b []byte
	b = le.AppendUint32(b, uint32(len(run)-1))
	b = le.AppendUint32(b, uint32(first.ref>>16))
	b = le.AppendUint32(b, first.num)
	for _, e := range run {
		b = le.AppendUint16(b, uint16(e.node.ref))
		b = le.AppendUint16(b, uint16(e.node.num-first.num))
		b = le.AppendUint16(b, basicType(e.node.entry.Type))
		b = le.AppendUint16(b, uint16(len(e.name)-1))
		b = append(b, e.name...)
	}
	return b
}

func basicType(t initramfs.Type) uint16 {
	switch t {
	case initramfs.Dir:
		return typeDir
	case initramfs.Symlink:
		return typeSymlink
	}
	return typeFile
}
