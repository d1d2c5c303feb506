package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"muster/api"
)

// supervised is one service while its runner runs.
type supervised struct {
	api.NodeService
	r      *Runner
	i      int
	log    *slog.Logger
	passed chan struct{} // closed when its check has passed for the first time
	poke   chan struct{} // gets a token when a check makes sense before its time

	mu    sync.Mutex
	alive bool   // a process of it runs, or it has ended as it should
	last  string // last line that it wrote
	ended string // how it ended, while it is not alive
	since time.Time
}

// run lives as long as the runner.
func (s *supervised) run(ctx context.Context) {
	var work sync.WaitGroup
	defer work.Wait()
	out, err := openOutput(s.file(".out"))
	if err != nil {
		s.log.Error("output of the service is not kept", "err", err)
	} else {
		work.Go(func() { out.copy(ctx, s.log, s.said) })
	}
	work.Go(func() { s.keep(ctx) })
	s.watch(ctx)
}

func (s *supervised) file(suffix string) string { return filepath.Join(s.r.cfg.RunDir, s.Name+suffix) }

// said remembers the last line of the service.
func (s *supervised) said(line string) {
	s.mu.Lock()
	s.last = line
	s.mu.Unlock()
}

// be notes whether the service lives, and has it checked.
func (s *supervised) be(alive bool, ended string) {
	s.mu.Lock()
	s.alive, s.ended, s.since = alive, ended, time.Now()
	s.mu.Unlock()
	select {
	case s.poke <- struct{}{}:
	default:
	}
}

// keep starts the service, and again where it has to be.
func (s *supervised) keep(ctx context.Context) {
	if s.isDone() {
		s.be(true, "")
		return
	}
	backoff := s.r.time.backoffMin
	for ctx.Err() == nil {
		begin := time.Now()
		end := s.once(ctx)
		if ctx.Err() != nil {
			return
		}
		if end == nil && s.Restart != restartAlways {
			s.markDone()
			s.log.Info("service has done its work")
			s.be(true, "")
			return
		}
		text := "it ended"
		if end != nil {
			text = end.Error()
		}
		if last := s.lastLine(); last != "" {
			text += ": " + last
		}
		if s.Restart == restartNever {
			s.log.Error("service failed", "err", text)
			s.be(false, text+" (restart: never)")
			return
		}
		if time.Since(begin) >= s.r.time.stable {
			backoff = s.r.time.backoffMin
		}
		s.log.Warn("service ended", "err", text, "again_in", backoff)
		s.be(false, text)
		if !pause(ctx, backoff) {
			return
		}
		backoff = min(2*backoff, s.r.time.backoffMax)
	}
}

func (s *supervised) lastLine() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last
}

// isDone says whether a service that is meant to end has ended well during this boot.
func (s *supervised) isDone() bool {
	_, err := os.Stat(s.file(".done"))
	return err == nil
}

func (s *supervised) markDone() {
	if err := os.WriteFile(s.file(".done"), nil, 0o600); err != nil {
		s.log.Warn("service will be started again by the next agent", "err", err)
	}
}

// once runs the service until it has ended with all that it started; one that an earlier
// agent has started is just waited for. nil: it ended well.
func (s *supervised) once(ctx context.Context) error {
	group, err := s.r.group(s.Name)
	if err != nil {
		s.log.Warn("service has no cgroup", "err", err)
	}
	if group.populated() {
		s.log.Info("service still runs")
		s.be(true, "")
		group.waitEmpty(ctx)
		if s.Restart != restartAlways {
			return errors.New("it ended while no agent was there to see how")
		}
		return nil
	}
	p, err := s.r.start(ctx, s.NodeService, s.Command, group, s.file(".out"))
	if err != nil {
		return err
	}
	s.log.Info("service started", "pid", p.pid())
	s.be(true, "")
	end, ended := p.wait(ctx)
	if !ended {
		return nil // it goes on without us
	}
	if end == nil && s.Restart == restartAlways {
		group.waitEmpty(ctx) // it has put itself into the background
	}
	if end != nil {
		group.kill()
	}
	return end
}

// watch checks the service until ctx is done.
func (s *supervised) watch(ctx context.Context) {
	every := time.Duration(s.Every)
	passed, failing := false, false
	for {
		why := s.check(ctx)
		if ctx.Err() != nil {
			return
		}
		s.r.set(s.i, func(st *state) { st.why, st.passed = why, st.passed || why == "" })
		switch {
		case why == "" && !passed:
			s.log.Info("service passed its check")
			passed = true
			close(s.passed)
		case why == "" && failing:
			s.log.Info("service passes its check again")
		case why != "" && passed && !failing:
			s.log.Warn("service is not well", "err", why)
		}
		failing = why != ""
		rest := every
		if why != "" || !passed {
			rest = min(rest, s.r.time.firstCheck)
		}
		if s.Check == nil {
			rest = s.r.time.settle
		}
		timer := time.NewTimer(rest)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		case <-s.poke:
			timer.Stop()
		}
	}
}

// check says why the service is not well; "": it is.
func (s *supervised) check(ctx context.Context) string {
	s.mu.Lock()
	alive, ended, since := s.alive, s.ended, s.since
	s.mu.Unlock()
	switch {
	case !alive && ended == "":
		return "starting"
	case !alive:
		return ended
	case s.Restart != restartAlways && !s.isDone():
		return "working"
	case s.Check == nil && s.Restart == restartAlways && time.Since(since) < s.r.time.settle:
		return "starting"
	case s.Check == nil:
		return ""
	}
	return s.r.check(ctx, s.NodeService)
}

// pause waits for d, and says whether ctx is still alive.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// errNoProgram names a program that is nowhere in a root.
func errNoProgram(name, in string) error {
	return fmt.Errorf("there is no program %s in the %s", name, in)
}
