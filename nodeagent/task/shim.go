package task

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"muster/api"
)

const (
	// window is how much output may be on its way to the head.
	window = 8 * api.MaxOutput
	// resendAfter is how long the shim waits for an acknowledgement before it
	// sends again; it doubles up to resendMax.
	resendAfter = 2 * time.Second
	resendMax   = 16 * time.Second
	// killPatience is how long killed processes may take to be gone; more
	// means that they hang in the kernel.
	killPatience = 10 * time.Second
)

// The descriptors that the agent passes to a shim.
const (
	fdAgent = 3 // one end of a stream socket pair
	fdLock  = 4 // the lock file, locked
)

// shim is the parent of a task.
type shim struct {
	pumped  atomic.Int64 // bytes of output that were taken
	pumping atomic.Int32 // streams that wait for room

	dir    string
	spec   spec
	spool  *spool
	input  *input
	resend *time.Timer

	mu      sync.Mutex
	wake    sync.Cond // signaled when there is something to send
	conn    net.Conn  // the agent; nil while there is none
	fresh   bool      // the agent knows nothing yet
	changed bool      // the agent should be told the state
	going   bool      // the agent takes output
	sent    int64     // first byte of output that the agent was not sent
	wait    time.Duration
	events  []api.TaskEvent // that happened
	told    int             // how many of them the agent was sent
	shut    bool            // the agent knows that no input is read
	process *os.Process     // init; nil before it runs and after it ended
	signals *os.File        // pipe to init; set together with process
	started bool            // the program runs: signals have a receiver
	held    []unix.Signal   // that came before
	words   []byte          // the end of what it wrote
	stopped bool            // the program is
	stops   int             // how often it was
	console *os.File        // master's end of the task's terminal; nil: it has none
	done    bool            // the agent has forgotten the task
}

// Shim runs the task of a directory and returns when the agent has told it to
// forget the task. It is the whole of a process that an agent started, with
// the descriptors that only the agent passes.
func Shim(dir string) error {
	sp, err := readSpec(dir)
	if err != nil {
		return err
	}
	unix.CloseOnExec(fdLock)
	Protect()
	agent, err := fileConn(fdAgent)
	if err != nil {
		return fmt.Errorf("starting shim: descriptor %d is no socket: %w; shims are started by the agent", fdAgent, err)
	}
	s, err := newShim(dir, sp)
	if err != nil {
		return err
	}
	l, err := listen(filepath.Join(dir, fileSocket))
	if err != nil {
		return err
	}
	defer l.Close()
	s.attach(agent)
	go s.accept(l)
	go s.run()
	s.send()
	return nil
}

func newShim(dir string, sp spec) (*shim, error) {
	out, err := newSpool(spoolSize)
	if err != nil {
		return nil, err
	}
	s := &shim{dir: dir, spec: sp, spool: out, wait: resendAfter}
	s.wake.L = &s.mu
	s.input = newInput(s.poke)
	s.resend = time.AfterFunc(time.Hour, s.goBack)
	s.resend.Stop()
	return s, nil
}

func fileConn(fd int) (net.Conn, error) {
	f := os.NewFile(uintptr(fd), "agent")
	defer f.Close()
	return net.FileConn(f)
}

// listen makes the socket for later agents. Path names of sockets are short,
// so it is reached through its directory's descriptor.
func listen(path string) (net.Listener, error) {
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("opening directory of a task: %w", err)
	}
	defer dir.Close()
	old := unix.Umask(0o177)
	defer unix.Umask(old)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socketPath(dir), Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listening for agents at %s: %w", path, err)
	}
	l.SetUnlinkOnClose(false)
	return l, nil
}

// socketPath names the socket in an open directory in few bytes.
func socketPath(dir *os.File) string {
	return fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), fileSocket)
}

func (s *shim) accept(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		s.attach(c)
	}
}

// attach makes c the agent.
func (s *shim) attach(c net.Conn) {
	s.mu.Lock()
	if s.conn != nil {
		s.conn.Close()
	}
	s.conn, s.fresh, s.going = c, true, false
	s.wake.Broadcast()
	s.mu.Unlock()
	go s.listenTo(c)
}

// drop forgets c if it is the agent still.
func (s *shim) drop(c net.Conn) {
	c.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn == c {
		s.conn, s.going = nil, false
	}
}

// poke makes the sender look for work.
func (s *shim) poke() {
	s.mu.Lock()
	s.wake.Broadcast()
	s.mu.Unlock()
}

// listenTo does what an agent asks until its connection ends.
func (s *shim) listenTo(c net.Conn) {
	defer s.drop(c)
	r := newFrameReader(bufio.NewReaderSize(c, 16<<10))
	for {
		f, _, err := r.next()
		if err != nil {
			return
		}
		s.handle(c, f)
	}
}

func (s *shim) handle(c net.Conn, f api.Frame) {
	switch f.Type {
	case frameGo, frameHold:
		s.setGoing(c, f.Type == frameGo)
	case api.FrameOutputAck:
		s.acked(f.Offset)
	case api.FrameInput:
		s.input.take(f.Offset, f.Data)
		s.poke()
	case api.FrameInputEOF:
		s.input.end(f.Offset)
		s.poke()
	case api.FrameSignal:
		s.signal(unix.Signal(f.Offset))
	case api.FrameWindow:
		s.setWindow(f.Window())
	case frameForget:
		s.forget()
	}
}

func (s *shim) setGoing(c net.Conn, going bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn != c {
		return
	}
	s.going = going
	s.sent, _ = s.spool.bounds()
	s.wait = resendAfter
	s.wake.Broadcast()
}

// acked takes the head's word that it has output up to off.
func (s *shim) acked(off int64) {
	news := s.spool.ack(off)
	s.mu.Lock()
	defer s.mu.Unlock()
	if !news {
		return
	}
	s.wait = resendAfter
	if s.sent < off { // acknowledged from before a repetition
		s.sent = off
	}
	if s.sent > off {
		s.resend.Reset(s.wait)
	} else {
		s.resend.Stop()
	}
	s.wake.Broadcast()
}

// goBack sends again what was not acknowledged for too long.
func (s *shim) goBack() {
	acked, _ := s.spool.bounds()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.going && s.sent > acked {
		s.sent = acked
		s.wait = min(2*s.wait, resendMax)
		s.wake.Broadcast()
	}
}

func (s *shim) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(s.events); n > 0 && s.events[n-1].State.Ended() {
		s.done = true
		s.wake.Broadcast()
	}
}

// send writes to the agent whatever it should know, until the task is
// forgotten.
func (s *shim) send() {
	buf := make([]byte, 0, api.FrameHeaderSize+api.MaxOutput)
	for {
		c, b, err := s.next(buf)
		if c == nil {
			return
		}
		if err == nil {
			_, err = c.Write(b)
		}
		if err != nil {
			s.drop(c)
		}
	}
}

// next waits for something to send. A nil connection means that there will be
// nothing any more.
func (s *shim) next(buf []byte) (net.Conn, []byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		if s.done {
			return nil, nil, nil
		}
		if s.conn != nil {
			b := s.messages(buf[:0])
			var err error
			if len(b) == 0 {
				b, err = s.output(buf[:0])
			}
			if len(b) > 0 || err != nil {
				return s.conn, b, err
			}
		}
		s.wake.Wait()
	}
}

// messages appends what is due besides output.
func (s *shim) messages(b []byte) []byte {
	if s.fresh {
		s.fresh, s.told, s.shut, s.changed = false, 0, false, true
	}
	if s.changed {
		s.changed = false
		b = appendJSONFrame(b, frameState, s.status())
	}
	for ; s.told < len(s.events); s.told++ {
		b = appendJSONFrame(b, frameEvent, s.events[s.told])
	}
	n, next, shut := s.input.acks()
	for range n {
		b = api.AppendFrame(b, api.Frame{Type: api.FrameInputAck, Offset: next})
	}
	if shut && !s.shut {
		s.shut = true
		b = api.AppendFrame(b, api.Frame{Type: api.FrameInputShut, Offset: next})
	}
	return b
}

func (s *shim) status() api.TaskStatus {
	_, end := s.spool.bounds()
	st := api.TaskStatus{TaskRef: s.spec.Start.TaskRef, State: api.JobRunning, Output: end, Input: s.input.taken()}
	if s.process != nil {
		st.PID = s.process.Pid
	}
	if n := len(s.events); n > 0 {
		st.State = s.events[n-1].State
	}
	st.Stops = s.stops
	if s.stopped && !st.State.Ended() {
		st.Detail = api.DetailStopped
	}
	return st
}

// output appends the next frame of output, if the agent takes one now.
func (s *shim) output(b []byte) ([]byte, error) {
	acked, end := s.spool.bounds()
	if !s.going || s.sent >= end || s.sent-acked >= window {
		return b, nil
	}
	data := b[api.FrameHeaderSize:cap(b)][:api.MaxOutput]
	stream, n, err := s.spool.read(s.sent, data)
	if err != nil || n == 0 {
		return b, err
	}
	// The data lies where it belongs; the header is put before it.
	b = api.AppendFrame(b, api.Frame{
		Type: api.FrameOutput, Stream: stream, Task: s.spec.Start.Index, Offset: s.sent, Data: data[:n],
	})
	if s.sent == acked {
		s.resend.Reset(s.wait)
	}
	s.sent += int64(n)
	return b, nil
}

// happened records an event for the agent.
func (s *shim) happened(ev api.TaskEvent) {
	ev.TaskRef, ev.Time = s.spec.Start.TaskRef, time.Now().UTC()
	if ev.State.Ended() {
		if err := writeJSON(filepath.Join(s.dir, fileEnd), ev); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.events = append(s.events, ev)
	s.wake.Broadcast()
}
