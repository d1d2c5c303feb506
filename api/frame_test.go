package api

import (
	"bytes"
	"io"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func FuzzFrame(f *testing.F) {
	f.Add(AppendFrame(nil, Frame{Type: FrameOutput, Stream: Stderr, Task: 3, Offset: 1 << 40, Data: []byte("hello")}))
	f.Add(AppendFrame(AppendFrame(nil, Frame{Type: FramePing}), Frame{Type: FrameJob, Data: []byte("{}")}))
	f.Add([]byte{1, 1, 1, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		for {
			fr, err := ReadFrame(r)
			if err != nil {
				if err == io.EOF && r.Len() > 0 {
					t.Fatalf("clean end with %d bytes left", r.Len())
				}
				return
			}
			wire := AppendFrame(nil, fr)
			at := len(b) - r.Len()
			if !bytes.Equal(wire, b[at-len(wire):at]) {
				t.Fatalf("frame %+v is written in another way than it was read", fr)
			}
			back, err := ParseFrame(wire)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(fr, back, cmpopts.EquateEmpty()); d != "" {
				t.Fatal(d)
			}
		}
	})
}
