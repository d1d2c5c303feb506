package tftp

import (
	"encoding/binary"
	"testing"
)

func ack(n int64) []byte { return binary.BigEndian.AppendUint16([]byte{0, opAck}, uint16(n)) }

func TestWindow(t *testing.T) {
	type step struct {
		packet    []byte
		want      verdict
		wantFirst int64 // of what next then says; checked unless it ended
		wantN     int
	}
	oack := settings{block: 512, window: 4, agreed: []option{{"windowsize", "4"}}}
	plain := settings{block: 512, window: 1}
	cases := map[string]struct {
		set   settings
		size  int64
		steps []step
	}{
		"stop and wait": {plain, 1000, []step{
			{nil, ignore, 1, 1}, {ack(1), proceed, 2, 1}, {ack(2), finished, 0, 0},
		}},
		"whole blocks end with an empty one": {plain, 1024, []step{{nil, ignore, 1, 1}, {ack(1), proceed, 2, 1}, {ack(2), proceed, 3, 1}, {ack(3), finished, 0, 0}}},
		"empty file":                         {plain, 0, []step{{nil, ignore, 1, 1}, {ack(1), finished, 0, 0}}},
		"options": {oack, 3000, []step{
			{nil, ignore, 0, 0}, {ack(1), ignore, 0, 0}, {ack(0), proceed, 1, 4}, {ack(0), ignore, 1, 4}, {ack(4), proceed, 5, 2}, {ack(6), finished, 0, 0},
		}},
		"part of a window arrived": {oack, 9000, []step{
			{nil, ignore, 0, 0}, {ack(0), proceed, 1, 4}, {ack(2), proceed, 3, 4}, {ack(4), proceed, 5, 4}, {ack(4), ignore, 5, 4}, {ack(3), ignore, 5, 4},
		}},
		"not sent yet":         {plain, 9000, []step{{nil, ignore, 1, 1}, {ack(2), ignore, 1, 1}, {ack(9), ignore, 1, 1}, {ack(1), proceed, 2, 1}}},
		"old ones are ignored": {plain, 9000, []step{{nil, ignore, 1, 1}, {ack(1), proceed, 2, 1}, {ack(1), ignore, 2, 1}, {ack(0), ignore, 2, 1}}},
		"client ends it":       {plain, 9000, []step{{nil, ignore, 1, 1}, {errorPacket(8, "User aborted"), aborted, 0, 0}}},
		"nonsense": {plain, 9000, []step{
			{nil, ignore, 1, 1}, {[]byte{}, ignore, 1, 1}, {[]byte{0, opAck}, ignore, 1, 1}, {[]byte{1, opAck, 0, 1}, ignore, 1, 1}, {[]byte{0, opData, 0, 1}, ignore, 1, 1}, {[]byte{0, 9, 0, 1}, ignore, 1, 1},
		}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			w := newWindow(c.set, c.size)
			for i, s := range c.steps {
				if s.packet != nil {
					if got := w.receive(s.packet); got != s.want {
						t.Fatalf("step %d: receive(% x) = %v, want %v", i, s.packet, got, s.want)
					}
				}
				if s.want == finished || s.want == aborted {
					continue
				}
				if first, n := w.next(); first != s.wantFirst || n != s.wantN {
					t.Fatalf("step %d: next() = %d, %d, want %d, %d", i, first, n, s.wantFirst, s.wantN)
				}
			}
		})
	}
}

func TestWindowWraps(t *testing.T) {
	const blocks = 200_000
	w := newWindow(settings{block: 512, window: 48}, (blocks-1)*512)
	v := proceed
	for v == proceed {
		first, n := w.next()
		if first != w.acked+1 {
			t.Fatalf("next() begins at %d behind block %d", first, w.acked)
		}
		// What confirmed the previous window means nothing any more.
		if old := w.receive(ack(first - 1)); old != ignore {
			t.Fatalf("an old ACK at block %d was taken", first)
		}
		v = w.receive(ack(first + int64(n) - 1))
		if w.acked != first+int64(n)-1 {
			t.Fatalf("confirmed up to %d, want %d", w.acked, first+int64(n)-1)
		}
	}
	if v != finished || w.acked != blocks {
		t.Errorf("ended with %v at block %d, want finished at %d", v, w.acked, blocks)
	}
}

// FuzzWindow gives a transfer any datagrams in any order.
func FuzzWindow(f *testing.F) {
	f.Add(uint32(3000), uint8(4), true, []byte{0, 4, 0, 0, 0, 4, 0, 4, 0, 4, 0, 6})
	f.Add(uint32(0), uint8(1), false, []byte{0, 4, 0, 1})
	f.Add(uint32(70_000_000), uint8(64), false, []byte{0, 4, 0xff, 0xff, 0, 5, 0, 8})
	f.Fuzz(func(t *testing.T, size uint32, window uint8, options bool, stream []byte) {
		set := settings{block: 512, window: max(1, int(window)%(maxWindow+1))}
		if options {
			set.agreed = []option{{"tsize", "0"}}
		}
		w := newWindow(set, int64(size))
		w.next()
		for ; len(stream) >= 4; stream = stream[4:] {
			before := w
			v := w.receive(stream[:4])
			if v == ignore && w != before {
				t.Fatalf("an ignored datagram changed %+v to %+v", before, w)
			}
			if v == proceed && w.acked <= before.acked {
				t.Fatalf("% x went from %d to %d", stream[:4], before.acked, w.acked)
			}
			if v == finished && w.acked != w.last {
				t.Fatalf("finished at block %d of %d", w.acked, w.last)
			}
			if w.acked > before.sent {
				t.Fatalf("block %d is confirmed, %d is the last that was sent", w.acked, before.sent)
			}
			if v == finished || v == aborted {
				return
			}
			if first, n := w.next(); n > set.window || first+int64(n)-1 > w.last || n == 0 && first != 0 {
				t.Fatalf("next() = %d, %d of %d", first, n, w.last)
			}
		}
	})
}
