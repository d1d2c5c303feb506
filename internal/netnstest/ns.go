package netnstest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"

	"github.com/vishvananda/netns"
)

// NS is a network namespace. The zero value and nil are the one that the
// tests run in.
type NS struct {
	handle netns.NsHandle
	set    bool
}

// New makes a further network namespace with lo up. It goes away with the
// test, when the last process and socket in it is closed.
func New(t testing.TB) *NS {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	own, err := netns.Get()
	if err != nil {
		t.Fatalf("opening the own network namespace: %v", err)
	}
	defer own.Close()
	handle, err := netns.New() // enters it
	if err != nil {
		t.Fatalf("making a network namespace: %v", err)
	}
	setUpErr := setUpNetwork()
	if err := netns.Set(own); err != nil {
		panic(fmt.Sprintf("returning to the own network namespace: %v", err))
	}
	t.Cleanup(func() { handle.Close() })
	if setUpErr != nil {
		t.Fatalf("setting up a network namespace: %v", setUpErr)
	}
	return &NS{handle: handle, set: true}
}

// Do calls f on a thread that is in the namespace. Sockets that f opens and
// processes that it starts belong to the namespace for good; goroutines
// that f starts do not run in it. f may end the test.
func (n *NS) Do(t testing.TB, f func()) {
	t.Helper()
	if n == nil || !n.set {
		f()
		return
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	own, err := netns.Get()
	if err != nil {
		t.Fatalf("opening the own network namespace: %v", err)
	}
	defer own.Close()
	if err := netns.Set(n.handle); err != nil {
		t.Fatalf("entering a network namespace: %v", err)
	}
	defer func() {
		if err := netns.Set(own); err != nil {
			panic(fmt.Sprintf("returning to the own network namespace: %v", err))
		}
	}()
	f()
}

// Command starts a program in the namespace; the caller waits for it. The
// program ends with ctx, and with the test at the latest. Its output goes
// where set says (nil: nowhere), which may also set other fields.
func (n *NS) Command(ctx context.Context, t testing.TB, set func(*exec.Cmd), name string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(ctx, name, args...)
	if set != nil {
		set(cmd)
	}
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = true
	var err error
	n.Do(t, func() { err = cmd.Start() })
	if err != nil {
		t.Fatalf("starting %s: %v", name, err)
	}
	t.Cleanup(func() {
		// The group, since programs like dnsmasq and tftpd start helpers.
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		if cmd.ProcessState == nil {
			_ = cmd.Wait() // killed: how it ended says nothing
		}
	})
	return cmd
}

// Output runs a program in the namespace to its end and returns what it
// wrote to both outputs.
func (n *NS) Output(ctx context.Context, t testing.TB, name string, args ...string) (string, error) {
	t.Helper()
	file, err := os.CreateTemp(t.TempDir(), "output")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	cmd := n.Command(ctx, t, func(c *exec.Cmd) { c.Stdout, c.Stderr = file, file }, name, args...)
	runErr := cmd.Wait()
	out, err := os.ReadFile(file.Name())
	if err != nil {
		t.Fatal(err)
	}
	return string(out), runErr
}
