package headnode

import (
	"bytes"
	"context"
	"encoding/binary"
	"os"
	"strings"
	"testing"

	"muster/api"
)

// numbered is output of which every 8 bytes say where they are.
func numbered(off int64, n int) []byte {
	b := make([]byte, 0, n)
	for at := off; len(b) < n; at += 8 {
		b = binary.BigEndian.AppendUint64(b, uint64(at))
	}
	return b
}

// endsRig keeps the output of one task.
type endsRig struct {
	t     *testing.T
	dir   string
	loose bool
	most  int64 // outputsConfig.Unread
	stuck func()
	out   *outputs
	log   *taskLog
	stop  func()
}

func (r *endsRig) start() {
	r.t.Helper()
	out, err := newOutputs(outputsConfig{
		Dir: r.dir, Loose: func(uint64) (bool, bool) { return r.loose, true }, Unread: r.most,
		Stuck: func(uint64, int) {
			if r.stuck != nil {
				r.stuck()
			}
		},
	})
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { out.Run(ctx); close(done) }()
	r.out, r.stop = out, func() { cancel(); <-done }
	if r.log, err = out.task(7, 0, true); err != nil {
		r.t.Fatal(err)
	}
}

// write appends up to an offset and waits until that is durable.
func (r *endsRig) write(to int64) {
	r.t.Helper()
	durable := make(chan int64, 1024)
	written, _, _ := r.log.state()
	for off := written; off < to; off += api.MaxChunk {
		r.log.append(api.Frame{Type: api.FrameOutput, Stream: api.Stdout, Offset: off, Data: numbered(off, api.MaxChunk)}, func(at int64, err error) {
			if err != nil {
				r.t.Error(err)
			}
			durable <- at
		})
		if off%(8<<20) == 0 {
			<-durable // so that there are many rounds of syncs
			for len(durable) > 0 {
				<-durable
			}
		}
	}
	r.log.append(api.Frame{Type: api.FrameOutput, Stream: api.Stdout, Offset: to, Data: numbered(to, 8)}, func(at int64, err error) { durable <- at })
	for at := int64(0); at < to+8; {
		at = <-durable
	}
}

// read returns how much of the output is there in front of the gap, where it ends, and where the output ends.
func (r *endsRig) read() (front, back, end int64) {
	r.t.Helper()
	var c cursor
	buf := make([]byte, outputBuffer)
	for {
		frames, err := r.log.read(&c, buf)
		if err != nil {
			r.t.Fatal(err)
		}
		if len(frames) == 0 {
			return front, back, end
		}
		for _, f := range frames {
			if f.Type == api.FrameGap {
				front, back, end = end, f.Offset, f.Offset
				continue
			}
			if f.Offset != end || !bytes.Equal(f.Data, numbered(f.Offset, len(f.Data))) {
				r.t.Fatalf("%d bytes at %d, want what is at %d", len(f.Data), f.Offset, end)
			}
			end += int64(len(f.Data))
		}
	}
}

func (r *endsRig) used() int64 {
	r.t.Helper()
	st, err := os.Stat(r.out.path(logKey{7, 0}))
	if err != nil {
		r.t.Fatal(err)
	}
	return usedBytes(st)
}

// What a job writes that nobody waits for is kept at both ends, also by the next head.
func TestBothEndsAreKept(t *testing.T) {
	const total, most = 160 << 20, keepHead + keepTail + 2*cutStep
	r := &endsRig{t: t, dir: t.TempDir(), loose: true}
	r.start()
	r.write(total)
	check := func(when string, total int64) {
		t.Helper()
		front, back, end := r.read()
		if front < keepHead-indexStep || front > keepHead+indexStep || end != total+8 || end-back < keepTail || end-back > keepTail+2*cutStep {
			t.Errorf("%s: %d bytes, then from %d to %d; want %d and %d at the ends", when, front, back, end, keepHead, keepTail)
		}
		if n := r.used(); n > most {
			t.Errorf("%s: %d bytes of disk are used, want at most %d", when, n, int64(most))
		}
	}
	check("first", total)
	r.stop()
	r.start()
	check("with another head", total)
	r.log.append(api.Frame{Type: api.FrameOutput, Stream: api.Stdout, Offset: total + 8, Data: numbered(total+8, api.MaxChunk-8)}, nil)
	r.write(total + 32<<20)
	check("later", total+32<<20)
	r.stop()
}

// Of a job that somebody waits for nothing is given up that was not read.
func TestUnreadOutputIsKept(t *testing.T) {
	r := &endsRig{t: t, dir: t.TempDir()}
	r.start()
	defer r.stop()
	r.write(100 << 20)
	if front, back, end := r.read(); front != 0 || back != 0 || end != 100<<20+8 {
		t.Errorf("unread: %d bytes, then from %d to %d", front, back, end)
	}
	r.out.wasRead(logKey{7, 0}, 60<<20)
	r.log.append(api.Frame{Type: api.FrameOutput, Stream: api.Stdout, Offset: 100<<20 + 8, Data: numbered(100<<20+8, api.MaxChunk-8)}, nil)
	r.write(101 << 20)
	front, back, end := r.read()
	if back < 48<<20 || back > 60<<20 || end != 101<<20+8 {
		t.Errorf("read in part: %d bytes, then from %d to %d; want all from 60 MiB on", front, back, end)
	}
}

// A client that reads more slowly than the task writes loses nothing, and what is kept for it is bounded: the task
// waits, and that is said.
func TestSlowReaderHoldsTheTask(t *testing.T) {
	const total, most, step = 160 << 20, 16 << 20, 4 << 20
	news := 0
	r := &endsRig{t: t, dir: t.TempDir(), most: most, stuck: func() { news++ }}
	r.start()
	defer r.stop()
	// fill writes as a node does, which sends again what was not taken, until no more is.
	fill := func() (written int64) {
		for {
			off, _, _ := r.log.state()
			if off >= total {
				return off
			}
			answer := make(chan error, 1)
			r.log.append(api.Frame{Type: api.FrameOutput, Stream: api.Stdout, Offset: off, Data: numbered(off, api.MaxOutput)}, func(_ int64, err error) { answer <- err })
			if err := <-answer; err != nil {
				if api.CodeOf(err) != api.CodeUnavailable || !strings.Contains(err.Error(), errReaderBehind.Error()) {
					t.Fatal(err)
				}
				return off
			}
		}
	}
	var c cursor
	buf := make([]byte, outputBuffer)
	read, waited := int64(0), 0
	for read < total {
		written := fill()
		if written < total {
			waited++
		}
		if ahead := written - read; ahead > most+api.MaxOutput {
			t.Fatalf("%d bytes are kept that were not read, want at most %d", ahead, int64(most))
		}
		if n := r.used(); n > keepHead+keepTail+most+2*cutStep {
			t.Fatalf("%d bytes of disk are used when %d were read", n, read)
		}
		for until := min(read+step, total); read < until; {
			frames, err := r.log.read(&c, buf)
			if err != nil || len(frames) == 0 {
				t.Fatalf("%d frames, %v; %d of %d bytes were read", len(frames), err, read, written)
			}
			for _, f := range frames {
				if f.Type != api.FrameOutput || f.Offset != read || !bytes.Equal(f.Data, numbered(read, len(f.Data))) {
					t.Fatalf("type %d with %d bytes at %d, want what is at %d", f.Type, len(f.Data), f.Offset, read)
				}
				read += int64(len(f.Data))
			}
		}
		r.out.wasRead(logKey{7, 0}, read)
	}
	if waited < (total-most)/step/2 || news < waited {
		t.Errorf("the task waited %d times, which was said %d times", waited, news)
	}
}
