package api

// Pending is the part of a stream that is kept until it is acknowledged: of the input of a job
// at its client, and again at the head. Its memory is used again, so what comes out of it is a copy. The zero
// Pending is empty and begins at 0. It may not be used concurrently.
type Pending struct {
	base int64  // of the first byte in buf
	buf  []byte // lies in room
	room []byte // has no length, only memory
}

// Base is the position of the first byte that is kept, or of the next one.
func (p *Pending) Base() int64 { return p.base }

// End is the position behind the last byte.
func (p *Pending) End() int64 { return p.base + int64(len(p.buf)) }

// Len is how many bytes are kept.
func (p *Pending) Len() int { return len(p.buf) }

// Restart forgets everything; the next byte is at base.
func (p *Pending) Restart(base int64) { *p = Pending{base: base} }

// Skip moves an empty Pending on by n bytes that need not be kept.
func (p *Pending) Skip(n int) { p.base += int64(n) }

// Append keeps data behind what is there.
func (p *Pending) Append(data []byte) {
	need := len(p.buf) + len(data)
	if need > cap(p.buf) {
		// A third of the memory at least is free then, so a byte is moved twice on average.
		if cap(p.room) < need+need/2 {
			p.room = make([]byte, 0, 2*need)
		}
		p.buf = append(p.room, p.buf...)
	}
	p.buf = append(p.buf, data...)
}

// Drop forgets what is in front of a position. One that is outside moves nothing.
func (p *Pending) Drop(to int64) {
	n := to - p.base
	if n <= 0 || n > int64(len(p.buf)) {
		return
	}
	p.base = to
	p.buf = p.buf[n:]
	if len(p.buf) == 0 {
		p.buf = p.room
	}
}

// CopyTo appends to dst what is there from a position on, at most so many bytes.
func (p *Pending) CopyTo(dst []byte, from int64, most int) []byte {
	n := from - p.base
	if n < 0 || n >= int64(len(p.buf)) {
		return dst
	}
	rest := p.buf[n:]
	return append(dst, rest[:min(most, len(rest))]...)
}
