package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// as runs the program as a user of this machine, in a folder of that user's.
func (c *cluster) as(uid uint32, args ...string) result {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), jobTime)
	defer cancel()
	dir := c.t.TempDir()
	for _, path := range []string{dir, c.state} { // others may not pass through the folders of tests
		for p := path; p != os.TempDir() && p != "/"; p = filepath.Dir(p) {
			info, err := os.Stat(p)
			if err == nil {
				err = os.Chmod(p, info.Mode().Perm()|0o111)
			}
			if err != nil {
				c.t.Fatal(err)
			}
		}
	}
	if err := os.Chown(dir, int(uid), int(uid)); err != nil {
		c.t.Fatal(err)
	}
	bin, err := os.Open(c.bin) // wherever it is
	if err != nil {
		c.t.Fatal(err)
	}
	defer bin.Close()
	cmd := exec.CommandContext(ctx, "/proc/self/fd/3", args...)
	cmd.Args[0] = "muster"
	cmd.ExtraFiles = []*os.File{bin}
	cmd.Env = []string{"PATH=/usr/bin:/bin", "HOME=" + dir, "MUSTER_HEAD=" + c.socket()}
	cmd.Dir = dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err = cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		c.t.Fatalf("muster %s: %v", strings.Join(args, " "), err)
	}
	return result{out.String(), errOut.String(), cmd.ProcessState.ExitCode()}
}

// users of the tests, who have no account here.
const (
	userA = 4000001
	userB = 4000002
)

// TestUsers is about who may do what: root's jobs, the jobs of others, containers, labels and
// commands on all nodes.
func TestUsers(t *testing.T) {
	c := newAgentCluster(t)
	c.startHead("--dhcp=full")
	for range 2 {
		a := c.newAgent()
		a.start()
		a.ready()
	}
	set := func(t *testing.T, setting, value string) {
		t.Helper()
		if r := c.muster("", "config", "set", setting, value); r.status != 0 {
			t.Fatalf("muster config set %s %s: %s", setting, value, r.stderr)
		}
	}

	t.Run("root", func(t *testing.T) {
		c.during(t)
		set(t, "root-jobs", "off")
		defer set(t, "root-jobs", "on")
		r := c.muster("", "run", "true")
		if r.status != exitMuster || !strings.Contains(r.stderr, "setting root-jobs is off") || !strings.Contains(r.stderr, "muster config set root-jobs on") {
			t.Errorf("root's job ended with %d: %s", r.status, r.stderr)
		}
		if r := c.as(userA, "run", "id", "-u"); r.stdout != "4000001\n" || r.status != 0 {
			t.Errorf("a user's job ended with %d and wrote %q: %s", r.status, r.stdout, r.stderr)
		}
		if r := c.as(userA, "config", "set", "root-jobs", "on"); r.status != exitFailed || !strings.Contains(r.stderr, "may not change settings") {
			t.Errorf("a user changed a setting: %d %s%s", r.status, r.stdout, r.stderr)
		}
	})

	t.Run("jobs of others", func(t *testing.T) {
		c.during(t)
		r := c.as(userA, "run", "-d", "sleep", "60")
		id := strings.TrimSpace(r.stdout)
		if r.status != 0 {
			t.Fatalf("submitting: %s", r.stderr)
		}
		for _, verb := range [][]string{{"show"}, {"logs"}, {"logs", "-f"}, {"attach"}, {"cancel"}} {
			r := c.as(userB, append(append([]string{"job"}, verb...), id)...)
			want := "job " + id + " belongs to 4000001: user 4000002 may not "
			if r.status == 0 || !strings.Contains(r.stderr, want) {
				t.Errorf("muster job %s of another's job ended with %d, want %q: %s", strings.Join(verb, " "), r.status, want, r.stderr)
			}
		}
		if r := c.as(userB, "job", "list"); strings.Contains(r.stdout, "sleep") {
			t.Errorf("a user sees another's job:\n%s", r.stdout)
		}
		if r := c.as(userA, "job", "list"); !strings.Contains(r.stdout, "sleep") {
			t.Errorf("a user does not see an own job:\n%s%s", r.stdout, r.stderr)
		}
		if r := c.muster("", "job", "show", id); r.status != 0 { // an administrator
			t.Errorf("root may not see a job: %s", r.stderr)
		}
		if r := c.as(userA, "job", "cancel", id); r.status != 0 {
			t.Errorf("canceling an own job: %s", r.stderr)
		}
	})

	t.Run("containers", func(t *testing.T) {
		c.during(t)
		r := c.as(userA, "run", "--allow", "containers", "true")
		if r.status != exitMuster || !strings.Contains(r.stderr, "setting containers is off") {
			t.Errorf("containers that are not allowed ended with %d: %s", r.status, r.stderr)
		}
		set(t, "containers", "on")
		defer set(t, "containers", "off")
		inside := []string{"unshare", "-Urm", "sh", "-c", "mount -t tmpfs tmpfs /mnt && touch /mnt/there && ls /mnt && id -u"}
		if r := c.as(userA, append([]string{"run", "--"}, inside...)...); r.status == 0 || r.stdout != "" {
			t.Errorf("without --allow a task made a namespace: %q", r.stdout)
		}
		if r := c.as(userA, append([]string{"run", "--allow", "containers", "--"}, inside...)...); r.status != 0 || r.stdout != "there\n0\n" {
			t.Errorf("with --allow a task ended with %d and wrote %q: %s", r.status, r.stdout, r.stderr)
		}
		if r := c.as(userA, "run", "--allow", "containers", "--", "sh", "-c", "id -u; grep CapEff /proc/self/status"); r.stdout != "4000001\nCapEff:\t0000000000000000\n" {
			t.Errorf("with --allow a task has other rights outside its namespaces: %q %s", r.stdout, r.stderr)
		}
		r = c.as(userA, "run", "-d", "--allow", "containers", "true")
		if r := c.as(userA, "job", "show", strings.TrimSpace(r.stdout)); !strings.Contains(r.stdout, "cannot move  it may make namespaces") {
			t.Errorf("muster job show does not say that the task cannot move:\n%s%s", r.stdout, r.stderr)
		}
		bwrap, err := exec.LookPath("bwrap")
		if err != nil {
			t.Log("bubblewrap is not installed here; unshare stands for it")
			return
		}
		r = c.as(userA, "run", "--allow", "containers", "--", bwrap, "--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp",
			"--unshare-pid", "--unshare-net", "--uid", "0", "sh", "-c", "id -u; echo $$; ls /tmp")
		if r.status != 0 || r.stdout != "0\n2\n" {
			t.Errorf("bubblewrap ended with %d and wrote %q: %s", r.status, r.stdout, r.stderr)
		}
	})
}
