package task

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"muster/api"
)

// A shim is a large program beside what most tasks do at their start, so one waits ahead of time: it has
// started and read nothing yet. It is told the folder of a task when there is one, and is a shim like any
// other from then on. It ends with the agent that started it, if that never gave it a task.

// spares holds the shim that waits. At most one does.
type spares struct {
	m *Manager

	mu      sync.Mutex
	closed  bool
	conn    *net.UnixConn // to the one that waits; nil: there is none
	waiting *os.Process
}

// refillAfter is when another shim is started in place of one that was taken, unless its task has ended before: not at
// once, since that would take time from the start of the task.
const refillAfter = 100 * time.Millisecond

// restAfter is when a shim that waits gives back what it has read: it takes a moment longer to begin then.
const restAfter = 10 * time.Second

// fill starts a shim that waits unless there is one.
func (s *spares) fill() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.conn != nil {
		return
	}
	var err error
	if s.conn, s.waiting, err = s.m.startWaiting(); err != nil {
		s.m.log.Warn("no shim waits for the next task", "error", err)
	}
}

// take gives the shim that waits to a task: its folder, and the descriptors that a shim is started with. It
// returns false when none waits.
func (s *spares) take(dir string, socket, lock, log *os.File) bool {
	s.mu.Lock()
	conn, process := s.conn, s.waiting
	s.conn, s.waiting = nil, nil
	s.mu.Unlock()
	if conn == nil {
		return false
	}
	defer conn.Close()
	time.AfterFunc(refillAfter, s.fill)
	go process.Wait() // so that it leaves no zombie; it ends with its task, or at once if this goes wrong
	rights := unix.UnixRights(int(socket.Fd()), int(lock.Fd()), int(log.Fd()))
	n, _, err := conn.WriteMsgUnix([]byte(dir), rights, nil)
	return err == nil && n == len(dir)
}

// run keeps a shim waiting until ctx is done.
func (s *spares) run(ctx context.Context) {
	s.fill()
	<-ctx.Done()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	if s.conn != nil {
		s.conn.Close()
		_, _ = s.waiting.Wait()
		s.conn, s.waiting = nil, nil
	}
}

// startWaiting starts a shim without a task and returns the way to it.
func (m *Manager) startWaiting() (*net.UnixConn, *os.Process, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("making a socket for the shim: %w", err)
	}
	theirs := os.NewFile(uintptr(pair[1]), "shim")
	defer theirs.Close()
	c, err := fileConn(pair[0])
	if err != nil {
		return nil, nil, fmt.Errorf("making a socket for the shim: %w", err)
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		c.Close()
		return nil, nil, fmt.Errorf("starting shim: %w", err)
	}
	defer null.Close()
	// The last one keeps the place of the lock free.
	process, err := m.spawn([]*os.File{null, null, null, theirs, null}, m.cfg.Dir+"/")
	if err != nil {
		c.Close()
		return nil, nil, err
	}
	return c.(*net.UnixConn), process, nil
}

// WaitingShim is what a shim is whose folder is that of all tasks, with a slash at its end: it waits for the agent that
// started it to say which task it holds, and is [Shim] then. Without a task it returns when the agent ends. It is the
// whole of a process.
func WaitingShim() error {
	if kind, err := unix.GetsockoptInt(fdAgent, unix.SOL_SOCKET, unix.SO_TYPE); err != nil || kind != unix.SOCK_SEQPACKET {
		return errors.New("shim takes the folder of one task; it is started by the agent")
	}
	unix.CloseOnExec(fdAgent)
	Protect()
	getReady()
	rest := time.AfterFunc(restAfter, settle)
	dir := make([]byte, unix.PathMax)
	rights := make([]byte, unix.CmsgSpace(3*4))
	var n, rn int
	for {
		var err error
		n, rn, _, _, err = unix.Recvmsg(fdAgent, dir, rights, unix.MSG_CMSG_CLOEXEC)
		if err == nil {
			break
		}
		if !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("waiting for a task: %w", err)
		}
	}
	if n == 0 { // the agent has ended
		return nil
	}
	rest.Stop()
	list, err := unix.ParseSocketControlMessage(rights[:rn])
	if err != nil || len(list) != 1 {
		return fmt.Errorf("waiting for a task: an order without descriptors: %w", errors.Join(err, io.ErrUnexpectedEOF))
	}
	fds, err := unix.ParseUnixRights(&list[0])
	if err != nil || len(fds) != 3 {
		return fmt.Errorf("waiting for a task: an order with %d descriptors: %w", len(fds), errors.Join(err, io.ErrUnexpectedEOF))
	}
	for i, to := range []int{fdAgent, fdLock, int(os.Stderr.Fd())} { // as if it had been started with them
		if err := unix.Dup3(fds[i], to, unix.O_CLOEXEC); err != nil {
			return fmt.Errorf("waiting for a task: taking its descriptors: %w", err)
		}
		unix.Close(fds[i])
	}
	return Shim(string(dir[:n]))
}

// getReady does once what takes longer the first time: reading what a task's folder says, and writing
// what the agent is told.
func getReady() {
	var s spec
	b, err := json.Marshal(spec{Start: api.TaskStart{Argv: []string{""}, Env: []string{""}}, View: View{Shares: make([]Share, 1), Files: make([]File, 1)}})
	if err == nil {
		_ = json.Unmarshal(b, &s)
	}
	_, _ = json.Marshal(api.TaskStatus{})
	_, _ = json.Marshal(api.TaskEvent{})
}
