package client

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"muster/api"
)

const (
	pingEvery   = 5 * time.Second
	silence     = 20 * time.Second // a head that says nothing for so long is gone
	retryFirst  = 100 * time.Millisecond
	retryMost   = 2 * time.Second
	inputWindow = 1 << 20  // bytes of input that are not acknowledged
	inputPiece  = 64 << 10 // most bytes in one frame
	pipeGrace   = time.Second
	outputAcked = 4 << 20 // the head is told that output was written after so many bytes
)

// RunOptions is how a run is connected with its surroundings.
type RunOptions struct {
	// Stdin is sent to every task until its end; nil: nothing is sent. A
	// read that blocks when the job ends is left behind.
	Stdin io.Reader
	// Output is called with what tasks write, from one goroutine, in order for each
	// task; data is valid during the call only. While it blocks the job is kept, signals are
	// passed on, and the tasks wait when they have written too much. After an error it is
	// not called again, and the tasks get SIGHUP, for EPIPE after SIGPIPE and a second in
	// which they may end by it.
	Output func(task int, stream api.Stream, data []byte) error
	// Signals are passed on to the tasks. While the head does not answer
	// they wait; the second SIGINT or SIGTERM then ends the run. A second SIGINT within
	// [InterruptTwice] ends it always, and one that comes before there is a job. nil: none.
	Signals <-chan os.Signal
	// Windows are the sizes that the client's terminal takes; nil: none.
	Windows <-chan api.Window
	// Notice is called with what a person should know: the head does not
	// answer, it answers again. nil: nobody asks.
	Notice func(text string)
	// Changed is called with each state of the job. nil: nobody asks.
	Changed func(api.Job)
}

// NoSignal is taken from [RunOptions].Signals and not passed on: what was sent before has
// been passed on by then.
const NoSignal = syscall.Signal(0)

// ErrLeft is returned by Run when a signal ended it while the head did not
// answer. The job goes on.
var ErrLeft = errors.New("the head does not answer and cannot pass the signal on; the job goes on without this client, and is hung up 30 s after the head is back")

// InterruptTwice is the time within which a second SIGINT means this client and not only the tasks.
const InterruptTwice = 3 * time.Second

// interruptOnce is the time within which a second SIGINT is the first one again: timeout(1) and wrappers send it to
// the program and to its group, faster than anybody presses keys.
const interruptOnce = 50 * time.Millisecond

// ErrInterrupted is wrapped by what Run returns when a signal ended it and not the job.
var ErrInterrupted = errors.New("interrupted")

// errNotBegun is the cause of a submission's end by a signal.
var errNotBegun = fmt.Errorf("%w before the head had taken the job; muster job list tells whether it has", ErrInterrupted)

// Run submits a job and follows it to its end, which it returns. When the
// connection breaks, also because the head was restarted, it goes on where it
// was, for ever; only a head that cannot be reached at the very beginning is an
// error. A spec without RequestID gets one.
func (c *Client) Run(ctx context.Context, spec api.JobSpec, opts RunOptions) (api.Job, error) {
	if spec.RequestID == "" {
		spec.RequestID = rand.Text()
	}
	spec.Stdin = opts.Stdin != nil
	job, err := c.submit(ctx, spec, opts.Signals)
	if err != nil {
		return job, err
	}
	return c.Attach(ctx, job.ID, opts)
}

// submit is Submit until the head has answered or a signal came.
func (c *Client) submit(ctx context.Context, spec api.JobSpec, signals <-chan os.Signal) (job api.Job, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watched, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(watched)
		for {
			select {
			case sig := <-signals:
				if sig != NoSignal && sig != syscall.SIGCONT && sig != syscall.SIGTSTP {
					cancel(errNotBegun)
					return
				}
			case <-done:
				return
			}
		}
	}()
	defer func() {
		close(done)
		<-watched
		if err != nil && errors.Is(context.Cause(ctx), errNotBegun) {
			err = errNotBegun
		}
	}()
	job, err = c.Submit(ctx, spec)
	if lostAnswer(err) {
		// The head may have it: ask until it answers.
		for wait := newBackoff(); api.CodeOf(err) == api.CodeUnreachable; job, err = c.Submit(ctx, spec) {
			if err := wait.sleep(ctx); err != nil {
				return job, err
			}
		}
	}
	return job, err
}

// lostAnswer tells whether a request may have been taken although its answer
// did not arrive: the connection was there and broke.
func lostAnswer(err error) bool {
	var n *noAnswer
	return errors.As(err, &n) && !n.dial
}

// Attach follows a job that was submitted before, as Run does.
func (c *Client) Attach(ctx context.Context, id uint64, opts RunOptions) (api.Job, error) {
	r := &run{c: c, id: id, opts: opts, offsets: map[int]int64{}, writes: make(chan piece, outputQueue), wrote: make(chan writing, outputQueue+1)}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go r.write(ctx)
	if opts.Stdin != nil {
		r.in = &inputBuffer{more: make(chan struct{}, 1)}
		go r.in.fill(ctx, opts.Stdin)
	}
	if opts.Notice == nil {
		r.opts.Notice = func(string) {}
	}
	return r.follow(ctx)
}

// run is one job that is followed. It belongs to the goroutine of follow.
type run struct {
	c       *Client
	id      uint64
	opts    RunOptions
	offsets map[int]int64    // output that was taken, by task
	writes  chan piece       // output for the goroutine that writes it
	wrote   chan writing     // what became of it
	writing int              // pieces that are on their way from the one to the other
	spare   [][]byte         // memory of pieces that were written
	acked   map[int]int64    // output of which the head was told that it was written
	in      *inputBuffer     // nil: nothing is sent
	outErr  error            // of Output
	hangUp  <-chan time.Time // when tasks that SIGPIPE did not end get SIGHUP
	pending []int            // signals that wait for a connection
	window  api.Window       // the size that was told last
	ending  int              // signals to end that came without one
	struck  time.Time        // when the last SIGINT came
	stays   bool             // the job does not end when its client is gone
	last    *api.Job         // ended; its output may not be written yet
	end     *api.Job
}

// outputQueue is how many pieces of output wait to be written; more stay with the head.
const outputQueue = 16

// piece is output that is to be written.
type piece struct {
	task   int
	stream api.Stream
	data   []byte
	end    int64 // its end in the task's output
}

// writing is the outcome of a piece.
type writing struct {
	piece
	err error
}

// write calls Output, so that an output that blocks holds up nothing else.
func (r *run) write(ctx context.Context) {
	var err error
	for {
		select {
		case p := <-r.writes:
			if err == nil && r.opts.Output != nil {
				err = r.opts.Output(p.task, p.stream, p.data)
			}
			r.wrote <- writing{p, err}
		case <-ctx.Done():
			return
		}
	}
}

// follow connects again and again until the job has ended.
func (r *run) follow(ctx context.Context) (api.Job, error) {
	wait, silent := newBackoff(), false
	for {
		s, err := r.connect(ctx)
		if err == nil {
			if silent {
				r.opts.Notice("the head answers again")
				silent = false
			}
			wait = newBackoff()
			err = r.session(ctx, s)
			s.close()
		}
		switch {
		case r.end != nil:
			if r.outErr != nil && !errors.Is(r.outErr, syscall.EPIPE) {
				return *r.end, fmt.Errorf("writing output: %w", r.outErr)
			}
			return *r.end, nil
		case ctx.Err() != nil:
			return api.Job{}, ctx.Err()
		case api.CodeOf(err) != api.CodeUnreachable && api.CodeOf(err) != api.CodeUnavailable:
			return api.Job{}, err
		}
		if !silent && wait.tries > 2 {
			silent = true
			r.opts.Notice(fmt.Sprintf("%v; job %d goes on, and so does this when the head is back", err, r.id))
		}
		if err := r.pause(ctx, wait); err != nil {
			return api.Job{}, err
		}
	}
}

// pause waits before the next try and takes signals meanwhile.
func (r *run) pause(ctx context.Context, wait *backoff) error {
	t := time.NewTimer(wait.next())
	defer t.Stop()
	for {
		select {
		case <-t.C:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		case sig := <-r.opts.Signals:
			n, ok := sig.(syscall.Signal)
			if !ok || n == NoSignal {
				continue
			}
			r.pending = append(r.pending, int(n))
			if n == syscall.SIGINT || n == syscall.SIGTERM {
				if r.ending++; r.ending > 1 {
					return ErrLeft
				}
			}
		}
	}
}

// session is one connection.
type session struct {
	body   io.ReadWriteCloser
	frames chan api.Frame // from the head
	err    chan error     // why reading ended
	done   chan struct{}  // closed when the session is over
	sent   int64          // input up to here was sent on this connection
	piece  []byte         // the input that was sent last
	eof    bool           // and its end
	buf    []byte
}

func (s *session) close() {
	close(s.done)
	s.body.Close()
}

// fromOffsets says how much of each task's output is there.
func fromOffsets(have map[int]int64) string {
	from := make([]string, 0, len(have))
	for t, off := range have {
		from = append(from, strconv.Itoa(t)+":"+strconv.FormatInt(off, 10))
	}
	return strings.Join(from, ",")
}

func (r *run) connect(ctx context.Context) (*session, error) {
	q := url.Values{}
	if len(r.offsets) > 0 {
		q.Set("from", fromOffsets(r.offsets))
	}
	s := &session{frames: make(chan api.Frame), err: make(chan error, 1), done: make(chan struct{})}
	if r.in != nil {
		s.sent = r.in.start()
		q.Set("input", strconv.FormatInt(s.sent, 10))
	}
	req, err := r.c.request(ctx, http.MethodGet, jobPath(r.id)+"/stream", q, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", api.StreamProtocol)
	resp, err := r.c.send(req)
	if err != nil {
		return nil, err
	}
	body, ok := resp.Body.(io.ReadWriteCloser)
	if resp.StatusCode != http.StatusSwitchingProtocols || !ok {
		resp.Body.Close()
		return nil, &api.Error{Code: api.CodeInternal, Msg: fmt.Sprintf("the head did not switch to %s: %s", api.StreamProtocol, resp.Status)}
	}
	s.body = body
	go s.read()
	return s, nil
}

// read passes frames on until the connection ends. Who has taken a frame is
// done with the one before, so that two buffers do.
func (s *session) read() {
	in := bufio.NewReaderSize(s.body, 16<<10)
	var bufs [2][]byte
	for i := 0; ; i++ {
		f, err := api.ReadFrameInto(in, &bufs[i%2])
		if err != nil {
			s.err <- err
			return
		}
		select {
		case s.frames <- f:
		case <-s.done:
			return
		}
	}
}

func (s *session) write(f api.Frame) error {
	s.buf = api.AppendFrame(s.buf[:0], f)
	_, err := s.body.Write(s.buf)
	return err
}

// session serves one connection until it breaks or the job has ended.
func (r *run) session(ctx context.Context, s *session) error {
	for _, n := range r.pending {
		if err := s.write(api.Frame{Type: api.FrameSignal, Offset: int64(n)}); err != nil {
			return r.c.unreachable(err)
		}
	}
	r.pending, r.ending = nil, 0
	if r.window != (api.Window{}) { // it may have been lost with the last connection
		if err := s.write(api.WindowFrame(r.window)); err != nil {
			return r.c.unreachable(err)
		}
	}
	ping := time.NewTicker(pingEvery)
	defer ping.Stop()
	heard := time.Now()
	var input <-chan struct{}
	if r.in != nil {
		input = r.in.more
	}
	if err := r.sendInput(s); err != nil {
		return r.c.unreachable(err)
	}
	for {
		var err error
		frames, broken := s.frames, s.err
		switch {
		case r.last != nil: // the head has said all
			frames, broken = nil, nil
		case r.writing >= outputQueue: // the rest stays with the head meanwhile
			frames, broken, heard = nil, nil, time.Now()
		}
		select {
		case f := <-frames:
			heard = time.Now()
			err = r.take(s, f)
		case w := <-r.wrote:
			err = r.written(s, w)
		case err = <-broken:
		case <-input:
			err = r.sendInput(s)
		case sig := <-r.opts.Signals:
			if n, ok := sig.(syscall.Signal); ok && n != NoSignal {
				if err = s.write(api.Frame{Type: api.FrameSignal, Offset: int64(n)}); err != nil {
					r.pending = append(r.pending, int(n))
				}
				if left := r.interrupted(n); left != nil {
					return left
				}
			}
		case r.window = <-r.opts.Windows:
			err = s.write(api.WindowFrame(r.window))
		case <-r.hangUp:
			r.hangUp = nil
			if err = s.write(api.Frame{Type: api.FrameSignal, Offset: int64(syscall.SIGHUP)}); err != nil {
				r.pending = append(r.pending, int(syscall.SIGHUP))
			}
		case <-ping.C:
			if time.Since(heard) > silence {
				err = fmt.Errorf("nothing was heard for %v", silence)
				break
			}
			err = s.write(api.Frame{Type: api.FramePing})
		case <-ctx.Done():
			return ctx.Err()
		}
		if r.end != nil {
			return nil
		}
		if err != nil && r.last == nil {
			return r.c.unreachable(err)
		}
	}
}

// interrupted is the error with which a signal ends the run; nil: it only goes to the tasks.
func (r *run) interrupted(n syscall.Signal) error {
	if r.last != nil && (n == syscall.SIGINT || n == syscall.SIGTERM || n == syscall.SIGHUP) {
		return fmt.Errorf("%w; job %d has ended, and not all of its output was written here: muster job logs %d", ErrInterrupted, r.id, r.id)
	}
	if n != syscall.SIGINT {
		return nil
	}
	before := r.struck
	r.struck = time.Now()
	switch {
	case before.IsZero() || r.struck.Sub(before) >= InterruptTwice || r.struck.Sub(before) < interruptOnce:
		return nil
	case r.stays:
		return fmt.Errorf("%w twice; job %d goes on without this client; end it with: muster job cancel %d", ErrInterrupted, r.id, r.id)
	}
	return fmt.Errorf("%w twice; job %d goes on for now and is hung up in 30 s; stay with it: muster job attach %d; end it: muster job cancel %d",
		ErrInterrupted, r.id, r.id, r.id)
}

// take does what a frame of the head says.
func (r *run) take(s *session, f api.Frame) error {
	switch f.Type {
	case api.FrameOutput:
		return r.output(s, f)
	case api.FrameGap:
		if f.Offset > r.offsets[f.Task] {
			r.offsets[f.Task] = f.Offset
			r.opts.Notice(fmt.Sprintf("task %d: %s", f.Task, strings.TrimSpace(string(f.Data))))
		}
	case api.FrameInputAck:
		if r.in != nil {
			r.in.acked(f.Offset)
			s.sent = max(s.sent, f.Offset)
			return r.sendInput(s)
		}
	case api.FrameInputShut:
		if r.in != nil {
			r.in.shut()
		}
	case api.FrameJob, api.FrameEnd:
		var j api.Job
		if err := json.Unmarshal(f.Data, &j); err != nil {
			return fmt.Errorf("reading the state of job %d: %w", r.id, err)
		}
		r.stays = j.Spec.Detached
		if r.opts.Changed != nil {
			r.opts.Changed(j)
		}
		if f.Type == api.FrameEnd {
			r.last = &j
			r.over()
		}
	}
	return nil
}

// over ends the run when the job has ended and its output is written.
func (r *run) over() {
	if r.writing == 0 {
		r.end = r.last
	}
}

// output hands on what is new of a frame.
func (r *run) output(s *session, f api.Frame) error {
	have := r.offsets[f.Task]
	end := f.Offset + int64(len(f.Data))
	switch {
	case f.Offset > have:
		return fmt.Errorf("output of task %d goes on at %d, and %d bytes are here", f.Task, f.Offset, have)
	case end <= have:
		return nil
	}
	r.offsets[f.Task] = end
	r.writing++
	// The frame's own memory is used for the next one.
	var buf []byte
	if n := len(r.spare); n > 0 {
		buf, r.spare = r.spare[n-1], r.spare[:n-1]
	}
	r.writes <- piece{f.Task, f.Stream, append(buf[:0], f.Data[have-f.Offset:]...), end} // it has room
	return nil
}

// written notes what became of a piece of output.
func (r *run) written(s *session, w writing) error {
	r.writing--
	r.spare = append(r.spare, w.data)
	r.over()
	if w.err == nil || r.outErr != nil {
		if r.acked == nil {
			r.acked = map[int]int64{}
		}
		if w.end-r.acked[w.task] < outputAcked {
			return nil
		}
		r.acked[w.task] = w.end
		return s.write(api.Frame{Type: api.FrameOutputAck, Task: w.task, Offset: w.end})
	}
	r.outErr = w.err
	sig := syscall.SIGHUP
	if errors.Is(r.outErr, syscall.EPIPE) {
		sig = syscall.SIGPIPE
		r.hangUp = time.After(pipeGrace) // Go and Python ignore a SIGPIPE that comes from outside
	}
	return s.write(api.Frame{Type: api.FrameSignal, Offset: int64(sig)})
}

// sendInput sends what was read and not sent on this connection yet.
func (r *run) sendInput(s *session) error {
	if r.in == nil {
		return nil
	}
	for {
		off, data, eof := r.in.from(s.sent, s.piece)
		if len(data) > 0 {
			s.piece = data
			if err := s.write(api.Frame{Type: api.FrameInput, Offset: off, Data: data}); err != nil {
				return err
			}
			s.sent = off + int64(len(data))
			continue
		}
		if eof && !s.eof {
			s.eof = true
			return s.write(api.Frame{Type: api.FrameInputEOF, Offset: off})
		}
		return nil
	}
}

// inputBuffer holds what was read from standard input and not acknowledged.
type inputBuffer struct {
	more chan struct{} // capacity 1: there is something new to send

	mu   sync.Mutex
	kept api.Pending
	eof  bool
	stop bool
	room *sync.Cond
}

// fill reads until the input ends or nobody wants more.
func (b *inputBuffer) fill(ctx context.Context, r io.Reader) {
	b.mu.Lock()
	if b.room == nil {
		b.room = sync.NewCond(&b.mu)
	}
	b.mu.Unlock()
	defer context.AfterFunc(ctx, b.shut)()
	piece := make([]byte, inputPiece)
	for {
		n, err := r.Read(piece)
		b.mu.Lock()
		b.kept.Append(piece[:n])
		b.eof = err != nil
		for b.kept.Len() > inputWindow-inputPiece && !b.stop {
			b.room.Wait()
		}
		done := b.eof || b.stop
		b.mu.Unlock()
		b.tell()
		if done {
			return
		}
	}
}

func (b *inputBuffer) tell() {
	select {
	case b.more <- struct{}{}:
	default:
	}
}

// start is the first position that was not acknowledged.
func (b *inputBuffer) start() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.kept.Base()
}

// from returns what there is from off on, a piece at most, in the memory of buf where that is enough, and whether
// the input ends behind it.
func (b *inputBuffer) from(off int64, buf []byte) (at int64, data []byte, eof bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.stop {
		return off, nil, false
	}
	off = max(off, b.kept.Base())
	data = b.kept.CopyTo(buf[:0], off, inputPiece)
	return off, data, b.eof && off+int64(len(data)) >= b.kept.End()
}

// acked drops what every task has taken.
func (b *inputBuffer) acked(off int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.kept.Drop(min(off, b.kept.End()))
	if b.room != nil {
		b.room.Broadcast()
	}
}

// shut ends fill: nobody reads any more.
func (b *inputBuffer) shut() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.stop = true
	b.kept.Restart(b.kept.Base())
	if b.room != nil {
		b.room.Broadcast()
	}
}

// backoff is the wait between tries: longer each time, with a random part, so
// that the clients of a head that comes back do not come all at once.
type backoff struct {
	tries int
	wait  time.Duration
}

func newBackoff() *backoff { return &backoff{wait: retryFirst} }

func (b *backoff) next() time.Duration {
	w := b.wait/2 + mathrand.N(b.wait/2+1)
	b.wait = min(2*b.wait, retryMost)
	b.tries++
	return w
}

func (b *backoff) sleep(ctx context.Context) error {
	select {
	case <-time.After(b.next()):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
