package squashfs

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/klauspost/compress/zstd"
)

// metaSize is what a metadata block holds before packing.
const metaSize = 8 << 10

// metaRaw marks a metadata block that is stored as it is.
const metaRaw = 0x8000

// encoder packs one block after the other. It is not for concurrent use.
type encoder struct{ z *zstd.Encoder }

func newEncoder(o Options) (encoder, error) {
	level := zstd.SpeedDefault
	switch o.Level {
	case Better:
		level = zstd.SpeedBetterCompression
	case Best:
		level = zstd.SpeedBestCompression
	}
	// The kernel unpacks with a window of the block size at most, and needs no
	// checksums.
	z, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(level), zstd.WithEncoderConcurrency(1),
		zstd.WithWindowSize(o.BlockSize), zstd.WithSingleSegment(true), zstd.WithEncoderCRC(false))
	if err != nil {
		return encoder{}, fmt.Errorf("starting zstd: %w", err)
	}
	return encoder{z}, nil
}

// pack appends the packed form of src to dst, or returns raw = true where that
// would not be shorter.
func (e encoder) pack(dst, src []byte) (packed []byte, raw bool) {
	packed = e.z.EncodeAll(src, dst)
	return packed, len(packed)-len(dst) >= len(src)
}

// meta collects metadata and packs it in blocks of 8 KiB.
type meta struct {
	enc    encoder
	buf    []byte // not yet packed, shorter than metaSize
	out    bytes.Buffer
	starts []int // of blocks in out
}

func newMeta(enc encoder) *meta { return &meta{enc: enc, buf: make([]byte, 0, metaSize)} }

// pos is where the next byte goes: the start of its block in the packed table, and
// its offset in the unpacked block.
func (m *meta) pos() (block, offset int) { return m.out.Len(), len(m.buf) }

// ref is pos in the form in which inodes are referred to.
func (m *meta) ref() uint64 {
	block, offset := m.pos()
	return uint64(block)<<16 | uint64(offset)
}

func (m *meta) write(p []byte) {
	for len(p) > 0 {
		n := min(len(p), metaSize-len(m.buf))
		m.buf = append(m.buf, p[:n]...)
		p = p[n:]
		if len(m.buf) == metaSize {
			m.flush()
		}
	}
}

func (m *meta) flush() {
	if len(m.buf) == 0 {
		return
	}
	m.starts = append(m.starts, m.out.Len())
	packed, raw := m.enc.pack(nil, m.buf)
	head := uint16(len(packed))
	if raw {
		packed, head = m.buf, uint16(len(m.buf))|metaRaw
	}
	m.out.Write(binary.LittleEndian.AppendUint16(nil, head))
	m.out.Write(packed)
	m.buf = m.buf[:0]
}

// finish packs what is left and returns the table.
func (m *meta) finish() []byte {
	m.flush()
	return m.out.Bytes()
}
