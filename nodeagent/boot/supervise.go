package boot

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	agentBackoffMin = 250 * time.Millisecond
	agentBackoffMax = 30 * time.Second
	// agentStable is how long an agent must have run for its next failure
	// to count as the first.
	agentStable = time.Minute
)

// reaper collects every child that ends: PID 1 inherits the orphans of the
// whole machine. It is the only one who waits in this process, so nothing
// else here may use os/exec.
type reaper struct {
	mu      sync.Mutex
	waiting map[int]chan syscall.WaitStatus // children that somebody waits for; guarded by mu
}

// start runs a program. The channel delivers how it ended.
func (r *reaper) start(path string, argv []string, attr *syscall.ProcAttr) (int, <-chan syscall.WaitStatus, error) {
	// The lock is held over the fork: a child that ends at once is not reaped
	// before it is known.
	r.mu.Lock()
	defer r.mu.Unlock()
	pid, err := syscall.ForkExec(path, argv, attr)
	if err != nil {
		return 0, nil, fmt.Errorf("starting %s: %w", path, err)
	}
	done := make(chan syscall.WaitStatus, 1)
	if r.waiting == nil {
		r.waiting = make(map[int]chan syscall.WaitStatus)
	}
	r.waiting[pid] = done
	return pid, done, nil
}

// reap collects what has ended, and reports whether children are left.
func (r *reaper) reap() (left bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return false // ECHILD
		case pid == 0:
			return true
		}
		if done, ok := r.waiting[pid]; ok {
			delete(r.waiting, pid)
			done <- status
		}
	}
}

// program is a process that PID 1 keeps alive.
type program struct {
	path string
	argv []string
	attr *syscall.ProcAttr
}

// keep starts p, and starts it again whenever it ends, until ctx is done. A
// program that ends at once is tried less and less often.
func (r *reaper) keep(ctx context.Context, p program, log *slog.Logger) {
	backoff := agentBackoffMin
	for ctx.Err() == nil {
		begin := time.Now()
		pid, done, err := r.start(p.path, p.argv, p.attr)
		if err == nil {
			log.Info("agent started", "pid", pid)
			select {
			case <-ctx.Done():
				return
			case status := <-done:
				err = fmt.Errorf("%s", describe(status))
			}
		}
		if time.Since(begin) >= agentStable {
			backoff = agentBackoffMin
		}
		log.Error("agent ended", "err", err, "dur", time.Since(begin).Round(time.Millisecond), "again_in", backoff)
		if !wait(ctx, backoff) {
			return
		}
		backoff = min(2*backoff, agentBackoffMax)
	}
}

// describe says how a process ended.
func describe(s syscall.WaitStatus) string {
	if s.Signaled() {
		return fmt.Sprintf("killed by signal %d (%s)", int(s.Signal()), s.Signal())
	}
	return fmt.Sprintf("exit status %d", s.ExitStatus())
}
