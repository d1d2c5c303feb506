package boot

import (
	"context"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// inOwnProcess runs the calling test in a process of its own and reports
// whether this is that process. A reaper collects every child, also those
// that other tests wait for.
func inOwnProcess(t *testing.T) bool {
	t.Helper()
	const marker = "MUSTER_BOOT_OWN_PROCESS"
	if os.Getenv(marker) == t.Name() {
		return true
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), marker+"="+t.Name())
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "PASS: "+t.Name()) {
		t.Errorf("in its own process: %v\n%s", err, out)
	}
	return false
}

// reapAll reaps whenever a child ends, until ctx is done.
func reapAll(ctx context.Context, r *reaper) {
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, unix.SIGCHLD)
	defer signal.Stop(signals)
	for {
		r.reap()
		select {
		case <-ctx.Done():
			return
		case <-signals:
		}
	}
}

func shell(script string) (string, []string, *syscall.ProcAttr) {
	return "/bin/sh", []string{"sh", "-c", script}, &syscall.ProcAttr{Files: []uintptr{0, 1, 2}}
}

func TestReaperTellsHowChildrenEnd(t *testing.T) {
	if !inOwnProcess(t) {
		return
	}
	var r reaper
	go reapAll(t.Context(), &r)
	for script, want := range map[string]string{
		"exit 3":        "exit status 3",
		"kill -KILL $$": "killed by signal 9 (killed)",
	} {
		path, argv, attr := shell(script)
		_, done, err := r.start(path, argv, attr)
		if err != nil {
			t.Fatal(err)
		}
		if got := describe(<-done); got != want {
			t.Errorf("%s: %q, want %q", script, got, want)
		}
	}
	if _, _, err := r.start("/nonexistent", []string{"x"}, &syscall.ProcAttr{}); err == nil {
		t.Error("start() of nothing = nil, want an error")
	}
	if len(r.waiting) > 0 {
		t.Errorf("still waited for: %v", r.waiting)
	}
}

func TestReaperCollectsOrphans(t *testing.T) {
	if !inOwnProcess(t) {
		return
	}
	// As PID 1 does, this process inherits orphans.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	var r reaper
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, unix.SIGCHLD)
	path, argv, attr := shell("sleep 0.2 & exit 0")
	_, done, err := r.start(path, argv, attr)
	if err != nil {
		t.Fatal(err)
	}
	left := true
	for left {
		<-signals
		left = r.reap()
	}
	// Only the shell was waited for, but nothing is left of its child either.
	if got := describe(<-done); got != "exit status 0" {
		t.Errorf("the shell ended with %q, want exit status 0", got)
	}
	if _, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); err != unix.ECHILD {
		t.Errorf("wait4() = %v, want %v: all were reaped", err, unix.ECHILD)
	}
}

func TestKeepStartsAgainLessAndLessOften(t *testing.T) {
	if !inOwnProcess(t) {
		return
	}
	var r reaper
	ctx, cancel := context.WithCancel(t.Context())
	go reapAll(t.Context(), &r)
	starts := filepath.Join(t.TempDir(), "starts")
	path, argv, attr := shell("echo x >> " + starts + "; exit 1")
	var log lineWriter
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.keep(ctx, program{path, argv, attr}, slog.New(slog.NewTextHandler(&log, nil)))
	}()
	waitForFile(t, starts, "x\nx\nx\n") // at 0, 0.25 and 0.75 s
	cancel()
	<-done
	for _, want := range []string{"again_in=250ms", "again_in=500ms", `err="exit status 1"`} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("log lacks %q:\n%s", want, log.String())
		}
	}
}

// lineWriter is a buffer that goroutines may share.
type lineWriter struct {
	mu sync.Mutex
	b  strings.Builder
}

func (w *lineWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.b.Write(p)
}

func (w *lineWriter) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.b.String()
}

func TestWatchdogIsFed(t *testing.T) {
	// A pipe stands for the device; it takes no ioctl, so the timeout asked
	// for counts.
	path := filepath.Join(t.TempDir(), "watchdog")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	device, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer device.Close()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- feedWatchdog(ctx, path, slog.New(slog.DiscardHandler)) }()
	b := make([]byte, 16)
	n, err := device.Read(b)
	if err != nil || n != 1 || b[0] == 'V' {
		t.Errorf("the watchdog was fed %q, %v, want one byte that is not V", b[:n], err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("feedWatchdog() = %v, want nil", err)
	}
	if err := feedWatchdog(t.Context(), filepath.Join(t.TempDir(), "none"), slog.New(slog.DiscardHandler)); err != nil {
		t.Errorf("feedWatchdog() without a watchdog = %v, want nil", err)
	}
}

func TestCopyLines(t *testing.T) {
	var got []string
	copyLines(strings.NewReader("a\n\n"+strings.Repeat("x", maxLine+5)+"\nend"), func(l string) { got = append(got, l) })
	want := []string{"a", "", strings.Repeat("x", maxLine), "xxxxx", "end"}
	if strings.Join(got, "|") != strings.Join(want, "|") {
		t.Errorf("copyLines() = %q, want %q", got, want)
	}
}

func TestAskInitElsewhere(t *testing.T) {
	if Owned() {
		t.Skip("this machine was booted by muster")
	}
	for name, ask := range map[string]func() error{"Reboot": Reboot, "PowerOff": PowerOff} {
		if err := ask(); err != ErrNotInit {
			t.Errorf("%s() = %v, want %v", name, err, ErrNotInit)
		}
	}
}
