package headnode

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"muster/api"
)

const (
	streamPing    = 5 * time.Second
	streamSilence = 20 * time.Second // a client that says nothing for so long is gone
	streamWrite   = 30 * time.Second // one that takes nothing for so long, too
	streamRound   = 1 << 20          // bytes of one task before the next task's turn
	manyTasks     = 64               // from here on states are sent a few times a second only
	manyPause     = 250 * time.Millisecond
	maxJobFrame   = 4 << 20 // what a reader of frames takes
)

// parseOffsets reads TASK:OFFSET,TASK:OFFSET.
func parseOffsets(s string, cursors []cursor) error {
	for w := range strings.SplitSeq(s, ",") {
		if w == "" {
			continue
		}
		task, off, ok := strings.Cut(w, ":")
		i, err1 := strconv.Atoi(task)
		n, err2 := strconv.ParseInt(off, 10, 64)
		if !ok || err1 != nil || err2 != nil || i < 0 || i >= len(cursors) || n < 0 {
			return invalid("pass TASK:OFFSET,...", "offsets %.80q do not fit a job with %d tasks", s, len(cursors))
		}
		cursors[i].off = n
	}
	return nil
}

// routeStreams adds what is no plain request and answer.
func (s *httpServer) routeStreams(mux *http.ServeMux) {
	handle := func(pattern string, f func(http.ResponseWriter, *http.Request) error) {
		s.streamed = append(s.streamed, pattern)
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			if err := f(w, r); err != nil {
				writeError(w, err)
			}
		})
	}
	handle("GET /v1/jobs/{id}/stream", s.serveStream)
	handle("GET /v1/jobs/{id}/logs", s.serveLogs)
	handle("GET /v1/jobs/{id}/files/{task}/{file}", s.serveFile)
	handle("GET /v1/events", s.serveEvents)
	handle("PUT /v1/blobs/{sha256}", s.putBlob)
	handle("HEAD /v1/blobs/{sha256}", s.headBlob)
}

func (s *httpServer) ownJob(r *http.Request, what string) (watched, error) {
	id, err := strconv.ParseUint(r.PathValue("id"), 10, 64)
	if err != nil {
		return watched{}, invalid("", "%.40q is not the number of a job", r.PathValue("id"))
	}
	w, err := s.cfg.Jobs.watch(r.Context(), id)
	if err != nil {
		return w, err
	}
	return w, mustOwn(r.Context(), w.owner, id, what)
}

// serveStream turns the connection into the stream of a run: frames of
// api/frame.go in both directions. Query: from=TASK:OFFSET,... where the client
// goes on reading, input=OFFSET if it sends input, the first byte that it
// still has.
func (s *httpServer) serveStream(w http.ResponseWriter, r *http.Request) error {
	job, err := s.ownJob(r, "attach to")
	if err != nil {
		return err
	}
	if !strings.EqualFold(r.Header.Get("Upgrade"), api.StreamProtocol) {
		return invalid("plain output is at /v1/jobs/"+jobID(job.id)+"/logs", "this is a stream: ask with Upgrade: %s", api.StreamProtocol)
	}
	st := &runStream{js: s.cfg.Jobs, job: job, follow: newFollower(s.cfg.Jobs, job.id, upTo(job.tasks), job.tasks), client: -1}
	if err := parseOffsets(r.URL.Query().Get("from"), st.follow.cursors); err != nil {
		return err
	}
	if in := r.URL.Query().Get("input"); in != "" {
		if st.input, err = strconv.ParseInt(in, 10, 64); err != nil || st.input < 0 {
			return invalid("", "input offset %.40q is not a position", in)
		}
		st.sends = true
	}
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return fmt.Errorf("taking over the connection: %w", err)
	}
	defer conn.Close()
	if !s.addStream(conn) {
		return nil
	}
	defer s.dropStream(conn)
	conn.SetDeadline(time.Time{})
	fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", api.StreamProtocol)
	// The server's reader takes a read that ran out of time for the end of the connection.
	begun, _ := rw.Reader.Peek(rw.Reader.Buffered())
	in := bufio.NewReader(io.MultiReader(bytes.NewReader(begun), conn))
	if err := st.run(r.Context(), conn, in); err != nil {
		s.cfg.Log.Debug("run stream ended", "job", job.id, "err", err)
	}
	return nil
}

func upTo(n int) []int {
	all := make([]int, n)
	for i := range all {
		all[i] = i
	}
	return all
}

// runStream is one client of one run.
type runStream struct {
	js     *jobs
	job    watched
	follow *follower
	input  int64 // where the client's input begins
	sends  bool  // it sends input
	client int   // its number at the relay
	out    *bufio.Writer
	conn   net.Conn
	asleep atomic.Bool // Ctrl-Z has stopped the client, as it has the job: it says nothing until both go on
}

// run serves the client until the job has ended and all was sent, or the
// client is gone.
func (st *runStream) run(ctx context.Context, conn net.Conn, in *bufio.Reader) error {
	for i := range st.follow.cursors {
		if off := st.follow.cursors[i].off; off > 0 && st.job.feed != nil {
			if _, err := st.js.outputFor(st.job.id, i); err != nil {
				return err
			}
			st.js.out.wasRead(logKey{st.job.id, i}, off)
		}
	}
	st.conn, st.out = conn, bufio.NewWriterSize(conn, outputBuffer)
	if st.sends && st.job.relay != nil {
		st.client = st.job.relay.attach(st.input)
	}
	readErr := make(chan error, 1)
	go func() { readErr <- st.read(conn, in) }()
	err := st.write(ctx, readErr)
	conn.Close()
	if err == nil {
		return nil
	}
	return err
}

// read takes what the client says until it is gone.
func (st *runStream) read(conn net.Conn, in *bufio.Reader) error {
	for {
		// Who is heard may take its output later: it is looked at page by page.
		now := time.Now()
		conn.SetReadDeadline(now.Add(streamSilence))
		conn.SetWriteDeadline(now.Add(streamWrite))
		if _, err := in.Peek(1); err != nil && (st.asleep.Load() || st.js.stopped(st.job.id)) && errors.Is(err, os.ErrDeadlineExceeded) {
			st.js.Heard(st.job.id)
			continue
		}
		f, err := api.ReadFrame(in)
		if err != nil {
			return err
		}
		st.js.Heard(st.job.id)
		st.asleep.Store(f.Type == api.FrameSignal && f.Offset == int64(sigStop))
		switch f.Type {
		case api.FramePing:
		case api.FrameOutputAck:
			st.js.out.wasRead(logKey{st.job.id, f.Task}, f.Offset)
		case api.FrameSignal:
			st.js.signalAsync(st.job.id, int(f.Offset))
		case api.FrameWindow:
			st.js.resize(st.job.id, f.Window())
		case api.FrameInput, api.FrameInputEOF:
			if st.client < 0 {
				continue // the job reads none
			}
			if f.Type == api.FrameInput {
				err = st.job.relay.write(st.client, f.Offset, f.Data)
			} else {
				err = st.job.relay.end(st.client, f.Offset)
			}
			if err != nil {
				return err
			}
		default:
			return fmt.Errorf("frame of type %d is not for a head", f.Type)
		}
	}
}

// stopped tells whether every task of a job that runs is stopped, as its client then is too where they share a terminal.
func (js *jobs) stopped(id uint64) bool {
	js.mu.Lock()
	defer js.mu.Unlock()
	j := js.jobs[id]
	if j == nil {
		return false
	}
	for i := range j.tasks {
		if t := &j.tasks[i]; t.phase != phaseEnded && t.detail != api.DetailStopped {
			return false
		}
	}
	return true
}

// signalAsync sends a signal that a client passed on, without an answer.
func (js *jobs) signalAsync(id uint64, signal int) {
	if signal < 1 || signal > 64 {
		return
	}
	js.mu.Lock()
	defer js.mu.Unlock()
	if j := js.jobs[id]; j != nil && !j.state.Ended() {
		if j.queued == len(j.tasks) && signal != sigCont {
			js.cancelLocked(j, fmt.Sprintf("signal %d while it was queued", signal), js.cfg.Now())
			return
		}
		js.signalRunning(j, signal)
	}
}

// resize tells the task of a job with a terminal its size.
func (js *jobs) resize(id uint64, w api.Window) {
	js.mu.Lock()
	defer js.mu.Unlock()
	j := js.jobs[id]
	if j == nil || j.spec.Terminal == nil {
		return
	}
	j.window = &w // for a task that starts later
	for i := range j.tasks {
		t := &j.tasks[i]
		if t.phase != phaseRunning && (t.phase != phasePlaced || !t.sent) {
			continue
		}
		node, ref := t.node, api.TaskRef{Job: j.id, Index: i, Epoch: t.epoch}
		js.todo.forKey(node, func(ctx context.Context) {
			if _, err := js.request(ctx, node, api.VerbWindow, api.TaskWindow{TaskRef: ref, Window: w}); err != nil {
				js.cfg.Log.Debug("size of a terminal not told", "job", id, "err", err)
			}
		})
	}
}

func (st *runStream) send(f api.Frame) error {
	if st.out.Available() < api.FrameHeaderSize+len(f.Data) {
		if err := st.out.Flush(); err != nil {
			return err
		}
	}
	_, err := st.out.Write(api.AppendFrame(st.out.AvailableBuffer(), f)) // in place, where it fits
	return err
}

func (st *runStream) flush() error {
	st.conn.SetWriteDeadline(time.Now().Add(streamWrite))
	return st.out.Flush()
}

// write sends output, states and acknowledgements as they come.
func (st *runStream) write(ctx context.Context, readErr <-chan error) error {
	var wake chan struct{}
	var sub *subscription
	if st.job.feed != nil {
		sub = st.job.feed.subscribe()
		defer sub.close()
		wake = sub.wake
	}
	ping := time.NewTicker(streamPing)
	defer ping.Stop()
	changed, taken := true, st.client >= 0
	var last time.Time
	over := false
	var v api.Job
	for {
		st.conn.SetWriteDeadline(time.Now().Add(streamWrite))
		if sub != nil {
			tasks, job, input := sub.take()
			for i := range tasks {
				st.follow.fresh[i] = struct{}{}
			}
			changed, taken = changed || job, taken || input
		}
		if taken && st.client >= 0 {
			if err := st.sendTaken(); err != nil {
				return err
			}
			taken = false
		}
		var pause <-chan time.Time
		if changed {
			if wait := manyPause - time.Since(last); st.job.tasks > manyTasks && wait > 0 && !last.IsZero() {
				pause = time.After(wait)
			} else {
				var err error
				if v, over, err = st.js.state(ctx, st.job.id); err != nil {
					return err
				}
				last, changed = time.Now(), false
				if over {
					for i := range st.job.tasks {
						st.follow.fresh[i] = struct{}{}
					}
				} else if err := st.sendJob(api.FrameJob, v); err != nil {
					return err
				}
			}
		}
		more, err := st.follow.pump(st.send)
		if err != nil {
			return err
		}
		if over && !more {
			if err := st.sendJob(api.FrameEnd, v); err != nil {
				return err
			}
			return st.flush()
		}
		if err := st.flush(); err != nil {
			return err
		}
		if more {
			select {
			case err := <-readErr:
				return err
			case <-ctx.Done():
				return ctx.Err()
			default:
				continue
			}
		}
		select {
		case <-wake:
		case <-pause:
		case <-ping.C:
			if st.asleep.Load() {
				continue // nobody reads them, and many would not fit
			}
			if err := st.send(api.Frame{Type: api.FramePing}); err != nil {
				return err
			}
		case err := <-readErr:
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (st *runStream) sendTaken() error {
	off, shut := st.job.relay.state()
	if err := st.send(api.Frame{Type: api.FrameInputAck, Offset: off}); err != nil || !shut {
		return err
	}
	return st.send(api.Frame{Type: api.FrameInputShut})
}

func (st *runStream) sendJob(t api.FrameType, v api.Job) error {
	v.Spec.Env = nil
	b := mustJSON(v)
	if len(b) > maxJobFrame { // the client asks for the rest if it needs it
		v.Spec.Argv, v.Tasks = v.Spec.Argv[:1], nil
		b = mustJSON(v)
	}
	return st.send(api.Frame{Type: t, Data: b})
}
