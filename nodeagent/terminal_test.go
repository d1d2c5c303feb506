package nodeagent

import (
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"muster/api"
)

// withTerminal gives a task one.
func withTerminal(t api.TaskStart) api.TaskStart {
	t.Stdin, t.Terminal = true, &api.Window{Rows: 24, Columns: 80}
	t.Env = append(t.Env, "TERM=xterm")
	return t
}

// typed sends input to a task, from its beginning.
func (n *node) typed(ref api.TaskRef, off int64, text string, eof bool) {
	n.t.Helper()
	if ack := n.ask(n.key, api.VerbInput, api.InputChunk{TaskRef: ref, Offset: off, Data: []byte(text), EOF: eof}); ack.Err != nil {
		n.t.Errorf("typing %q: %v", text, ack.Err)
	}
}

// shown waits until a task has written a text.
func (n *node) shown(ref api.TaskRef, text string) {
	n.t.Helper()
	name := ref.String()
	n.wait(text, func() bool { o := n.out[name]; return o != nil && strings.Contains(string(o.stdout), text) })
}

func TestTerminal(t *testing.T) {
	n := newNode(t, func(c *Config) { c.Root = smallUserland(t) })
	t.Run("what it is", func(t *testing.T) {
		ref := n.begin(withTerminal(shell(1, "tty; stty size; test -t 0 && test -t 1 && test -t 2 && echo three; ls -ln /dev/pts/0 | awk '{print $1, $3}'; echo x >/dev/tty")))
		n.typed(ref, 0, "", true)
		want := outcome{State: api.JobFinished, Stdout: "/dev/pts/0\r\n24 80\r\nthree\r\ncrw--w---- 4711\r\nx\r\n"}
		if diff := cmp.Diff(want, n.outcome(ref)); diff != "" {
			t.Error(diff)
		}
	})
	t.Run("input and its end", func(t *testing.T) {
		ref := n.begin(withTerminal(shell(2, "stty -echo; echo ready; cat; echo over")))
		n.shown(ref, "ready")
		n.typed(ref, 0, "one\ntwo", true)
		want := outcome{State: api.JobFinished, Stdout: "ready\r\none\r\ntwoover\r\n"}
		if diff := cmp.Diff(want, n.outcome(ref)); diff != "" {
			t.Error(diff)
		}
	})
	t.Run("ctrl-c", func(t *testing.T) {
		ref := n.begin(withTerminal(shell(3, "trap 'echo caught; exit 3' INT; echo ready; while :; do sleep 1; done")))
		n.shown(ref, "ready")
		n.typed(ref, 0, "\x03", false)
		got := n.outcome(ref)
		if got.Code != 3 || !strings.Contains(got.Stdout, "caught") {
			t.Errorf("%+v", got)
		}
	})
	t.Run("another size", func(t *testing.T) {
		ref := n.begin(withTerminal(shell(4, "trap 'stty size; exit' WINCH; echo ready; while :; do sleep 1; done")))
		n.shown(ref, "ready")
		if ack := n.ask(n.key, api.VerbWindow, api.TaskWindow{TaskRef: ref, Window: api.Window{Rows: 50, Columns: 132}}); ack.Err != nil {
			t.Fatal(ack.Err)
		}
		want := outcome{State: api.JobFinished, Stdout: "ready\r\n50 132\r\n"}
		if diff := cmp.Diff(want, n.outcome(ref)); diff != "" {
			t.Error(diff)
		}
	})
	t.Run("input that nobody reads", func(t *testing.T) {
		ref := n.begin(withTerminal(shell(5, "stty raw -echo; echo ready; exec sleep 1000")))
		n.shown(ref, "ready")
		n.typed(ref, 0, strings.Repeat("x", api.MaxChunk), true)
		if ack := n.ask(n.key, api.VerbSignal, api.TaskSignal{TaskRef: ref, Signal: int(syscall.SIGTERM)}); ack.Err != nil {
			t.Fatal(ack.Err)
		}
		want := outcome{State: api.JobFailed, Code: 143, Signal: 15, Stdout: "ready\n"}
		if diff := cmp.Diff(want, n.outcome(ref)); diff != "" {
			t.Error(diff)
		}
	})
}
