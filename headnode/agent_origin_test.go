package headnode

import (
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"muster/internal/need"
)

// TestTaskDoesNotKeepItsAgentOut opens what connections a program may and then one from a port that only
// root's may use: the agent of the same node is let in.
func TestTaskDoesNotKeepItsAgentOut(t *testing.T) {
	need.Root(t)
	p := openPort(t, t.TempDir(), AgentLimits{UnprovedPerIP: 3})
	served := func(c net.Conn) bool {
		t.Helper()
		c.SetReadDeadline(time.Now().Add(5 * time.Second))
		n, err := c.Read(make([]byte, 64))
		if n == 0 && !errors.Is(err, io.EOF) && !errors.Is(err, unix.ECONNRESET) {
			t.Fatal(err)
		}
		return n > 0
	}
	for i := range 4 {
		c, err := net.Dial("tcp", p.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if got := served(c); got != (i < 3) {
			t.Errorf("connection %d of a program: served is %v", i, got)
		}
	}
	for port := 1023; ; port-- {
		c, err := (&net.Dialer{LocalAddr: &net.TCPAddr{Port: port}}).Dial("tcp", p.addr)
		if errors.Is(err, unix.EADDRINUSE) && port > 600 {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if !served(c) {
			t.Error("the agent is kept out")
		}
		return
	}
}
