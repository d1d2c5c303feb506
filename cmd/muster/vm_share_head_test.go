package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"muster/internal/vm"
)

// TestVMShareHead has the head itself serve a folder to two nodes, by the nfs-ganesha of this system: approved nodes
// mount it, see what was written on the head a moment ago, and go on over an end of the server
// and of the head; people do there what they do in any share.
func TestVMShareHead(t *testing.T) {
	if os.Getenv("MUSTER_LONG") != "1" {
		t.Skip("only in make test-vm: needs an NFS server on this system")
	}
	if _, err := exec.LookPath("ganesha.nfsd"); err != nil {
		t.Skip("only in make test-vm after: apt install nfs-ganesha nfs-ganesha-vfs")
	}
	haveAccounts(t)
	c := startClusterOf(t, shippedImage(t, "software"), "--dhcp=full")
	dir, err := os.MkdirTemp("/srv", "muster-head-share-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	// The nodes boot while the share is there: they have it within two seconds of their approval.
	if r := c.muster("", "share", "add", dir, "--no-root-squash"); r.status != 0 || !strings.Contains(r.stdout, "nfs-ganesha") {
		t.Fatalf("%+v", r)
	}
	var guests [2]*guest
	for i := range guests {
		guests[i] = c.boot(vm.Config{Name: fmt.Sprintf("share%d", i), Firmware: vm.BIOS, MemMiB: 1536, CPUs: 2}, nil)
	}
	var nodes [2]string
	for i, g := range guests {
		nodes[i] = c.ready(g).Name
	}
	mounted := func(what, share string) {
		t.Helper()
		begin := time.Now()
		c.mountedBy(share, len(nodes), 20*time.Second)
		t.Logf("%s after %v", what, time.Since(begin).Round(time.Millisecond))
	}
	mounted("the nodes have mounted the share", dir)

	in := func(args ...string) (string, int) {
		ctx, cancel := context.WithTimeout(t.Context(), jobTime)
		defer cancel()
		cmd := exec.CommandContext(ctx, c.bin, append([]string{"--head", c.socket(), "run"}, args...)...)
		cmd.Dir = dir
		var out, errOut bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &errOut
		_ = cmd.Run()
		if errOut.Len() > 0 {
			t.Logf("%q: %s", args, errOut.String())
		}
		return out.String(), cmd.ProcessState.ExitCode()
	}
	if out, status := in("sh", "-c", "umask 0; echo x >made; stat -c %a made; pwd"); out != "666\n"+dir+"\n" || status != 0 {
		t.Errorf("a shell: %q, %d", out, status)
	}
	// What was written on the head a moment ago is what the node sees, in place and by another file.
	stale := 0
	for i := range 200 {
		want, name := fmt.Sprint("turn ", i, strings.Repeat("x", i%7), "\n"), filepath.Join(dir, "turn")
		if i%2 == 0 {
			err = os.WriteFile(name, []byte(want), 0o644)
		} else if err = os.WriteFile(name+".new", []byte(want), 0o644); err == nil {
			err = os.Rename(name+".new", name)
		}
		if err != nil {
			t.Fatal(err)
		}
		if out, _ := in("cat", "turn"); out != want {
			stale++
			t.Logf("turn %d: the node reads %q, want %q", i, out, want)
		}
	}
	if stale > 0 {
		t.Errorf("the node saw old content %d times of 200", stale)
	}

	// The server is killed under a writer that syncs each line: nothing acknowledged is lost.
	writer := exec.CommandContext(t.Context(), c.bin, "--head", c.socket(), "run", "python3", "-c", `
import os, time
f = os.open("log", os.O_WRONLY | os.O_CREAT, 0o644)
longest = 0
for i in range(300):
    begin = time.time()
    os.write(f, b"%6d\n" % i)
    os.fsync(f)
    print(i, flush=True)
    longest = max(longest, time.time() - begin)
    time.sleep(0.05)
print("longest", round(longest, 1))
`)
	writer.Dir = dir
	var said bytes.Buffer
	writer.Stdout = &said
	if err := writer.Start(); err != nil {
		t.Fatal(err)
	}
	c.eventually(jobTime, "the writer writes", func(context.Context) (bool, error) {
		info, err := os.Stat(filepath.Join(dir, "log"))
		return err == nil && info.Size() > 7*20, nil
	})
	kill := func() {
		t.Helper()
		raw, err := os.ReadFile(filepath.Join(c.state, "nfs", "ganesha.pid"))
		var pid int
		if _, scan := fmt.Sscan(string(raw), &pid); err != nil || scan != nil {
			t.Fatalf("process of the server: %q, %v", raw, err)
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	kill()
	if err := writer.Wait(); err != nil {
		t.Errorf("the writer: %v: %s", err, said.String())
	}
	var longest float64
	if _, after, ok := strings.Cut(said.String(), "longest "); !ok {
		t.Errorf("the writer said %q", said.String())
	} else if _, err := fmt.Sscan(after, &longest); err != nil || longest > 15 {
		t.Errorf("the longest stall was %q s, %v", after, err)
	}
	got, err := os.ReadFile(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Fields(string(got))
	for i, l := range lines {
		if l != fmt.Sprint(i) {
			t.Fatalf("line %d of the log is %q", i, l)
		}
	}
	if len(lines) != 300 {
		t.Errorf("the log has %d lines, want 300", len(lines))
	}
	t.Logf("server killed: 0 of %d synced lines lost, longest stall %.1f s", len(lines), longest)

	// The head ends and starts: the node has the share throughout.
	c.stopHead(os.Interrupt)
	c.startHead("--dhcp=full")
	c.nodesBack(len(nodes), headTime)
	mounted("the nodes have the share after a start of the head", dir)
	if out, status := in("cat", "made"); out != "x\n" || status != 0 {
		t.Errorf("after a start of the head: %q, %d", out, status)
	}

	people, err := os.MkdirTemp("/srv", "muster-people-")
	if err == nil {
		err = os.Chmod(people, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(people) })
	if r := c.muster("", "share", "add", people); r.status != 0 {
		t.Fatalf("%+v", r)
	}
	mounted("the nodes have mounted the share of people", people)
	version, err := exec.Command("ganesha.nfsd", "-v").CombinedOutput()
	if err != nil {
		t.Fatalf("ganesha.nfsd -v: %v", err)
	}
	s := newSharedFolder(t, c, people, nodes, waitingLocks(t, string(version)))
	t.Run("share", func(t *testing.T) { shareChecks(t, s) })
	t.Run("server killed", func(t *testing.T) { checkServerKilled(t, s, kill) })
	if r := c.muster("", "share", "remove", people); r.status != 0 {
		t.Errorf("%+v", r)
	}

	// A second share comes and goes without a sign to who works in the first.
	other := filepath.Join(dir, "a b")
	if err := os.Mkdir(other, 0o777); err != nil {
		t.Fatal(err)
	}
	if r := c.muster("", "share", "add", other, "--at", "/data", "--ro"); r.status != 0 {
		t.Fatalf("%+v", r)
	}
	mounted("the nodes have mounted the second share", "/data")
	if out, _ := in("sh", "-c", "touch /data/x 2>&1; echo x >more && cat more"); !strings.Contains(out, "Read-only file system\nx\n") {
		t.Errorf("reading and writing in two shares: %q", out)
	}
	for _, at := range []string{"/data", dir} {
		if r := c.muster("", "share", "remove", at); r.status != 0 {
			t.Errorf("%+v", r)
		}
	}
	c.eventually(30*time.Second, "the server has ended with its last share", func(context.Context) (bool, error) {
		_, err := os.Stat(filepath.Join(c.state, "nfs", "ganesha.conf"))
		return os.IsNotExist(err), nil
	})
	c.eventually(time.Minute, "the nodes have unmounted the shares", func(ctx context.Context) (bool, error) {
		r := c.muster("", "exec", "--all", "sh", "-c", "grep -c ' nfs4 ' /proc/self/mounts || true")
		return r.stdout == nodes[0]+": 0\n"+nodes[1]+": 0\n", nil
	})
}
