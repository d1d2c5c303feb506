package main

import (
	"context"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"muster/api"
)

const (
	// quietBefore is how long a stopped command must have written nothing before the caller's
	// shell gets the terminal: what it wrote last may come behind the news of its stop.
	quietBefore = 100 * time.Millisecond
	// stopsWithin is how long it takes at most to be stopped by a signal of one's own. A process
	// whose group is orphaned is not: nobody could continue it.
	stopsWithin = 500 * time.Millisecond
)

// suspender gives the terminal back to the shell while the command that it belongs to is stopped:
// it stops this process too, and when that goes on the command does.
type suspender struct {
	screen  *screen
	signals *signals
	ctx     context.Context
	cancel  context.CancelFunc
	running sync.WaitGroup
	last    atomic.Int64 // when something was written, in nanoseconds since 1970

	mu     sync.Mutex
	stops  int  // that were seen
	active bool // this process is stopping, stopped or about to go on
}

func newSuspender(s *screen, sig *signals) *suspender {
	ctx, cancel := context.WithCancel(context.Background())
	return &suspender{screen: s, signals: sig, ctx: ctx, cancel: cancel}
}

// close ends what is under way; afterwards the terminal is not touched.
func (s *suspender) close() {
	s.mu.Lock()
	s.active = true
	s.mu.Unlock()
	s.cancel()
	s.running.Wait()
}

// wrote is told that output was written.
func (s *suspender) wrote() { s.last.Store(time.Now().UnixNano()) }

// changed takes a new state of the job, which has one task.
func (s *suspender) changed(j api.Job) {
	if len(j.Tasks) != 1 {
		return
	}
	t := j.Tasks[0]
	s.mu.Lock()
	defer s.mu.Unlock()
	if t.Detail != api.DetailStopped || t.Stops <= s.stops || s.active || s.screen.before == nil {
		return
	}
	s.stops, s.active = t.Stops, true
	s.running.Go(func() {
		s.suspend()
		s.mu.Lock()
		s.active = s.ctx.Err() != nil
		s.mu.Unlock()
	})
}

// suspend stops this process and its group, as Ctrl-Z does where the terminal is not the command's, and
// returns when it goes on.
func (s *suspender) suspend() {
	for wait := quietBefore; wait > 0; wait = quietBefore - time.Since(time.Unix(0, s.last.Load())) {
		select {
		case <-time.After(wait):
		case <-s.ctx.Done():
			return
		}
	}
	s.screen.close()
	continued := make(chan os.Signal, 1)
	signal.Notify(continued, syscall.SIGCONT)
	handler := defaultStop()
	_ = syscall.Kill(0, syscall.SIGTSTP)
	select {
	case <-continued:
	case <-time.After(stopsWithin):
	case <-s.ctx.Done():
	}
	setAction(syscall.SIGTSTP, &handler, nil)
	signal.Stop(continued)
	// In the background this stops again, until the terminal is ours.
	s.screen.raw()
	_ = syscall.Kill(os.Getpid(), syscall.SIGWINCH) // it may have another size now
	s.signals.send(syscall.SIGCONT)
}

// signals are those that this process gets and the job shall have. A stop stops the job and then
// this process, and when that goes on the job does; one with a terminal decides itself.
type signals struct {
	got    chan os.Signal
	passed chan os.Signal // no room: who takes a second signal has sent the first
}

// action is the kernel's struct sigaction of 64-bit machines.
type action [4]uint64

// defaultStop lets a stop signal stop this process and returns what it did before. The runtime
// goes on catching a signal behind signal.Reset, for nothing.
func defaultStop() action {
	var before action
	setAction(syscall.SIGTSTP, &action{}, &before)
	return before
}

func setAction(s syscall.Signal, to, before *action) {
	const sizeOfSet = 8
	_, _, _ = syscall.RawSyscall6(syscall.SYS_RT_SIGACTION, uintptr(s), uintptr(unsafe.Pointer(to)), uintptr(unsafe.Pointer(before)), sizeOfSet, 0, 0)
}

// send passes a signal on to the job.
func (s *signals) send(n syscall.Signal) {
	select {
	case s.got <- n:
	default: // so many wait that one is not missed
	}
}
