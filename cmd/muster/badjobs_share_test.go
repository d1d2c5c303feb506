package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// emptyNFS answers the calls by which a head asks whether an NFS server serves, until the test ends. It counts them.
type emptyNFS struct {
	l     net.Listener
	asked atomic.Int32
}

func newEmptyNFS(t *testing.T, addr string) *emptyNFS {
	t.Helper()
	l, err := net.Listen("tcp", addr+":2049")
	if err != nil {
		t.Fatal(err)
	}
	s := &emptyNFS{l: l}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			call := make([]byte, 44)
			if _, err := io.ReadFull(c, call); err == nil {
				s.asked.Add(1)
				answer := make([]byte, 28) // RFC 5531: REPLY, accepted, no verifier, success
				binary.BigEndian.PutUint32(answer, 1<<31|24)
				copy(answer[4:8], call[4:8])
				answer[11] = 1
				_, _ = c.Write(answer)
			}
			c.Close()
		}
	}()
	return s
}

// movingServer has the server of a share come back at another address of its name, as a
// directory service tells it.
func movingServer(t *testing.T, c *cluster) {
	const second = "10.77.0.3"
	hosts := filepath.Join(t.TempDir(), "hosts")
	name := func(addr string) {
		t.Helper()
		// Written over, since the mount is of this file.
		if err := os.WriteFile(hosts, []byte("127.0.0.1 localhost\n"+addr+" movingnas\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	name(headAddr)
	if err := unix.Mount(hosts, "/etc/hosts", "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount("/etc/hosts", unix.MNT_DETACH) })
	if out, err := exec.Command("ip", "addr", "add", second+"/24", "dev", c.bridge).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	first := newEmptyNFS(t, headAddr)
	var r result
	c.eventually(jobTime, "the name is known", func(context.Context) (bool, error) { // the head looks at the file every 5 s
		r = c.muster("", "share", "add", "movingnas:/x", "--at", "/srv/moving")
		return r.status == 0, nil
	})
	if !strings.Contains(r.stdout, "movingnas:/x is mounted at /srv/moving by") || first.asked.Load() == 0 {
		t.Errorf("muster share add: %+v", r)
	}
	state := func(want string) func(context.Context) (bool, error) {
		return func(ctx context.Context) (bool, error) {
			s, err := c.client.Share(ctx, "/srv/moving")
			return s.State == want, err
		}
	}
	first.l.Close()
	c.eventually(jobTime, "it is seen that the server does not serve", state("unreachable"))
	moved := newEmptyNFS(t, second)
	name(second)
	c.eventually(jobTime, "the server is found at its new address", state("served"))
	if moved.asked.Load() == 0 {
		t.Error("nobody asked the server at its new address")
	}
	if r := c.muster("", "share", "remove", "/srv/moving"); r.status != 0 {
		t.Errorf("%+v", r)
	}
	if s := fmt.Sprint(c.muster("", "share", "list")); strings.Contains(s, "moving") {
		t.Errorf("the share is there still: %s", s)
	}
}
