package headnode

import (
	"context"
	"sync"

	"golang.org/x/sync/errgroup"
)

// perKey is how much work for one key runs at the same time.
const perKey = 4

// workQueue runs functions in the background, those of one key (a node) in
// their order and at most perKey at a time, so that a node that does not
// answer delays nobody else.
type workQueue struct {
	wake chan struct{}

	mu    sync.Mutex
	queue map[string][]func(context.Context)
	busy  map[string]int
	free  []func(context.Context) // of no key
}

func newWorkQueue() *workQueue {
	return &workQueue{wake: make(chan struct{}, 1), queue: map[string][]func(context.Context){}, busy: map[string]int{}}
}

// forKey queues f behind the work of key.
func (w *workQueue) forKey(key string, f func(context.Context)) {
	w.mu.Lock()
	w.queue[key] = append(w.queue[key], f)
	w.mu.Unlock()
	w.kick()
}

// alone runs f in a goroutine of its own, for as long as f likes.
func (w *workQueue) alone(f func(context.Context)) {
	w.mu.Lock()
	w.free = append(w.free, f)
	w.mu.Unlock()
	w.kick()
}

func (w *workQueue) kick() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// run works until ctx is done and returns when everything that it started
// has ended; what was not started yet is not.
func (w *workQueue) run(ctx context.Context) error {
	var g errgroup.Group
	for {
		select {
		case <-ctx.Done():
			return g.Wait()
		case <-w.wake:
		}
		w.mu.Lock()
		free := w.free
		w.free = nil
		var keys []string
		for key, q := range w.queue {
			for range min(len(q), perKey-w.busy[key]) {
				w.busy[key]++
				keys = append(keys, key)
			}
		}
		w.mu.Unlock()
		for _, f := range free {
			g.Go(func() error { f(ctx); return nil })
		}
		for _, key := range keys {
			g.Go(func() error { w.work(ctx, key); return nil })
		}
	}
}

// work does what is queued for key until nothing is left.
func (w *workQueue) work(ctx context.Context, key string) {
	for {
		w.mu.Lock()
		q := w.queue[key]
		if len(q) == 0 || ctx.Err() != nil {
			if w.busy[key]--; w.busy[key] == 0 {
				delete(w.busy, key)
			}
			if len(q) == 0 {
				delete(w.queue, key)
			}
			w.mu.Unlock()
			return
		}
		f := q[0]
		w.queue[key] = q[1:]
		w.mu.Unlock()
		f(ctx)
	}
}
