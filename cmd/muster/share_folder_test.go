package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestShareFolder adds folders of the head, right ones and wrong ones, as an administrator does.
// Nodes that mount them are in TestVMShareHead.
func TestShareFolder(t *testing.T) {
	c := startCluster(t, "--dhcp=full")
	top, err := os.MkdirTemp("/srv", "muster-folder-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(top) })
	for _, dir := range []string{"a b/in", "quote\"d"} {
		if err := os.MkdirAll(filepath.Join(top, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(top, "file"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("a b", filepath.Join(top, "link")); err != nil {
		t.Fatal(err)
	}
	add := func(want string, args ...string) {
		t.Helper()
		r := c.muster("", append([]string{"share", "add"}, args...)...)
		if r.status == 0 && strings.HasPrefix(want, "!") || r.status != 0 && !strings.HasPrefix(want, "!") || !strings.Contains(r.stdout+r.stderr, strings.TrimPrefix(want, "!")) {
			t.Errorf("share add %q: %+v, want %q", args, r, want)
		}
	}
	if _, err := exec.LookPath("ganesha.nfsd"); err != nil {
		if _, err := os.Stat("/usr/sbin/exportfs"); err != nil {
			add("!apt install nfs-", top)
		}
		return // the cluster works without any engine, as all other tests show
	}
	ab := filepath.Join(top, "a b")
	add(ab+" is mounted at "+ab+" by 0 nodes\n"+filepath.Join(top, "link")+" is "+ab+"\nthe head serves it with nfs-ganesha", filepath.Join(top, "link"))
	add("!is shared already, at "+ab, ab, "--at", "/other")
	add("!is shared already, at "+ab, top+"/a b/in/..", "--at", "/other")
	add("!there is a share at "+ab+" already", filepath.Join(ab, "in"), "--at", ab)
	add("is mounted at /data", filepath.Join(ab, "in"), "--at", "/data", "--ro", "--to", "n1")
	add("!there is no folder", filepath.Join(top, "nothere"))
	add("!is no folder", filepath.Join(top, "file"))
	add("!quotation mark", filepath.Join(top, `quote"d`))
	add("!is on proc, which belongs to this head's kernel", "/proc", "--at", "/p")
	add("!the head's own state and keys", c.state, "--at", "/s")
	add("!the head's own state and keys", "/", "--at", "/s")
	add("!tasks have /usr of their own", "/usr/share")
	add("!root of the tasks", top, "--at", "/")

	r := c.muster("", "share", "show", ab)
	for _, want := range []string{"driver   ganesha", "state    served", "a lock that has to wait for another node may fail", "power cut", "root of a node is nobody here"} {
		if !strings.Contains(r.stdout, want) {
			t.Errorf("share show does not say %q: %+v", want, r)
		}
	}
	// The engine has the rights that it needs; it ends with the head, however that ends, and starts with it.
	pid := c.enginePID(t)
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil || !strings.Contains(string(status), "CapBnd:\t00000000080000df\n") || !strings.Contains(string(status), "NoNewPrivs:\t1\n") {
		t.Errorf("the engine's rights: %s, %v", status, err)
	}
	if err := syscall.Kill(-c.head.Process.Pid, syscall.SIGKILL); err != nil { // the children are in groups of their own
		t.Fatal(err)
	}
	c.eventually(10*time.Second, "the engine has ended with the killed head", func(context.Context) (bool, error) {
		return ended(pid), nil
	})
	c.stopHead(os.Interrupt)
	c.startHead("--dhcp=full")
	c.eventually(20*time.Second, "both folders are served again", func(ctx context.Context) (bool, error) {
		list, err := c.client.Shares(ctx)
		return err == nil && len(list.Items) == 2 && list.Items[0].State == "served" && list.Items[1].State == "served", nil
	})
	if err := syscall.Kill(c.enginePID(t), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	c.eventually(20*time.Second, "the engine was started again", func(context.Context) (bool, error) {
		raw, err := os.ReadFile(filepath.Join(c.state, "nfs", "ganesha.log"))
		return err == nil && strings.Count(string(raw), "NFS SERVER INITIALIZED") == 3, nil
	})
	for _, at := range []string{ab, "/data"} {
		if r := c.muster("", "share", "remove", at); r.status != 0 {
			t.Errorf("share remove: %+v", r)
		}
	}
	c.eventually(20*time.Second, "the engine has ended with the last share", func(context.Context) (bool, error) {
		_, err := os.Stat(filepath.Join(c.state, "nfs", "ganesha.conf"))
		return os.IsNotExist(err), nil
	})
}

// enginePID is the process of nfs-ganesha.
func (c *cluster) enginePID(t *testing.T) int {
	t.Helper()
	var pid int
	c.eventually(20*time.Second, "the engine runs", func(context.Context) (bool, error) {
		raw, err := os.ReadFile(filepath.Join(c.state, "nfs", "ganesha.pid"))
		if err != nil {
			return false, nil
		}
		_, err = fmt.Sscan(string(raw), &pid)
		return err == nil && !ended(pid), nil
	})
	return pid
}

// ended tells whether a process is gone, or waits only for its parent to ask how it ended.
func ended(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return true
	}
	_, after, _ := strings.Cut(string(stat), ") ")
	return strings.HasPrefix(after, "Z")
}
