package nodeagent

import (
	"strings"
	"syscall"
	"testing"

	"muster/api"
)

// waitDetail waits until a heartbeat says so much of a task.
func (n *node) waitDetail(ref api.TaskRef, detail string, stops int) {
	n.t.Helper()
	n.wait("detail "+detail, func() bool {
		for _, st := range n.beats[len(n.beats)-1].Tasks {
			if st.TaskRef == ref && st.Detail == detail && st.Stops == stops && st.State == api.JobRunning {
				return true
			}
		}
		return false
	})
}

// A program that is stopped says so at once, and everything it wrote before is there.
func TestStoppedIsTold(t *testing.T) {
	n := newNode(t, func(c *Config) { c.Root = smallUserland(t) })
	signal := func(ref api.TaskRef, s syscall.Signal) {
		t.Helper()
		if ack := n.ask(n.key, api.VerbSignal, api.TaskSignal{TaskRef: ref, Signal: int(s)}); ack.Err != nil {
			t.Fatal(ack.Err)
		}
	}
	t.Run("ctrl-z", func(t *testing.T) {
		ref := n.begin(withTerminal(shell(1, `echo ready; while read line; do echo "got $line"; done`)))
		n.shown(ref, "ready")
		n.typed(ref, 0, "\x1a", false)
		n.waitDetail(ref, api.DetailStopped, 1)
		signal(ref, syscall.SIGCONT)
		n.waitDetail(ref, "", 1)
		n.typed(ref, 1, "\x1a", false)
		n.waitDetail(ref, api.DetailStopped, 2)
		signal(ref, syscall.SIGCONT)
		n.typed(ref, 2, "word\n", true)
		if got := n.outcome(ref); got.State != api.JobFinished || !strings.Contains(got.Stdout, "got word") {
			t.Errorf("%+v", got)
		}
	})
	t.Run("last words", func(t *testing.T) {
		text := strings.Repeat("x", 3000)
		ref := n.begin(withTerminal(shell(2, "printf %3000s | tr ' ' x; kill -TSTP $$; sleep 1000")))
		n.waitDetail(ref, api.DetailStopped, 1)
		n.shown(ref, text)
		signal(ref, syscall.SIGKILL)
		n.end(ref)
	})
	t.Run("without a terminal", func(t *testing.T) {
		ref := n.begin(shell(3, "echo ready; sleep 1000 & wait"))
		n.shown(ref, "ready")
		signal(ref, syscall.SIGTSTP)
		n.waitDetail(ref, api.DetailStopped, 1)
		signal(ref, syscall.SIGTERM) // a stopped program ends as others do
		if got := n.outcome(ref); got.Signal != int(syscall.SIGTERM) {
			t.Errorf("%+v", got)
		}
	})
	t.Run("a shell with jobs of its own", func(t *testing.T) {
		ref := n.begin(withTerminal(command(4, "sh", "-i")))
		n.typed(ref, 0, "sh -c 'echo in''side; kill -TSTP $$; echo a''gain'\n", false)
		n.shown(ref, "inside")
		n.shown(ref, "Stopped")
		n.waitDetail(ref, "", 0)
		n.typed(ref, 51, "fg\n", false)
		n.shown(ref, "again")
		n.typed(ref, 54, "exit 5\n", false)
		if got := n.outcome(ref); got.Code != 5 {
			t.Errorf("%+v", got)
		}
	})
}
