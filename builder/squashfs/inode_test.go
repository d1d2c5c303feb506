package squashfs

import (
	"encoding/binary"
	"fmt"
	"math"
	"strings"
	"testing"

	"muster/initramfs"
)

// A file has the short form of an inode only while all its numbers fit.
func TestFileBody(t *testing.T) {
	t.Parallel()
	const long = typeFile + extended
	tests := map[string]struct {
		change func(*node)
		kind   uint16
		size   int // bytes before the block list
	}{
		"plain":               {func(*node) {}, typeFile, 16},
		"two names":           {func(n *node) { n.nlink = 2 }, long, 40},
		"attributes":          {func(n *node) { n.xattr = 0 }, long, 40},
		"holes":               {func(n *node) { n.data.sparse = 4096 }, long, 40},
		"starts below 4 GiB":  {func(n *node) { n.data.start = math.MaxUint32 }, typeFile, 16},
		"starts behind 4 GiB": {func(n *node) { n.data.start = 1 << 32 }, long, 40},
		"ends behind 4 GiB":   {func(n *node) { n.entry.Size = 1 << 32 }, long, 40},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			n := &node{entry: &initramfs.Entry{Type: initramfs.File, Size: 10}, nlink: 1, xattr: noXattr}
			n.data.blocks = []uint32{7, 8}
			tt.change(n)
			b := fileBody(n)
			if b.kind != tt.kind || len(b.bytes) != tt.size+8 {
				t.Fatalf("fileBody() has type %d and %d bytes, want %d and %d", b.kind, len(b.bytes), tt.kind, tt.size+8)
			}
			start := uint64(binary.LittleEndian.Uint32(b.bytes))
			if b.kind == long {
				start = binary.LittleEndian.Uint64(b.bytes)
			}
			if start != n.data.start {
				t.Errorf("start is %d, want %d", start, n.data.start)
			}
		})
	}
}

func entries(num func(i int) uint32, ref func(i int) uint64, n, nameLen int) []dirEntry {
	var all []dirEntry
	for i := range n {
		all = append(all, dirEntry{
			name: fmt.Sprintf("%0*d", nameLen, i),
			node: &node{entry: &initramfs.Entry{}, num: num(i), ref: ref(i)},
		})
	}
	return all
}

func TestNextRun(t *testing.T) {
	t.Parallel()
	count := func(i int) uint32 { return uint32(i + 1) }
	one := func(int) uint64 { return 0 }
	tests := map[string]struct {
		entries []dirEntry
		offset  int
		want    int
	}{
		"few":                     {entries(count, one, 10, 4), 0, 10},
		"256 at most":             {entries(count, one, 300, 4), 0, 256},
		"inodes in another block": {entries(count, func(i int) uint64 { return uint64(i/7) << 16 }, 10, 4), 0, 7},
		"numbers far away":        {entries(func(i int) uint32 { return uint32(1 + i*10_000) }, one, 10, 4), 0, 4},
		"numbers far below":       {entries(func(i int) uint32 { return uint32(200_000 - i*10_000) }, one, 10, 4), 0, 4},
		"ends with its block":     {entries(count, one, 100, 92), 0, 82},
		"one, even at the end":    {entries(count, one, 100, 92), metaSize - 1, 1},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if got := len(nextRun(tt.entries, tt.offset)); got != tt.want {
				t.Errorf("nextRun() has %d entries, want %d", got, tt.want)
			}
		})
	}
}

// The index of a large directory names a header in each further block.
func TestListingIndex(t *testing.T) {
	t.Parallel()
	enc, err := newEncoder(Options{BlockSize: minBlockSize})
	if err != nil {
		t.Fatal(err)
	}
	w := &inodeWriter{inodes: newMeta(enc), dirs: newMeta(enc)}
	w.dirs.write([]byte(strings.Repeat("before ", 500)))
	_, offset := w.dirs.pos()
	n := &node{entries: entries(func(i int) uint32 { return uint32(i + 1) }, func(int) uint64 { return 0 }, 1000, 42)}
	size, index := w.listing(n)
	if blocks := (offset + size) / metaSize; len(index) != blocks {
		t.Errorf("%d index entries for %d blocks", len(index), blocks)
	}
	for i, e := range index {
		if got := (offset + e.offset) / metaSize; got != i+1 {
			t.Errorf("index entry %d is in block %d of the listing, want %d", i, got, i+1)
		}
	}
}

func TestTooManyOwners(t *testing.T) {
	t.Parallel()
	ids := &idTable{index: make(map[uint32]uint16)}
	for i := range uint32(math.MaxUint16) {
		if got, err := ids.add(i * 3); err != nil || uint32(got) != i {
			t.Fatalf("add(%d) = %d, %v", i*3, got, err)
		}
	}
	if got, err := ids.add(3); got != 1 || err != nil {
		t.Errorf("add of a known owner = %d, %v, want 1", got, err)
	}
	if _, err := ids.add(1); err == nil {
		t.Error("the 65,536th owner is no error")
	}
}
