package headnode

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
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

// watched is a job as a reader follows it.
type watched struct {
	id    uint64
	feed  *feed  // nil: the job has left the records
	relay *relay // nil: it reads no input
	tasks int
	owner api.Owner
}

// watch looks a job up for a reader.
func (js *jobs) watch(ctx context.Context, id uint64) (watched, error) {
	js.mu.Lock()
	if j := js.jobs[id]; j != nil {
		defer js.mu.Unlock()
		return watched{id, j.feed, j.relay, len(j.tasks), j.owner}, nil
	}
	js.mu.Unlock()
	v, err := js.Get(ctx, id)
	return watched{id: id, tasks: len(v.Tasks), owner: v.Owner}, err
}

// state is the job now; over tells that it has ended and that this is
// durable.
func (js *jobs) state(ctx context.Context, id uint64) (v api.Job, over bool, err error) {
	js.mu.Lock()
	j := js.jobs[id]
	if j == nil {
		js.mu.Unlock()
		v, err = js.Get(ctx, id)
		return v, err == nil, err
	}
	defer js.mu.Unlock()
	over = j.state.Ended()
	for i := range j.tasks {
		if !over {
			break
		}
		_, over = js.endDurable[logKey{id, i}]
	}
	return js.viewLocked(j), over, nil
}

// outputFor opens the output of a task for reading.
func (js *jobs) outputFor(id uint64, index int) (*taskLog, error) {
	js.mu.Lock()
	_, live := js.jobs[id]
	js.mu.Unlock()
	return js.out.task(id, index, live)
}

// follower reads the output of a job's tasks in turn. It belongs to one
// goroutine.
type follower struct {
	js      *jobs
	id      uint64
	cursors []cursor
	fresh   map[int]struct{} // tasks that may have more
	buf     []byte
}

func newFollower(js *jobs, id uint64, tasks []int, n int) *follower {
	f := &follower{js: js, id: id, cursors: make([]cursor, n), fresh: map[int]struct{}{}, buf: make([]byte, outputBuffer)}
	for _, i := range tasks {
		f.fresh[i] = struct{}{}
	}
	return f
}

// pump hands what is there to emit, a bounded part of each task, and reports
// whether there may be more.
func (f *follower) pump(emit func(api.Frame) error) (more bool, err error) {
	for i := range f.fresh {
		l, err := f.js.outputFor(f.id, i)
		if err != nil {
			return false, err
		}
		end := false
		for sent := 0; sent < streamRound && !end; {
			frames, err := l.read(&f.cursors[i], f.buf)
			if err != nil {
				return false, err
			}
			for _, fr := range frames {
				if err := emit(fr); err != nil {
					return false, err
				}
				sent += len(fr.Data)
			}
			end = len(frames) == 0
		}
		if end {
			delete(f.fresh, i)
		}
	}
	return len(f.fresh) > 0, nil
}

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
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			if err := f(w, r); err != nil {
				writeError(w, err)
			}
		})
	}
	handle("GET /v1/jobs/{id}/stream", s.serveStream)
	handle("GET /v1/jobs/{id}/logs", s.serveLogs)
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
	if err := st.run(r.Context(), conn, rw.Reader); err != nil {
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
	frame  []byte
}

// run serves the client until the job has ended and all was sent, or the
// client is gone.
func (st *runStream) run(ctx context.Context, conn net.Conn, in *bufio.Reader) error {
	st.conn, st.out = conn, bufio.NewWriterSize(conn, 256<<10)
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
		conn.SetReadDeadline(time.Now().Add(streamSilence))
		f, err := api.ReadFrame(in)
		if err != nil {
			return err
		}
		st.js.Heard(st.job.id)
		switch f.Type {
		case api.FramePing, api.FrameOutputAck:
		case api.FrameSignal:
			st.js.signalAsync(st.job.id, int(f.Offset))
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

func (st *runStream) send(f api.Frame) error {
	st.frame = api.AppendFrame(st.frame[:0], f)
	_, err := st.out.Write(st.frame)
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

// serveLogs sends the output of a job: the bytes of its tasks one after the
// other, or with frames=1 as frames. Query: task=N for one of them, from as
// for the stream, follow=1 to go on until the job has ended.
func (s *httpServer) serveLogs(w http.ResponseWriter, r *http.Request) error {
	job, err := s.ownJob(r, "read the output of")
	if err != nil {
		return err
	}
	q := r.URL.Query()
	tasks := upTo(job.tasks)
	if t := q.Get("task"); t != "" {
		i, err := strconv.Atoi(t)
		if err != nil || i < 0 || i >= job.tasks {
			return &api.Error{Code: api.CodeNotFound, Msg: fmt.Sprintf("job %d has no task %.20q: they are 0 to %d", job.id, t, job.tasks-1)}
		}
		tasks = []int{i}
	}
	f := newFollower(s.cfg.Jobs, job.id, nil, job.tasks)
	if err := parseOffsets(q.Get("from"), f.cursors); err != nil {
		return err
	}
	if err := s.outputKept(r.Context(), job); err != nil {
		return err
	}
	l := &logWriter{w: w, framed: isSet(q.Get("frames")), ctl: http.NewResponseController(w)}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if isSet(q.Get("follow")) && job.feed != nil {
		return l.follow(r.Context(), f, job, tasks)
	}
	for _, i := range tasks {
		f.fresh[i] = struct{}{}
		for more := true; more; {
			if more, err = f.pump(l.emit); err != nil {
				return l.failed(err)
			}
		}
	}
	return nil
}

// outputKept fails when an ended job's output was removed to make room.
func (s *httpServer) outputKept(ctx context.Context, job watched) error {
	if job.feed != nil {
		return nil
	}
	v, err := s.cfg.Jobs.Get(ctx, job.id)
	if err != nil {
		return err
	}
	var want int64
	for _, t := range v.Tasks {
		want += t.Output
	}
	if want > 0 && !s.cfg.Jobs.out.has(job.id) {
		return &api.Error{Code: api.CodeNotFound, Msg: fmt.Sprintf("the output of job %d was removed to make room for newer jobs", job.id)}
	}
	return nil
}

func isSet(s string) bool { return s == "1" || s == "true" }

// logWriter writes output as bytes or frames.
type logWriter struct {
	w      http.ResponseWriter
	ctl    *http.ResponseController
	framed bool
	begun  bool
	buf    []byte
}

func (l *logWriter) emit(f api.Frame) error {
	l.ctl.SetWriteDeadline(time.Now().Add(streamWrite))
	l.begun = true
	data := f.Data
	if l.framed {
		l.buf = api.AppendFrame(l.buf[:0], f)
		data = l.buf
	}
	_, err := l.w.Write(data)
	return err
}

// failed ends an answer that has begun by cutting the connection, so that
// nobody takes it for whole.
func (l *logWriter) failed(err error) error {
	if !l.begun {
		return err
	}
	panic(http.ErrAbortHandler)
}

func (l *logWriter) follow(ctx context.Context, f *follower, job watched, tasks []int) error {
	sub := job.feed.subscribe()
	defer sub.close()
	wanted := map[int]bool{}
	for _, i := range tasks {
		wanted[i], f.fresh[i] = true, struct{}{}
	}
	for {
		_, over, err := f.js.state(ctx, job.id)
		if err != nil {
			return l.failed(err)
		}
		for more := true; more; {
			if more, err = f.pump(l.emit); err != nil {
				return l.failed(err)
			}
		}
		if over {
			return nil
		}
		l.ctl.Flush()
		select {
		case <-sub.wake:
		case <-ctx.Done():
			return nil
		}
		fresh, _, _ := sub.take()
		for i := range fresh {
			if wanted[i] {
				f.fresh[i] = struct{}{}
			}
		}
	}
}

// serveEvents sends what changes as server-sent events. Query: since=REVISION
// of a listing, or header Last-Event-ID; without, from now on.
func (s *httpServer) serveEvents(w http.ResponseWriter, r *http.Request) error {
	after := s.cfg.Events.Revision()
	since := r.URL.Query().Get("since")
	if id := r.Header.Get("Last-Event-ID"); id != "" {
		since = id
	}
	if since != "" {
		n, err := strconv.ParseUint(since, 10, 64)
		if err != nil {
			return invalid("pass the revision of a listing", "since %.40q is not a revision", since)
		}
		after = n
	}
	ctl := http.NewResponseController(w)
	begun := false
	for {
		ctx, cancel := context.WithTimeout(r.Context(), 15*time.Second)
		events, err := s.cfg.Events.Next(ctx, after, 256)
		cancel()
		switch {
		case r.Context().Err() != nil:
			return nil
		case after == 0 && api.CodeOf(err) == api.CodeConflict:
			after = s.cfg.Events.Revision() // all that is left begins later
			continue
		case errors.Is(err, context.DeadlineExceeded):
			events = nil
		case err != nil && !begun:
			return err
		case err != nil:
			fmt.Fprintf(w, "event: error\ndata: %s\n\n", mustJSON(api.ErrorReply{Err: wireError(err)}))
			return nil
		}
		if !begun {
			begun = true
			w.Header().Set("Content-Type", "text/event-stream")
			w.Header().Set("Cache-Control", "no-store")
		}
		ctl.SetWriteDeadline(time.Now().Add(streamWrite))
		for _, e := range events {
			after = e.Revision
			if e.Job != nil {
				e.Job.Spec.Env = nil
			}
			fmt.Fprintf(w, "id: %d\nevent: %s\ndata: %s\n\n", e.Revision, e.Kind, mustJSON(e))
		}
		if len(events) == 0 {
			fmt.Fprint(w, ": nothing new\n\n")
		}
		if err := ctl.Flush(); err != nil {
			return nil
		}
	}
}

// putBlob takes a file by its hash: one that a job sends along, or with
// for=image one of an image that is about to be published.
func (s *httpServer) putBlob(w http.ResponseWriter, r *http.Request) error {
	sum, image, err := blobOf(r)
	if err != nil {
		return err
	}
	if image {
		if err := mustAdmin(r.Context(), "publish images"); err != nil {
			return err
		}
		err = s.cfg.Images.PutBlob(r.Context(), sum, r.Body)
	} else {
		err = s.cfg.Jobs.blobs.put(sum, r.Body)
	}
	if err != nil {
		return err
	}
	writeJSON(w, empty{})
	return nil
}

func (s *httpServer) headBlob(w http.ResponseWriter, r *http.Request) error {
	sum, image, err := blobOf(r)
	if err != nil {
		return err
	}
	var size int64
	if image {
		n, ok := s.cfg.Images.HasBlob(sum)
		if !ok {
			return noBlob(sum)
		}
		size = n
	} else if size, err = s.cfg.Jobs.blobs.stat(sum); err != nil {
		return err
	}
	w.Header().Set("Content-Length", strconv.FormatInt(size, 10))
	return nil
}

func blobOf(r *http.Request) (sum string, image bool, err error) {
	sum = r.PathValue("sha256")
	if !isSHA256(sum) {
		return "", false, invalid("", "%.80q is not a SHA-256 in hexadecimal", sum)
	}
	switch use := r.URL.Query().Get("for"); use {
	case "", "job":
		return sum, false, nil
	case "image":
		return sum, true, nil
	default:
		return "", false, invalid("pass for=job or for=image", "files are not kept for %.20q", use)
	}
}
