package headnode

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"muster/api"
)

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
