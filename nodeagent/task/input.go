package task

import (
	"io"
	"sync"
)

const (
	// inputSize is how much input a shim holds that the program has not read.
	inputSize = 1 << 20
	// inputRoom is how much must be free before more is asked for.
	inputRoom = inputSize / 2
	// inputWrite is how much is written to the program at once.
	inputWrite = 256 << 10
)

// input is a program's standard input on its way into the pipe. take, end,
// and close may be called from any goroutine, feed from one.
type input struct {
	changed func() // called, unlocked, when acknowledgements may be due

	mu   sync.Mutex
	work sync.Cond // signaled when there is something for feed
	buf  []byte    // taken, and feed does not have it yet
	held int       // bytes that feed has and that are not in the pipe yet
	next int64     // position of the first byte that was not taken
	owed int       // acknowledgements that wait for room
	eof  bool      // nothing follows buf
	shut bool      // the program does not read any more
}

func newInput(changed func()) *input {
	in := &input{changed: changed}
	in.work.L = &in.mu
	return in
}

// take accepts what is new of data at off, as far as there is room, and owes an
// acknowledgement.
func (in *input) take(off int64, data []byte) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.owed++
	if in.shut || in.eof || off > in.next || off+int64(len(data)) <= in.next {
		return
	}
	data = data[in.next-off:]
	data = data[:min(len(data), inputSize-in.held-len(in.buf))]
	in.buf = append(in.buf, data...)
	in.next += int64(len(data))
	in.work.Signal()
}

// end accepts the end of the input, if everything before it was taken.
func (in *input) end(off int64) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.owed++
	if off == in.next {
		in.eof = true
		in.work.Signal()
	}
}

// acks returns how many acknowledgements are due now and what they say.
func (in *input) acks() (n int, next int64, shut bool) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.held+len(in.buf) <= inputSize-inputRoom || in.shut || in.eof {
		n, in.owed = in.owed, 0
	}
	return n, in.next, in.shut
}

// taken returns the position of the first byte that was not taken.
func (in *input) taken() int64 {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.next
}

// close ends feed; the program is gone.
func (in *input) close() {
	in.mu.Lock()
	in.shut, in.buf = true, nil
	in.work.Signal()
	in.mu.Unlock()
	in.changed()
}

// feed writes to the program until its input ends, then closes w.
func (in *input) feed(w io.WriteCloser) {
	defer w.Close()
	var piece []byte
	for {
		in.mu.Lock()
		for len(in.buf) == 0 && !in.eof && !in.shut {
			in.work.Wait()
		}
		if in.shut || len(in.buf) == 0 {
			in.mu.Unlock()
			return
		}
		// The two buffers take turns, so that nothing is copied.
		piece, in.buf = in.buf, piece[:0]
		in.held = len(piece)
		in.mu.Unlock()

		for rest := piece; len(rest) > 0; {
			n, err := w.Write(rest[:min(len(rest), inputWrite)])
			if err != nil {
				in.close()
				return
			}
			rest = rest[n:]
			in.mu.Lock()
			in.held = len(rest)
			in.mu.Unlock()
			in.changed()
		}
	}
}
