package squashfs

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"math/bits"
	"runtime"
	"time"

	"muster/initramfs"
)

// Level says how hard zstd tries.
type Level uint8

// The levels.
const (
	Fast   Level = iota // for development and tests
	Better              // a percent smaller, for a fifth to a half more CPU time
	Best                // a tenth smaller than Fast, for ten times its CPU time: for releases
)

// Options says how an image is written. The zero value is usable.
type Options struct {
	BlockSize int       // a power of two from 4 KiB to 1 MiB; 0: 128 KiB
	Level     Level     // of compression
	Time      time.Time // of the image; zero: the time of the tree
	Workers   int       // goroutines that pack; 0: one per CPU
	Packed    Packed    // nil: every block is packed anew
}

// Packed remembers blocks of file content that were packed for an earlier image. Its methods
// are called from several goroutines. A key names content and options; what is kept for it
// has to come back unchanged, or not.
type Packed interface {
	// Load appends what was stored for key to dst; false: nothing was.
	Load(dst []byte, key string) ([]byte, bool)
	// Store keeps packed, which it must not hold on to.
	Store(key string, packed []byte)
}

// Stats tells what was written.
type Stats struct {
	Size      int64 // bytes of the image, a multiple of 4096
	Inodes    int
	DataBytes int64 // of all files, before packing; hard links count once
	Blocks    int   // data blocks; of files with the same content those of one
	Fragments int   // blocks that hold several small files
}

// Limits and constants of the format (linux/fs/squashfs/squashfs_fs.h).
const (
	magic            = 0x73717368 // "hsqs"
	superblockSize   = 96
	compressionZstd  = 6
	majorVersion     = 4
	flagExportable   = 0x80
	flagNoXattrs     = 0x200
	minBlockSize     = 4 << 10
	maxBlockSize     = 1 << 20
	defaultBlockSize = 128 << 10
	noTable          = math.MaxUint64 // position of a table that is not there
	imageAlign       = 4096           // images are padded to what loop devices read
)

// Write writes t as one squashfs image that begins at offset 0 of w. It writes
// the superblock last, so that an image that was cut short cannot be mounted.
//
// Hard links become one inode, and files with the same content share it. Open of
// entries is called from one goroutine, and twice where another file has the same
// size. When ctx is done, Write returns its error.
func Write(ctx context.Context, w io.WriterAt, t *initramfs.Tree, o Options) (Stats, error) {
	stats, err := write(ctx, w, t, o)
	if err != nil {
		return Stats{}, fmt.Errorf("writing squashfs: %w", err)
	}
	return stats, nil
}

func write(ctx context.Context, w io.WriterAt, t *initramfs.Tree, o Options) (Stats, error) {
	o, err := o.complete(t)
	if err != nil {
		return Stats{}, err
	}
	tree, err := newNodes(t)
	if err != nil {
		return Stats{}, err
	}
	out := &output{w: w, pos: superblockSize}
	files, same, err := uniqueFiles(ctx, tree.files)
	if err != nil {
		return Stats{}, err
	}
	fragments, err := writeData(ctx, out, dataOrder(files, o.BlockSize), o)
	if err != nil {
		return Stats{}, err
	}
	for n, first := range same {
		n.data = first.data
	}
	enc, err := newEncoder(o)
	if err != nil {
		return Stats{}, err
	}
	sb, err := writeTables(out, enc, tree, fragments)
	if err != nil {
		return Stats{}, err
	}
	sb.blockSize = uint32(o.BlockSize)
	sb.time = uint32(o.Time.Unix())
	sb.bytesUsed = uint64(out.pos)
	if err := out.pad(imageAlign); err != nil {
		return Stats{}, err
	}
	if _, err := w.WriteAt(sb.encode(), 0); err != nil {
		return Stats{}, err
	}
	return tree.stats(out.pos, files, len(fragments)), nil
}

// complete checks o and replaces zero values.
func (o Options) complete(t *initramfs.Tree) (Options, error) {
	if o.BlockSize == 0 {
		o.BlockSize = defaultBlockSize
	}
	if o.BlockSize < minBlockSize || o.BlockSize > maxBlockSize || bits.OnesCount(uint(o.BlockSize)) != 1 {
		return o, fmt.Errorf("block size %d is not a power of two from %d to %d", o.BlockSize, minBlockSize, maxBlockSize)
	}
	if o.Workers <= 0 {
		o.Workers = runtime.GOMAXPROCS(0)
	}
	if o.Time.IsZero() {
		o.Time = t.Time()
	}
	if !validTime(o.Time) {
		return o, fmt.Errorf("time of the image, %v, is outside 1970 to 2106", o.Time)
	}
	return o, nil
}

// validTime says whether t fits into the format's 32 bits.
func validTime(t time.Time) bool { return t.Unix() >= 0 && t.Unix() <= math.MaxUint32 }

// superblock is the head of an image.
type superblock struct {
	inodes    uint32
	time      uint32
	blockSize uint32
	fragments uint32
	ids       uint16
	flags     uint16
	root      uint64
	bytesUsed uint64

	// Positions of the tables, in the order of their fields.
	idTable, xattrTable, inodeTable, dirTable, fragmentTable, exportTable uint64
}

func (s *superblock) encode() []byte {
	le := binary.LittleEndian
	b := make([]byte, 0, superblockSize)
	b = le.AppendUint32(b, magic)
	b = le.AppendUint32(b, s.inodes)
	b = le.AppendUint32(b, s.time)
	b = le.AppendUint32(b, s.blockSize)
	b = le.AppendUint32(b, s.fragments)
	b = le.AppendUint16(b, compressionZstd)
	b = le.AppendUint16(b, uint16(bits.TrailingZeros32(s.blockSize)))
	b = le.AppendUint16(b, s.flags)
	b = le.AppendUint16(b, s.ids)
	b = le.AppendUint16(b, majorVersion)
	b = le.AppendUint16(b, 0)
	for _, v := range []uint64{
		s.root, s.bytesUsed, s.idTable, s.xattrTable,
		s.inodeTable, s.dirTable, s.fragmentTable, s.exportTable,
	} {
		b = le.AppendUint64(b, v)
	}
	return b
}

// writeTables writes everything behind the data. The kernel checks that the tables
// follow each other in this order without gaps.
func writeTables(out *output, enc encoder, tree *nodes, fragments []*fragment) (*superblock, error) {
	sb := &superblock{inodes: uint32(len(tree.all)), fragments: uint32(len(fragments)), flags: flagExportable}
	xattrs, err := newXattrs(enc, tree.all)
	if err != nil {
		return nil, err
	}
	ids := &idTable{index: make(map[uint32]uint16)}
	inodes, dirs, err := encodeInodes(enc, tree, ids, xattrs)
	if err != nil {
		return nil, err
	}
	sb.root = tree.root.ref
	sb.ids = uint16(len(ids.ids))

	sb.inodeTable = uint64(out.pos)
	out.write(inodes)
	sb.dirTable = uint64(out.pos)
	out.write(dirs)
	sb.fragmentTable = out.table(enc, encodeFragments(fragments))
	sb.exportTable = out.table(enc, encodeRefs(tree.all))
	sb.idTable = out.table(enc, ids.encode())
	sb.xattrTable = xattrs.write(out, enc)
	if sb.xattrTable == noTable {
		sb.flags |= flagNoXattrs
	}
	return sb, out.err
}

// encodeRefs is the export table: where each inode is, by number.
func encodeRefs(all []*node) []byte {
	b := make([]byte, 0, 8*len(all))
	for _, n := range all {
		b = binary.LittleEndian.AppendUint64(b, n.ref)
	}
	return b
}

// idTable holds the user and group numbers that inodes refer to.
type idTable struct {
	ids   []uint32
	index map[uint32]uint16
}

var errTooManyIDs = errors.New("more than 65535 different users and groups")

func (t *idTable) add(id uint32) (uint16, error) {
	if i, ok := t.index[id]; ok {
		return i, nil
	}
	if len(t.ids) == math.MaxUint16 {
		return 0, errTooManyIDs
	}
	i := uint16(len(t.ids))
	t.ids = append(t.ids, id)
	t.index[id] = i
	return i, nil
}

func (t *idTable) encode() []byte {
	var b []byte
	for _, id := range t.ids {
		b = binary.LittleEndian.AppendUint32(b, id)
	}
	return b
}
