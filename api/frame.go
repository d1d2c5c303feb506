package api

import (
	"encoding/binary"
	"fmt"
	"io"
)

// StreamProtocol is the Upgrade of the connection of a `run`.
const StreamProtocol = "muster-run/1"

// FrameType says what a [Frame] carries.
type FrameType uint8

// The types of frames. An agent sends FrameOutput only. On the upgraded
// connection of a `run` (GET /v1/jobs/{id}/stream) the head sends
// FrameOutput, FrameGap, FrameInputAck, FrameJob, FrameEnd and FramePing, the client
// FrameInput, FrameInputEOF, FrameOutputAck, FrameSignal, FrameWindow and FramePing.
const (
	FrameOutput    FrameType = 1  // Data at Offset of task Task's output
	FrameInput     FrameType = 2  // Data at Offset of the job's input
	FrameInputEOF  FrameType = 3  // the input ends at Offset
	FrameInputAck  FrameType = 4  // every task that still reads has taken the input up to Offset
	FrameSignal    FrameType = 5  // Offset is the number of a signal for all tasks
	FrameJob       FrameType = 6  // Data is the Job as JSON: its state changed
	FrameEnd       FrameType = 7  // Data is the ended Job as JSON; all output was sent
	FramePing      FrameType = 8  // nothing; each side sends one every 5 s
	FrameOutputAck FrameType = 9  // the client has written task Task's output up to Offset
	FrameInputShut FrameType = 10 // no task reads any more: the client may stop sending
	FrameWindow    FrameType = 11 // Offset is rows<<16 | columns of the client's terminal
	FrameGap       FrameType = 12 // output of task Task in front of Offset is not kept; Data says so for people
)

// Stream says where a task wrote output.
type Stream uint8

// The streams.
const (
	Stdout Stream = 1
	Stderr Stream = 2
)

// Frame is a piece of a task's output or of what travels with it. Offset
// counts the bytes of stdout and stderr of a task together, in the order in
// which they were read, so that one number says how far a reader is.
//
// On the wire, big endian: type 1 byte, stream 1 byte, two bytes zero, task
// 4 bytes, offset 8 bytes, length of data 4 bytes, data.
type Frame struct {
	Type   FrameType
	Stream Stream
	Task   int
	Offset int64
	Data   []byte
}

// FrameHeaderSize is the size of a frame without its data.
const FrameHeaderSize = 20

// maxFrameData bounds what a reader allocates: FrameJob of a job with many
// tasks is the largest.
const maxFrameData = 4 << 20

// AppendFrame appends the wire form of f to b.
func AppendFrame(b []byte, f Frame) []byte {
	b = append(b, byte(f.Type), byte(f.Stream), 0, 0)
	b = binary.BigEndian.AppendUint32(b, uint32(f.Task))
	b = binary.BigEndian.AppendUint64(b, uint64(f.Offset))
	b = binary.BigEndian.AppendUint32(b, uint32(len(f.Data)))
	return append(b, f.Data...)
}

// ParseFrame reads a frame that is the whole of b. Data aliases b.
func ParseFrame(b []byte) (Frame, error) {
	f, n, err := parseHeader(b)
	if err != nil {
		return f, err
	}
	if len(b)-FrameHeaderSize != n {
		return f, fmt.Errorf("parsing frame: header says %d bytes of data, %d follow", n, len(b)-FrameHeaderSize)
	}
	f.Data = b[FrameHeaderSize:]
	return f, nil
}

// ReadFrame reads the next frame from r. It returns io.EOF at a clean end and
// io.ErrUnexpectedEOF in the middle of a frame.
func ReadFrame(r io.Reader) (Frame, error) { return ReadFrameInto(r, new([]byte)) }

// ReadFrameInto is ReadFrame with the data in *buf, which is made longer where
// that is needed. Data is valid until *buf is used again.
func ReadFrameInto(r io.Reader, buf *[]byte) (Frame, error) {
	if cap(*buf) < FrameHeaderSize {
		*buf = make([]byte, FrameHeaderSize)
	}
	h := (*buf)[:FrameHeaderSize]
	if _, err := io.ReadFull(r, h); err != nil {
		return Frame{}, err
	}
	f, n, err := parseHeader(h)
	if err != nil {
		return f, err
	}
	if cap(*buf) < n {
		*buf = make([]byte, n)
	}
	f.Data = (*buf)[:n]
	if _, err := io.ReadFull(r, f.Data); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return f, err
	}
	return f, nil
}

func parseHeader(b []byte) (Frame, int, error) {
	if len(b) < FrameHeaderSize {
		return Frame{}, 0, fmt.Errorf("parsing frame: %d bytes are less than a header", len(b))
	}
	f := Frame{
		Type: FrameType(b[0]), Stream: Stream(b[1]),
		Task:   int(binary.BigEndian.Uint32(b[4:])),
		Offset: int64(binary.BigEndian.Uint64(b[8:])),
	}
	n := binary.BigEndian.Uint32(b[16:])
	if n > maxFrameData {
		return f, 0, fmt.Errorf("parsing frame: %d bytes of data are more than the %d allowed", n, maxFrameData)
	}
	if f.Offset < 0 {
		return f, 0, fmt.Errorf("parsing frame: offset %d is negative", f.Offset)
	}
	if b[2] != 0 || b[3] != 0 {
		return f, 0, fmt.Errorf("parsing frame: reserved bytes are not zero")
	}
	return f, int(n), nil
}

// WindowFrame tells the size of a terminal.
func WindowFrame(w Window) Frame {
	return Frame{Type: FrameWindow, Offset: int64(w.Rows)<<16 | int64(w.Columns)}
}

// Window returns what WindowFrame made a frame of.
func (f Frame) Window() Window {
	return Window{Rows: uint16(f.Offset >> 16), Columns: uint16(f.Offset)}
}
