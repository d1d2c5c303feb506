package initramfs

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/cavaliergopher/cpio"
	"github.com/klauspost/compress/zstd"
)

// Record is one entry of an archive, as it stands there.
type Record struct {
	Path    string
	Mode    uint32 // with the type bits of stat(2)
	UID     uint32
	GID     uint32
	MTime   time.Time
	Inode   int64
	Links   int
	Data    []byte // content of a file, at one of its names
	Target  string // text of a symbolic link
	Segment int    // archive that the record is in, from 0
}

// Archive is what [ReadCPIO] found.
type Archive struct {
	Records  []Record // in the order of the archives
	Segments int
}

// zstdMagic starts a zstd frame (RFC 8878 3.1.1).
var zstdMagic = []byte{0x28, 0xb5, 0x2f, 0xfd}

// maxRead is how much ReadCPIO reads, packed and unpacked together.
const maxRead = 2 << 30

// ReadCPIO reads an initramfs: newc archives, plain or zstd, with zero bytes
// between them. It keeps all contents in memory and is meant for checks of what
// was written; an initramfs of more than 2 GiB is an error.
func ReadCPIO(r io.Reader) (*Archive, error) {
	return readCPIO(r, maxRead)
}

func readCPIO(r io.Reader, limit int64) (*Archive, error) {
	in := &offsetReader{r: bufio.NewReaderSize(r, 1<<16), left: &limit}
	a := &Archive{}
	for {
		if err := in.skipZeros(); err == io.EOF {
			return a, nil
		} else if err != nil {
			return a, fmt.Errorf("reading initramfs at byte %d: %w", in.n, err)
		}
		if in.n%segmentAlign != 0 {
			return a, fmt.Errorf("reading initramfs: segment %d starts at byte %d, which is not a multiple of %d", a.Segments, in.n, segmentAlign)
		}
		start := in.n
		if err := a.readSegment(in); err != nil {
			return a, fmt.Errorf("reading initramfs: segment %d at byte %d: %w", a.Segments, start, err)
		}
		a.Segments++
	}
}

// readSegment reads one archive, or one zstd frame with any number of them.
func (a *Archive) readSegment(in *offsetReader) error {
	magic, err := in.r.Peek(len(zstdMagic))
	if err != nil {
		return noEOF(err)
	}
	if !bytes.Equal(magic, zstdMagic) {
		return a.readArchive(in)
	}
	frame, err := readFrame(in)
	if err != nil {
		return err
	}
	z, err := zstd.NewReader(bytes.NewReader(frame), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(128<<20))
	if err != nil {
		return err
	}
	defer z.Close()
	inner := &offsetReader{r: bufio.NewReader(z), left: in.left}
	for {
		if err := inner.skipZeros(); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		if err := a.readArchive(inner); err != nil {
			return err
		}
	}
}

// readFrame reads one zstd frame without unpacking it (RFC 8878 3.1.1), so
// that nothing behind it is consumed.
func readFrame(in io.Reader) ([]byte, error) {
	var frame bytes.Buffer
	t := io.TeeReader(in, &frame)
	var head zstd.Header
	if err := readFrameHeader(t, &frame, &head); err != nil {
		return nil, err
	}
	for last := false; !last; {
		var b [3]byte
		if _, err := io.ReadFull(t, b[:]); err != nil {
			return nil, noEOF(err)
		}
		v := uint32(b[0]) | uint32(b[1])<<8 | uint32(b[2])<<16
		size := int64(v >> 3)
		if v>>1&3 == 1 { // a run of one byte
			size = 1
		}
		if _, err := io.CopyN(io.Discard, t, size); err != nil {
			return nil, noEOF(err)
		}
		last = v&1 == 1
	}
	if head.HasCheckSum {
		if _, err := io.CopyN(io.Discard, t, 4); err != nil {
			return nil, noEOF(err)
		}
	}
	return frame.Bytes(), nil
}

// readFrameHeader reads byte by byte until the header is whole.
func readFrameHeader(t io.Reader, frame *bytes.Buffer, head *zstd.Header) error {
	const longest = 18 // magic, descriptor, window, dictionary, content size
	for range longest {
		if _, err := io.CopyN(io.Discard, t, 1); err != nil {
			return noEOF(err)
		}
		err := head.Decode(frame.Bytes())
		if errors.Is(err, io.ErrUnexpectedEOF) {
			continue
		}
		if err == nil && head.Skippable {
			return errors.New("skippable zstd frame")
		}
		if err == nil && frame.Len() < head.HeaderSize {
			continue
		}
		return err
	}
	return errors.New("zstd frame header has no end")
}

// readArchive reads one archive up to its trailer.
func (a *Archive) readArchive(in *offsetReader) error {
	cr := cpio.NewReader(in)
	for {
		h, err := cr.Next()
		if err == io.EOF {
			return in.sawTrailer()
		}
		if err != nil {
			return noEOF(err)
		}
		rec := Record{
			Path: h.Name, Mode: uint32(h.Mode), UID: uint32(h.Uid), GID: uint32(h.Guid),
			MTime: h.ModTime.UTC(), Inode: h.Inode, Links: h.Links, Target: h.Linkname, Segment: a.Segments,
		}
		var data bytes.Buffer
		if _, err := io.CopyN(&data, cr, h.Size); err != nil {
			return fmt.Errorf("%s: %w", h.Name, noEOF(err))
		}
		rec.Data = data.Bytes()
		a.Records = append(a.Records, rec)
	}
}

// Find returns the last record at path, which is the one that the kernel
// leaves, or nil.
func (a *Archive) Find(path string) *Record {
	for i := len(a.Records) - 1; i >= 0; i-- {
		if a.Records[i].Path == path {
			return &a.Records[i]
		}
	}
	return nil
}

// Content returns what a reader of the file at path will see, through any of
// its names.
func (a *Archive) Content(path string) ([]byte, error) {
	rec := a.Find(path)
	if rec == nil {
		return nil, fmt.Errorf("%s is not in the archive", path)
	}
	if rec.Mode&cpio.ModeType != cpio.TypeReg {
		return nil, fmt.Errorf("%s has mode %#o: no file", path, rec.Mode)
	}
	if rec.Links < 2 {
		return rec.Data, nil
	}
	for _, r := range a.Records {
		if r.Segment == rec.Segment && r.Inode == rec.Inode && len(r.Data) > 0 {
			return r.Data, nil
		}
	}
	return nil, nil
}

// errTooLarge ends the reading of what would fill the memory.
var errTooLarge = errors.New("contents are larger than this check reads")

// offsetReader counts what was read, to know where a segment starts.
type offsetReader struct {
	r    *bufio.Reader
	n    int64
	left *int64 // how much more may be read
	tail [len(cpioTrailer) + 1]byte
}

func (o *offsetReader) Read(p []byte) (int, error) {
	n, err := o.r.Read(p)
	o.n += int64(n)
	o.remember(p[:n])
	if *o.left -= int64(n); *o.left < 0 {
		return n, errTooLarge
	}
	return n, err
}

// remember keeps the last bytes that were read.
func (o *offsetReader) remember(p []byte) {
	if len(p) >= len(o.tail) {
		copy(o.tail[:], p[len(p)-len(o.tail):])
		return
	}
	copy(o.tail[:], o.tail[len(p):])
	copy(o.tail[len(o.tail)-len(p):], p)
}

// sawTrailer tells the end of an archive from the end of the file, which the cpio
// library reports alike.
func (o *offsetReader) sawTrailer() error {
	if string(o.tail[:]) != cpioTrailer+"\x00" {
		return io.ErrUnexpectedEOF
	}
	return nil
}

// skipZeros reads up to the next byte that is not zero.
func (o *offsetReader) skipZeros() error {
	for {
		b, err := o.r.ReadByte()
		if err != nil {
			return err
		}
		if b != 0 {
			return o.r.UnreadByte()
		}
		o.n++
		if *o.left--; *o.left < 0 {
			return errTooLarge
		}
	}
}

// noEOF makes the end of input an error where more was promised.
func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
