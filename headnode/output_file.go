package headnode

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"muster/api"
)

// A file of task output is a sequence of chunks. On disk, big endian: stream
// 1 byte, three bytes zero, length of data 4 bytes, CRC-32C of these eight
// bytes and the data 4 bytes, data. Offsets are not stored: a chunk begins
// where the one before it ended.
const chunkHeader = 12

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// errTorn says that a chunk was not written whole, or was changed.
var errTorn = errors.New("chunk is damaged")

// appendChunk appends the disk form of data, which is not empty and at most
// api.MaxOutput long, to b.
func appendChunk(b []byte, stream api.Stream, data []byte) []byte {
	var h [chunkHeader]byte
	h[0] = byte(stream)
	binary.BigEndian.PutUint32(h[4:], uint32(len(data)))
	sum := crc32.Update(crc32.Checksum(h[:8], castagnoli), castagnoli, data)
	binary.BigEndian.PutUint32(h[8:], sum)
	return append(append(b, h[:]...), data...)
}

// parseChunkHeader reads the first chunkHeader bytes of a chunk.
func parseChunkHeader(h []byte) (stream api.Stream, n int, sum uint32, err error) {
	stream = api.Stream(h[0])
	size := binary.BigEndian.Uint32(h[4:])
	bad := stream != api.Stdout && stream != api.Stderr
	if bad || h[1]|h[2]|h[3] != 0 || size == 0 || size > api.MaxOutput {
		return 0, 0, 0, errTorn
	}
	return stream, int(size), binary.BigEndian.Uint32(h[8:]), nil
}

// indexStep is how many bytes of output lie between two marks at least.
const indexStep = 1 << 20

// mark says where in the file a chunk begins whose first byte has offset off.
type mark struct{ off, pos int64 }

// scanResult is what a file of output holds.
type scanResult struct {
	written int64 // bytes of output
	size    int64 // bytes of the file up to the end of the last whole chunk
	marks   []mark
}

// scanChunks walks over the chunks of r. With verify it reads all data and
// stops in front of the first damaged chunk; without, it trusts the headers.
// An incomplete chunk at the end is not counted.
func scanChunks(r io.Reader, verify bool) (scanResult, error) { return scanResult{}.scan(r, verify) }

// scan goes on behind what s has.
func (s scanResult) scan(r io.Reader, verify bool) (scanResult, error) {
	in := bufio.NewReaderSize(r, 256<<10)
	buf := make([]byte, api.MaxOutput)
	var h [chunkHeader]byte
	for {
		if _, err := io.ReadFull(in, h[:]); err != nil {
			return s, tornIsEnd(err)
		}
		_, n, sum, err := parseChunkHeader(h[:])
		if err != nil {
			return s, nil
		}
		if verify {
			if _, err := io.ReadFull(in, buf[:n]); err != nil {
				return s, tornIsEnd(err)
			}
			if crc32.Update(crc32.Checksum(h[:8], castagnoli), castagnoli, buf[:n]) != sum {
				return s, nil
			}
		} else if _, err := in.Discard(n); err != nil {
			return s, tornIsEnd(err)
		}
		s.add(n)
	}
}

func tornIsEnd(err error) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return nil
	}
	return err
}

// add books a chunk of n bytes of output.
func (s *scanResult) add(n int) {
	if k := len(s.marks); k == 0 || s.written-s.marks[k-1].off >= indexStep {
		s.marks = append(s.marks, mark{s.written, s.size})
	}
	s.written += int64(n)
	s.size += int64(chunkHeader + n)
}

// seek returns the last mark at or before off.
func (s *scanResult) seek(off int64) mark {
	lo, hi := 0, len(s.marks)
	for lo < hi {
		if m := (lo + hi) / 2; s.marks[m].off <= off {
			lo = m + 1
		} else {
			hi = m
		}
	}
	if lo == 0 {
		return mark{}
	}
	return s.marks[lo-1]
}

// cutTo forgets everything behind a position of chunks' ends.
func (s *scanResult) cutTo(written, size int64) {
	s.written, s.size = written, size
	for len(s.marks) > 0 && s.marks[len(s.marks)-1].off >= written {
		s.marks = s.marks[:len(s.marks)-1]
	}
}

// readChunks parses the whole chunks in b, of which the first begins at
// offset off, and returns the output from offset from on as frames of task,
// which alias b. used is how many bytes of b were whole chunks and next the
// offset behind them.
func readChunks(b []byte, off, from int64, task int) (frames []api.Frame, used int, next int64, err error) {
	for len(b)-used >= chunkHeader {
		stream, n, _, err := parseChunkHeader(b[used : used+chunkHeader])
		if err != nil {
			return frames, used, off, fmt.Errorf("reading output at %d: %w", off, err)
		}
		if len(b)-used < chunkHeader+n {
			break
		}
		data := b[used+chunkHeader : used+chunkHeader+n]
		if off+int64(n) > from {
			skip := max(0, from-off)
			frames = append(frames, api.Frame{
				Type: api.FrameOutput, Stream: stream, Task: task, Offset: off + skip, Data: data[skip:],
			})
		}
		used += chunkHeader + n
		off += int64(n)
	}
	return frames, used, off, nil
}
