package headnode

import (
	"context"
	"sync"
)

// boxLimits bound the messages that wait to be handled. What comes on top is
// dropped: agents repeat what was not acknowledged.
type boxLimits struct {
	messages int // of one agent
	bytes    int // of one agent
	all      int // bytes of all agents
}

// What machines say that are not approved has room of its own, so that
// strangers do not use up that of nodes. A join request lists the tasks that
// a machine still holds from the time when it was a node.
var (
	nodeBoxes     = boxLimits{1024, 16 << 20, 512 << 20}
	strangerBoxes = boxLimits{4, 256 << 10, 128 << 20}
)

// boxes handles the messages of each agent one after the other, with one
// goroutine for each agent that has any.
type boxes struct {
	limits boxLimits
	ctx    context.Context // for handlers; done when the boxes stop
	cancel context.CancelFunc

	mu    sync.Mutex
	boxes map[string]*box
	bytes int
}

type box struct {
	queue []boxWork
	bytes int
}

type boxWork struct {
	size int
	do   func(context.Context)
}

func (b *boxes) init(limits boxLimits) {
	b.limits = limits
	b.ctx, b.cancel = context.WithCancel(context.Background())
	b.boxes = map[string]*box{}
}

// stop lets handlers end early and drops what waits.
func (b *boxes) stop() {
	b.cancel()
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, bx := range b.boxes {
		bx.queue = nil
	}
}

// put queues work for an agent; false means that it was dropped.
func (b *boxes) put(wg *sync.WaitGroup, key string, size int, do func(context.Context)) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ctx.Err() != nil {
		return false
	}
	bx := b.boxes[key]
	if bx == nil {
		bx = &box{}
		b.boxes[key] = bx
		wg.Go(func() { b.work(key, bx) })
	}
	if len(bx.queue) >= b.limits.messages || bx.bytes+size > b.limits.bytes || b.bytes+size > b.limits.all {
		return false
	}
	bx.queue = append(bx.queue, boxWork{size, do})
	bx.bytes += size
	b.bytes += size
	return true
}

// work handles an agent's messages until none is left.
func (b *boxes) work(key string, bx *box) {
	for {
		b.mu.Lock()
		if len(bx.queue) == 0 {
			b.bytes -= bx.bytes
			delete(b.boxes, key)
			b.mu.Unlock()
			return
		}
		w := bx.queue[0]
		bx.queue = bx.queue[1:]
		b.mu.Unlock()
		w.do(b.ctx)
		b.mu.Lock()
		bx.bytes -= w.size
		b.bytes -= w.size
		b.mu.Unlock()
	}
}
