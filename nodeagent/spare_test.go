package nodeagent

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// waitingShims are the shims without a task that this process has started.
func waitingShims(n *node) []int {
	var found []int
	for _, f := range processes("/proc/self/exe", "shim", filepath.Join(n.agent.cfg.RunDir, "tasks")+"/") {
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(f)))
		if err != nil {
			continue
		}
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		children, err2 := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
		if f := strings.Fields(string(stat)); err != nil || err2 != nil || len(f) < 4 || f[3] != strconv.Itoa(os.Getpid()) {
			continue
		}
		idle := true
		for _, c := range children {
			b, err := os.ReadFile(c)
			idle = idle && err == nil && len(b) == 0
		}
		if idle {
			found = append(found, pid)
		}
	}
	return found
}

// waitingShim waits until one shim waits that is none of those before.
func waitingShim(t *testing.T, n *node, before ...int) int {
	t.Helper()
	for range 60_000 {
		if w := waitingShims(n); len(w) == 1 && (len(before) == 0 || w[0] != before[0]) {
			return w[0]
		}
		pause(t.Context(), time.Millisecond)
	}
	t.Fatalf("not one shim waits but %v", waitingShims(n))
	return 0
}

// A shim waits for the next task, is that task's, and another one waits then. One that was killed meanwhile costs
// nothing but time, and none is left when the agent ends.
func TestShimWaits(t *testing.T) {
	n := newNode(t, nil)
	first := waitingShim(t, n)
	ref := n.begin(shell(1, "echo ready; sleep 1000"))
	n.wait("the start", func() bool { return len(n.events[ref.String()]) > 0 })
	if got := parentOf(t, n.initPID()); got != first {
		t.Errorf("the task's shim is %d, not %d, which waited", got, first)
	}
	second := waitingShim(t, n, first)
	if err := syscall.Kill(second, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if got := n.outcome(n.begin(shell(2, "echo done"))); got.Stdout != "done\n" || got.Code != 0 {
		t.Errorf("a task after the end of the shim that waited: %+v", got)
	}
	waitingShim(t, n, second)
	n.stop()
	if left := waitingShims(n); len(left) > 0 {
		t.Errorf("the agent has ended and shims wait: %v", left)
	}
	if err := syscall.Kill(first, 0); err != nil {
		t.Errorf("the shim of a task that runs is gone with the agent: %v", err)
	}
	// A new agent, so that the task can be ended.
	a, err := New(n.agent.cfg)
	if err != nil {
		t.Fatal(err)
	}
	n.mu.Lock()
	seen := len(n.beats)
	n.mu.Unlock()
	n.agent, n.stop = a, runAgent(t, a)
	n.wait("a heartbeat of the new agent", func() bool { return len(n.beats) > seen })
}
