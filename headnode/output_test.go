package headnode

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"muster/api"
)

func newTestOutputs(t testing.TB, dir string) *outputs {
	t.Helper()
	o, err := newOutputs(outputsConfig{Dir: dir, MinFree: 1})
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func mustTask(t testing.TB, o *outputs, verify bool) *taskLog {
	t.Helper()
	l, err := o.task(1, 0, verify)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// readAll reads the output from an offset on, both streams together.
func readAll(t testing.TB, l *taskLog, from int64) []byte {
	t.Helper()
	var got []byte
	c, buf := cursor{off: from}, make([]byte, outputBuffer)
	for {
		frames, err := l.read(&c, buf)
		if err != nil {
			t.Fatal(err)
		}
		if len(frames) == 0 {
			return got
		}
		for _, f := range frames {
			if f.Offset != from+int64(len(got)) {
				t.Fatalf("frame at %d follows %d bytes from %d", f.Offset, len(got), from)
			}
			got = append(got, f.Data...)
		}
	}
}

func frame(off int64, s string) api.Frame {
	return api.Frame{Type: api.FrameOutput, Stream: api.Stdout, Offset: off, Data: []byte(s)}
}

func TestOutputOffsets(t *testing.T) {
	o := newTestOutputs(t, t.TempDir())
	l := mustTask(t, o, true)
	var acks []int64
	done := func(off int64, err error) {
		if err != nil {
			t.Error(err)
		}
		acks = append(acks, off)
	}
	l.append(frame(0, "abc"), done)
	if len(acks) != 0 {
		t.Fatal("output was acknowledged before it was synced")
	}
	o.round()
	l.append(frame(0, "abc"), done)  // again
	l.append(frame(9, "xyz"), done)  // a gap
	l.append(frame(1, "bcde"), done) // half known
	o.round()
	if d := cmp.Diff([]int64{3, 3, 3, 5}, acks); d != "" {
		t.Errorf("acknowledgements differ (-want +got):\n%s", d)
	}
	if got := string(readAll(t, l, 0)); got != "abcde" {
		t.Errorf("output is %q, want abcde", got)
	}
	for from := range int64(6) {
		if got, want := string(readAll(t, l, from)), "abcde"[from:]; got != want {
			t.Errorf("output from %d is %q, want %q", from, got, want)
		}
	}
}

func TestOutputRefuses(t *testing.T) {
	o := newTestOutputs(t, t.TempDir())
	l := mustTask(t, o, true)
	for name, f := range map[string]api.Frame{
		"too long":     {Stream: api.Stdout, Data: make([]byte, api.MaxOutput+1)},
		"which stream": {Stream: 3, Data: []byte("x")},
	} {
		var err error
		l.append(f, func(_ int64, e error) { err = e })
		if api.CodeOf(err) != api.CodeInvalid {
			t.Errorf("%s: append() = %v, want invalid", name, err)
		}
	}
}

func TestOutputDiskFull(t *testing.T) {
	o, err := newOutputs(outputsConfig{Dir: t.TempDir(), MinFree: 1 << 60})
	if err != nil {
		t.Fatal(err)
	}
	l := mustTask(t, o, true)
	var got error
	l.append(frame(0, "abc"), func(_ int64, err error) { got = err })
	if _, full := o.peek(1, 0); !full || api.CodeOf(got) != api.CodeDiskFull {
		t.Fatalf("append() on a full disk = %v, full %v; want disk_full", got, full)
	}
	o.cfg.MinFree = 1 // somebody made room
	acked := int64(0)
	l.append(frame(0, "abc"), func(off int64, _ error) { acked = off })
	o.round()
	if _, full := o.peek(1, 0); full || acked != 3 {
		t.Errorf("after room was made: acked %d, full %v; want 3, false", acked, full)
	}
}

// TestOutputSyncFails: what the kernel could not write is not acknowledged,
// and is taken again when it is sent again.
func TestOutputSyncFails(t *testing.T) {
	o := newTestOutputs(t, t.TempDir())
	l := mustTask(t, o, true)
	l.append(frame(0, "abc"), nil)
	o.round()
	c, buf := cursor{}, make([]byte, outputBuffer)
	var got error
	l.append(frame(3, "def"), func(_ int64, err error) { got = err })
	if _, err := l.read(&c, buf); err != nil || c.off != 6 {
		t.Fatalf("read() came to %d, %v; want 6", c.off, err)
	}
	good := l.f
	r, w, err := os.Pipe() // fdatasync of a pipe fails
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	l.f = w
	o.round()
	w.Close()
	l.f = good
	if got == nil {
		t.Fatal("output that was not synced was acknowledged")
	}
	good.Truncate(l.have.size)
	acked := int64(0)
	l.append(frame(3, "defg"), func(off int64, _ error) { acked = off })
	o.round()
	if acked != 7 || string(readAll(t, l, 0)) != "abcdefg" {
		t.Errorf("sent again: acked %d, output %q; want 7, abcdefg", acked, readAll(t, l, 0))
	}
	frames, err := l.read(&c, buf)
	if err != nil || len(frames) != 1 || string(frames[0].Data) != "g" {
		t.Errorf("a reader that was ahead gets %v, %v; want g", frames, err)
	}
}

// TestOutputTorn cuts the file at every length: what is left is whole chunks,
// and the task goes on from there.
func TestOutputTorn(t *testing.T) {
	dir := t.TempDir()
	o := newTestOutputs(t, dir)
	l := mustTask(t, o, true)
	parts := []string{"first", "second, longer", "x"}
	off, want := int64(0), ""
	ends := map[int64]string{0: ""}
	for _, p := range parts {
		l.append(frame(off, p), nil)
		off += int64(len(p))
		want += p
		ends[l.have.size] = want
	}
	o.round()
	whole, err := os.ReadFile(o.path(logKey{1, 0}))
	if err != nil {
		t.Fatal(err)
	}
	for n := range len(whole) + 1 {
		for _, damage := range []string{"cut", "zeros", "flip"} {
			file := bytes.Clone(whole)
			switch {
			case damage == "cut":
				file = file[:n]
			case damage == "zeros":
				clear(file[n:])
			case n < len(file):
				file[n] ^= 0x40
			}
			if err := os.WriteFile(o.path(logKey{1, 0}), file, 0o600); err != nil {
				t.Fatal(err)
			}
			o := newTestOutputs(t, dir)
			l := mustTask(t, o, true)
			size := int64(0)
			for end := range ends {
				if end <= int64(n) {
					size = max(size, end)
				}
			}
			if got := string(readAll(t, l, 0)); got != ends[size] {
				t.Fatalf("%s at %d: output is %q, want %q", damage, n, got, ends[size])
			}
			rest := want[len(ends[size]):]
			if rest != "" {
				l.append(frame(int64(len(ends[size])), rest), nil)
			}
			o.round()
			if got := string(readAll(t, l, 0)); got != want {
				t.Fatalf("%s at %d: output after going on is %q, want %q", damage, n, got, want)
			}
		}
	}
}

// TestOutputAnyFrames sends overlapping, repeated and early frames of one
// output: what is kept is always a beginning of it, and all of it at the end.
func TestOutputAnyFrames(t *testing.T) {
	dir := t.TempDir()
	job := uint64(0)
	rapid.Check(t, func(t *rapid.T) {
		job++
		o, err := newOutputs(outputsConfig{Dir: dir, MinFree: 1})
		if err != nil {
			t.Fatal(err)
		}
		l, err := o.task(job, 0, true)
		if err != nil {
			t.Fatal(err)
		}
		whole := rapid.SliceOfN(rapid.Byte(), 1, 2000).Draw(t, "output")
		for l.have.written < int64(len(whole)) {
			off := rapid.Int64Range(0, int64(len(whole)-1)).Draw(t, "off")
			if rapid.Bool().Draw(t, "next") {
				off = l.have.written
			}
			n := rapid.Int64Range(0, int64(len(whole))-off).Draw(t, "n")
			stream := api.Stream(rapid.IntRange(1, 2).Draw(t, "stream"))
			l.append(api.Frame{Stream: stream, Offset: off, Data: whole[off : off+n]}, func(acked int64, err error) {
				if err != nil || acked > l.synced {
					t.Fatalf("acked %d of %d synced, %v", acked, l.synced, err)
				}
			})
			if rapid.Bool().Draw(t, "sync") {
				o.round()
			}
		}
		from := rapid.Int64Range(0, int64(len(whole))).Draw(t, "from")
		c, buf, got := cursor{off: from}, make([]byte, outputBuffer), []byte{}
		for {
			frames, err := l.read(&c, buf)
			if err != nil {
				t.Fatal(err)
			}
			if len(frames) == 0 {
				break
			}
			for _, f := range frames {
				got = append(got, f.Data...)
			}
		}
		if !bytes.Equal(got, whole[from:]) {
			t.Fatalf("read from %d gave %d bytes that differ, want %d", from, len(got), len(whole)-int(from))
		}
	})
}

// TestOutputSeek reads from the middle of a long output through its index.
func TestOutputSeek(t *testing.T) {
	dir := t.TempDir()
	o := newTestOutputs(t, dir)
	l := mustTask(t, o, true)
	whole := make([]byte, 5<<20)
	rand.NewChaCha8([32]byte{1}).Read(whole)
	for off := 0; off < len(whole); {
		n := min(1+off%api.MaxOutput, len(whole)-off)
		l.append(api.Frame{Stream: api.Stdout, Offset: int64(off), Data: whole[off : off+n]}, nil)
		off += n
	}
	o.round()
	if len(l.have.marks) < 3 {
		t.Fatalf("%d marks for %d bytes", len(l.have.marks), len(whole))
	}
	for _, verify := range []bool{true, false} {
		l := mustTask(t, newTestOutputs(t, dir), verify)
		for _, from := range []int64{0, 1, indexStep - 1, indexStep, 3*indexStep + 17, int64(len(whole)) - 1, int64(len(whole))} {
			if got := readAll(t, l, from); !bytes.Equal(got, whole[from:]) {
				t.Errorf("verify %v: output from %d has %d bytes and differs, want %d", verify, from, len(got), len(whole)-int(from))
			}
		}
	}
}

func TestOutputRemoved(t *testing.T) {
	o := newTestOutputs(t, t.TempDir())
	l := mustTask(t, o, true)
	var got error
	l.append(frame(0, "abc"), func(_ int64, err error) { got = err })
	if err := o.removeJob(1); err != nil {
		t.Fatal(err)
	}
	if got == nil {
		t.Error("output that was removed was acknowledged")
	}
	if _, err := l.read(&cursor{}, make([]byte, outputBuffer)); err == nil {
		t.Error("removed output can be read")
	}
	if o.has(1) {
		t.Error("the folder is still there")
	}
}

func TestPruneOutput(t *testing.T) {
	r := newRig(t, "n1")
	r.change = func(c *jobsConfig) { c.ArchiveAfter = 4e6; c.KeepJobs = 2 }
	r.restartHead()
	var ids []uint64
	for range 4 {
		j := r.submit(api.JobSpec{Argv: []string{"echo", "x"}, Detached: true})
		r.ended(j.ID)
		ids = append(ids, j.ID)
	}
	for r.js.out.has(ids[0]) || r.js.out.has(ids[1]) {
		r.js.pruneOutput()
	}
	err := r.client.Logs(context.Background(), ids[0], -1, false, io.Discard, io.Discard)
	if api.CodeOf(err) != api.CodeNotFound {
		t.Errorf("Logs() of removed output = %v, want not_found", err)
	}
	if err := r.client.Logs(context.Background(), ids[3], -1, false, io.Discard, io.Discard); err != nil {
		t.Errorf("Logs() of the latest job = %v", err)
	}
}

func FuzzScanChunks(f *testing.F) {
	f.Add(appendChunk(appendChunk(nil, api.Stdout, []byte("hello")), api.Stderr, []byte("x")))
	f.Add([]byte{1, 0, 0, 0, 255, 255, 255, 255, 0, 0, 0, 0})
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := scanChunks(bytes.NewReader(b), true)
		if err != nil {
			t.Fatal(err)
		}
		if s.size > int64(len(b)) || s.written > s.size {
			t.Fatalf("%d bytes hold %d chunks' bytes and %d of output", len(b), s.size, s.written)
		}
		// The headers of what was verified can be trusted.
		fast, err := scanChunks(bytes.NewReader(b[:s.size]), false)
		if err != nil || fast.written != s.written {
			t.Fatalf("scan without verifying = %d, %v; want %d", fast.written, err, s.written)
		}
		frames, used, next, err := readChunks(b[:s.size], 0, 0, 0)
		if err != nil || int64(used) != s.size || next != s.written {
			t.Fatalf("readChunks() = %d frames, %d, %d, %v; want %d, %d", len(frames), used, next, err, s.size, s.written)
		}
		readChunks(b, 0, 1, 0)
	})
}

// TestOutputGigabyte sends 1 GB through the head and compares its hash. Of what was read both ends
// are kept. It is left out with -short.
func TestOutputGigabyte(t *testing.T) {
	if testing.Short() {
		t.Skip("1 GB; without -short only")
	}
	r := newRig(t, "n1")
	const size = 1 << 30
	want, got := sha256.New(), sha256.New()
	if _, err := io.Copy(want, io.LimitReader(&pattern{}, size)); err != nil {
		t.Fatal(err)
	}
	n := int64(0)
	j, err := r.client.Run(context.Background(), api.JobSpec{Argv: []string{"spew", fmt.Sprint(size)}}, clientOutput(func(b []byte) error {
		n += int64(len(b))
		got.Write(b)
		return nil
	}))
	if err != nil || j.ExitCode != 0 || n != size {
		t.Fatalf("Run() = %d bytes, exit %d, %v; want %d", n, j.ExitCode, err, size)
	}
	if !bytes.Equal(got.Sum(nil), want.Sum(nil)) {
		t.Errorf("hashes: written %x, shown %x", want.Sum(nil), got.Sum(nil))
	}
	var kept, told bytes.Buffer
	if err := r.client.Logs(context.Background(), j.ID, 0, false, &kept, &told); err != nil {
		t.Fatal(err)
	}
	missing := size - kept.Len()
	if want := fmt.Sprintf("[muster: %d bytes of output are not kept]\n", missing); told.String() != want || missing < size/2 {
		t.Errorf("%d bytes are kept; beside them it says %q, want %q", kept.Len(), told.String(), want)
	}
	front, back := kept.Bytes()[:keepHead-indexStep], kept.Bytes()[kept.Len()-keepTail:]
	p := &pattern{}
	part := make([]byte, len(front))
	if _, err := io.ReadFull(p, part); err != nil || !bytes.Equal(part, front) {
		t.Errorf("the beginning is not what was written (%v)", err)
	}
	if _, err := io.CopyN(io.Discard, p, int64(size-len(front)-len(back))); err != nil {
		t.Fatal(err)
	}
	part = make([]byte, len(back))
	if _, err := io.ReadFull(p, part); err != nil || !bytes.Equal(part, back) {
		t.Errorf("the end is not what was written (%v)", err)
	}
}
