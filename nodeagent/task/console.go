package task

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"muster/api"
)

// openConsole makes what a task with a terminal is started with: no input and output yet, and
// a socket on which init sends the terminal's master's end.
func (p *pipes) openConsole() error {
	for range 3 {
		null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		p.theirs = append(p.theirs, null)
	}
	if err := p.openControl(); err != nil {
		return err
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	p.console, p.theirs = os.NewFile(uintptr(pair[0]), "console"), append(p.theirs, os.NewFile(uintptr(pair[1]), "console"))
	return nil
}

// takeConsole waits for the terminal of the task, which then is its input and output.
func (s *shim) takeConsole(p *pipes) error {
	fd, err := receiveFile(int(p.console.Fd()))
	if err == nil {
		err = unix.SetNonblock(fd, true)
	}
	if err != nil {
		return fmt.Errorf("taking the task's terminal: %w", err)
	}
	master := os.NewFile(uintptr(fd), "terminal")
	p.stdout = master
	if s.spec.Start.Stdin {
		p.stdin = &typist{terminal: master}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.console = master
	s.resize() // it may have come since init was started
	return nil
}

// receiveFile takes one file descriptor from a socket.
func receiveFile(socket int) (int, error) {
	room := make([]byte, unix.CmsgSpace(4))
	for {
		_, n, _, _, err := unix.Recvmsg(socket, make([]byte, 1), room, unix.MSG_CMSG_CLOEXEC)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return -1, err
		}
		messages, err := unix.ParseSocketControlMessage(room[:n])
		if err != nil {
			return -1, err
		}
		if len(messages) == 0 {
			return -1, errors.New("init did not send it")
		}
		fds, err := unix.ParseUnixRights(&messages[0])
		if err != nil || len(fds) != 1 {
			return -1, fmt.Errorf("init sent %d files: %w", len(fds), err)
		}
		return fds[0], nil
	}
}

// setWindow gives the terminal another size; the kernel tells the program.
func (s *shim) setWindow(w api.Window) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.spec.Start.Terminal == nil {
		return
	}
	s.spec.Start.Terminal = &w
	s.resize()
}

// resize gives the terminal the size that is wanted. s.mu is held.
func (s *shim) resize() {
	if s.console == nil {
		return
	}
	c, err := s.console.SyscallConn()
	if err != nil {
		return // it is closed
	}
	size := unix.Winsize{Row: s.spec.Start.Terminal.Rows, Col: s.spec.Start.Terminal.Columns}
	_ = c.Control(func(fd uintptr) { _ = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &size) })
}

// typist writes to a terminal as somebody at a keyboard does: the end of the input is a
// Ctrl-D, twice where a line was begun.
type typist struct {
	terminal *os.File
	midline  bool
}

// Write types.
func (t *typist) Write(b []byte) (int, error) {
	n, err := t.terminal.Write(b)
	if n > 0 {
		t.midline = b[n-1] != '\n' && b[n-1] != '\r'
	}
	return n, err
}

// Close ends the input. The terminal stays: what the program writes comes through it.
func (t *typist) Close() error {
	end := "\x04"
	if t.midline {
		end += end
	}
	_, err := t.terminal.WriteString(end)
	return err
}
