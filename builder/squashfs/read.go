package squashfs

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"time"

	"github.com/klauspost/compress/zstd"

	"muster/initramfs"
)

// File is what an image has at one path.
type File struct {
	Path     string // without a leading slash; "." is the root
	Type     initramfs.Type
	Mode     uint32 // permission bits
	UID, GID uint32
	MTime    time.Time
	Inode    uint32 // the same for all links to one file
	Size     int64  // of a file
	Target   string // of a symbolic link
	// Content is that of a file, to be read before fn returns; nil otherwise.
	Content io.Reader
}

// ErrDamaged is wrapped by errors about images that are not as the format asks.
var ErrDamaged = errors.New("damaged squashfs")

// Limits of what [Read] accepts. A stranger may have made the image.
const (
	maxMeta  = 256 << 20 // metadata, unpacked
	maxDepth = 256       // of folders
)

// Read calls fn for every path of an image, folders before what is in them, in the
// order of names. It reads what [Write] writes: zstd, and folders, files and links;
// extended attributes are passed over. All that leads to a file is checked; its
// content is where fn reads it.
func Read(r io.ReaderAt, size int64, fn func(File) error) error {
	z, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxBlockSize))
	if err != nil {
		return fmt.Errorf("starting zstd: %w", err)
	}
	defer z.Close()
	m := &image{r: r, size: size, z: z, blocks: make(map[int64]metaBlock), seen: make(map[uint32]bool), fn: fn}
	if err := m.readSuperblock(); err != nil {
		return fmt.Errorf("reading squashfs: %w", err)
	}
	err = m.walk(".", m.sb.root, 0)
	if errors.Is(err, ErrDamaged) {
		return fmt.Errorf("reading %s: %w", m.at, err)
	}
	return err
}

// image is an image that is being read.
type image struct {
	r    io.ReaderAt
	size int64
	z    *zstd.Decoder
	fn   func(File) error
	at   string // path that is being read

	sb        superblock
	ids       []uint32
	fragments []fragment

	blocks map[int64]metaBlock // metadata blocks that were unpacked, by position
	held   int                 // bytes in blocks
	seen   map[uint32]bool     // folders, by inode

	tail     []byte // the fragment block that was unpacked last
	tailFrom uint64 // and where it is
}

type metaBlock struct {
	data []byte
	next int64
}

func damaged(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrDamaged, fmt.Sprintf(format, args...))
}

// readAt reads n bytes at a position that the image gives.
func (m *image) readAt(pos int64, n int) ([]byte, error) {
	if pos < 0 || n < 0 || pos > m.size || int64(n) > m.size-pos {
		return nil, damaged("%d bytes at %d are outside of its %d", n, pos, m.size)
	}
	b := make([]byte, n)
	if _, err := m.r.ReadAt(b, pos); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return b, nil
}

func (m *image) readSuperblock() error {
	b, err := m.readAt(0, superblockSize)
	if err != nil {
		return err
	}
	le := binary.LittleEndian
	s := &m.sb
	s.inodes, s.time, s.blockSize, s.fragments = le.Uint32(b[4:]), le.Uint32(b[8:]), le.Uint32(b[12:]), le.Uint32(b[16:])
	s.flags, s.ids = le.Uint16(b[24:]), le.Uint16(b[26:])
	for i, p := range []*uint64{&s.root, &s.bytesUsed, &s.idTable, &s.xattrTable, &s.inodeTable, &s.dirTable, &s.fragmentTable, &s.exportTable} {
		*p = le.Uint64(b[32+8*i:])
	}
	switch {
	case le.Uint32(b) != magic:
		return damaged("it does not begin as one")
	case le.Uint16(b[28:]) != majorVersion || le.Uint16(b[20:]) != compressionZstd:
		return fmt.Errorf("version %d with compression %d cannot be read, only version %d with zstd", le.Uint16(b[28:]), le.Uint16(b[20:]), majorVersion)
	case s.blockSize < minBlockSize || s.blockSize > maxBlockSize || bits.OnesCount32(s.blockSize) != 1 || int(le.Uint16(b[22:])) != bits.TrailingZeros32(s.blockSize):
		return damaged("blocks of %d bytes", s.blockSize)
	case int64(s.bytesUsed) < superblockSize || int64(s.bytesUsed) > m.size:
		return damaged("it has %d bytes and says %d", m.size, s.bytesUsed)
	}
	ids, err := m.table(s.idTable, int(s.ids)*4)
	if err != nil {
		return fmt.Errorf("owners: %w", err)
	}
	for ; len(ids) > 0; ids = ids[4:] {
		m.ids = append(m.ids, le.Uint32(ids))
	}
	if int64(s.fragments)*16 > maxMeta {
		return damaged("%d fragments", s.fragments)
	}
	fragments, err := m.table(s.fragmentTable, int(s.fragments)*16)
	if err != nil {
		return fmt.Errorf("fragments: %w", err)
	}
	for ; len(fragments) > 0; fragments = fragments[16:] {
		m.fragments = append(m.fragments, fragment{le.Uint64(fragments), le.Uint32(fragments[8:])})
	}
	return nil
}

// table reads a table that is found by a list of its metadata blocks.
func (m *image) table(at uint64, n int) ([]byte, error) {
	if n == 0 {
		return nil, nil
	}
	list, err := m.readAt(int64(at), (n+metaSize-1)/metaSize*8)
	if err != nil {
		return nil, err
	}
	var out []byte
	for ; len(list) > 0; list = list[8:] {
		b, err := m.block(int64(binary.LittleEndian.Uint64(list)))
		if err != nil {
			return nil, err
		}
		out = append(out, b.data...)
	}
	if len(out) < n {
		return nil, damaged("a table of %d bytes has %d", n, len(out))
	}
	return out[:n], nil
}

// block unpacks the metadata block at pos.
func (m *image) block(pos int64) (metaBlock, error) {
	if b, ok := m.blocks[pos]; ok {
		return b, nil
	}
	head, err := m.readAt(pos, 2)
	if err != nil {
		return metaBlock{}, err
	}
	n := int(binary.LittleEndian.Uint16(head))
	packed, err := m.readAt(pos+2, n&^metaRaw)
	if err != nil {
		return metaBlock{}, err
	}
	b := metaBlock{data: packed, next: pos + 2 + int64(len(packed))}
	if n&metaRaw == 0 {
		if b.data, err = m.unpack(packed, metaSize); err != nil {
			return b, err
		}
	}
	if len(b.data) == 0 || len(b.data) > metaSize {
		return b, damaged("metadata of %d bytes in one block", len(b.data))
	}
	if m.held += len(b.data); m.held > maxMeta {
		return b, damaged("more than %d MiB of metadata", maxMeta>>20)
	}
	m.blocks[pos] = b
	return b, nil
}

func (m *image) unpack(packed []byte, limit int) ([]byte, error) {
	out, err := m.z.DecodeAll(packed, make([]byte, 0, limit))
	switch {
	case err != nil:
		return nil, damaged("a block cannot be unpacked: %v", err)
	case len(out) > limit:
		return nil, damaged("a block has %d bytes, at most %d are possible", len(out), limit)
	}
	return out, nil
}

// metaReader reads metadata that may go on in the next block.
type metaReader struct {
	m   *image
	pos int64 // of the next block
	buf []byte
	err error
}

// meta returns a reader from an offset in the block at pos on.
func (m *image) meta(pos int64, offset int) *metaReader {
	r := &metaReader{m: m, pos: pos}
	r.fill()
	if r.err == nil && offset > len(r.buf) {
		r.err = damaged("offset %d is behind the end of a block", offset)
	}
	if r.err == nil {
		r.buf = r.buf[offset:]
	}
	return r
}

func (r *metaReader) fill() {
	b, err := r.m.block(r.pos)
	r.buf, r.pos, r.err = b.data, b.next, err
}

// next returns n bytes, zeros after an error.
func (r *metaReader) next(n int) []byte {
	out := make([]byte, 0, min(n, metaSize))
	for r.err == nil && len(out) < n {
		if len(r.buf) == 0 {
			r.fill()
			continue
		}
		k := min(n-len(out), len(r.buf))
		out, r.buf = append(out, r.buf[:k]...), r.buf[k:]
	}
	if r.err != nil {
		return make([]byte, n)
	}
	return out
}

func (r *metaReader) u16() uint16 { return binary.LittleEndian.Uint16(r.next(2)) }
func (r *metaReader) u32() uint32 { return binary.LittleEndian.Uint32(r.next(4)) }
func (r *metaReader) u64() uint64 { return binary.LittleEndian.Uint64(r.next(8)) }

// walk calls fn for what is at a path, and for all below it.
func (m *image) walk(path string, ref uint64, depth int) error {
	m.at = path
	r := m.meta(int64(m.sb.inodeTable)+int64(ref>>16), int(ref&0xffff))
	kind := r.u16()
	f := File{Path: path, Mode: uint32(r.u16()) & 0o7777}
	uid, gid := int(r.u16()), int(r.u16())
	f.MTime = time.Unix(int64(r.u32()), 0).UTC()
	f.Inode = r.u32()
	if r.err != nil {
		return r.err
	}
	if max(uid, gid) >= len(m.ids) {
		return damaged("it belongs to nobody")
	}
	f.UID, f.GID = m.ids[uid], m.ids[gid]
	switch kind {
	case typeDir, typeDir + extended:
		return m.dir(f, r, kind, depth)
	case typeFile, typeFile + extended:
		return m.file(f, r, kind)
	case typeSymlink, typeSymlink + extended:
		r.u32()
		n := r.u32()
		if n > 64<<10 {
			return damaged("a link to a name of %d bytes", n)
		}
		f.Type, f.Target = initramfs.Symlink, string(r.next(int(n)))
		if r.err != nil {
			return r.err
		}
		return m.fn(f)
	}
	return damaged("an inode of type %d, which is not read here", kind)
}

func (m *image) dir(f File, r *metaReader, kind uint16, depth int) error {
	var block, size, offset uint32
	if kind == typeDir {
		block, _, size, offset = r.u32(), r.u32(), uint32(r.u16()), uint32(r.u16())
	} else {
		_, size, block, _, _, offset = r.u32(), r.u32(), r.u32(), r.u32(), r.u16(), uint32(r.u16())
	}
	switch {
	case r.err != nil:
		return r.err
	case size < 3 || int64(size) > maxMeta:
		return damaged("a folder of %d bytes", size)
	case m.seen[f.Inode] || depth > maxDepth:
		return damaged("a folder that is in itself, or too deep")
	}
	m.seen[f.Inode] = true
	f.Type = initramfs.Dir
	if err := m.fn(f); err != nil || size == 3 {
		return err
	}
	return m.entries(f.Path, m.meta(int64(m.sb.dirTable)+int64(block), int(offset)), int(size)-3, depth)
}

// entries walks through a listing of so many bytes.
func (m *image) entries(path string, r *metaReader, left, depth int) error {
	last := ""
	for left > 0 {
		count, block, _ := r.u32(), r.u32(), r.u32()
		if left -= dirHeaderSize; r.err == nil && count >= maxRun {
			return damaged("%d names in one run", count)
		}
		for range int(count) + 1 {
			offset, _, _, length := r.u16(), r.u16(), r.u16(), int(r.u16())+1
			name := string(r.next(length))
			left -= dirEntrySize + length
			switch {
			case r.err != nil:
				return r.err
			case left < 0:
				return damaged("a listing that is longer than it says")
			case name <= last || name == "." || name == ".." || bytes.ContainsAny([]byte(name), "/\x00"):
				return damaged("the name %q after %q", name, last)
			}
			last = name
			if path != "." {
				name = path + "/" + name
			}
			if err := m.walk(name, uint64(block)<<16|uint64(offset), depth+1); err != nil {
				return err
			}
			m.at = path
		}
	}
	return r.err
}

func (m *image) file(f File, r *metaReader, kind uint16) error {
	c := &content{m: m}
	if kind == typeFile {
		c.pos, c.fragment, c.offset, f.Size = int64(r.u32()), r.u32(), r.u32(), int64(r.u32())
	} else {
		c.pos, f.Size = int64(r.u64()), int64(r.u64())
		r.next(12) // zeros that are not stored, and number of links
		c.fragment, c.offset = r.u32(), r.u32()
		r.u32() // attributes
	}
	bs := int64(m.sb.blockSize)
	n := f.Size / bs
	if c.fragment == noFragment {
		n = (f.Size + bs - 1) / bs
	}
	switch {
	case r.err != nil:
		return r.err
	case f.Size < 0 || n*4 > maxMeta:
		return damaged("a file of %d bytes", f.Size)
	case c.fragment != noFragment && int64(c.fragment) >= int64(len(m.fragments)):
		return damaged("the end of it is in fragment %d of %d", c.fragment, len(m.fragments))
	}
	c.left = f.Size
	for range n {
		if c.blocks = append(c.blocks, r.u32()); r.err != nil {
			return r.err
		}
	}
	f.Type, f.Content = initramfs.File, c
	return m.fn(f)
}

// content reads a file.
type content struct {
	m                *image
	pos              int64    // of the next block
	blocks           []uint32 // sizes of those to come
	fragment, offset uint32
	left             int64 // bytes that are not yet in buf
	buf              []byte
}

// Read implements [io.Reader].
func (c *content) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if len(c.buf) == 0 {
		if c.left == 0 {
			return 0, io.EOF
		}
		if err := c.fill(); err != nil {
			return 0, err
		}
	}
	n := copy(p, c.buf)
	c.buf = c.buf[n:]
	return n, nil
}

// fill gets the next block.
func (c *content) fill() error {
	want := int(min(c.left, int64(c.m.sb.blockSize)))
	if len(c.blocks) == 0 {
		tail, err := c.m.fragment(c.m.fragments[c.fragment])
		if err != nil {
			return err
		}
		if int64(c.offset)+int64(want) > int64(len(tail)) {
			return damaged("%d bytes at %d of a fragment of %d", want, c.offset, len(tail))
		}
		c.buf = tail[c.offset:][:want]
	} else {
		size := c.blocks[0]
		c.blocks = c.blocks[1:]
		b, err := c.m.data(c.pos, size, want)
		if err != nil {
			return err
		}
		if len(b) != want {
			return damaged("a block has %d bytes and should have %d", len(b), want)
		}
		c.buf, c.pos = b, c.pos+int64(size&^blockRaw)
	}
	c.left -= int64(want)
	return nil
}

// data reads a block of file content; size is as the format writes it.
func (m *image) data(pos int64, size uint32, want int) ([]byte, error) {
	if size == 0 {
		return make([]byte, want), nil
	}
	n := int(size &^ blockRaw)
	if n > int(m.sb.blockSize) {
		return nil, damaged("a block of %d bytes", n)
	}
	b, err := m.readAt(pos, n)
	if err != nil || size&blockRaw != 0 {
		return b, err
	}
	return m.unpack(b, int(m.sb.blockSize))
}

func (m *image) fragment(f fragment) ([]byte, error) {
	if m.tail == nil || m.tailFrom != f.start {
		b, err := m.data(int64(f.start), f.size, 0)
		if err != nil {
			return nil, err
		}
		m.tail, m.tailFrom = b, f.start
	}
	return m.tail, nil
}
