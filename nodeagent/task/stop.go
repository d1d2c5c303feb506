package task

import (
	"time"

	"golang.org/x/sys/unix"
)

// What a program on a terminal writes before it stops, such as the screen as it was, is to be
// there before its stop is told.
const (
	shownStep = 2 * time.Millisecond
	shownMost = 200 * time.Millisecond
)

// shown waits until what is in the terminal was taken, if the task has one.
func (s *shim) shown() {
	s.mu.Lock()
	console := s.console
	s.mu.Unlock()
	if console == nil {
		return
	}
	c, err := console.SyscallConn()
	if err != nil {
		return
	}
	for waited := time.Duration(0); waited < shownMost; waited += shownStep {
		more := false
		// An error says that there is no terminal any more, and so nothing in it.
		_ = c.Control(func(fd uintptr) {
			p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
			n, err := unix.Poll(p, 0)
			more = err == nil && n > 0 && p[0].Revents&unix.POLLIN != 0
		})
		if !more && s.pumping.Load() == 0 {
			return
		}
		time.Sleep(shownStep)
	}
}

// stop takes note that the program was stopped, or goes on.
func (s *shim) stop(stopped bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopped, s.changed = stopped, true
	if stopped {
		s.stops++
	}
	s.wake.Broadcast()
}
