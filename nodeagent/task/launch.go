package task

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// dial connects to the shim of a task's directory.
func dial(dir string) (net.Conn, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("opening directory of a task: %w", err)
	}
	defer d.Close()
	return net.DialUnix("unix", nil, &net.UnixAddr{Name: socketPath(d), Net: "unix"})
}

// tryLock locks a file for as long as it, or a copy in another process, is
// open. It returns errHeld when it is locked already.
func tryLock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("locking a task: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, errHeld
		}
		return nil, fmt.Errorf("locking a task: %w", err)
	}
	return f, nil
}

func wasStarted(dir string) bool {
	_, err := os.Lstat(filepath.Join(dir, fileStarted))
	return err == nil
}

// pause waits and tells whether ctx is still good.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// A killedError tells that a task was ended before it had begun.
type killedError struct{ signal int }

func (e *killedError) Error() string { return "ended before it had started" }

func deadly(sig int) bool {
	switch unix.Signal(sig) {
	case unix.SIGKILL, unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGQUIT:
		return true
	}
	return false
}

// maxLaunches is how often a shim is started that ends before it has started
// its program.
const maxLaunches = 3

// lastLine is the last thing that a shim said.
func lastLine(file string) string {
	b, err := os.ReadFile(file)
	if err != nil || len(b) == 0 {
		return "it says nothing"
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return lines[len(lines)-1]
}

// launch fetches the task's files and starts its shim, which takes over lock.
func (r *remote) launch(ctx context.Context, lock *os.File) (net.Conn, error) {
	if r.launches++; r.launches > maxLaunches {
		return nil, fmt.Errorf("the task's shim does not start: %s", lastLine(filepath.Join(r.dir, fileLog)))
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if sig := r.preparing(cancel); sig != 0 {
		return nil, &killedError{sig}
	}
	if err := r.m.roomForSent(r.spec.Start); err != nil {
		return nil, err
	}
	err := prepareWork(ctx, filepath.Join(r.dir, dirWork), r.spec.Start, r.m.cfg.Uplink.File)
	if sig := r.preparing(nil); sig != 0 {
		return nil, &killedError{sig}
	}
	if err != nil {
		return nil, err
	}
	return r.startShim(lock)
}

// preparing sets what ends the preparations, and tells whether a signal has
// done so.
func (r *remote) preparing(stop context.CancelFunc) (signal int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stop = stop
	for _, sig := range r.held {
		if deadly(sig) {
			return sig
		}
	}
	return 0
}

// startShim starts a process that outlives this one.
func (r *remote) startShim(lock *os.File) (net.Conn, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("making a socket for the shim: %w", err)
	}
	theirs := os.NewFile(uintptr(pair[1]), "shim")
	defer theirs.Close()
	conn, err := fileConn(pair[0])
	if err != nil {
		return nil, fmt.Errorf("making a socket for the shim: %w", err)
	}
	log, err := os.OpenFile(filepath.Join(r.dir, fileLog), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("starting shim: %w", err)
	}
	defer log.Close()
	if r.m.spares.take(r.dir, theirs, lock, log) {
		return conn, nil
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("starting shim: %w", err)
	}
	defer null.Close()
	process, err := r.m.spawn([]*os.File{null, null, log, theirs, lock}, r.dir)
	if err != nil {
		conn.Close()
		return nil, err
	}
	go process.Wait() // so that it leaves no zombie; it ends with the task
	return conn, nil
}

// spawn starts the program of shims with descriptors from 0 on.
func (m *Manager) spawn(files []*os.File, args ...string) (*os.Process, error) {
	sys := &syscall.SysProcAttr{Setsid: true}
	if group, err := m.cgroups.shims(); err == nil && group != nil {
		defer group.Close()
		sys.UseCgroupFD, sys.CgroupFD = true, int(group.Fd())
	}
	argv := append(append([]string(nil), m.cfg.Shim...), args...)
	process, err := os.StartProcess(argv[0], argv, &os.ProcAttr{
		Dir: "/", Sys: sys, Files: files,
		Env: append(os.Environ(), "GOMAXPROCS=2", "GOGC=50"),
	})
	if err != nil {
		return nil, fmt.Errorf("starting shim %s: %w", argv[0], err)
	}
	return process, nil
}
