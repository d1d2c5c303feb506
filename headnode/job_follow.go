package headnode

import (
	"context"

	"muster/api"
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

// state is the job now; over tells that it has ended and that this stays so: each end is durable, or the task's node
// says it again to a head that did not record it.
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
		if _, over = js.endDurable[logKey{id, i}]; !over {
			over = j.tasks[i].repeated
		}
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
