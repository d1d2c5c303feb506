package nodeagent

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"muster/api"
	"muster/internal/need"
)

// smallUserland is a root of its own: busybox, and a file by which it can be told.
func smallUserland(t testing.TB) string {
	t.Helper()
	busybox := need.Program(t, "busybox", "busybox-static")
	root := runDir(t)
	for _, dir := range []string{"bin", "dev", "proc", "sys", "run", "tmp", "var/tmp", "etc"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := exec.Command("cp", busybox, filepath.Join(root, "bin/busybox")).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, name := range []string{"sh", "cat", "ls", "echo", "id", "mount", "umount", "chroot", "grep", "tty", "stty", "awk", "sleep", "cut"} {
		if err := os.Symlink("busybox", filepath.Join(root, "bin", name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(root, "etc/which"), []byte("userland\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	return root
}

// A task that has a root of its own sees that, read-only, and nothing of the
// node's, whoever it belongs to.
func TestTaskInUserland(t *testing.T) {
	root := smallUserland(t)
	before, err := filepath.Glob(filepath.Join(root, "*/*"))
	if err != nil {
		t.Fatal(err)
	}
	n := newNode(t, func(c *Config) { c.Root = root })
	run := n.agent.cfg.RunDir
	for i, c := range []struct{ name, script, want string }{
		{"the root", "cat /etc/which; cd /; echo *", "userland\nbin dev etc proc run sys tmp var\n"},
		{"where it is", "cd ..; cd ../../../../../../..; ls etc", "which\n"},
		{"the working directory", "echo x >f && cat f; cat $PWD/f", "x\nx\n"},
		{"its folders", "for f in /tmp/a /run/a /var/tmp/a /dev/shm/a /dev/null; do echo x >$f && echo yes; done", "yes\nyes\nyes\nyes\nyes\n"},
		{"its files", "echo x 2>/dev/null >/etc/which || echo no; echo x 2>/dev/null >/new || echo no", "no\nno\n"},
		{"the agent's key", "cat " + run + "/key 2>/dev/null || echo no", "no\n"},
		{"the node's mounts", "grep -e ' /etc ' -e ' /home ' -e ' /boot ' /proc/self/mounts || echo none", "none\n"},
		{"processes", "ls -d /proc/1; grep -l agent /proc/[0-9]*/comm || echo none", "/proc/1\nnone\n"},
		{"kernel settings", "ls -d /sys/kernel; echo x 2>/dev/null >/sys/kernel/x || echo no; echo /x 2>/dev/null >/proc/sys/kernel/core_pattern || echo no", "/sys/kernel\nno\nno\n"},
		{"out of it", "umount / 2>/dev/null || echo no; mount -o remount,rw / 2>/dev/null || echo no; chroot /tmp 2>/dev/null || echo no", "no\nno\nno\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			for j, owner := range []api.Owner{{User: "root"}, {User: "someone", UID: 4711, GID: 4712}} {
				start := shell(uint64(2*i+j+1), c.script)
				start.Owner = owner
				ref := n.begin(start)
				if diff := cmp.Diff(outcome{State: api.JobFinished, Stdout: c.want}, n.outcome(ref)); diff != "" {
					t.Errorf("%s of %s (-want +got):\n%s", c.script, owner.User, diff)
				}
				n.forget(ref)
			}
		})
	}
	after, err := filepath.Glob(filepath.Join(root, "*/*"))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("tasks changed the userland: %s", diff)
	}
}

func TestTaskWithoutItsUserland(t *testing.T) {
	n := newNode(t, func(c *Config) { c.Root = "/no/such/userland" })
	got := n.outcome(n.begin(command(1, "true")))
	if diff := cmp.Diff(outcome{State: api.JobFailed, Code: 126, Error: "entering /no/such/userland: mounting it: no such file or directory"}, got); diff != "" {
		t.Error(diff)
	}
}
