package task

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"

	"muster/api"
)

// The frames that only shim and agent know.
const (
	frameState  api.FrameType = 64
	frameEvent  api.FrameType = 65
	frameGo     api.FrameType = 66
	frameHold   api.FrameType = 67
	frameForget api.FrameType = 68
)

// maxSocketData bounds a frame between agent and shim.
const maxSocketData = api.MaxOutput

// frameReader reads frames into one buffer.
type frameReader struct {
	r   io.Reader
	buf []byte
}

func newFrameReader(r io.Reader) *frameReader {
	return &frameReader{r: r, buf: make([]byte, api.FrameHeaderSize+api.MaxChunk)}
}

// next returns a frame and its wire form. Both are valid until the next call.
func (fr *frameReader) next() (api.Frame, []byte, error) {
	if _, err := io.ReadFull(fr.r, fr.buf[:api.FrameHeaderSize]); err != nil {
		return api.Frame{}, nil, err
	}
	n := int(binary.BigEndian.Uint32(fr.buf[16:]))
	if n > maxSocketData {
		return api.Frame{}, nil, fmt.Errorf("reading frame of a task: %d bytes of data are more than the %d allowed", n, maxSocketData)
	}
	if need := api.FrameHeaderSize + n; need > len(fr.buf) {
		fr.buf = append(make([]byte, 0, need), fr.buf[:api.FrameHeaderSize]...)[:need]
	}
	raw := fr.buf[:api.FrameHeaderSize+n]
	if _, err := io.ReadFull(fr.r, raw[api.FrameHeaderSize:]); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return api.Frame{}, nil, err
	}
	f, err := api.ParseFrame(raw)
	return f, raw, err
}

func appendJSONFrame(b []byte, t api.FrameType, v any) []byte {
	data, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("task: encoding %T: %v", v, err)) // wire types always encode
	}
	return api.AppendFrame(b, api.Frame{Type: t, Data: data})
}
