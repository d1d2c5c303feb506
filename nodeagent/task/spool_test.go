package task

import (
	"bytes"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"muster/api"
)

func TestSpoolKeepsStreamsApart(t *testing.T) {
	s := newTestSpool(t, 16<<10)
	for _, p := range []struct {
		stream api.Stream
		data   string
	}{{1, "abc"}, {1, "def"}, {2, "E"}, {1, "gh"}} {
		if ok, err := s.add(p.stream, []byte(p.data)); !ok || err != nil {
			t.Fatal(ok, err)
		}
	}
	type piece struct {
		Off    int64
		Stream api.Stream
		Data   string
	}
	var got []piece
	for _, off := range []int64{0, 4, 6, 7, 8, 9, 100} {
		buf := make([]byte, 5)
		stream, n, err := s.read(off, buf)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, piece{off, stream, string(buf[:n])})
	}
	want := []piece{{0, 1, "abcde"}, {4, 1, "ef"}, {6, 2, "E"}, {7, 1, "gh"}, {8, 1, "h"}, {9, 0, ""}, {100, 0, ""}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if !s.ack(7) || s.ack(7) || s.ack(3) || s.ack(10) {
		t.Error("acknowledgements: 7 is news once, 3 and 10 are none")
	}
	if _, n, _ := s.read(5, make([]byte, 5)); n != 0 {
		t.Error("acknowledged output can be read")
	}
}

// What is read is what was written, however writing, reading and
// acknowledging alternate and wrap around.
func TestSpoolIsFaithful(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const size = 16 << 10
		s, err := newSpool(size)
		if err != nil {
			t.Fatal(err)
		}
		defer s.file.Close()
		var all []byte
		var streams []api.Stream
		acked := int64(0)
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			switch rapid.SampledFrom([]string{"write", "read", "ack"}).Draw(t, "step") {
			case "write":
				room := int(size - (int64(len(all)) - acked) - 4096) // what is held back until a page is full
				if room <= 0 {
					continue
				}
				stream := api.Stream(rapid.IntRange(1, 2).Draw(t, "stream"))
				p := make([]byte, rapid.IntRange(1, room).Draw(t, "length"))
				for i := range p {
					p[i] = byte(rand.Int())
					streams = append(streams, stream)
				}
				if ok, err := s.add(stream, p); !ok || err != nil {
					t.Fatal(ok, err)
				}
				all = append(all, p...)
			case "read":
				off := acked + rapid.Int64Range(0, int64(len(all))-acked).Draw(t, "offset")
				buf := make([]byte, rapid.IntRange(1, 8<<10).Draw(t, "buffer"))
				stream, n, err := s.read(off, buf)
				if err != nil || n == 0 != (off == int64(len(all))) {
					t.Fatalf("%d bytes at %d of %d: %v", n, off, len(all), err)
				}
				if !bytes.Equal(buf[:n], all[off:off+int64(n)]) {
					t.Fatalf("other bytes at %d", off)
				}
				for i := range n {
					if streams[off+int64(i)] != stream {
						t.Fatalf("byte %d is of stream %d, not %d", off+int64(i), streams[off+int64(i)], stream)
					}
				}
			case "ack":
				acked += rapid.Int64Range(0, int64(len(all))-acked).Draw(t, "acked")
				s.ack(acked)
			}
		}
	})
}

func TestSpoolWaitsForRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTestSpool(t, 8<<10)
		var wg sync.WaitGroup
		done := false
		wg.Go(func() {
			if ok, err := s.add(api.Stdout, make([]byte, 20<<10)); !ok || err != nil {
				t.Error(ok, err)
			}
			done = true
		})
		for _, want := range []int64{8 << 10, 16 << 10} {
			synctest.Wait()
			if _, end := s.bounds(); end != want || done {
				t.Fatalf("%d bytes are kept, want %d", end, want)
			}
			s.ack(want)
		}
		wg.Wait()
	})
}

func TestSpoolBoundsSegments(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTestSpool(t, 1<<20)
		var wg sync.WaitGroup
		wg.Go(func() {
			for i := range maxSegments + 10 {
				if ok, _ := s.add(api.Stream(1+i%2), []byte{1}); !ok {
					return
				}
			}
			t.Error("segments are not bounded")
		})
		synctest.Wait()
		if _, end := s.bounds(); end != maxSegments {
			t.Errorf("%d segments are kept, want %d", end, maxSegments)
		}
		s.close()
		wg.Wait()
	})
}

func newTestSpool(t *testing.T, size int64) *spool {
	t.Helper()
	s, err := newSpool(size)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.file.Close() })
	return s
}
