package nodeagent

import (
	"context"
	"strings"
	"testing"
	"time"

	"muster/api"
)

// node is an agent that a fake head has approved.
type node struct {
	*fakeHead
	agent *Agent
	key   string
	stop  func()
}

func newNode(t *testing.T) *node {
	t.Helper()
	needRoot(t)
	h := newFakeHead(t)
	a, err := New(Config{
		Head: h.addr, Pin: h.pin(), RunDir: runDir(t), Init: buildInit(t), CgroupRoot: testCgroup(t), Facts: testFacts,
	})
	if err != nil {
		t.Fatal(err)
	}
	h.approved[a.key.public] = true
	ctx, cancel := context.WithCancel(context.Background()) // the test's own ends before its cleanup
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	n := &node{fakeHead: h, agent: a, key: a.key.public}
	n.stop = func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("agent ended: %v", err)
		}
		n.stop = func() {}
	}
	t.Cleanup(func() { n.cleanup(); n.stop() })
	h.wait("the first heartbeat", func() bool { return len(h.beats) > 0 })
	return n
}

// cleanup ends what still runs and has it forgotten.
func (n *node) cleanup() {
	for _, st := range n.agent.tasks.Statuses() {
		n.agent.tasks.Signal(api.TaskSignal{TaskRef: st.TaskRef, Signal: 9})
		n.end(st.TaskRef)
		if err := n.agent.tasks.Forget(st.TaskRef); err != nil {
			n.t.Error(err)
		}
	}
	for deadline := time.Now().Add(10 * time.Second); len(n.agent.tasks.Statuses()) > 0; {
		if time.Now().After(deadline) {
			n.t.Errorf("tasks are left: %v", n.agent.tasks.Statuses())
			return
		}
		pause(context.Background(), time.Millisecond)
	}
}

func command(job uint64, argv ...string) api.TaskStart {
	return api.TaskStart{
		TaskRef: api.TaskRef{Job: job, Epoch: 1}, Argv: argv, Owner: api.Owner{User: "someone", UID: 4711, GID: 4712, Groups: []uint32{4713}},
		Cores: 1, Host: "n1", Tasks: 1, Node: "n1",
	}
}

func (n *node) begin(t api.TaskStart) api.TaskRef {
	n.t.Helper()
	if ack := n.ask(n.key, api.VerbStart, t); ack.Err != nil {
		n.t.Fatalf("starting %v: %v", t.Argv, ack.Err)
	}
	return t.TaskRef
}

func TestTaskRuns(t *testing.T) {
	n := newNode(t)
	ref := n.begin(command(1, "sh", "-c", "echo out; echo err >&2; exit 7"))
	ev := n.end(ref)
	stdout, stderr := n.texts(ref)
	if ev.ExitCode != 7 || ev.State != api.JobFailed || stdout != "out\n" || stderr != "err\n" {
		t.Errorf("state %s, exit code %d, error %q, stdout %q, stderr %q", ev.State, ev.ExitCode, ev.Error, stdout, stderr)
	}
}

func BenchmarkTrue(b *testing.B) {}

func TestTaskIdentity(t *testing.T) {
	n := newNode(t)
	ref := n.begin(command(1, "sh", "-c", "id; umask; hostname; echo $$; pwd; grep -E '^(Cap|NoNew|Groups)' /proc/self/status; ulimit -n; ls -l /proc/self/fd; env; ps ax"))
	n.end(ref)
	stdout, stderr := n.texts(ref)
	t.Log(stdout, stderr)
	_ = strings.Contains
}
