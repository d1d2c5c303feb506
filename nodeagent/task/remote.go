package task

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"sync"
	"time"

	"muster/api"
)

// maxWaiters bounds the input that is on its way to one task.
const maxWaiters = 64

// writeTimeout is how long a shim may take to accept a message; it always
// reads, so more means that it hangs.
const writeTimeout = 5 * time.Second

// remote is the agent's view of a task.
type remote struct {
	m    *Manager
	ref  api.TaskRef
	dir  string
	spec spec

	mu       sync.Mutex
	conn     net.Conn // the shim; nil while there is none
	frame    []byte   // memory of what is sent to it
	status   api.TaskStatus
	events   []sentEvent
	waiters  []func(api.Ack) // for one FrameInputAck each, in order; nil: nobody cares
	shut     bool            // the program does not read any more
	held     []int           // signals that came before there was a shim
	window   *api.Window     // size of the terminal that came before there was a shim
	early    []earlyInput    // input that did
	launches int             // shims that were started
	// collecting is how far the files are that are wanted back; ctx is that of run.
	collecting collecting
	ctx        context.Context
	uploads    sync.WaitGroup
	stop       context.CancelFunc
	forgotten  chan struct{} // closed when the head has everything
}

// sentEvent is an event on its way to the head.
type sentEvent struct {
	ev    api.TaskEvent
	at    time.Time // when it was last sent
	acked bool
}

// earlyInput is input that came before there was a shim.
type earlyInput struct {
	chunk api.InputChunk
	reply func(api.Ack)
}

// maxEarly bounds it; the head sends it again.
const maxEarly = 4

func newRemote(m *Manager, dir string, sp spec) *remote {
	return &remote{
		m: m, ref: sp.Start.TaskRef, dir: dir, spec: sp,
		status:    api.TaskStatus{TaskRef: sp.Start.TaskRef, State: api.JobRunning},
		forgotten: make(chan struct{}),
	}
}

// run attends to the task until it is forgotten or ctx is done.
func (r *remote) run(ctx context.Context) {
	r.mu.Lock()
	r.ctx = ctx
	r.mu.Unlock()
	defer r.uploads.Wait()
	for ctx.Err() == nil {
		select {
		case <-r.forgotten:
			r.dismiss()
			r.m.gone(r)
			return
		default:
		}
		conn, err := r.reach(ctx)
		switch {
		case ctx.Err() != nil:
		case err != nil:
			r.failed(err)
			select {
			case <-ctx.Done():
			case <-r.forgotten:
			}
		default:
			r.attend(ctx, conn)
		}
	}
}

// dismiss ends the shim of a forgotten task, if it did not hear of it yet.
func (r *remote) dismiss() {
	conn, err := dial(r.dir)
	if err != nil {
		return // it has ended
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(writeTimeout))
	_, err = conn.Write(api.AppendFrame(nil, api.Frame{Type: frameForget}))
	if err == nil {
		_, err = io.Copy(io.Discard, conn) // until it has ended
	}
	if err != nil {
		r.m.log.Warn("the shim of a forgotten task does not end", "task", r.ref, "error", err)
	}
}

// An endError is how a task ended without a shim that can tell.
type endError struct{ ev api.TaskEvent }

func (e *endError) Error() string { return e.ev.Error }

// reach returns a connection to the task's shim, which it starts if that was
// not done before. An error means that the task has ended.
func (r *remote) reach(ctx context.Context) (net.Conn, error) {
	for {
		if conn, err := dial(r.dir); err == nil {
			return conn, nil
		}
		lock, err := tryLock(filepath.Join(r.dir, fileLock))
		if errors.Is(err, errHeld) {
			// A shim that an earlier agent has just started: it listens soon.
			if !pause(ctx, 10*time.Millisecond) {
				return nil, ctx.Err()
			}
			continue
		}
		if err != nil {
			return nil, err
		}
		defer lock.Close()
		if ev, ok, err := readEnd(r.dir); err != nil || ok {
			if ok {
				err = &endError{ev}
			}
			return nil, err
		}
		if wasStarted(r.dir) {
			err := killGroup(r.spec.Cgroup, killPatience)
			return nil, errors.Join(errors.New("the task's shim was killed, and the task with it"), err)
		}
		return r.launch(ctx, lock)
	}
}

// failed records the end of a task that has no shim.
func (r *remote) failed(err error) {
	var end *endError
	ev := api.TaskEvent{State: api.JobFailed, ExitCode: 126, Error: err.Error()}
	var killed *killedError
	switch {
	case errors.As(err, &end):
		ev = end.ev
	case errors.As(err, &killed):
		ev.ExitCode, ev.Signal = 128+killed.signal, killed.signal
	}
	if end == nil {
		ev.Fetched = notFetched(r.spec.Start, "the command did not run to its end")
		ev.TaskRef, ev.Time = r.ref, time.Now().UTC()
		if err := writeJSON(filepath.Join(r.dir, fileEnd), ev); err != nil {
			r.m.log.Error("the end of a task is not recorded", "task", r.ref, "error", err)
		}
	}
	r.happened(ev)
}

// attend passes on what the shim says, until the connection ends.
func (r *remote) attend(ctx context.Context, conn net.Conn) {
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	r.attach(conn)
	defer r.detach(conn)
	in := newFrameReader(bufio.NewReaderSize(conn, 128<<10))
	for {
		f, raw, err := in.next()
		if err == nil {
			err = r.handle(f, raw)
		}
		if err != nil {
			if ctx.Err() == nil && !r.isForgotten() {
				r.m.log.Warn("lost the shim of a task", "task", r.ref, "error", err)
			}
			return
		}
	}
}

func (r *remote) handle(f api.Frame, raw []byte) error {
	switch f.Type {
	case api.FrameOutput:
		r.mu.Lock()
		r.status.Output = max(r.status.Output, f.Offset+int64(len(f.Data)))
		r.mu.Unlock()
		// What the head does not get now, the shim sends again.
		_ = r.m.cfg.Uplink.Output(r.ref, raw)
	case frameEvent:
		var ev api.TaskEvent
		if err := json.Unmarshal(f.Data, &ev); err != nil {
			return fmt.Errorf("reading event from shim: %w", err)
		}
		r.happened(ev)
	case frameState:
		var st api.TaskStatus
		if err := json.Unmarshal(f.Data, &st); err != nil {
			return fmt.Errorf("reading state from shim: %w", err)
		}
		r.mu.Lock()
		news := r.status.Detail != st.Detail || r.status.Stops != st.Stops
		r.status = st
		r.mu.Unlock()
		if news {
			r.m.cfg.Changed()
		}
	case api.FrameInputAck:
		r.inputAcked(f.Offset)
	case api.FrameInputShut:
		r.mu.Lock()
		r.shut = true
		r.mu.Unlock()
	}
	return nil
}

// attach makes conn the way to the shim and tells it what came before.
func (r *remote) attach(conn net.Conn) {
	r.mu.Lock()
	r.conn = conn
	for _, sig := range r.held {
		r.sendLocked(api.Frame{Type: api.FrameSignal, Offset: int64(sig)})
	}
	if r.window != nil {
		r.sendLocked(api.WindowFrame(*r.window))
	}
	for _, in := range r.early {
		r.inputLocked(in.chunk, in.reply)
	}
	r.held, r.early, r.window = nil, nil, nil
	r.mu.Unlock()
	r.link(r.m.isUp())
}

func (r *remote) detach(conn net.Conn) {
	conn.Close()
	r.mu.Lock()
	r.conn = nil
	waiters := r.waiters
	r.waiters = nil
	ack := r.inputAck()
	r.mu.Unlock()
	for _, w := range waiters {
		if w != nil {
			w(ack)
		}
	}
}

// setWindow passes the size of the terminal on.
func (r *remote) setWindow(w api.Window) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.conn == nil {
		r.window = &w
		return
	}
	r.sendLocked(api.WindowFrame(w))
}

// send writes a frame to the shim. Without one the frame is lost: both ends
// repeat what matters.
func (r *remote) send(f api.Frame) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sendLocked(f)
}

func (r *remote) sendLocked(f api.Frame) {
	if r.conn == nil {
		return
	}
	r.conn.SetWriteDeadline(time.Now().Add(writeTimeout))
	r.frame = api.AppendFrame(r.frame[:0], f)
	if _, err := r.conn.Write(r.frame); err != nil {
		r.conn.Close() // attend notices
	}
}

// link tells the shim whether the head takes output, and sends unacknowledged
// events again when it does.
func (r *remote) link(up bool) {
	if !up {
		r.send(api.Frame{Type: frameHold})
		return
	}
	r.send(api.Frame{Type: frameGo})
	r.repeatEvents(time.Now())
}

// happened takes note of an event and sends it. The end of a task whose user wants files back
// is told when the head has those.
func (r *remote) happened(ev api.TaskEvent) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if ev.State.Ended() && len(r.spec.Start.Fetch) > 0 && len(ev.Fetched) == 0 {
		if r.collecting == notEnded {
			r.collecting = collects
			ctx, cancel := context.WithCancel(r.ctx)
			r.stop = cancel
			r.uploads.Go(func() { defer cancel(); r.collect(ctx, ev) })
			r.m.cfg.Changed()
		}
		return
	}
	r.record(ev)
}

// record takes note of an event and sends it. r.mu is held.
func (r *remote) record(ev api.TaskEvent) {
	r.status.State = ev.State
	if ev.State.Ended() {
		r.status.Output = max(r.status.Output, ev.Output)
	}
	for _, e := range r.events {
		if e.ev.State == ev.State {
			return // the shim repeats itself to each agent
		}
	}
	r.events = append(r.events, sentEvent{ev: ev, at: time.Now()})
	_ = r.m.cfg.Uplink.Event(ev) // repeated until it is acknowledged
	if ev.State.Ended() {        // before that, it would take time from the task's start
		go r.m.spares.fill()
	}
}

// repeatEvents sends events again that were sent before a time and not
// acknowledged.
func (r *remote) repeatEvents(before time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range r.events {
		e := &r.events[i]
		if !e.acked && !e.at.After(before) {
			e.at = time.Now()
			_ = r.m.cfg.Uplink.Event(e.ev)
		}
	}
}

func (r *remote) eventAcked(state api.JobState) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range r.events {
		// The end of a task says all that its start did.
		if r.events[i].ev.State == state || state.Ended() {
			r.events[i].acked = true
		}
	}
}

// sendInput passes input to the shim, or keeps it until there is one.
func (r *remote) sendInput(c api.InputChunk, reply func(api.Ack)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.shut || r.status.State.Ended() || len(r.waiters) >= maxWaiters || len(r.early) >= maxEarly:
		go reply(r.inputAck())
	case r.conn == nil:
		r.early = append(r.early, earlyInput{c, reply})
	default:
		r.inputLocked(c, reply)
	}
}

// inputLocked sends input. The shim answers every frame once.
func (r *remote) inputLocked(c api.InputChunk, reply func(api.Ack)) {
	if len(c.Data) > 0 || !c.EOF {
		w := reply
		if c.EOF {
			w = nil
		}
		r.waiters = append(r.waiters, w)
		r.sendLocked(api.Frame{Type: api.FrameInput, Offset: c.Offset, Data: c.Data})
	}
	if c.EOF {
		r.waiters = append(r.waiters, reply)
		r.sendLocked(api.Frame{Type: api.FrameInputEOF, Offset: c.Offset + int64(len(c.Data))})
	}
}

// inputAck is what is known of the input. r.mu is held.
func (r *remote) inputAck() api.Ack {
	return api.Ack{Offset: r.status.Input, Closed: r.shut || r.status.State.Ended()}
}

// inputAcked answers the oldest input that waits.
func (r *remote) inputAcked(off int64) {
	r.mu.Lock()
	r.status.Input = max(r.status.Input, off)
	var w func(api.Ack)
	if len(r.waiters) > 0 {
		w = r.waiters[0]
		r.waiters = r.waiters[1:]
	}
	ack := r.inputAck()
	r.mu.Unlock()
	if w != nil {
		w(ack)
	}
}

// sendSignal passes a signal on. Before there is a shim, one that ends
// programs ends the preparations.
func (r *remote) sendSignal(sig int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.collecting == collects {
		if deadly(sig) {
			r.stop()
		}
		return
	}
	if r.conn != nil {
		r.sendLocked(api.Frame{Type: api.FrameSignal, Offset: int64(sig)})
		return
	}
	if len(r.held) < maxWaiters {
		r.held = append(r.held, sig)
	}
	if deadly(sig) && r.stop != nil {
		r.stop()
	}
}

func (r *remote) forget() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.status.State.Ended() || r.collecting == collects {
		return &api.Error{Code: api.CodeConflict, Msg: fmt.Sprintf("task %s still runs", r.ref), Hint: "end it before it is forgotten"}
	}
	select {
	case <-r.forgotten:
	default:
		close(r.forgotten)
		r.sendLocked(api.Frame{Type: frameForget})
	}
	return nil
}

func (r *remote) isForgotten() bool {
	select {
	case <-r.forgotten:
		return true
	default:
		return false
	}
}

// state is the task's status with what it uses at the moment.
func (r *remote) state() api.TaskStatus {
	r.mu.Lock()
	st := r.status
	if r.collecting == collects {
		st.State, st.Detail = api.JobRunning, api.DetailFetching
	}
	r.mu.Unlock()
	st.CPUms, st.MemMiB = usage(r.spec.Cgroup)
	return st
}
