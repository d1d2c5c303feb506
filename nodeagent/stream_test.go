package nodeagent

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"muster/api"
)

// streamBytes is how much output the tests with a broken link send. It can be
// raised: MUSTER_STREAM_MIB=1024.
func streamBytes(t testing.TB) int64 {
	s := os.Getenv("MUSTER_STREAM_MIB")
	if s == "" {
		return 64 << 20
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n << 20
}

// randomOutput is a task that writes n random bytes to stdout and their
// SHA-256 to stderr.
func randomOutput(job uint64, n int64) api.TaskStart {
	return shell(job, fmt.Sprintf("mkfifo f; sha256sum <f >&2 & head -c %d /dev/urandom | tee f; wait", n))
}

// hashed makes the head hash a task's output rather than keep it; stderr, the
// last of it, is kept.
func (h *fakeHead) hashed(ref api.TaskRef) hash.Hash {
	sum := sha256.New()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.outputOf(ref.String()).stdoutSink = func(b []byte) { sum.Write(b) }
	return sum
}

func (n *node) sameHash(ref api.TaskRef, size int64, sum hash.Hash) {
	n.t.Helper()
	ev := n.end(ref)
	_, stderr := n.texts(ref)
	want := hex.EncodeToString(sum.Sum(nil)) + "  -\n"
	if ev.State != api.JobFinished || ev.Output != size+int64(len(want)) || stderr != want {
		n.t.Errorf("state %s, %d bytes, error %q: task says %s the head has %s", ev.State, ev.Output, ev.Error, stderr, want)
	}
}

func TestOutputOverLinkThatIsCut(t *testing.T) {
	if testing.Short() {
		t.Skip("takes more than ten seconds")
	}
	const cuts = 20
	size := streamBytes(t)
	var p *proxy
	n := newNode(t, func(c *Config) {
		p = newProxy(t, c.Head)
		c.Head = p.addr()
	})
	p.mu.Lock()
	for range cuts {
		p.cutAt = append(p.cutAt, p.carried+rand.Int64N(size))
	}
	slices.Sort(p.cutAt)
	p.mu.Unlock()
	c := randomOutput(1, size)
	sum := n.hashed(c.TaskRef)
	n.begin(c)
	n.sameHash(c.TaskRef, size, sum)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cuts != cuts {
		t.Errorf("%d of %d cuts were made", p.cuts, cuts)
	}
	t.Logf("%d MiB, %d cuts, %d KiB were sent twice", size>>20, p.cuts, n.repeated>>10)
}

// agentProc is an agent in a process of its own.
type agentProc struct {
	*fakeHead
	args []string
	key  string
	cmd  *exec.Cmd
}

func newAgentProc(t *testing.T) *agentProc {
	t.Helper()
	needRoot(t)
	h := newFakeHead(t)
	dir := runDir(t)
	key, err := loadKey(dir)
	if err != nil {
		t.Fatal(err)
	}
	h.approved[key.public] = true
	p := &agentProc{fakeHead: h, key: key.public}
	p.args = []string{"agent", h.addr, h.pin(), dir, buildInit(t), testCgroup(t)}
	p.run()
	t.Cleanup(p.end)
	return p
}

// run starts the agent and waits until the head hears it.
func (p *agentProc) run() {
	p.t.Helper()
	p.mu.Lock()
	seen := len(p.beats)
	p.mu.Unlock()
	p.cmd = exec.Command("/proc/self/exe", p.args...)
	p.cmd.Stderr = os.Stderr
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	p.wait("a heartbeat", func() bool { return len(p.beats) > seen })
}

func (p *agentProc) kill() {
	p.cmd.Process.Kill()
	p.cmd.Wait()
}

func (p *agentProc) node() *node { return &node{fakeHead: p.fakeHead, key: p.key} }

// end has everything forgotten, then ends the agent.
func (p *agentProc) end() {
	n := p.node()
	p.mu.Lock()
	held := p.beats[len(p.beats)-1].Tasks
	p.mu.Unlock()
	for _, st := range held {
		p.ask(p.key, api.VerbSignal, api.TaskSignal{TaskRef: st.TaskRef, Signal: 9})
		p.fakeHead.end(st.TaskRef)
		n.forget(st.TaskRef)
	}
	p.mu.Lock()
	seen := len(p.beats)
	p.mu.Unlock()
	p.wait("the node to be empty", func() bool {
		return len(p.beats) > seen && len(p.beats[len(p.beats)-1].Tasks) == 0
	})
	p.cmd.Process.Signal(syscall.SIGTERM)
	p.cmd.Wait()
}

func TestAgentIsKilledWhileTaskWrites(t *testing.T) {
	size := streamBytes(t)
	p := newAgentProc(t)
	c := randomOutput(1, size)
	sum := p.hashed(c.TaskRef)
	p.node().begin(c)
	for i := range int64(4) {
		p.wait("output", func() bool { return p.outputOf(c.TaskRef.String()).all > (i+1)*size/8 })
		p.kill()
		p.run()
	}
	p.wait("most output", func() bool { return p.outputOf(c.TaskRef.String()).all > 7*size/8 })
	// What the agent has for itself must not grow with what passes through.
	if kb := kilobytes(t, p.cmd.Process.Pid, "RssAnon"); kb > 30<<10 {
		t.Errorf("the agent has %d kB for itself", kb)
	} else {
		t.Logf("the agent has %d kB for itself, %d kB resident at most", kb, kilobytes(t, p.cmd.Process.Pid, "VmHWM"))
	}
	p.node().sameHash(c.TaskRef, size, sum)
}

func kilobytes(t *testing.T, pid int, field string) int {
	t.Helper()
	n, err := strconv.Atoi(strings.TrimSuffix(statusField(t, pid, field), " kB"))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestTaskGoesOnWithoutAgent(t *testing.T) {
	p := newAgentProc(t)
	n := p.node()
	c := shell(1, "read go; echo $go; sleep 0.1; exit 5")
	c.Stdin = true
	n.begin(c)
	n.ask(n.key, api.VerbInput, api.InputChunk{TaskRef: c.TaskRef, Data: []byte("on\n"), EOF: true})
	p.kill() // the task ends while there is no agent
	for len(processes("sh", "-c", c.Argv[2])) > 0 {
		pause(t.Context(), time.Millisecond)
	}
	p.run()
	got := n.outcome(c.TaskRef)
	if got.Code != 5 || got.Stdout != "on\n" {
		t.Errorf("got %+v", got)
	}
}

// initPID is the process of the in-namespace init of the node's only task. A program may be quicker than the word that
// it was started.
func (n *node) initPID() int {
	n.t.Helper()
	for {
		if pid := n.agent.tasks.Statuses()[0].PID; pid != 0 {
			return pid
		}
		pause(n.t.Context(), time.Millisecond)
	}
}

func TestShimIsKilled(t *testing.T) {
	n := newNode(t, nil)
	mark := fmt.Sprintf("4%d", os.Getpid())
	ref := n.begin(shell(1, "setsid sleep "+mark+" & echo ready; sleep "+mark))
	n.wait("output", func() bool { return n.outputOf(ref.String()).all > 0 })
	pid := parentOf(t, n.initPID())
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	got := n.outcome(ref)
	if got.State != api.JobFailed || got.Error != "the task's shim was killed, and the task with it" {
		t.Errorf("got %+v", got)
	}
	if left := processes("sleep", mark); len(left) > 0 {
		t.Errorf("processes of the task are left: %v", left)
	}
}

func parentOf(t *testing.T, pid int) int {
	t.Helper()
	n, err := strconv.Atoi(statusField(t, pid, "PPid"))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// childOf finds a process that another one started.
func childOf(t *testing.T, parent int) int {
	t.Helper()
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		pid, _ := strconv.Atoi(filepath.Base(dir))
		if b, err := os.ReadFile(dir + "/status"); err == nil && strings.Contains(string(b), fmt.Sprintf("\nPPid:\t%d\n", parent)) {
			return pid
		}
	}
	t.Fatalf("process %d has no child", parent)
	return 0
}

func statusField(t *testing.T, pid int, name string) string {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, name+":\t"); ok {
			return strings.TrimSpace(v)
		}
	}
	t.Fatalf("no %s in /proc/%d/status", name, pid)
	return ""
}

func TestShimThatCannotStart(t *testing.T) {
	n := newNode(t, func(c *Config) { c.Shim = []string{"/bin/false"} })
	got := n.outcome(n.begin(command(1, "true")))
	if got.Code != 126 || got.Error != "the task's shim does not start: it says nothing" {
		t.Errorf("got %+v", got)
	}
}

func TestInitThatIsMissing(t *testing.T) {
	n := newNode(t, func(c *Config) { c.Init = "/no/such/init" })
	got := n.outcome(n.begin(command(1, "true")))
	if got.Code != 126 || !strings.HasPrefix(got.Error, "starting the task's init: fork/exec /no/such/init: no such file") {
		t.Errorf("got %+v", got)
	}
}

// A head that takes no output makes the task wait, and no more is kept than
// said.
func TestTaskWaitsForHead(t *testing.T) {
	n := newNode(t, nil)
	const size = 40 << 20
	c := randomOutput(1, size)
	sum := n.hashed(c.TaskRef)
	n.mu.Lock()
	n.deaf = true
	n.mu.Unlock()
	ref := n.begin(c)
	fifo := filepath.Join(n.agent.cfg.RunDir, "tasks", ref.String(), "work", "f")
	for _, err := os.Stat(fifo); err != nil; _, err = os.Stat(fifo) {
		pause(t.Context(), time.Millisecond)
	}
	shim := parentOf(t, n.initPID())
	kept := func() int64 { // what the memory file of the shim holds
		files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", shim))
		for _, f := range files {
			if to, _ := os.Readlink(f); strings.HasPrefix(to, "/memfd:muster-output") {
				st, err := os.Stat(f)
				if err != nil {
					t.Fatal(err)
				}
				return st.Sys().(*syscall.Stat_t).Blocks * 512
			}
		}
		t.Fatal("the shim keeps no output")
		return 0
	}
	for kept() < 32<<20 {
		pause(t.Context(), time.Millisecond)
	}
	n.mu.Lock()
	n.deaf = false
	n.mu.Unlock()
	n.sameHash(ref, size, sum)
	for kept() > 1<<20 { // the last acknowledgement is on its way
		pause(t.Context(), time.Millisecond)
	}
}

func TestOneLongLine(t *testing.T) {
	n := newNode(t, nil)
	ref := n.begin(shell(1, "head -c 10000000 /dev/zero | tr '\\0' x"))
	got := n.outcome(ref)
	if got.State != api.JobFinished || got.Stdout != strings.Repeat("x", 10_000_000) {
		t.Errorf("state %s, %d bytes", got.State, len(got.Stdout))
	}
}

// An agent that is killed between its answer and the start of the shim: the
// next one starts the task.
func TestTaskThatWasOnlyAccepted(t *testing.T) {
	c := command(1, "echo", "started")
	n := newNode(t, func(cfg *Config) {
		first, err := New(*cfg)
		if err != nil {
			t.Fatal(err)
		}
		if err := first.tasks.Start(c); err != nil {
			t.Fatal(err)
		}
	})
	if got := n.outcome(c.TaskRef); got.Stdout != "started\n" || got.State != api.JobFinished {
		t.Errorf("got %+v", got)
	}
}
