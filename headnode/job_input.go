package headnode

import (
	"context"
	"errors"
	"sync"
	"time"

	"muster/api"
)

// inputWindow is how much input of a job the head holds at most. A client
// keeps what was not acknowledged, so nothing of it is stored.
const inputWindow = 1 << 20

// inputRetry is the wait before input is sent again to a node that did not
// answer, or to a task that took nothing.
const (
	inputRetry    = 500 * time.Millisecond
	inputRetryMin = 2 * time.Millisecond

	// inputUnknown is how often in a row a node may say that it does not know
	// the task before its input is given up.
	inputUnknown = 5
)

// relay hands the input of a job from its client to every task. It holds what
// at least one task that still reads has not taken. A relay of a head that was
// restarted begins where its client does: at the first byte that was not
// acknowledged; tasks that are ahead say so.
type relay struct {
	feed *feed

	mu      sync.Mutex
	kept    api.Pending
	known   bool  // its base was learned from a client, or the input began here
	eof     int64 // length of the input; -1: not known yet
	tasks   []relayTask
	changed chan struct{} // closed and replaced when there is more to send
	client  int           // counts clients: only the latest may write
}

type relayTask struct {
	taken int64
	eof   bool // it was told the end
	shut  bool // it does not read any more
}

func newRelay(tasks int, f *feed) *relay {
	return &relay{feed: f, eof: -1, tasks: make([]relayTask, tasks), changed: make(chan struct{})}
}

// attach makes a new client the one that writes and returns its number.
// acked is the position from which on it can send.
func (r *relay) attach(acked int64) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.client++
	if !r.known {
		r.known = true
		r.kept.Restart(acked)
		r.wake()
	}
	return r.client
}

var errNewerClient = errors.New("another client has taken over the input of this job")

// write takes input that begins at off. What it has already is skipped; more
// than the window holds, or a gap, is a mistake of the client.
func (r *relay) write(client int, off int64, data []byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if client != r.client {
		return errNewerClient
	}
	end := r.kept.End()
	switch {
	case off > end:
		return invalid("", "input at %d follows none: the next byte is %d", off, end)
	case off+int64(len(data)) <= end:
		return nil
	}
	data = data[end-off:]
	if r.eof >= 0 && end+int64(len(data)) > r.eof {
		return invalid("", "input goes on behind its end at %d", r.eof)
	}
	if r.open() {
		if r.kept.Len()+len(data) > inputWindow {
			return tooLarge("", "input is %d bytes ahead; at most %d may be on the way", r.kept.Len()+len(data), inputWindow)
		}
		was := r.fullLocked()
		r.kept.Append(data)
		if r.fullLocked() && !was {
			r.feed.changed() // why it waits may have to be said
		}
	} else {
		r.kept.Skip(len(data)) // nobody reads: count it as taken
	}
	r.wake()
	return nil
}

// end notes the length of the input.
func (r *relay) end(client int, length int64) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if client != r.client {
		return errNewerClient
	}
	if end := r.kept.End(); length < end {
		return invalid("", "input ends at %d, but %d bytes were sent", length, end)
	}
	r.eof = length
	r.wake()
	return nil
}

// wake lets the senders look again. r.mu is held.
func (r *relay) wake() {
	close(r.changed)
	r.changed = make(chan struct{})
}

// open tells whether a task still reads. r.mu is held.
func (r *relay) open() bool {
	for i := range r.tasks {
		if !r.tasks[i].shut {
			return true
		}
	}
	return false
}

// full tells whether no more can come before a task has taken some.
func (r *relay) full() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.fullLocked()
}

func (r *relay) fullLocked() bool { return r.kept.Len() > inputWindow-api.MaxChunk }

// state tells a client up to where every task that still reads has taken the
// input, and whether none does.
func (r *relay) state() (taken int64, shut bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.kept.Base(), !r.open()
}

// next returns what task i gets next, in the memory of buf where that is enough. ok is false when there is nothing now;
// wait is closed when that changed. done says that it will get nothing more.
func (r *relay) next(i int, buf []byte) (off int64, data []byte, eof, ok, done bool, wait <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	t := &r.tasks[i]
	if t.shut || t.eof {
		return 0, nil, false, false, true, nil
	}
	if !r.known {
		return 0, nil, false, false, false, r.changed
	}
	from := max(t.taken, r.kept.Base())
	data = r.kept.CopyTo(buf[:0], from, api.MaxInput)
	last := from + int64(len(data))
	eof = r.eof >= 0 && last >= r.eof
	if len(data) == 0 && !eof {
		return 0, nil, false, false, false, r.changed
	}
	return from, data, eof, true, false, nil
}

// took notes the answer of task i: it has everything in front of off.
func (r *relay) took(i int, off int64, eof, shut bool) {
	r.mu.Lock()
	t := &r.tasks[i]
	t.taken = max(t.taken, off)
	t.eof = t.eof || eof
	t.shut = t.shut || shut
	r.trim()
	r.mu.Unlock()
	r.feed.taken()
}

// shut notes that task i does not read any more.
func (r *relay) shut(i int) {
	r.mu.Lock()
	done := r.tasks[i].shut
	if !done {
		r.tasks[i].shut = true
		r.trim()
		r.wake()
	}
	r.mu.Unlock()
	if !done {
		r.feed.taken()
	}
}

// trim drops what every task that reads has taken. r.mu is held.
func (r *relay) trim() {
	low := r.kept.End()
	for i := range r.tasks {
		if t := &r.tasks[i]; !t.shut {
			low = min(low, max(t.taken, r.kept.Base()))
		}
	}
	if r.kept.Drop(low); !r.open() {
		r.kept.Restart(r.kept.Base()) // its memory is not needed any more
	}
}

// feedInput begins to send the input of a job to one of its tasks. js.mu is
// held.
func (js *jobs) feedInput(j *job, i int) {
	if j.relay == nil {
		return
	}
	t := &j.tasks[i]
	ref := api.TaskRef{Job: j.id, Index: i, Epoch: t.epoch}
	js.todo.alone(func(ctx context.Context) { js.sendInput(ctx, j, ref) })
}

// inputNode is the node of a task that runs, "" when it does not any more.
func (js *jobs) inputNode(j *job, ref api.TaskRef) string {
	js.mu.Lock()
	defer js.mu.Unlock()
	t := &j.tasks[ref.Index]
	if t.epoch != ref.Epoch || t.phase != phaseRunning {
		return ""
	}
	return t.node
}

// sendInput sends input to one task until it has all of it, does not read any
// more or has ended.
func (js *jobs) sendInput(ctx context.Context, j *job, ref api.TaskRef) {
	wait, unknown := inputRetryMin, 0
	var buf, message []byte
	for {
		off, data, eof, ok, done, more := j.relay.next(ref.Index, buf)
		if done {
			return
		}
		if !ok {
			select {
			case <-more:
			case <-ctx.Done():
				return
			}
			continue
		}
		node := js.inputNode(j, ref)
		if node == "" {
			return
		}
		buf = data
		message = api.AppendInput(message[:0], api.InputChunk{TaskRef: ref, Offset: off, Data: data, EOF: eof})
		ack, err := js.requestRaw(ctx, node, api.VerbInput, message)
		switch code := api.CodeOf(err); {
		case err == nil:
			unknown = 0
			all := ack.Offset >= off+int64(len(data))
			j.relay.took(ref.Index, ack.Offset, eof && all, ack.Closed)
			if all || ack.Offset > off {
				wait = inputRetryMin
				continue
			}
			wait = min(2*wait, inputRetry) // it takes nothing now
		case code == api.CodeNotFound && unknown >= inputUnknown:
			j.relay.shut(ref.Index) // it has ended
			return
		case code == api.CodeNotFound:
			unknown++ // or its agent was just restarted, or the node renamed
			wait = inputRetry
		default:
			js.cfg.Log.Debug("input not taken", "node", node, "task", ref.String(), "err", err)
			wait = inputRetry
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
	}
}
