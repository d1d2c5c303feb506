package tftp

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"syscall"
	"time"
)

// Outcome is how a transfer ended.
type Outcome string

// The outcomes. A client that only wants to know the size of a file ends as
// aborted: firmware asks so before the real request.
const (
	Done     Outcome = "done"      // the client confirmed the last block
	Aborted  Outcome = "aborted"   // the client said so, or closed its socket
	TimedOut Outcome = "timed out" // the client was not heard any more
	Refused  Outcome = "refused"   // no such file, not allowed, bad request
	Failed   Outcome = "failed"    // the file could not be read or sent
	Stopped  Outcome = "stopped"   // the server ended, or the same client began anew
)

// Transfer is what is reported of a transfer when it has ended.
type Transfer struct {
	Client  netip.AddrPort
	Local   netip.Addr
	Name    string // cleaned; as asked when it could not be
	Size    int64  // of the file
	Bytes   int64  // of the file that the client confirmed
	Block   int    // bytes of a block
	Window  int    // blocks on the way at once
	Resends int    // windows that were sent again
	Start   time.Time
	Dur     time.Duration
	Outcome Outcome
	Err     error // nil when Done or Aborted
}

// conn is the socket of one transfer, joined to its client.
type conn interface {
	// Read takes the next datagram of the client, cut to the buffer.
	Read(p []byte) (int, error)
	SetReadDeadline(t time.Time) error
	// Write sends one datagram.
	Write(p []byte) (int, error)
	// WriteSegments sends a datagram for each size bytes of p; the last may
	// be shorter.
	WriteSegments(p []byte, size int) error
	Close() error
}

// How long is waited for an acknowledgment: the first time, and at most; and how
// often something is sent. Firmware gives up after 6 to 60 s.
const (
	firstWait = time.Second
	maxWait   = 8 * time.Second
	maxTries  = 6
)

// transfer is one transfer while it runs.
type transfer struct {
	report Transfer
	conn   conn
	file   File
	set    settings
	win    window
	buf    []byte // scratch for one send
}

// run sends the file. The outcome is in t.report.
func (t *transfer) run(ctx context.Context) {
	stop := context.AfterFunc(ctx, func() { _ = t.conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	t.report.Outcome, t.report.Err = t.exchange(ctx)
	if t.win.acked > 0 {
		t.report.Bytes = min(t.win.acked*int64(t.set.block), t.report.Size)
	}
}

// exchange alternates between sending a window and waiting for what it brings.
func (t *transfer) exchange(ctx context.Context) (Outcome, error) {
	for {
		verdict, err := t.window(ctx)
		switch {
		case err != nil:
			return outcomeOf(ctx, err)
		case verdict == finished:
			return Done, nil
		case verdict == aborted:
			return Aborted, nil
		}
	}
}

// window sends one window, again while nothing comes, and returns what the
// client said.
func (t *transfer) window(ctx context.Context) (verdict, error) {
	wait := firstWait
	if t.set.timeout > 0 {
		wait = time.Duration(t.set.timeout) * time.Second
	}
	for try := 0; try < maxTries; try++ {
		if try > 0 {
			t.report.Resends++
		}
		if err := t.send(); err != nil {
			return ignore, err
		}
		v, err := t.listen(ctx, time.Now().Add(wait))
		if !errors.Is(err, os.ErrDeadlineExceeded) || ctx.Err() != nil {
			return v, err
		}
		wait = max(wait, min(2*wait, maxWait))
	}
	return ignore, errSilent
}

// errSilent is the end of a transfer whose client is not heard any more.
var errSilent = fmt.Errorf("no answer to %d packets", maxTries)

// errRead marks a failure of the file, which the client is told of.
var errRead = errors.New("reading the file")

// listen waits until the deadline for a datagram that means something.
func (t *transfer) listen(ctx context.Context, deadline time.Time) (verdict, error) {
	if err := t.conn.SetReadDeadline(deadline); err != nil {
		return ignore, err
	}
	// The end of ctx sets a deadline in the past, maybe before the one above.
	if err := ctx.Err(); err != nil {
		return ignore, err
	}
	var packet [64]byte
	for {
		n, err := t.conn.Read(packet[:])
		if err != nil {
			return ignore, err
		}
		if v := t.win.receive(packet[:n]); v != ignore {
			return v, nil
		}
	}
}

// send sends the OACK or the current window of blocks.
func (t *transfer) send() error {
	first, n := t.win.next()
	if n == 0 {
		_, err := t.conn.Write(t.set.oack())
		return err
	}
	packet := t.set.block + 4
	most := len(t.buf) / packet
	for n > 0 {
		k := min(n, most)
		p, err := t.fill(first, k)
		if err != nil {
			_, _ = t.conn.Write(errorPacket(codeOther, "the file cannot be read")) // the failure is reported already
			return err
		}
		if err := t.conn.WriteSegments(p, packet); err != nil {
			return err
		}
		first, n = first+int64(k), n-k
	}
	return nil
}

// fill writes n DATA packets from the given block on into the scratch buffer. The
// content is read at once, to its end, and then moved behind the headers.
func (t *transfer) fill(first int64, n int) ([]byte, error) {
	offset := (first - 1) * int64(t.set.block)
	size := int(min(int64(n)*int64(t.set.block), t.report.Size-offset))
	p := t.buf[:4*n+size]
	data := p[4*n:]
	if got, err := t.file.ReadAt(data, offset); got < size {
		return nil, fmt.Errorf("%w %s at %d: %w", errRead, t.report.Name, offset, err)
	}
	for i := range n {
		packet := p[i*(t.set.block+4):]
		packet[0], packet[1] = 0, opData
		binary.BigEndian.PutUint16(packet[2:], uint16(first+int64(i)))
		k := copy(packet[4:], data[:min(t.set.block, len(data))])
		data = data[k:]
	}
	return p, nil
}

// outcomeOf sorts an error that ended a transfer.
func outcomeOf(ctx context.Context, err error) (Outcome, error) {
	switch {
	case ctx.Err() != nil:
		return Stopped, context.Cause(ctx)
	case errors.Is(err, errSilent):
		return TimedOut, err
	case errors.Is(err, syscall.ECONNREFUSED):
		// The machine is there and nothing listens any more: it has what it
		// wanted, or went on to something else.
		return Aborted, nil
	}
	return Failed, err
}

// refusalOf is what a client is told of an error of its request.
func refusalOf(name string, err error) *refusal {
	var r *refusal
	switch {
	case errors.As(err, &r):
		return r
	case errors.Is(err, fs.ErrNotExist):
		return &refusal{codeNotFound, name + ": no such file"}
	case errors.Is(err, fs.ErrPermission):
		return &refusal{codeAccess, name + ": not allowed"}
	}
	return &refusal{codeOther, name + ": cannot be sent now"}
}
