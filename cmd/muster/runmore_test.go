package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"muster/api"
	"muster/internal/need"
)

// musterIn runs the program in a folder.
func (c *cluster) musterIn(dir, stdin string, args ...string) result {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), jobTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, c.bin, args...)
	cmd.Env = append(os.Environ(), "MUSTER_HEAD="+c.socket())
	cmd.Dir, cmd.Stdin = dir, strings.NewReader(stdin)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		c.t.Fatal(err)
	}
	return result{out.String(), errOut.String(), cmd.ProcessState.ExitCode()}
}

// folder is what a folder has: names, modes and contents of its files.
func folder(t *testing.T, dir string) map[string]string {
	t.Helper()
	found := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		st, err := e.Info()
		if err != nil {
			return err
		}
		b, err := os.ReadFile(path)
		rel, _ := filepath.Rel(dir, path)
		found[rel] = fmt.Sprintf("%o %s", st.Mode().Perm(), b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// TestRunFetch brings files back from a node without any share.
func TestRunFetch(t *testing.T) {
	c := newAgentCluster(t)
	c.startHead("--dhcp=full")
	a := c.newAgent()
	a.start()
	a.ready()

	t.Run("a tool, its input and its output", func(t *testing.T) {
		c.during(t)
		dir := t.TempDir()
		tool := "#!/bin/sh\numask 022\nmkdir -p r && tr a-z A-Z <$1 >r/out.dat && cp tool made && chmod 750 made && echo done\n"
		for name, text := range map[string]string{"tool": tool, "in.dat": "abc\n"} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(filepath.Join(dir, "made"), []byte("old"), 0o600); err != nil {
			t.Fatal(err)
		}
		r := c.musterIn(dir, "", "run", "--send", "./tool", "--send", "in.dat", "--fetch", "r/out.dat", "--fetch", "made", "--", "./tool", "in.dat")
		if d := cmp.Diff(result{stdout: "done\n"}, r, cmp.AllowUnexported(result{})); d != "" {
			t.Error(d)
		}
		want := map[string]string{"tool": "755 " + tool, "in.dat": "755 abc\n", "r/out.dat": "644 ABC\n", "made": "750 " + tool}
		if d := cmp.Diff(want, folder(t, dir)); d != "" {
			t.Error(d)
		}
	})

	t.Run("names of several tasks", func(t *testing.T) {
		c.during(t)
		dir := t.TempDir()
		r := c.musterIn(dir, "", "run", "-n", "2", "--fetch", "a", "--fetch", "b-%t", "--", "sh", "-c", "echo $MUSTER_TASK | tee a >b-$MUSTER_TASK")
		if r.status != 0 {
			t.Errorf("%+v", r)
		}
		want := map[string]string{"a.0": "644 0\n", "a.1": "644 1\n", "b-0": "644 0\n", "b-1": "644 1\n"}
		if d := cmp.Diff(want, folder(t, dir)); d != "" {
			t.Error(d)
		}
	})

	t.Run("what is not there", func(t *testing.T) {
		c.during(t)
		dir := t.TempDir()
		script := "ln -s /etc/passwd link; echo x >good; exit $0"
		for status, want := range map[string]int{"0": 1, "7": 7} {
			r := c.musterIn(dir, "", "run", "--fetch", "none", "--fetch", "link", "--fetch", "good", "--", "sh", "-c", script, status)
			if r.status != want || !strings.Contains(r.stderr, "muster: none of task 0 was not fetched: the command left no such file\n") ||
				!strings.Contains(r.stderr, "muster: link of task 0 was not fetched: it is a link out of the working directory") {
				t.Errorf("exit %s: %+v", status, r)
			}
		}
		if d := cmp.Diff(map[string]string{"good": "644 x\n"}, folder(t, dir)); d != "" {
			t.Error(d)
		}
		r := c.musterIn(dir, "", "run", "--fetch", "out", "--", "no-such-command")
		if r.status != 127 || strings.Contains(r.stderr, "not fetched") {
			t.Errorf("a command that does not start: %+v", r)
		}
		if r := c.musterIn(dir, "", "run", "--fetch", "../out", "--", "true"); r.status != exitUsage || !strings.Contains(r.stderr, "below the working directory") {
			t.Errorf("a file above: %+v", r)
		}
		if r := c.musterIn(dir, "", "run", "--fetch", "good/out", "--", "true"); r.status != exitUsage || !strings.Contains(r.stderr, "could not be put into good: not a directory") {
			t.Errorf("a file in a file: %+v", r)
		}
	})

	t.Run("of a detached job, later", func(t *testing.T) {
		c.during(t)
		dir := t.TempDir()
		g := a.newGates()
		r := c.musterIn(dir, "", "run", "-d", "--fetch", "big", "--", "sh", "-c", `head -c 20000000 /dev/zero >big; : >$0/half; : <$0/go`, g.seen)
		id := strings.TrimSpace(r.stdout)
		g.passed("half")
		if r := c.musterIn(dir, "", "job", "fetch", id); r.status != exitFailed || !strings.Contains(r.stderr, "muster job attach "+id) {
			t.Errorf("before its end: %+v", r)
		}
		// The agent is killed and comes again: the file is there all the same.
		g.let("go")
		a.kill()
		a.start()
		c.ended(c.latestJob())
		if r := c.musterIn(dir, "", "job", "fetch", id, "other"); r.status != exitUsage || !strings.Contains(r.stderr, "brings no file other back") {
			t.Errorf("another file: %+v", r)
		}
		if r := c.musterIn(dir, "", "job", "fetch", id); r.status != 0 {
			t.Errorf("%+v", r)
		}
		if st, err := os.Stat(filepath.Join(dir, "big")); err != nil || st.Size() != 20000000 {
			t.Errorf("%v, %v", st, err)
		}
		c.stopHead(os.Interrupt)
		c.startHead("--dhcp=full")
		if r := c.musterIn(dir, "", "job", "fetch", id, "big"); r.status != 0 {
			t.Errorf("from a head that was restarted: %+v", r)
		}
		if r := c.musterIn(dir, "", "job", "fetch", "1", "x"); r.status == 0 {
			t.Errorf("a file that the job does not have: %+v", r)
		}
	})
}

// countedReader counts what was read of it.
type countedReader struct {
	r io.Reader
	n atomic.Int64
}

func (c *countedReader) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.n.Add(int64(n))
	return n, err
}

// TestRunInputToSlowTasks gives one input to tasks of which one does not read for a while: no more than a few
// windows of it are taken from its source, and each task gets all.
func TestRunInputToSlowTasks(t *testing.T) {
	const total, most = 64 << 20, 4 << 20
	c := newAgentCluster(t)
	c.startHead("--dhcp=full")
	a := c.newAgent()
	a.start()
	a.ready()
	g := a.newGates()
	in := &countedReader{r: io.LimitReader(rand.NewChaCha8([32]byte{}), total)}
	var out, errOut bytes.Buffer
	run := c.program(in, &out, &errOut, "run", "-n", "2", "sh", "-c", "if [ $MUSTER_TASK = 1 ]; then : <$0/go; fi; sha256sum", g.seen)
	var last int64
	still := 0
	c.eventually(jobTime, "the input stops", func(context.Context) (bool, error) {
		n := in.n.Load()
		if still++; n != last || n == 0 {
			last, still = n, 0
		}
		return still == 10, nil
	})
	if n := in.n.Load(); n > most {
		t.Errorf("%d bytes were taken while a task does not read, want at most %d", n, most)
	}
	g.let("go")
	run.wait(t, jobTime)
	h := sha256.New()
	io.Copy(h, io.LimitReader(rand.NewChaCha8([32]byte{}), total))
	line := fmt.Sprintf("%x  -\n", h.Sum(nil))
	if run.status != 0 || out.String() != line+line {
		t.Errorf("status %d, output\n%s%s\nwant twice %s", run.status, out.String(), errOut.String(), line)
	}
}

// terminal is one that a test types on.
type terminal struct {
	t      *testing.T
	master *os.File

	mu   sync.Mutex
	text string
	more chan struct{}
}

// openTerminal makes one and starts a program on it.
func openTerminal(t *testing.T, cmd *exec.Cmd) *terminal {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	var unlock int32
	var n uint32
	for _, op := range []struct {
		op  uintptr
		arg unsafe.Pointer
	}{{unix.TIOCSPTLCK, unsafe.Pointer(&unlock)}, {unix.TIOCGPTN, unsafe.Pointer(&n)}} {
		if _, _, e := unix.Syscall(unix.SYS_IOCTL, master.Fd(), op.op, uintptr(op.arg)); e != 0 {
			t.Fatal(e)
		}
	}
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	slave.Close()
	term := &terminal{t: t, master: master, more: make(chan struct{}, 1)}
	go term.read()
	t.Cleanup(func() { master.Close(); cmd.Process.Kill(); cmd.Wait() })
	return term
}

func (m *terminal) read() {
	buf := make([]byte, 4096)
	for {
		n, err := m.master.Read(buf)
		m.mu.Lock()
		m.text += string(buf[:n])
		m.mu.Unlock()
		select {
		case m.more <- struct{}{}:
		default:
		}
		if err != nil {
			return
		}
	}
}

func (m *terminal) typed(text string) {
	m.t.Helper()
	if _, err := m.master.WriteString(text); err != nil {
		m.t.Fatal(err)
	}
}

// shown waits until a text is there behind all that was waited for before.
func (m *terminal) shown(text string) {
	m.t.Helper()
	end := time.After(jobTime)
	for {
		m.mu.Lock()
		_, rest, ok := strings.Cut(m.text, text)
		if ok {
			m.text = rest
		}
		have := m.text
		m.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-m.more:
		case <-end:
			m.t.Fatalf("%q was not shown; behind what was there is %q", text, have)
		}
	}
}

// raw tells whether keys go on as they are typed.
func (m *terminal) raw() bool {
	m.t.Helper()
	s, err := unix.IoctlGetTermios(int(m.master.Fd()), unix.TCGETS)
	if err != nil {
		m.t.Fatal(err)
	}
	return s.Lflag&unix.ICANON == 0
}

// TestRunSuspend presses Ctrl-Z in a command on a node.
func TestRunSuspend(t *testing.T) {
	c := newAgentCluster(t)
	c.startHead("--dhcp=full")
	a := c.newAgent()
	a.start()
	a.ready()
	shell := exec.Command(need.Program(t, "bash", "bash"), "--norc", "--noprofile", "-i")
	shell.Env = append(os.Environ(), "MUSTER_HEAD="+c.socket(), "PS1=here> ", "TERM=dumb")
	shell.Dir = t.TempDir()
	term := openTerminal(t, shell)
	term.shown("here> ")
	command := c.bin + ` run -t sh -c 'echo re""ady; while read x; do echo "got $x"; done; exit 3'`
	term.typed(command + "\n")
	term.shown("ready")
	if !term.raw() {
		t.Error("the terminal is not raw while the command has it")
	}
	detail := func() string {
		j, err := c.client.Job(t.Context(), c.latestJob())
		if err != nil || len(j.Tasks) != 1 {
			t.Fatalf("%+v, %v", j, err)
		}
		return j.Tasks[0].Detail
	}
	for range 2 {
		term.typed("\x1a")
		c.eventually(jobTime, "the task is stopped", func(context.Context) (bool, error) { return detail() == api.DetailStopped, nil })
		term.shown("Stopped")
		term.shown("here> ")
		if got := detail(); got != api.DetailStopped {
			t.Errorf("the task is %q, want stopped", got)
		}
		if r := c.muster("", "job", "list"); !strings.Contains(r.stdout, "stopped") {
			t.Errorf("muster job list shows\n%s", r.stdout)
		}
		term.typed("echo $((6*7))\n")
		term.shown("42")
		term.shown("here> ")
		term.typed("fg\n")
		c.eventually(jobTime, "the task goes on", func(context.Context) (bool, error) { return detail() == "" && term.raw(), nil })
		term.typed("word\n")
		term.shown("got word")
	}
	term.typed("\x04")
	term.shown("here> ")
	term.typed("echo status $?\n")
	term.shown("status 3")
	term.typed(`case $(stty -a) in *-icanon*) echo mo""de raw;; *) echo mo""de usual;; esac` + "\n")
	term.shown("mode usual")
	// Without a terminal of its own the command stops with muster, too.
	term.typed(c.bin + ` run sh -c 'echo re""ady; sleep 1000'` + "\n")
	term.shown("ready")
	term.typed("\x1a")
	term.shown("Stopped")
	c.eventually(jobTime, "the task is stopped", func(context.Context) (bool, error) { return detail() == api.DetailStopped, nil })
	term.typed("fg\n")
	c.eventually(jobTime, "the task goes on", func(context.Context) (bool, error) { return detail() == "", nil })
	term.typed("\x03")
	term.shown("here> ")
	// What nobody could continue does not stop.
	script := exec.Command(c.bin, "run", "-t", "sh", "-c", `echo ready; read x; echo "got $x"`)
	script.Env = shell.Env
	script.Dir = t.TempDir()
	alone := openTerminal(t, script)
	alone.shown("ready")
	alone.typed("\x1a")
	c.eventually(jobTime, "the command was stopped and goes on", func(context.Context) (bool, error) {
		j, err := c.client.Job(t.Context(), c.latestJob())
		return err == nil && j.Tasks[0].Stops == 1 && j.Tasks[0].Detail == "", nil
	})
	alone.typed("word\r")
	alone.shown("got word")
}

// mpiProgram is a program that wants a library of MPI in place of the C library.
func mpiProgram(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("/bin/true")
	if err != nil || !bytes.Contains(b, []byte("libc.so.6\x00")) {
		t.Fatalf("/bin/true is no dynamically linked program: %v", err)
	}
	return string(bytes.ReplaceAll(b, []byte("libc.so.6\x00"), []byte("libmpi.so\x00")))
}

// TestRunSaysWhatIsMissing starts what a node does not have, and cannot have so.
func TestRunSaysWhatIsMissing(t *testing.T) {
	c := newAgentCluster(t)
	c.startHead("--dhcp=full")
	a := c.newAgent()
	a.start()
	a.ready()
	dir := t.TempDir()
	files := map[string]string{
		"script": "#!/opt/nowhere/bin/gmx\n", "env": "#!/usr/bin/env no-such-interpreter\n", "plain": "data\x00",
		"solver": mpiProgram(t),
		"lib":    "#!/bin/sh\necho './x: error while loading shared libraries: libopenblas.so.0: cannot open shared object file' >&2\nexit 127\n",
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, tc := range []struct {
		name   string
		args   []string
		status int
		want   []string
	}{
		{"a command of Debian", []string{"scilab"}, 127, []string{"scilab: command not found on this node", `add "- scilab" under packages:`, "--send FILE", "share"}},
		{"another command", []string{"no-such-command"}, 127, []string{"add the Debian package that has it under packages:"}},
		{"an interpreter", []string{"--send", "script", "--", "./script"}, 126, []string{"it needs /opt/nowhere/bin/gmx", `add "- gromacs"`}},
		{"an interpreter by env", []string{"--send", "env", "--", "./env"}, 127, []string{"no-such-interpreter: command not found on this node; "}},
		{"a library", []string{"--send", "lib", "--", "./lib"}, 127, []string{"library libopenblas.so.0 is not in the node's userland", `add "- libopenblas0"`, "statically", "LD_LIBRARY_PATH"}},
		{"an MPI program", []string{"-n", "2", "--send", "solver", "--", "./solver"}, 126, []string{"./solver: it is an MPI program, and each of the 2 tasks would be rank 0 of 1", "muster run -c 2 mpirun -n 2 ./solver"}},
		{"an MPI program alone", []string{"--send", "solver", "--", "./solver"}, 127, []string{"library libmpi.so is not in the node's userland"}},
		{"no program", []string{"--send", "plain", "--", "./plain"}, 126, []string{"neither a program nor a script"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c.during(t)
			r := c.musterIn(dir, "", append([]string{"run"}, tc.args...)...)
			if r.status != tc.status {
				t.Errorf("status %d, want %d", r.status, tc.status)
			}
			for _, text := range tc.want {
				if !strings.Contains(r.stderr, text) {
					t.Errorf("it says %q, want %q in it", r.stderr, text)
				}
			}
		})
	}

	t.Run("where the output of a detached job is", func(t *testing.T) {
		c.during(t)
		r := c.musterIn(dir, "", "run", "-d", "--cpus", "1", "--mem", "16M", "echo", "kept")
		id := strings.TrimSpace(r.stdout)
		if want := "muster: output of job " + id + ": kept by the head: muster job logs " + id + "\n"; r.stderr != want {
			t.Errorf("it says %q, want %q", r.stderr, want)
		}
		c.ended(c.latestJob())
		if r := c.muster("", "job", "logs", id); r.stdout != "kept\n" {
			t.Errorf("%+v", r)
		}
		if r := c.muster("", "job", "show", id); !strings.Contains(r.stdout, "1 core, 16 MiB of memory") {
			t.Errorf("muster job show says\n%s", r.stdout)
		}
	})
}
