package nodeagent

import (
	"context"
	"math"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// speedReference is the processor time of one round of [work] on one core of
// the reference: an Intel Xeon of 2023 (family 6, model 167 as its hypervisor
// calls it, 2.6 GHz base). A core that takes half as long has speed 2.
const speedReference = 4750 * time.Microsecond

const (
	speedRounds = 15      // the fastest counts
	workSteps   = 1 << 20 // of one round
	workWords   = 1 << 15 // 256 KiB: more than a level 1 cache, less than a level 2 cache
)

// speedTest measures how fast one core is, once, when told to begin.
type speedTest struct {
	begun chan struct{}
	ready chan struct{} // closed when the value is known
	once  sync.Once

	mu    sync.Mutex
	speed float64
}

func newSpeedTest() *speedTest {
	return &speedTest{begun: make(chan struct{}), ready: make(chan struct{})}
}

// begin lets run measure. It may be called many times.
func (t *speedTest) begin() { t.once.Do(func() { close(t.begun) }) }

// run measures after begin, unless ctx is done before.
func (t *speedTest) run(ctx context.Context) {
	select {
	case <-t.begun:
	case <-ctx.Done():
		return
	}
	speed := measureSpeed()
	t.mu.Lock()
	t.speed = speed
	t.mu.Unlock()
	close(t.ready)
}

// value returns the speed, 0 while it is not known.
func (t *speedTest) value() float64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.speed
}

// measureSpeed takes less than half a second of processor time. It counts the
// thread's own time, so other work on the machine hardly shows.
func measureSpeed() float64 {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	table := make([]uint64, workWords)
	best := time.Duration(math.MaxInt64)
	for range speedRounds {
		before := threadTime()
		work(table)
		if d := threadTime() - before; d > 0 && d < best {
			best = d
		}
	}
	return math.Round(100*float64(speedReference)/float64(best)) / 100
}

func threadTime() time.Duration {
	var ts unix.Timespec
	if unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts) != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}

// work is a fixed mix of what programs do: integer arithmetic with branches that
// cannot be foreseen, and reads and writes all over a table. Its result
// depends on the table alone, and is returned so that it is computed.
func work(table []uint64) uint64 {
	clear(table)
	x := uint64(0x9e3779b97f4a7c15)
	var sum uint64
	mask := uint64(len(table) - 1)
	for i := range uint64(workSteps) {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		p := &table[x&mask]
		if x&(1<<40) != 0 {
			*p += x*0x2545f4914f6cdd1d + i
		} else {
			*p ^= x / (i | 1)
		}
		sum += *p
	}
	return sum
}
