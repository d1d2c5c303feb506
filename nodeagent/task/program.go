package task

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"muster/api"
)

// signal passes a signal to the program, or kills all of the task.
func (s *shim) signal(sig unix.Signal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case sig < 0 || sig > 64:
	case sig == unix.SIGKILL:
		s.kill()
	case !s.started:
		if len(s.held) < 64 {
			s.held = append(s.held, sig)
		}
	case s.process != nil:
		s.tell(sig)
	}
}

// tell has init send a signal to the program. It does not wait: who does not read thousands of signals would not
// take one more. s.mu is held.
func (s *shim) tell(sig unix.Signal) {
	rc, err := s.signals.SyscallConn()
	if err != nil {
		return // it was closed with the end of the task
	}
	_ = rc.Control(func(fd uintptr) {
		_, _ = unix.Write(int(fd), []byte{byte(sig)})
	})
}

// kill ends every process of the task. The namespace's init takes all others
// with it; the group covers what has left the namespace's parentage.
func (s *shim) kill() {
	if s.process == nil {
		s.held = append(s.held[:0], unix.SIGKILL)
		return
	}
	if s.spec.Cgroup != "" {
		if os.WriteFile(filepath.Join(s.spec.Cgroup, "cgroup.kill"), []byte("1"), 0) == nil {
			return
		}
	}
	s.process.Kill()
}

// running passes on the signals that came while the program was started.
func (s *shim) running() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.started = true
	time.AfterFunc(settleAfter, settle)
	for _, sig := range s.held {
		s.tell(sig)
	}
	s.held = nil
}

// run starts the program and records how it went.
func (s *shim) run() {
	// The kernel kills init when the thread that started it ends.
	runtime.LockOSThread()
	ev := s.execute()
	if ev.State == api.JobFailed && ev.Error == "" {
		if ev.Error = outOfMemory(s.spec.Cgroup, s.spec.Start); ev.Error == "" && ev.ExitCode == exitNotFound {
			ev.Error = missing(s.lastWords())
		}
	}
	if err := killGroup(s.spec.Cgroup, killPatience); err != nil && ev.Error == "" {
		ev.Error = err.Error()
	}
	_, ev.Output = s.spool.bounds()
	s.happened(ev)
}

// execute is the life of the program, until all its output is kept.
func (s *shim) execute() api.TaskEvent {
	failed := func(err error) api.TaskEvent {
		return api.TaskEvent{State: api.JobFailed, ExitCode: 126, Error: err.Error()}
	}
	p, err := openPipes(s.spec.Start)
	if err != nil {
		return failed(err)
	}
	defer p.close()
	if err := os.WriteFile(filepath.Join(s.dir, fileStarted), nil, 0o600); err != nil {
		return failed(fmt.Errorf("starting task: %w", err))
	}
	process, err := s.startInit(p)
	p.closeTheirs()
	if err != nil {
		return failed(err)
	}
	s.mu.Lock()
	s.process, s.signals, s.changed = process, p.signals, true
	s.wake.Broadcast()
	if len(s.held) > 0 && s.held[0] == unix.SIGKILL {
		s.kill()
	}
	s.mu.Unlock()

	if p.console != nil {
		// Without one, init says why.
		if err := s.takeConsole(p); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}
	var pumps sync.WaitGroup
	for stream, f := range map[api.Stream]*os.File{api.Stdout: p.stdout, api.Stderr: p.stderr} {
		if f != nil {
			pumps.Go(func() { s.pump(stream, f) })
		}
	}
	if p.stdin != nil {
		go s.input.feed(p.stdin)
	} else {
		s.input.close()
	}
	read, gone := make(chan struct{}), make(chan struct{})
	go func() { pumps.Wait(); close(read) }()
	last := s.follow(p.report, func() { go s.linger(read, gone) })
	ps, err := process.Wait()
	close(gone)
	s.mu.Lock()
	s.process = nil
	s.mu.Unlock()
	s.input.close()
	// All processes are gone, so what is in the pipes is all there will be.
	for _, f := range []*os.File{p.stdout, p.stderr} {
		if f != nil {
			f.SetDeadline(time.Unix(1, 0)) // typing, too: a terminal takes no more of it
		}
	}
	<-read
	if err != nil {
		return failed(fmt.Errorf("waiting for the task: %w", err))
	}
	return endOf(last, ps.Sys().(syscall.WaitStatus))
}

// What a program leaves behind when it ends is waited for while it may still have something to
// say: until nobody has the pipes open any more, nothing has come for lingerSilence, or
// lingerMost is over. Time in which the head takes no output does not count.
const (
	lingerStep    = 100 * time.Millisecond
	lingerSilence = 5 * time.Second
	lingerMost    = time.Minute
)

// linger ends the namespace of a program that has ended. read is closed when
// all output has been read, gone when init has ended.
func (s *shim) linger(read, gone <-chan struct{}) {
	step := time.NewTicker(lingerStep)
	defer step.Stop()
	var silence, all time.Duration
	last := s.pumped.Load()
	for silence < lingerSilence && all < lingerMost {
		select {
		case <-gone:
			return
		case <-read:
			all = lingerMost
		case <-step.C:
			if s.pumping.Load() > 0 {
				continue
			}
			silence, all = silence+lingerStep, all+lingerStep
			if n := s.pumped.Load(); n != last {
				silence, last = 0, n
			}
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.kill()
}

// maxReport is how long a line of init's may be. It names a program, whose path has 4 KiB at most.
const maxReport = 64 << 10

// follow reads what init says until it is gone, and returns the last of it. ended is called
// when the program has. Init runs with the rights of the task's user, so what it says is bounded: a
// line in its length, and what the shim remembers in how often it is taken.
func (s *shim) follow(report io.Reader, ended func()) initReport {
	var last initReport
	var running, over, complained bool
	lines := bufio.NewScanner(report)
	lines.Buffer(nil, maxReport)
	for lines.Scan() {
		r, err := parseReport(lines.Text())
		if err != nil {
			if !complained {
				complained = true
				fmt.Fprintln(os.Stderr, err)
			}
			continue
		}
		last = r
		switch {
		case r.What == "started" && !running:
			running = true
			s.running()
			s.happened(api.TaskEvent{State: api.JobRunning})
		case r.What == "stopped":
			s.shown()
			s.stop(true)
		case r.What == "continued":
			s.stop(false)
		case (r.What == "exit" || r.What == "signal") && !over:
			over = true
			ended()
		}
	}
	if lines.Err() != nil {
		_, _ = io.Copy(io.Discard, report) // nobody is to wait for the shim
	}
	return last
}

// endOf tells how a task ended from what its init said last and how init
// itself ended.
func endOf(last initReport, ws syscall.WaitStatus) api.TaskEvent {
	ev := api.TaskEvent{State: api.JobFailed}
	switch {
	case last.What == "error":
		ev.ExitCode, ev.Error = last.N, last.Text
	case last.What == "exit":
		ev.ExitCode = last.N
		if last.N == 0 {
			ev.State = api.JobFinished
		}
	case last.What == "signal":
		ev.ExitCode, ev.Signal = 128+last.N, last.N
	case ws.Signaled(): // killed together with its init
		ev.ExitCode, ev.Signal = 128+int(ws.Signal()), int(ws.Signal())
	default:
		ev.ExitCode, ev.Error = 126, fmt.Sprintf("the task's init ended by itself with exit status %d", ws.ExitStatus())
	}
	return ev
}

func (s *shim) startInit(p *pipes) (*os.Process, error) {
	t := s.spec.Start
	work := filepath.Join(s.dir, dirWork)
	// RUN/tasks/JOB-INDEX-EPOCH: the agent's key is in RUN.
	agent := filepath.Dir(filepath.Dir(s.dir))
	isDir := func(dir string) bool {
		on, shared := s.spec.View.locate(dir)
		return filepath.IsAbs(dir) && (shared || isRealDir(on))
	}
	orders, err := initConfig(t, s.spec.View, work, environment(t, work, isDir), privateFolders(agent, isDir))
	if err != nil {
		return nil, err
	}
	cfg, err := memFile("muster-init", orders)
	if err != nil {
		return nil, err
	}
	defer cfg.Close()
	sys := &syscall.SysProcAttr{
		Setsid:     true,
		Pdeathsig:  syscall.SIGKILL,
		Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS,
	}
	if s.spec.Cgroup != "" {
		dir, err := os.Open(s.spec.Cgroup)
		if err != nil {
			return nil, fmt.Errorf("opening cgroup of the task: %w", err)
		}
		defer dir.Close()
		sys.UseCgroupFD, sys.CgroupFD = true, int(dir.Fd())
	}
	process, err := os.StartProcess(s.spec.Init, []string{"muster-init"}, &os.ProcAttr{
		Dir: "/", Env: []string{"GOMAXPROCS=1"}, Sys: sys,
		Files: append(append(p.theirs[:3:3], cfg), p.theirs[3:]...),
	})
	if err != nil {
		return nil, fmt.Errorf("starting the task's init: %w", err)
	}
	return process, nil
}

// pump keeps what a program writes, until nobody can write any more.
func (s *shim) pump(stream api.Stream, f *os.File) {
	buf := make([]byte, api.MaxChunk)
	for {
		n, err := f.Read(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			n, err = readNow(f, buf)
		}
		if n > 0 {
			s.remember(buf[:n])
			s.pumping.Add(1)
			_, err := s.spool.add(stream, buf[:n])
			s.pumping.Add(-1)
			s.pumped.Add(int64(n))
			if err != nil {
				fmt.Fprintln(os.Stderr, err)
				return
			}
			s.poke()
		}
		if err != nil {
			return
		}
	}
}

// exitNotFound is what a dynamic loader ends with that misses a library.
const exitNotFound = 127

// wordsKept is how much of a task's output the shim remembers, to say why it failed.
const wordsKept = 512

// remember keeps the end of what the task wrote.
func (s *shim) remember(b []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.words = append(s.words, b[max(len(b)-wordsKept, 0):]...)
	s.words = append(s.words[:0], s.words[max(len(s.words)-wordsKept, 0):]...)
}

// lastWords is what remember has kept.
func (s *shim) lastWords() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return string(s.words)
}

// missingLibrary finds in a task's last words what glibc's and musl's loaders say of a library
// that is not there. The head adds what to do (wayOut). "": nothing of the kind.
func missingLibrary(words string) string {
	name := ""
	if _, rest, ok := strings.Cut(words, "error while loading shared libraries: "); ok {
		name, _, _ = strings.Cut(rest, ":")
	} else if _, rest, ok := strings.Cut(words, "Error loading shared library "); ok {
		name, _, _ = strings.Cut(rest, ":")
	}
	if name == "" || strings.ContainsAny(name, " \n") {
		return ""
	}
	return "library " + name + " is not in the node's userland"
}

// missing says of a task's last words what was missing: a library, or the program that env(1) of
// a script's first line was to start. "": nothing of the kind.
func missing(words string) string {
	if text := missingLibrary(words); text != "" {
		return text
	}
	_, rest, ok := strings.Cut(words, "env: ")
	name, _, found := strings.Cut(rest, ": No such file or directory")
	name = strings.Trim(strings.TrimPrefix(name, "can't execute "), "'\"‘’")
	if !ok || !found || name == "" || strings.ContainsAny(name, " \n/") {
		return ""
	}
	return name + ": command not found on this node"
}

// readNow reads what is there; io errors include that nothing is.
func readNow(f *os.File, buf []byte) (n int, err error) {
	rc, err := f.SyscallConn()
	if err != nil {
		return 0, err
	}
	if cerr := rc.Control(func(fd uintptr) { n, err = unix.Read(int(fd), buf) }); cerr != nil {
		return 0, cerr
	}
	if n <= 0 && err == nil {
		err = os.ErrClosed
	}
	return max(n, 0), err
}
