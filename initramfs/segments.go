package initramfs

import (
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
)

// Compression is how a segment is packed.
type Compression uint8

// The compressions. All of them give the same bytes for the same input.
const (
	Plain    Compression = iota // not compressed, as microcode must be
	Zstd                        // fast: about 150 MB/s on one core
	ZstdBest                    // slow and small, for releases: about 13 MB/s on one core
)

// bestWindow is how far back ZstdBest looks. The kernel takes up to 128 MiB.
const bestWindow = 32 << 20

// segmentAlign is the alignment of an archive behind another. A misaligned one
// is not unpacked, and the kernel boots without it.
const segmentAlign = 4

// Segment is one archive of an initramfs.
type Segment struct {
	Name        string // for error messages and [SegmentInfo]: microcode, base, site
	Tree        *Tree
	Options     CPIOOptions
	Compression Compression

	// PadTo makes the size of the segment a multiple of so many bytes with
	// zeros, so that it can be rewritten in place later. It must be a multiple
	// of 4; 0 means 4.
	PadTo int64
}

// SegmentInfo tells where a segment is in the initramfs.
type SegmentInfo struct {
	Name   string
	Offset int64
	Size   int64 // with padding
}

// WriteSegments writes the archives one behind the other, each padded so that the
// kernel finds the next.
func WriteSegments(w io.Writer, segments ...Segment) ([]SegmentInfo, error) {
	c := &countingWriter{w: w}
	var infos []SegmentInfo
	for _, s := range segments {
		start := c.n
		if err := writeSegment(c, s); err != nil {
			return infos, fmt.Errorf("writing segment %s: %w", s.Name, err)
		}
		infos = append(infos, SegmentInfo{Name: s.Name, Offset: start, Size: c.n - start})
	}
	return infos, nil
}

func writeSegment(c *countingWriter, s Segment) error {
	pad := max(s.PadTo, segmentAlign)
	if pad%segmentAlign != 0 {
		return fmt.Errorf("padding to %d bytes: not a multiple of %d", pad, segmentAlign)
	}
	start := c.n
	if err := WriteCompressed(c, s.Compression, func(w io.Writer) error {
		return WriteCPIO(w, s.Tree, s.Options)
	}); err != nil {
		return err
	}
	if rest := (c.n - start) % pad; rest != 0 {
		return writeZeros(c, pad-rest)
	}
	return nil
}

// WriteCompressed calls write with a writer that packs what it gets into w.
func WriteCompressed(w io.Writer, c Compression, write func(io.Writer) error) error {
	if c == Plain {
		return write(w)
	}
	// One goroutine, so that the bytes cannot depend on the number of CPUs.
	opts := []zstd.EOption{zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedDefault)}
	if c == ZstdBest {
		opts = append(opts, zstd.WithEncoderLevel(zstd.SpeedBestCompression), zstd.WithWindowSize(bestWindow))
	}
	z, err := zstd.NewWriter(w, opts...)
	if err != nil {
		return fmt.Errorf("starting zstd: %w", err)
	}
	if err := write(z); err != nil {
		z.Close()
		return err
	}
	if err := z.Close(); err != nil {
		return fmt.Errorf("ending zstd: %w", err)
	}
	return nil
}

// countingWriter counts what went through it.
type countingWriter struct {
	w io.Writer
	n int64
}

func (c *countingWriter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

func writeZeros(w io.Writer, n int64) error {
	_, err := io.CopyN(w, zeros{}, n)
	return err
}

// zeros reads as zero bytes without end.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}
