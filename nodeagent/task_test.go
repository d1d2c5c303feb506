package nodeagent

import (
	"bytes"
	stdcmp "cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"golang.org/x/sys/unix"

	"muster/api"
)

// node is an agent that a fake head has approved.
type node struct {
	*fakeHead
	agent *Agent
	key   string
	init  string
	stop  func()
}

// newNode starts one; adjust (nil: nothing) changes its configuration.
func newNode(t testing.TB, adjust func(*Config)) *node {
	t.Helper()
	needRoot(t)
	h := newFakeHead(t)
	cfg := Config{
		Head: h.addr, Pin: h.pin(), RunDir: runDir(t), Init: buildInit(t), CgroupRoot: testCgroup(t), Facts: testFacts,
	}
	if adjust != nil {
		adjust(&cfg)
	}
	a, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	h.approved[a.key.public] = true
	n := &node{fakeHead: h, agent: a, key: a.key.public, init: cfg.Init, stop: runAgent(t, a)}
	t.Cleanup(func() { n.forgetAll(); n.stop() })
	h.wait("the first heartbeat", func() bool { return len(h.beats) > 0 })
	return n
}

// runAgent runs an agent until the function that it returns is called.
func runAgent(t testing.TB, a *Agent) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background()) // that of a test ends before its cleanups
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	stopped := false
	return func() {
		cancel()
		if stopped {
			return
		}
		stopped = true
		if err := <-done; err != nil {
			t.Errorf("agent ended: %v", err)
		}
	}
}

// forgetAll ends what still runs and has it forgotten.
func (n *node) forgetAll() {
	for _, st := range n.agent.tasks.Statuses() {
		n.ask(n.key, api.VerbSignal, api.TaskSignal{TaskRef: st.TaskRef, Signal: 9})
		n.end(st.TaskRef)
		// One that was forgotten a moment ago may have been listed still.
		if ack := n.ask(n.key, api.VerbForget, st.TaskRef); ack.Err != nil && ack.Err.Code != api.CodeNotFound {
			n.t.Errorf("forgetting task %s: %v", st.TaskRef, ack.Err)
		}
	}
	n.mu.Lock()
	seen := len(n.beats)
	n.mu.Unlock()
	n.wait("the node to be empty", func() bool {
		return len(n.beats) > seen && len(n.beats[len(n.beats)-1].Tasks) == 0
	})
}

func (n *node) forget(ref api.TaskRef) {
	n.t.Helper()
	if ack := n.ask(n.key, api.VerbForget, ref); ack.Err != nil {
		n.t.Errorf("forgetting task %s: %v", ref, ack.Err)
	}
}

func command(job uint64, argv ...string) api.TaskStart {
	return api.TaskStart{
		TaskRef: api.TaskRef{Job: job, Epoch: 1}, Argv: argv,
		Owner: api.Owner{User: "someone", UID: 4711, GID: 4712, Groups: []uint32{4713, 4714}},
		Cores: 1, Host: "n1", Tasks: 3, Node: "n1",
	}
}

func shell(job uint64, script string) api.TaskStart { return command(job, "sh", "-c", script) }

func (n *node) begin(t api.TaskStart) api.TaskRef {
	n.t.Helper()
	if ack := n.ask(n.key, api.VerbStart, t); ack.Err != nil {
		n.t.Fatalf("starting %v: %v", t.Argv, ack.Err)
	}
	return t.TaskRef
}

// outcome is what a user sees of a task.
type outcome struct {
	State          api.JobState
	Code, Signal   int
	Stdout, Stderr string
	Error          string // the beginning of it is compared
}

func (n *node) outcome(ref api.TaskRef) outcome {
	n.t.Helper()
	ev := n.end(ref)
	o := outcome{State: ev.State, Code: ev.ExitCode, Signal: ev.Signal, Error: ev.Error}
	o.Stdout, o.Stderr = n.texts(ref)
	return o
}

func TestTaskOutcome(t *testing.T) {
	const failed, finished = api.JobFailed, api.JobFinished
	binary := make([]byte, 1024)
	for i := range binary {
		binary[i] = byte(i)
	}
	n := newNode(t, nil)
	for i, c := range []struct {
		name string
		task api.TaskStart
		want outcome
	}{
		{"exit status 0", command(0, "true"), outcome{State: finished}},
		{"exit status 7", shell(0, "exit 7"), outcome{State: failed, Code: 7}},
		{"exit status 255", shell(0, "exit 255"), outcome{State: failed, Code: 255}},
		{"exit status as of a signal", shell(0, "exit 143"), outcome{State: failed, Code: 143}},
		{"killed by itself", shell(0, "kill -9 $$"), outcome{State: failed, Code: 137, Signal: 9}},
		{"terminated by itself", shell(0, "kill -TERM $$"), outcome{State: failed, Code: 143, Signal: 15}},
		{"both streams", shell(0, "echo out; echo err >&2"), outcome{State: finished, Stdout: "out\n", Stderr: "err\n"}},
		{"binary output", shell(0, `printf '\000\001\377\376\n\r\n\000'`), outcome{State: finished, Stdout: "\x00\x01\xff\xfe\n\r\n\x00"}},
		{"streams by their names", shell(0, "echo out >/dev/stdout; echo err >/dev/stderr; cat /dev/stdin"), outcome{State: finished, Stdout: "out\n", Stderr: "err\n"}},
		{"no newline at the end", shell(0, "printf x"), outcome{State: finished, Stdout: "x"}},
		{"no input", command(0, "cat"), outcome{State: finished}},
		{"command that is not there", command(0, "no-such-command"), outcome{State: failed, Code: 127, Error: "no-such-command: command not found on this node"}},
		{"file that is not there", command(0, "./nothing"), outcome{State: failed, Code: 127, Error: "./nothing: no such file on this node; --send ./nothing sends it along"}},
		{"directory", command(0, "/tmp"), outcome{State: failed, Code: 126, Error: "/tmp: it is a directory"}},
		{"not executable", command(0, "/etc/passwd"), outcome{State: failed, Code: 126, Error: "/etc/passwd: it is not executable; chmod +x it"}},
		{"host name", command(0, "uname", "-n"), outcome{State: finished, Stdout: "n1\n"}},
		{"user and groups", command(0, "id", "-G"), outcome{State: finished, Stdout: "4712 4713 4714\n"}},
		{"user", command(0, "id", "-u"), outcome{State: finished, Stdout: "4711\n"}},
		{"umask", shell(0, "umask"), outcome{State: finished, Stdout: "0022\n"}},
		{"rights", shell(0, "grep -E '^(CapPrm|CapEff|CapBnd|CapInh|CapAmb|NoNewPrivs)' /proc/self/status | tr -s '\\t' ' '"), outcome{State: finished, Stdout: "CapInh: 0000000000000000\nCapPrm: 0000000000000000\nCapEff: 0000000000000000\nCapBnd: 0000000000000000\nCapAmb: 0000000000000000\nNoNewPrivs: 1\n"}},
		{"limits", shell(0, "ulimit -n; ulimit -c"), outcome{State: finished, Stdout: "1024\n0\n"}},
		{"open files", shell(0, "ls /proc/self/fd | wc -l"), outcome{State: finished, Stdout: "4\n"}}, // 0 to 2, and the folder itself
		{"own processes only", command(0, "cat", "/proc/1/comm"), outcome{State: finished, Stdout: "init\n"}},
		{"own process group", shell(0, "cut -d' ' -f5 /proc/self/stat | grep -qx $$ && echo yes"), outcome{State: finished, Stdout: "yes\n"}},
		{"where it stands", shell(0, "echo $MUSTER_TASK $MUSTER_TASKS $MUSTER_NODE"), outcome{State: finished, Stdout: "0 3 n1\n"}},
		{"working directory", shell(0, `test "$PWD" = "$HOME" && test -w . && stat -c %a .`), outcome{State: finished, Stdout: "700\n"}},
		{"cannot read the agent's key", shell(0, "cat ../../../key"), outcome{State: failed, Code: 1, Stderr: "cat: ../../../key: No such file or directory\n"}},
		{"cannot reach shims", shell(0, "ls .. >/dev/null && cat ../spec.json"), outcome{State: failed, Code: 2, Stderr: "ls: cannot open directory '..': Permission denied\n"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.task.Job = uint64(i + 1)
			ref := n.begin(c.task)
			got := n.outcome(ref)
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("task %q (-want +got):\n%s", c.task.Argv, diff)
			}
			n.forget(ref)
		})
	}
}

func TestInitHoldsNoDescriptors(t *testing.T) {
	n := newNode(t, nil)
	ref := n.begin(shell(1, "echo ready; sleep 1000"))
	// The output may come before init has let go of what the program got; the event does not.
	n.wait("the start", func() bool { return len(n.events[ref.String()]) > 0 })
	fds, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", n.initPID()))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, fd := range fds {
		to, _ := os.Readlink(fd)
		got = append(got, filepath.Base(fd)+" "+strings.TrimRight(to, "0123456789]"))
	}
	if diff := cmp.Diff([]string{"0 /dev/null", "1 /dev/null", "2 /dev/null", "4 pipe:[", "5 pipe:["}, got); diff != "" {
		t.Error(diff)
	}
}

func TestTaskOfRootHasNoRights(t *testing.T) {
	n := newNode(t, nil)
	c := shell(1, "id -u; grep CapEff /proc/self/status | cut -f2; mount -t tmpfs x /mnt 2>/dev/null || echo no mount; hostname other 2>/dev/null || echo no host name")
	c.Owner = api.Owner{User: "root"}
	want := outcome{State: api.JobFinished, Stdout: "0\n0000000000000000\nno mount\nno host name\n"}
	if diff := cmp.Diff(want, n.outcome(n.begin(c))); diff != "" {
		t.Error(diff)
	}
}

// Root owns the node's files, so a task of root is kept from them by what it
// sees and by read-only mounts.
func TestTaskOfRootSeesAndChangesNothing(t *testing.T) {
	n := newNode(t, nil)
	run := n.agent.cfg.RunDir
	if _, err := os.Stat(filepath.Join(run, "key")); err != nil {
		t.Fatal(err)
	}
	for i, c := range []struct{ name, script, want string }{
		{"the agent's folder", "ls -A " + run, "tasks\n"},
		{"the agent's key", "cat " + run + "/key 2>/dev/null || echo no", "no\n"},
		{"other tasks", "ls " + run + "/tasks", "3-0-1\n"},
		{"its own orders", "cat ../spec.json 2>/dev/null || echo no", "no\n"},
		{"the node's files", "echo x 2>/dev/null >/etc/passwd || echo no; echo x 2>/dev/null >/new || echo no", "no\nno\n"},
		{"the kernel's settings", "echo /x 2>/dev/null >/proc/sys/kernel/core_pattern || echo no", "no\n"},
		{"groups", "mkdir " + stdcmp.Or(n.agent.cfg.CgroupRoot, "/sys/fs/cgroup") + "/x 2>/dev/null || echo no", "no\n"},
		{"devices", "ls -A /dev | tr '\\n' ' '", "fd full null ptmx pts random shm stderr stdin stdout tty urandom zero "},
		{"a device of its own", "mknod x b 8 0 2>/dev/null || echo no", "no\n"},
		{"what it may write to", "for f in ./a /tmp/a /run/a /dev/shm/a /dev/null; do echo x >$f && echo yes; done", "yes\nyes\nyes\nyes\nyes\n"},
		{"back to writable", "mount -o remount,rw / 2>/dev/null || echo no; umount " + run + " 2>/dev/null || echo no; umount /run 2>/dev/null || echo no", "no\nno\nno\n"},
		{"memory runs out", "cat /proc/self/oom_score_adj", "0\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			start := shell(uint64(i+1), c.script)
			start.Owner = api.Owner{User: "root"}
			ref := n.begin(start)
			if got := n.outcome(ref).Stdout; got != c.want {
				t.Errorf("%s: got %q, want %q", c.script, got, c.want)
			}
			n.forget(ref)
		})
	}
}

func TestTaskInput(t *testing.T) {
	n := newNode(t, nil)
	data := bytes.Repeat([]byte("0123456789abcdef"), 1<<16) // 1 MiB: more than a shim holds
	c := command(1, "sha256sum")
	c.Stdin = true
	ref := n.begin(c)
	n.feed(ref, data)
	sum := sha256.Sum256(data)
	want := outcome{State: api.JobFinished, Stdout: hex.EncodeToString(sum[:]) + "  -\n"}
	if diff := cmp.Diff(want, n.outcome(ref)); diff != "" {
		t.Error(diff)
	}
}

// feed sends all of a task's input, as a head does.
func (n *node) feed(ref api.TaskRef, data []byte) {
	n.t.Helper()
	for off := 0; ; {
		end := min(off+api.MaxChunk, len(data))
		ack := n.ask(n.key, api.VerbInput, api.InputChunk{TaskRef: ref, Offset: int64(off), Data: data[off:end], EOF: end == len(data)})
		if ack.Err != nil || ack.Closed {
			n.t.Fatalf("input at %d: %v, closed %v", off, ack.Err, ack.Closed)
		}
		if off = int(ack.Offset); off == len(data) {
			return
		}
	}
}

func TestTaskInputRepeatedAndOutOfOrder(t *testing.T) {
	n := newNode(t, nil)
	c := command(1, "cat")
	c.Stdin = true
	ref := n.begin(c)
	send := func(off int64, s string, eof bool) int64 {
		t.Helper()
		ack := n.ask(n.key, api.VerbInput, api.InputChunk{TaskRef: ref, Offset: off, Data: []byte(s), EOF: eof})
		if ack.Err != nil {
			t.Fatal(ack.Err)
		}
		return ack.Offset
	}
	var got []int64
	got = append(got, send(0, "abc", false), send(0, "abc", false), send(1, "bcde", false),
		send(9, "zz", false), send(9, "", true), send(5, "f", true))
	if diff := cmp.Diff([]int64{3, 3, 5, 5, 5, 6}, got); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(outcome{State: api.JobFinished, Stdout: "abcdef"}, n.outcome(ref)); diff != "" {
		t.Error(diff)
	}
}

func TestTaskThatDoesNotRead(t *testing.T) {
	n := newNode(t, nil)
	c := shell(1, "exec <&-; echo ready; sleep 1000")
	c.Stdin = true
	ref := n.begin(c)
	n.wait("the task", func() bool { return n.outputOf(ref.String()).all > 0 })
	// What was taken first may be lost in the pipe's closing; then it is said.
	off := int64(0)
	for range 100 {
		ack := n.ask(n.key, api.VerbInput, api.InputChunk{TaskRef: ref, Offset: off, Data: []byte("x")})
		if off = ack.Offset; ack.Closed {
			return
		}
	}
	t.Error("nobody says that the input is closed")
}

func TestTaskInputFillsUp(t *testing.T) {
	n := newNode(t, nil)
	c := shell(1, "trap 'cat | wc -c; exit' USR1; echo ready; while :; do sleep 0.01; done")
	c.Stdin = true
	ref := n.begin(c)
	n.wait("the task", func() bool { return n.outputOf(ref.String()).all > 0 })
	// The task does not read: pipe and shim fill up, and no answer comes.
	off, chunk := int64(0), make([]byte, api.MaxChunk)
	for {
		ack, err := n.tryAsk(n.key, api.VerbInput, api.InputChunk{TaskRef: ref, Offset: off, Data: chunk}, 300*time.Millisecond)
		if err != nil {
			break
		}
		off = ack.Offset
	}
	n.ask(n.key, api.VerbSignal, api.TaskSignal{TaskRef: ref, Signal: int(syscall.SIGUSR1)})
	for ack := (api.Ack{}); ; {
		ack = n.ask(n.key, api.VerbInput, api.InputChunk{TaskRef: ref, Offset: off, EOF: true})
		if ack.Offset == off {
			break
		}
		off = ack.Offset
	}
	got := n.outcome(ref)
	if want := fmt.Sprintf("ready\n%d\n", off); got.Stdout != want {
		t.Errorf("output %q, want %q", got.Stdout, want)
	}
}

func TestTaskSignals(t *testing.T) {
	n := newNode(t, nil)
	for i, c := range []struct {
		script string
		signal syscall.Signal
		want   outcome
	}{
		{"echo ready; sleep 1000", syscall.SIGTERM, outcome{State: api.JobFailed, Code: 143, Signal: 15}},
		{"echo ready; sleep 1000", syscall.SIGKILL, outcome{State: api.JobFailed, Code: 137, Signal: 9}},
		{"trap 'exit 3' INT; echo ready; sleep 1000 & wait", syscall.SIGINT, outcome{State: api.JobFailed, Code: 3}},
		{"trap 'echo usr1; exit 0' USR1; echo ready; sleep 1000 & wait", syscall.SIGUSR1, outcome{State: api.JobFinished}},
		{"trap '' TERM; echo ready; (setsid sleep 1000 & ); sleep 1000", syscall.SIGKILL, outcome{State: api.JobFailed, Code: 137, Signal: 9}},
	} {
		t.Run(fmt.Sprint(c.script, " ", c.signal), func(t *testing.T) {
			ref := n.begin(shell(uint64(i+1), c.script))
			n.wait("the task", func() bool { return n.outputOf(ref.String()).all > 0 })
			if ack := n.ask(n.key, api.VerbSignal, api.TaskSignal{TaskRef: ref, Signal: int(c.signal)}); ack.Err != nil {
				t.Fatal(ack.Err)
			}
			got := n.outcome(ref)
			got.Stdout = ""
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestTaskIsStoppedAndContinued(t *testing.T) {
	n := newNode(t, nil)
	ref := n.begin(shell(1, "while :; do echo x; sleep 0.02; done"))
	length := func() int64 { return n.outputOf(ref.String()).all }
	n.wait("output", func() bool { return length() > 0 })
	program := childOf(t, n.initPID())
	state := func() string { return statusField(t, program, "State")[:1] }
	signal := func(s syscall.Signal) {
		n.ask(n.key, api.VerbSignal, api.TaskSignal{TaskRef: ref, Signal: int(s)})
	}
	signal(syscall.SIGSTOP)
	for state() != "T" {
		pause(t.Context(), time.Millisecond)
	}
	signal(syscall.SIGCONT)
	n.mu.Lock()
	had := length()
	n.mu.Unlock()
	n.wait("more output", func() bool { return length() > had+4 })
}

// Nothing of a task may live on, however it tried to get away.
func TestTaskLeavesNothing(t *testing.T) {
	n := newNode(t, nil)
	mark := fmt.Sprintf("3%d", os.Getpid())
	ref := n.begin(shell(1, "(setsid sleep "+mark+" & setsid sh -c 'sleep "+mark+" & sleep "+mark+"' &); nohup sleep "+mark+" >/dev/null 2>&1 & echo started"))
	want := outcome{State: api.JobFinished, Stdout: "started\n"}
	if diff := cmp.Diff(want, n.outcome(ref)); diff != "" {
		t.Error(diff)
	}
	if left := processes("sleep", mark); len(left) > 0 {
		t.Errorf("processes of the task are left: %v", left)
	}
}

// processes finds processes by their command line.
func processes(argv ...string) []string {
	want := strings.Join(argv, "\x00") + "\x00"
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	var found []string
	for _, f := range files {
		if b, err := os.ReadFile(f); err == nil && string(b) == want {
			found = append(found, f)
		}
	}
	return found
}

func TestTaskFiles(t *testing.T) {
	n := newNode(t, nil)
	send := func(path, content string, mode uint32) api.SentFile {
		sum := sha256.Sum256([]byte(content))
		h := hex.EncodeToString(sum[:])
		n.mu.Lock()
		n.files[h] = []byte(content)
		n.mu.Unlock()
		return api.SentFile{Path: path, SHA256: h, Size: int64(len(content)), Mode: mode}
	}
	big := strings.Repeat("0123456789", 50000)
	c := shell(1, "./bin/prog; stat -c '%n %a %u %g' bin/prog data/deep/big empty secret; wc -c <data/deep/big; cat empty; cat secret")
	c.Files = []api.SentFile{
		send("bin/prog", "#!/bin/sh\necho prog runs\n", 0o755), send("data/deep/big", big, 0o640),
		send("empty", "", 0o444), send("secret", "s", 0o600),
	}
	want := outcome{State: api.JobFinished, Stdout: "prog runs\nbin/prog 755 4711 4712\ndata/deep/big 640 4711 4712\nempty 444 4711 4712\nsecret 600 4711 4712\n500000\ns"}
	if diff := cmp.Diff(want, n.outcome(n.begin(c))); diff != "" {
		t.Error(diff)
	}

	t.Run("programs that cannot run", func(t *testing.T) {
		elf := "\x7fELF\x02\x01\x01" + strings.Repeat("\x00", 57) + "\x00/lib64/ld-of-another-world.so.2\x00"
		for i, c := range []struct{ content, want string }{
			{"#!/no/such/shell\n", "./p: it needs /no/such/shell, which this node does not have; send a statically linked program"},
			{"data\x00", "./p: it is neither a program nor a script with a #! line"},
			{elf, "./p: it is a program for another kind of processor"},
		} {
			start := command(uint64(10+i), "./p")
			start.Files = []api.SentFile{send("p", c.content, 0o755)}
			got := n.outcome(n.begin(start))
			if got.Code != 126 || got.Error != c.want {
				t.Errorf("exit code %d, error %q, want %q", got.Code, got.Error, c.want)
			}
		}
	})
	t.Run("a script without a first line", func(t *testing.T) {
		start := command(19, "./p", "a b")
		start.Files = []api.SentFile{send("p", "echo $# \"$1\"; exit 4\n", 0o755)}
		want := outcome{State: api.JobFailed, Code: 4, Stdout: "1 a b\n"}
		if diff := cmp.Diff(want, n.outcome(n.begin(start))); diff != "" {
			t.Error(diff)
		}
	})
	t.Run("content that differs", func(t *testing.T) {
		f := send("f", "right", 0o644)
		n.mu.Lock()
		n.files[f.SHA256] = []byte("wrong")
		n.mu.Unlock()
		start := command(20, "true")
		start.Files = []api.SentFile{f}
		if got := n.outcome(n.begin(start)); !strings.HasPrefix(got.Error, "fetching f, which was sent along: its SHA-256 is ") || got.Code != 126 {
			t.Errorf("exit code %d, error %q", got.Code, got.Error)
		}
	})
	t.Run("file that the head does not have", func(t *testing.T) {
		start := command(21, "true")
		start.Files = []api.SentFile{{Path: "f", SHA256: strings.Repeat("0", 64), Size: 1, Mode: 0o644}}
		if got := n.outcome(n.begin(start)); got.Error != "fetching f, which was sent along: no such file" {
			t.Errorf("error %q", got.Error)
		}
	})
}

func TestStartTwiceRunsOnce(t *testing.T) {
	n := newNode(t, nil)
	c := shell(1, "echo once; sleep 1000")
	ref := n.begin(c)
	n.begin(c)
	n.wait("output", func() bool { return n.outputOf(ref.String()).all > 0 })
	n.begin(c)
	n.ask(n.key, api.VerbSignal, api.TaskSignal{TaskRef: ref, Signal: 9})
	if got := n.outcome(ref); got.Stdout != "once\n" {
		t.Errorf("output %q", got.Stdout)
	}
	if got := n.begin(c); got != ref { // an ended task is held still
		t.Error(got)
	}
}

func TestRequestsThatAreRefused(t *testing.T) {
	n := newNode(t, func(c *Config) { c.MaxTasks = 1 })
	gone := api.TaskRef{Job: 99, Index: 1, Epoch: 1}
	ref := n.begin(shell(1, "sleep 1000"))
	noProgram, escaping := command(2), command(3, "true")
	escaping.Files = []api.SentFile{{Path: "../x", SHA256: strings.Repeat("0", 64)}}
	for _, c := range []struct {
		name, verb string
		body       any
		want       api.Code
	}{
		{"signal to an unknown task", api.VerbSignal, api.TaskSignal{TaskRef: gone, Signal: 9}, api.CodeNotFound},
		{"input for an unknown task", api.VerbInput, api.InputChunk{TaskRef: gone}, api.CodeNotFound},
		{"forgetting an unknown task", api.VerbForget, gone, api.CodeNotFound},
		{"forgetting a running task", api.VerbForget, ref, api.CodeConflict},
		{"signal 0", api.VerbSignal, api.TaskSignal{TaskRef: ref}, api.CodeInvalid},
		{"signal 65", api.VerbSignal, api.TaskSignal{TaskRef: ref, Signal: 65}, api.CodeInvalid},
		{"input before its beginning", api.VerbInput, api.InputChunk{TaskRef: ref, Offset: -1}, api.CodeInvalid},
		{"no program", api.VerbStart, noProgram, api.CodeInvalid},
		{"file outside", api.VerbStart, escaping, api.CodeInvalid},
		{"too many tasks", api.VerbStart, command(4, "true"), api.CodeUnavailable},
		{"nonsense", api.VerbStart, "nonsense", api.CodeInvalid},
		{"reboot", api.VerbReboot, nil, api.CodeForbidden},
	} {
		t.Run(c.name, func(t *testing.T) {
			ack := n.ask(n.key, c.verb, c.body)
			if ack.Err == nil || ack.Err.Code != c.want {
				t.Errorf("answer %+v, want code %s", ack.Err, c.want)
			}
		})
	}
}

func TestCancelWhileFilesAreFetched(t *testing.T) {
	n := newNode(t, nil)
	n.mu.Lock()
	n.silentFiles = true
	n.mu.Unlock()
	c := command(1, "true")
	c.Files = []api.SentFile{{Path: "f", SHA256: strings.Repeat("0", 64), Size: 1, Mode: 0o644}}
	ref := n.begin(c)
	n.wait("the request for the file", func() bool { return n.fileRequests > 0 })
	n.ask(n.key, api.VerbSignal, api.TaskSignal{TaskRef: ref, Signal: 15})
	want := outcome{State: api.JobFailed, Code: 143, Signal: 15, Error: "ended before it had started"}
	if diff := cmp.Diff(want, n.outcome(ref)); diff != "" {
		t.Error(diff)
	}
}

// A task's working directory is full by itself: neither the agent nor other tasks notice.
func TestWorkIsBounded(t *testing.T) {
	var dir string
	n := newNode(t, func(c *Config) { dir = c.RunDir })
	c := shell(1, "read go; head -c 4M /dev/zero >big; echo $?; stat -c %s big; df --output=source,target . | tail -1")
	c.Stdin = true
	ref := n.begin(c)
	work := filepath.Join(dir, "tasks", ref.String(), "work")
	n.wait("the working directory", func() bool {
		return unix.Mount("", work, "", unix.MS_REMOUNT, "size=1m") == nil // in place of half of the memory
	})
	n.feed(ref, []byte("go\n"))
	want := outcome{State: api.JobFinished, Stdout: "1\n1048576\nmuster-work    " + work + "\n", Stderr: "head: error writing 'standard output': No space left on device\n"}
	if diff := cmp.Diff(want, n.outcome(ref)); diff != "" {
		t.Error(diff)
	}
	other := shell(2, "head -c 4M /dev/zero >big && echo there is room")
	if diff := cmp.Diff(outcome{State: api.JobFinished, Stdout: "there is room\n"}, n.outcome(n.begin(other))); diff != "" {
		t.Error(diff)
	}
	n.forget(ref)
	n.wait("the end of the working directory", func() bool {
		mounts, err := os.ReadFile("/proc/self/mountinfo")
		return err == nil && !strings.Contains(string(mounts), work)
	})
}
