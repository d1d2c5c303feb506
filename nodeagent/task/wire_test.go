package task

import (
	"bytes"
	"encoding/json"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"muster/api"
)

func TestFrameReader(t *testing.T) {
	frames := []api.Frame{
		{Type: frameGo},
		{Type: api.FrameOutput, Stream: api.Stderr, Task: 3, Offset: 1 << 40, Data: bytes.Repeat([]byte("x"), api.MaxOutput)},
		{Type: frameEvent, Data: bytes.Repeat([]byte("y"), maxSocketData)}, // more than the buffer's first size
		{Type: frameForget},
	}
	var b []byte
	for _, f := range frames {
		b = api.AppendFrame(b, f)
	}
	r := newFrameReader(bytes.NewReader(b))
	for _, want := range frames {
		got, raw, err := r.next()
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(raw, api.AppendFrame(nil, want)) || got.Type != want.Type || !bytes.Equal(got.Data, want.Data) {
			t.Errorf("frame of type %d differs", want.Type)
		}
	}
	if _, _, err := r.next(); err != io.EOF {
		t.Errorf("at the end: %v", err)
	}
	if _, _, err := newFrameReader(bytes.NewReader(b[:40])).next(); err != nil {
		t.Error(err)
	}
	r = newFrameReader(bytes.NewReader(b[20:100]))
	if _, _, err := r.next(); err != io.ErrUnexpectedEOF {
		t.Errorf("in the middle of a frame: %v", err)
	}
	tooLong := api.AppendFrame(nil, api.Frame{Data: make([]byte, maxSocketData+1)})
	if _, _, err := newFrameReader(bytes.NewReader(tooLong)).next(); err == nil {
		t.Error("a frame without bounds is read")
	}
}

// Whatever an agent, or what pretends to be one, says: a shim goes on.
func FuzzShimSocket(f *testing.F) {
	add := func(frames ...api.Frame) {
		var b []byte
		for _, fr := range frames {
			b = api.AppendFrame(b, fr)
		}
		f.Add(b)
	}
	add(api.Frame{Type: frameGo}, api.Frame{Type: api.FrameOutputAck, Offset: 3}, api.Frame{Type: frameHold})
	add(api.Frame{Type: api.FrameInput, Data: []byte("in")}, api.Frame{Type: api.FrameInputEOF, Offset: 2})
	add(api.Frame{Type: api.FrameInput, Offset: 1 << 62, Data: []byte("in")}, api.Frame{Type: api.FrameOutputAck, Offset: 1 << 62})
	add(api.Frame{Type: api.FrameSignal, Offset: 9}, api.Frame{Type: api.FrameSignal, Offset: 1 << 40}, api.Frame{Type: frameForget})
	f.Add([]byte("GET / HTTP/1.0\r\n\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := newShim(t.TempDir(), spec{})
		if err != nil {
			t.Fatal(err)
		}
		defer s.spool.file.Close()
		if _, err := s.spool.add(api.Stdout, []byte("output")); err != nil {
			t.Fatal(err)
		}
		ours, theirs := net.Pipe()
		defer theirs.Close()
		s.conn, s.fresh = ours, true
		r := newFrameReader(bytes.NewReader(b))
		for {
			fr, _, err := r.next()
			if err != nil {
				break
			}
			s.handle(ours, fr)
			s.mu.Lock()
			if len(s.messages(nil)) == 0 {
				if _, err := s.output(make([]byte, 0, api.FrameHeaderSize+api.MaxOutput)); err != nil {
					t.Error(err)
				}
			}
			s.mu.Unlock()
		}
		s.resend.Stop()
		acked, end := s.spool.bounds()
		if end != 6 || acked > end || s.sent > end || s.done || len(s.input.buf) > inputSize || len(s.held) > 64 {
			t.Errorf("acked %d, sent %d, end %d, done %v, %d bytes of input, %d signals", acked, s.sent, end, s.done, len(s.input.buf), len(s.held))
		}
	})
}

// noUplink is a head that cannot be reached.
type noUplink struct{ Uplink }

func (noUplink) Event(api.TaskEvent) error { return io.ErrClosedPipe }

// Whatever the head asks: the manager answers, and starts nothing outside its
// directory.
func FuzzRequests(f *testing.F) {
	add := func(verb uint8, v any) {
		b, err := json.Marshal(v)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(verb, b)
	}
	add(0, api.TaskStart{TaskRef: api.TaskRef{Job: 1}, Argv: []string{"true"}, Host: "n1", Files: []api.SentFile{{Path: "a/b", SHA256: string(bytes.Repeat([]byte("0"), 64))}}})
	add(0, api.TaskStart{TaskRef: api.TaskRef{Job: 1, Index: -1}, Argv: []string{"true\x00"}, Host: "n1"})
	f.Add(uint8(1), api.AppendInput(nil, api.InputChunk{TaskRef: api.TaskRef{Job: 7}, Data: []byte("in"), EOF: true}))
	add(2, api.TaskSignal{TaskRef: api.TaskRef{Job: 7}, Signal: 9})
	add(3, api.TaskRef{Job: 7})
	f.Fuzz(func(t *testing.T, verb uint8, body []byte) {
		dir := filepath.Join(t.TempDir(), "tasks")
		m, err := New(Config{Dir: dir, Uplink: noUplink{}})
		if err != nil {
			t.Fatal(err)
		}
		known := api.TaskStart{TaskRef: api.TaskRef{Job: 7}, Argv: []string{"true"}, Host: "n1"}
		if err := m.Start(known); err != nil {
			t.Fatal(err)
		}
		switch verb % 4 {
		case 0:
			var s api.TaskStart
			if json.Unmarshal(body, &s) == nil && m.Start(s) == nil {
				for _, file := range s.Files {
					if !filepath.IsLocal(file.Path) {
						t.Errorf("file %q is taken", file.Path)
					}
				}
			}
		case 1:
			if c, err := api.ParseInput(body); err == nil {
				m.Input(c, func(api.Ack) {})
			}
		case 2:
			var s api.TaskSignal
			if json.Unmarshal(body, &s) == nil {
				m.Signal(s)
			}
		case 3:
			var ref api.TaskRef
			if json.Unmarshal(body, &ref) == nil && m.Forget(ref) == nil {
				t.Error("a task that has not ended is forgotten")
			}
		}
		entries, err := os.ReadDir(filepath.Dir(dir))
		if err != nil || len(entries) != 1 {
			t.Errorf("beside the tasks there is %v, %v", entries, err)
		}
	})
}

func TestReports(t *testing.T) {
	for line, want := range map[string]initReport{
		"started 12\n": {What: "started", N: 12}, "exit 7\n": {What: "exit", N: 7},
		"stopped 20\n": {What: "stopped", N: 20}, "continued 0\n": {What: "continued"},
		"signal 9\n": {What: "signal", N: 9}, "error 127 x: not there\n": {What: "error", N: 127, Text: "x: not there"},
	} {
		got, err := parseReport(line)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	}
	for _, line := range []string{"", "\n", "exit\n", "exit x\n", "ended 1\n"} {
		if _, err := parseReport(line); err == nil {
			t.Errorf("%q is understood", line)
		}
	}
}
