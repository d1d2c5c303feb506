package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// lines is what a program has written so far.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
	new chan struct{}
}

// Write implements io.Writer.
func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.new != nil {
		close(l.new)
		l.new = nil
	}
	return l.buf.Write(b)
}

func (l *lines) text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// wait waits until text was written.
func (l *lines) wait(t testing.TB, text string) {
	t.Helper()
	late := time.After(jobTime)
	for {
		l.mu.Lock()
		if strings.Contains(l.buf.String(), text) {
			l.mu.Unlock()
			return
		}
		if l.new == nil {
			l.new = make(chan struct{})
		}
		news := l.new
		l.mu.Unlock()
		select {
		case <-news:
		case <-late:
			t.Fatalf("%q was not written within %v, but %q", text, jobTime, l.text())
		}
	}
}

// clientGone is how long a client may be silent before its job is hung up.
const clientGone = 30 * time.Second

// patience are jobs whose clients do not answer for longer than that, each for another reason.
type patience struct {
	c     *cluster
	began time.Time

	orphan        uint64 // its client was killed
	orphaned      time.Time
	paged, paused *programRun
	page          *os.File // end of the pipe that nobody reads
	pausedOut     *lines
	gate          gates
}

const pagedBytes = 64 << 20

// newPatience starts them.
func newPatience(t *testing.T, c *cluster, a *agent, node string) *patience {
	t.Helper()
	p := &patience{c: c, pausedOut: &lines{}, gate: a.newGates()}
	by := asker{dir: t.TempDir()}

	page, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { page.Close() })
	paged := c.command(by, "run", "--on", node, "--private", "--name", "paged", "head", "-c", fmt.Sprint(pagedBytes), "/dev/zero")
	paged.Stdout = w
	p.paged, p.page = c.start(paged), page
	w.Close()

	orphan := c.start(c.command(by, "run", "--on", node, "--private", "--name", "orphan", "sh", "-c", `trap 'exit 3' HUP; trap 'exit 4' TERM; while :; do sleep 0.2; done`))
	p.orphan = c.named("orphan").ID
	if err := orphan.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	p.orphaned = time.Now()

	paused := c.command(by, "run", "--on", node, "--private", "--name", "paused", "sh", "-c", `echo begun; : >"$1/half"; : <"$1/go"; echo done`, "sh", p.gate.seen)
	paused.Stdout, paused.Stderr = p.pausedOut, p.pausedOut
	p.paused = c.start(paused)
	p.gate.passed("half")
	p.pausedOut.wait(t, "begun")
	if err := paused.Process.Signal(syscall.SIGTSTP); err != nil {
		t.Fatal(err)
	}
	c.eventually(jobTime, "muster run is stopped", func(context.Context) (bool, error) {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", paused.Process.Pid))
		return strings.Contains(string(stat), ") T "), err
	})
	p.began = time.Now()
	return p
}

// check looks what became of them.
func (p *patience) check(t *testing.T) {
	p.c.during(t)
	t.Run("client that was killed", func(t *testing.T) {
		p.c.during(t)
		j := p.c.ended(p.orphan)
		took := j.Ended.Sub(p.orphaned)
		if j.ExitCode != 3 || took < clientGone-time.Second || took > clientGone+10*time.Second {
			t.Errorf("its job ended with %d (%s) after %v, want 3, its answer to HUP, after 30 s", j.ExitCode, j.Reason, took)
		}
	})
	<-time.After(time.Until(p.began.Add(clientGone + 8*time.Second)))
	t.Run("output that nobody looks at for a while", func(t *testing.T) {
		p.c.during(t)
		n, err := io.Copy(io.Discard, p.page)
		p.paged.wait(t, jobTime)
		if n != pagedBytes || err != nil || p.paged.status != 0 {
			t.Errorf("%d bytes were read (%v) and muster run ended with %d, want %d and 0", n, err, p.paged.status, pagedBytes)
		}
	})
	t.Run("Ctrl-Z for a while", func(t *testing.T) {
		p.c.during(t)
		if err := p.paused.cmd.Process.Signal(syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		p.gate.let("go")
		p.paused.wait(t, jobTime)
		if got := p.pausedOut.text(); got != "begun\ndone\n" || p.paused.status != 0 {
			t.Errorf("it wrote %q and ended with %d, want begun, done and 0", got, p.paused.status)
		}
	})
}

// interruptsOf sends SIGINT at various moments.
func interruptsOf(t *testing.T, c *cluster, by asker) {
	interrupt := func(r *programRun) {
		t.Helper()
		if err := r.cmd.Process.Signal(os.Interrupt); err != nil {
			t.Fatal(err)
		}
	}
	// While a file is sent.
	if err := os.Mkdir(filepath.Join(by.dir, "send"), 0o755); err != nil {
		t.Fatal(err)
	}
	big, err := os.Create(filepath.Join(t.TempDir(), "big"))
	if err != nil {
		t.Fatal(err)
	}
	if err := big.Truncate(3 << 30); err != nil {
		t.Fatal(err)
	}
	big.Close()
	var said lines
	cmd := c.command(asker{dir: filepath.Dir(big.Name())}, "run", "--send", "big", "true")
	cmd.Stderr = &said
	sending := c.start(cmd)
	c.eventually(jobTime, "the file is being read", func(context.Context) (bool, error) {
		raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/io", cmd.Process.Pid))
		var n int64
		_, _ = fmt.Sscanf(string(raw), "rchar: %d", &n)
		return n > 64<<20, err
	})
	interrupt(sending)
	sending.wait(t, 5*time.Second)
	if sending.status != 130 || !strings.Contains(said.text(), "interrupted before there was a job") {
		t.Errorf("while a file is sent: ended with %d and said %q", sending.status, said.text())
	}

	// A program that does something else on it.
	var out lines
	cmd = c.command(by, "run", "--name", "deaf", "sh", "-c", "trap 'echo caught; sleep 0.2; echo awake' INT; echo ready; while :; do sleep 0.1; done")
	cmd.Stdout, cmd.Stderr = &out, &out
	deaf := c.start(cmd)
	out.wait(t, "ready")
	interrupt(deaf)
	out.wait(t, "awake") // what comes at once is the same one
	interrupt(deaf)
	deaf.wait(t, 5*time.Second)
	id := c.named("deaf").ID
	for _, text := range []string{
		fmt.Sprintf("interrupted twice; job %d goes on for now and is hung up in 30 s", id),
		fmt.Sprintf("muster job attach %d", id), fmt.Sprintf("muster job cancel %d", id),
	} {
		if !strings.Contains(out.text(), text) {
			t.Errorf("after two interrupts it said %q, want %q in it", out.text(), text)
		}
	}
	if deaf.status != 130 {
		t.Errorf("after two interrupts it ended with %d, want 130", deaf.status)
	}
	if r := c.ask(by, "job", "cancel", fmt.Sprint(id)); r.status != 0 {
		t.Errorf("muster job cancel: %+v", r)
	}

	// With output that nobody takes, the job still gets it.
	page, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer page.Close()
	cmd = c.command(by, "run", "--name", "flood", "sh", "-c", "trap 'exit 5' INT; while :; do head -c 100000 /dev/zero; done")
	cmd.Stdout = w
	flood := c.start(cmd)
	w.Close()
	job := c.named("flood").ID
	c.eventually(jobTime, "there is more output than anybody takes", func(ctx context.Context) (bool, error) {
		j, err := c.client.Job(ctx, job)
		return err == nil && j.Tasks[0].Output > 8<<20, nil
	})
	interrupt(flood)
	if j := c.ended(job); j.ExitCode != 5 {
		t.Errorf("the job ended with %d (%s), want 5, its answer to INT", j.ExitCode, j.Reason)
	}
	if n, err := io.Copy(io.Discard, page); err != nil || n < 8<<20 {
		t.Errorf("%d bytes were read then: %v", n, err)
	}
	flood.wait(t, jobTime)
	if flood.status != 5 {
		t.Errorf("muster run ended with %d, want 5", flood.status)
	}
}

// newTerminal makes a terminal.
func newTerminal(t *testing.T) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { master.Close() })
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	var unlock int32
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, master.Fd(), unix.TIOCSPTLCK, uintptr(unsafe.Pointer(&unlock))); e != 0 {
		t.Fatal(e)
	}
	slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { slave.Close() })
	return master, slave
}

// backgroundTerminal runs muster in the background of a shell with a terminal, where whoever reads the terminal
// is stopped, and then takes it to the foreground, where it is to read.
func backgroundTerminal(t *testing.T, c *cluster, by asker) {
	master, slave := newTerminal(t)
	// The command in the foreground waits for a line, and so has the terminal until it gets one.
	cmd := exec.Command("/bin/bash", "--norc", "-mc", `"$1" run sh -c 'echo quiet; sleep 0.3; echo end'; echo first $?
		"$1" run sh -c 'echo quiet; sleep 0.3; echo end' & wait $!; echo background $?
		"$1" run --stdin first head -n 1 & sleep 1; fg; echo foreground $?`, "bash", c.bin)
	cmd.Env, cmd.Dir = append(os.Environ(), "MUSTER_HEAD="+c.socket()), by.dir
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	run := c.start(cmd)
	slave.Close()
	var out lines
	go io.Copy(&out, master) //nolint:errcheck // it ends with the terminal
	out.wait(t, "first 0")
	out.wait(t, "background 0")
	out.wait(t, "head -n 1") // bash says what fg brings forward
	if _, err := master.WriteString("typed\n"); err != nil {
		t.Fatal(err)
	}
	out.wait(t, "foreground 0")
	run.wait(t, jobTime)
	if n := strings.Count(out.text(), "typed"); n != 2 { // once the terminal's echo, once head
		t.Errorf("what was typed is there %d times, want 2: %q", n, out.text())
	}
}
