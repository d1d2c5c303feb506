package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"muster/api"
	"muster/api/client"
)

// What belongs to the computer, the session or the terminal of the caller and means nothing, or
// something else, on another machine. Names that end in * stand for all that begin so.
// docs/running.md lists them.
var leftBehind = []string{
	"DISPLAY", "WAYLAND_DISPLAY", "XAUTHORITY", "XDG_*", "DBUS_*", "SESSION_MANAGER", "DESKTOP_*", "GDM*", "GNOME_*", "KDE_*",
	"SSH_*", "GPG_AGENT_INFO", "GPG_TTY", "SUDO_*", "PKEXEC_UID", "MAIL",
	"HOST", "HOSTNAME", "HOSTTYPE", "MACHTYPE", "PWD", "OLDPWD", "SHLVL", "_", "WINDOWID", "WINDOW", "STY", "TMUX*", "TERM_PROGRAM*", "VTE_VERSION",
	"INVOCATION_ID", "JOURNAL_STREAM", "NOTIFY_SOCKET", "LISTEN_*", "WATCHDOG_*", "SYSTEMD_*", "MANAGERPID", "CREDENTIALS_DIRECTORY",
	"LD_PRELOAD", "LINES", "COLUMNS", "MUSTER_*",
}

// passedEnvironment is the part of the environment that has a meaning on another machine.
func passedEnvironment(env []string) []string {
	var out []string
	for _, kv := range env {
		name, _, ok := strings.Cut(kv, "=")
		left := slices.ContainsFunc(leftBehind, func(p string) bool {
			begin, more := strings.CutSuffix(p, "*")
			return name == p || more && strings.HasPrefix(name, begin)
		})
		if ok && name != "" && !left {
			out = append(out, api.EncodeText(kv))
		}
	}
	return out
}

// ownUmask is the umask of this process. Reading it sets it, so nothing else may make
// files meanwhile.
func ownUmask() uint32 {
	old := unix.Umask(0o077)
	unix.Umask(old)
	return uint32(old)
}

// ownLimits are the resource limits that a user may have changed and that have the same meaning on
// a node. What concerns memory, processes and processor time of the whole machine is the node's.
func ownLimits() []api.Limit {
	var out []api.Limit
	for _, what := range []int{unix.RLIMIT_CORE, unix.RLIMIT_FSIZE, unix.RLIMIT_DATA, unix.RLIMIT_STACK, unix.RLIMIT_NOFILE, unix.RLIMIT_AS, unix.RLIMIT_CPU} {
		var l unix.Rlimit
		if unix.Getrlimit(what, &l) == nil {
			out = append(out, api.Limit{Resource: what, Soft: l.Cur, Hard: l.Max})
		}
	}
	return out
}

// sameFile tells whether output and errors go to one place, as with 2>&1 and on a terminal.
func sameFile(out, errOut io.Writer) bool {
	o, ok1 := out.(*os.File)
	e, ok2 := errOut.(*os.File)
	if !ok1 || !ok2 {
		return false
	}
	so, err1 := o.Stat()
	se, err2 := e.Stat()
	return err1 == nil && err2 == nil && os.SameFile(so, se)
}

// untilSignal does what comes before there is a job, and gives it up when a signal comes.
func untilSignal(ctx context.Context, signals <-chan os.Signal, do func(context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- do(ctx) }()
	for {
		select {
		case err := <-done:
			return err
		case sig := <-signals:
			if sig != client.NoSignal && sig != syscall.SIGTSTP && sig != syscall.SIGCONT {
				return fmt.Errorf("%w before there was a job", client.ErrInterrupted)
			}
		}
	}
}

// readerUntil ends with a context.
type readerUntil struct {
	ctx context.Context
	r   io.Reader
}

// Read implements io.Reader.
func (r readerUntil) Read(b []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(b)
}

// passSignals returns what the job shall get of the signals that this process gets, until ctx is done
// or stop is called. With a terminal a stop is passed on alone.
func passSignals(ctx context.Context, terminal bool) (s *signals, stop func()) {
	got := make(chan os.Signal, 8)
	signal.Notify(got, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2,
		syscall.SIGTSTP, syscall.SIGCONT)
	passed := make(chan os.Signal)
	pass := func(s os.Signal) bool {
		select {
		case passed <- s:
			return true
		case <-ctx.Done():
			return false
		}
	}
	go func() {
		for {
			select {
			case <-ctx.Done():
				return
			case s := <-got:
				if pass(s) && s == syscall.SIGTSTP && !terminal && pass(client.NoSignal) {
					_ = syscall.Kill(os.Getpid(), syscall.SIGSTOP)
				}
			}
		}
	}()
	return &signals{got, passed}, func() { go signal.Stop(got) } // nobody waits for that: it takes time for each signal
}

// catchPipe has writes to a reader that is gone fail, in place of an end of this process, until the
// function that it returns is called. Go would go on ignoring the signal after signal.Ignore and
// signal.Reset, and programs that are started then do too.
func catchPipe() (stop func()) {
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGPIPE)
	return func() { go signal.Stop(c) }
}
