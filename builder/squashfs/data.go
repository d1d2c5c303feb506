package squashfs

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"

	"golang.org/x/sync/errgroup"
)

const (
	noFragment = math.MaxUint32

	// blockRaw marks a data block that is stored as it is.
	blockRaw = 1 << 24
)

// fragment is a block that holds the contents of small files.
type fragment struct {
	start uint64
	size  uint32
}

func encodeFragments(fragments []*fragment) []byte {
	var b []byte
	for _, f := range fragments {
		b = binary.LittleEndian.AppendUint64(b, f.start)
		b = binary.LittleEndian.AppendUint32(b, f.size)
		b = binary.LittleEndian.AppendUint32(b, 0)
	}
	return b
}

// block is a piece of content on its way into the image.
type block struct {
	raw    []byte // as read; its capacity is the block size
	packed []byte
	store  bool   // also if it is all zeros
	size   uint32 // as the format writes it; 0: zeros, not stored
	placed func(start uint64, size uint32)
	done   chan struct{} // closed once size is known
}

// packer reads files, packs their blocks on several goroutines and writes them in
// order.
type packer struct {
	o       Options
	free    chan []byte // buffers that are not in use
	todo    chan *block // to the workers
	ordered chan *block // to the writer
}

// writeData writes the contents of all files and tells each node where its
// content is. It holds a few blocks for each worker in memory, whatever the size of
// the files.
//
// A file smaller than a block shares a fragment with its neighbors; the end of a
// larger one is a block of its own, so that reading it costs nothing else.
func writeData(ctx context.Context, out *output, files []*node, o Options) ([]*fragment, error) {
	p := &packer{
		o: o, todo: make(chan *block), ordered: make(chan *block, 2*o.Workers),
		free: make(chan []byte, 6*o.Workers),
	}
	g, ctx := errgroup.WithContext(ctx)
	for range o.Workers {
		enc, err := newEncoder(o)
		if err != nil {
			return nil, err
		}
		g.Go(func() error { p.pack(enc); return nil })
	}
	g.Go(func() error { return p.write(ctx, out) })
	r := &reader{packer: p}
	g.Go(func() error {
		defer close(p.todo)
		defer close(p.ordered)
		return r.readAll(ctx, files)
	})
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return r.fragments, nil
}

// pack is one worker.
func (p *packer) pack(enc encoder) {
	for b := range p.todo {
		if !b.store && isZero(b.raw) {
			b.size = 0
		} else if packed, raw := p.packBlock(enc, b); raw {
			b.packed, b.size = append(packed[:0], b.raw...), uint32(len(b.raw))|blockRaw
		} else {
			b.packed, b.size = packed, uint32(len(packed))
		}
		close(b.done)
	}
}

// packBlock packs a block, or takes what it was packed to before.
func (p *packer) packBlock(enc encoder, b *block) (packed []byte, raw bool) {
	if p.o.Packed == nil {
		return enc.pack(b.packed[:0], b.raw)
	}
	key := fmt.Sprintf("zstd %d %d %x", p.o.Level, p.o.BlockSize, sha256.Sum256(b.raw))
	if packed, ok := p.o.Packed.Load(b.packed[:0], key); ok {
		return packed, false
	}
	packed, raw = enc.pack(b.packed[:0], b.raw)
	if !raw {
		p.o.Packed.Store(key, packed)
	}
	return packed, raw
}

// write is the one goroutine that appends to the image.
func (p *packer) write(ctx context.Context, out *output) error {
	for b := range p.ordered {
		select {
		case <-b.done:
		case <-ctx.Done():
			return ctx.Err()
		}
		start := uint64(out.pos)
		if b.size != 0 {
			out.write(b.packed)
		}
		if out.err != nil {
			return out.err
		}
		b.placed(start, b.size)
		p.release(b.raw)
		p.release(b.packed)
	}
	return nil
}

// buffer returns an empty buffer with room for a block.
func (p *packer) buffer() []byte {
	select {
	case b := <-p.free:
		return b
	default:
		return make([]byte, 0, p.o.BlockSize)
	}
}

// release makes a buffer available again.
func (p *packer) release(b []byte) {
	if cap(b) < p.o.BlockSize {
		return
	}
	select {
	case p.free <- b[:0]:
	default:
	}
}

// send hands a block to a worker and to the writer.
func (p *packer) send(ctx context.Context, b *block) error {
	b.packed, b.done = p.buffer(), make(chan struct{})
	for _, c := range []chan *block{p.ordered, p.todo} {
		select {
		case c <- b:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// reader is the one goroutine that reads files.
type reader struct {
	*packer
	fragments []*fragment
	tail      []byte // content of the last fragment while it is being filled; nil: none
}

func (r *reader) readAll(ctx context.Context, files []*node) error {
	for _, n := range files {
		if err := r.readFile(ctx, n); err != nil {
			return inFile(n, err)
		}
	}
	return r.sendFragment(ctx)
}

func (r *reader) readFile(ctx context.Context, n *node) error {
	size := n.entry.Size
	if size == 0 {
		return nil
	}
	f, err := n.entry.Content()
	if err != nil {
		return err
	}
	defer f.Close()
	if size < int64(r.o.BlockSize) {
		err = r.readSmall(ctx, f, n)
	} else {
		err = r.readBlocks(ctx, f, n)
	}
	if err != nil {
		return err
	}
	var one [1]byte
	if _, err := io.ReadFull(f, one[:]); err == nil {
		return errLong(size)
	} else if err != io.EOF {
		return err
	}
	return nil
}

// readSmall puts a file into the current fragment.
func (r *reader) readSmall(ctx context.Context, f io.Reader, n *node) error {
	size := int(n.entry.Size)
	if len(r.tail)+size > r.o.BlockSize || r.endsFragment(n) {
		if err := r.sendFragment(ctx); err != nil {
			return err
		}
	}
	if r.tail == nil {
		r.tail = r.buffer()
		r.fragments = append(r.fragments, &fragment{})
	}
	n.data.fragment = uint32(len(r.fragments) - 1)
	n.data.offset = uint32(len(r.tail))
	r.tail = r.tail[:len(r.tail)+size]
	return readWhole(f, r.tail[len(r.tail)-size:], n.entry.Size)
}

// endsFragment says whether n begins a new fragment though it may have room in the current
// one. Whether it does depends on its name, so that images with one file more or less have
// the same fragments, but for a few.
func (r *reader) endsFragment(n *node) bool {
	const of = 4
	return len(r.tail) > r.o.BlockSize*3/4 && crc32.ChecksumIEEE([]byte(n.entry.Path))%of == 0
}

// sendFragment packs the current fragment.
func (r *reader) sendFragment(ctx context.Context) error {
	if r.tail == nil {
		return nil
	}
	raw, f := r.tail, r.fragments[len(r.fragments)-1]
	r.tail = nil
	return r.send(ctx, &block{raw: raw, store: true, placed: func(start uint64, size uint32) {
		*f = fragment{start, size}
	}})
}

func (r *reader) readBlocks(ctx context.Context, f io.Reader, n *node) error {
	size, bs := n.entry.Size, int64(r.o.BlockSize)
	n.data.blocks = make([]uint32, (size+bs-1)/bs)
	for i := range n.data.blocks {
		raw := r.buffer()[:min(bs, size-int64(i)*bs)]
		if err := readWhole(f, raw, size); err != nil {
			return err
		}
		length := uint64(len(raw))
		err := r.send(ctx, &block{raw: raw, placed: func(start uint64, size uint32) {
			if i == 0 {
				n.data.start = start
			}
			n.data.blocks[i] = size
			if size == 0 {
				n.data.sparse += length
			}
		}})
		if err != nil {
			return err
		}
	}
	return nil
}

// readWhole fills p from a file that should have size bytes.
func readWhole(f io.Reader, p []byte, size int64) error {
	if _, err := io.ReadFull(f, p); err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return errShort(size)
		}
		return err
	}
	return nil
}

func errShort(size int64) error {
	return fmt.Errorf("content is shorter than its %d bytes: %w", size, io.ErrUnexpectedEOF)
}

func errLong(size int64) error { return fmt.Errorf("content is longer than its %d bytes", size) }

func isZero(p []byte) bool {
	for _, c := range p {
		if c != 0 {
			return false
		}
	}
	return true
}
