package api

import (
	"bytes"
	"testing"

	"pgregory.net/rapid"
)

// TestPending compares with a slice that keeps everything.
func TestPending(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var p Pending
		base := rapid.Int64Range(0, 100).Draw(t, "base")
		p.Restart(base)
		all, dropped := []byte{}, int64(0)
		t.Repeat(map[string]func(*rapid.T){
			"append": func(t *rapid.T) {
				data := rapid.SliceOfN(rapid.Byte(), 0, 50).Draw(t, "data")
				p.Append(data)
				all = append(all, data...)
				clear(data) // it was copied
			},
			"drop": func(t *rapid.T) {
				to := rapid.Int64Range(0, int64(len(all))).Draw(t, "to")
				p.Drop(base + to)
				dropped = max(dropped, to)
			},
			"": func(t *rapid.T) {
				if p.Base() != base+dropped || p.End() != base+int64(len(all)) || p.Len() != len(all)-int(dropped) {
					t.Fatalf("from %d to %d, %d bytes; want from %d to %d", p.Base(), p.End(), p.Len(), base+dropped, base+int64(len(all)))
				}
				from := rapid.Int64Range(dropped, int64(len(all))).Draw(t, "from")
				most := rapid.IntRange(0, 60).Draw(t, "most")
				want := all[from:min(int(from)+most, len(all))]
				if got := p.CopyTo([]byte("-"), base+from, most); !bytes.Equal(got[1:], want) {
					t.Fatalf("CopyTo(%d, %d) = %q, want %q", from, most, got[1:], want)
				}
			},
		})
	})
}

// TestPendingUsesItsMemoryAgain: a stream of any length takes the memory of what is on its way.
func TestPendingUsesItsMemoryAgain(t *testing.T) {
	var p Pending
	piece := make([]byte, 64<<10)
	for range 16 {
		p.Append(piece)
	}
	buf := make([]byte, 0, len(piece))
	n := testing.AllocsPerRun(1000, func() {
		p.Drop(p.Base() + int64(len(piece)))
		p.Append(piece)
		buf = p.CopyTo(buf[:0], p.Base(), len(piece))
	})
	if n > 0 {
		t.Errorf("%v allocations for each piece, want none", n)
	}
}
