package headnode

import (
	"context"
	"fmt"
	"sync"
	"time"

	"muster/api"
)

// keepEvents is how many events a watcher may be behind.
const keepEvents = 8192

// Events numbers what happens in the cluster and keeps the latest of it for
// watchers. Revisions go up over restarts of the head: they begin at
// the time of its start.
type Events struct {
	now clock

	mu   sync.Mutex
	last uint64      // latest revision
	ring []api.Event // ring[r%keepEvents] is revision r
	kept uint64      // how many of the latest are in ring
	news chan struct{}
}

// newEvents returns a hub without events.
func newEvents(now clock) *Events {
	return &Events{
		now: now, last: uint64(now().UnixMicro()),
		ring: make([]api.Event, keepEvents), news: make(chan struct{}),
	}
}

// Publish implements eventSource. It never blocks; ev and what it points to
// must not be changed afterwards.
func (e *Events) Publish(ev api.Event) uint64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.last++
	e.kept = min(e.kept+1, keepEvents)
	ev.Revision, ev.Time = e.last, e.now().UTC()
	e.ring[e.last%keepEvents] = ev
	close(e.news)
	e.news = make(chan struct{})
	return e.last
}

// Revision implements eventSource.
func (e *Events) Revision() uint64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.last
}

// Next implements eventSource.
func (e *Events) Next(ctx context.Context, after uint64, max int) ([]api.Event, error) {
	for {
		events, news, err := e.take(after, max)
		if err != nil || len(events) > 0 {
			return events, err
		}
		select {
		case <-news:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// take returns what is there after a revision, or what to wait for.
func (e *Events) take(after uint64, max int) ([]api.Event, <-chan struct{}, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if after > e.last || after < e.last-e.kept {
		return nil, nil, &api.Error{
			Code: api.CodeConflict,
			Msg:  fmt.Sprintf("events after revision %d are not kept any more", after),
			Hint: fmt.Sprintf("list again and watch from there; the latest is %d", e.last),
		}
	}
	var events []api.Event
	for r := after + 1; r <= e.last && len(events) < max; r++ {
		events = append(events, e.ring[r%keepEvents])
	}
	return events, e.news, nil
}

// stamp is a time as records and the API carry it.
func stamp(t time.Time) time.Time { return t.UTC().Truncate(time.Millisecond) }
