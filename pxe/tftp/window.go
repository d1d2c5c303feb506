package tftp

import "encoding/binary"

// window follows what a client has acknowledged and says what to send next.
// Block numbers are counted from 1 without wrapping; 0 stands for the OACK.
type window struct {
	size  int // blocks that may be on the way
	last  int64
	acked int64 // highest block that the client confirmed; -1 while the OACK is not
	sent  int64 // highest block that was sent
}

// newWindow begins a transfer of size bytes.
func newWindow(s settings, size int64) window {
	w := window{size: s.window, last: size/int64(s.block) + 1} // RFC 1350 2: a short block, maybe empty, ends it
	if len(s.agreed) > 0 {
		w.acked, w.sent = -1, 0
	}
	return w
}

// verdict is what a datagram from the client means for a transfer.
type verdict int

const (
	ignore   verdict = iota // old, repeated or nonsense: nothing is sent
	proceed                 // something new was confirmed: send the next window
	finished                // the last block was confirmed
	aborted                 // the client sent an ERROR
)

// receive judges a datagram from the client.
//
// An ACK of a block that was confirmed before is never answered: when it is,
// two packets that cross double every later one (RFC 1123 4.2.3.1).
func (w *window) receive(packet []byte) verdict {
	if len(packet) < 4 || packet[0] != 0 {
		return ignore
	}
	switch packet[1] {
	case opError:
		return aborted
	case opAck:
	default:
		return ignore
	}
	// Blocks are numbered with 16 bits that wrap around.
	ahead := int64(int16(binary.BigEndian.Uint16(packet[2:]) - uint16(w.acked)))
	if ahead <= 0 || w.acked+ahead > w.sent {
		return ignore
	}
	w.acked += ahead
	if w.acked == w.last {
		return finished
	}
	return proceed
}

// next returns the first block to send now and how many, and counts them as
// sent. Called again without an acknowledgment between, it names the same
// ones: RFC 7440 4, the window begins behind the last confirmed block.
func (w *window) next() (first int64, n int) {
	first = w.acked + 1
	if first == 0 {
		return 0, 0 // the OACK
	}
	n = int(min(int64(w.size), w.last-w.acked))
	w.sent = w.acked + int64(n)
	return first, n
}
