package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"muster/api"
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
	agents := []*agent{c.newAgent(), c.newAgent()}
	for _, a := range agents {
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

	t.Run("labels", func(t *testing.T) {
		c.during(t)
		for _, step := range []struct{ args, stdout, stderr string }{
			{"node label n[1-2] rack1 ssd", "n1: rack1 ssd\nn2: rack1 ssd\n", ""},
			{"node label n2 gpu --remove ssd", "n2: gpu rack1\n", ""},
			{"node label label:rack1 --remove rack1", "n1: ssd\nn2: gpu\n", ""},
			{"node label n1", "n1: ssd\n", ""},
			{"node label n1 *", "", "cannot be a label"},
			{"node label n9 x", "", "no machine or node is called n9"},
			{"run --on label:gpu -- hostname", "n2\n", ""},
			{"run --on label:gpus hostname", "", "no node has the label gpus; did you mean label:gpu?"},
			{"node pause label:gpu", "n2 is paused\n", ""},
			{"node ready label:gpu", "n2 gets tasks again\n", ""},
		} {
			r := c.muster("", strings.Fields(step.args)...)
			if r.stdout != step.stdout || !strings.Contains(r.stderr, step.stderr) || (r.status == 0) != (step.stderr == "") {
				t.Errorf("muster %s ended with %d, %q, %q; want %q, %q", step.args, r.status, r.stdout, r.stderr, step.stdout, step.stderr)
			}
		}
		for args, want := range map[string]string{
			"node label n1 --json": `"ssd"`, "node list": "LABELS", "node show n2": "labels       gpu\n", "node list --json": `"gpu"`, "config export": "- gpu\n",
			"__complete run --on label:": "label:gpu\nlabel:ssd\n", "__complete share add --to label:g": "label:gpu\n", "__complete node label n1 s": "ssd\n",
		} {
			if r := c.muster("", strings.Fields(args)...); !strings.Contains(r.stdout, want) {
				t.Errorf("muster %s lacks %q:\n%s%s", args, want, r.stdout, r.stderr)
			}
		}
		if r := c.as(userA, "node", "label", "n1", "x"); r.status != exitFailed || !strings.Contains(r.stderr, "may not change the labels of nodes") {
			t.Errorf("a user changed labels: %d %s", r.status, r.stderr)
		}
	})

	t.Run("exec", func(t *testing.T) {
		c.during(t)
		set(t, "root-jobs", "off") // what is for every node is not root's job
		defer set(t, "root-jobs", "on")
		if r := c.muster("", "node", "pause", "n2"); r.status != 0 {
			t.Fatal(r.stderr)
		}
		for _, step := range []struct {
			args           []string
			stdout, stderr string // lines of stdout come in any order
			status         int
		}{
			{[]string{"--all", "echo", "same"}, "n1: same\nn2: same\n", "muster: n[1-2]: exit status 0, the same output on all 2 nodes\n", 0},
			{
				[]string{"--all", "--", "sh", "-c", "hostname; test $(hostname) = n1"},
				"n1: n1\nn2: n2\n",
				"muster: n1: exit status 0, an output of its own\nmuster: n2: exit status 1, an output of its own\n", 1,
			},
			{[]string{"--on", "label:gpu", "--", "sh", "-c", "pwd | grep -c /; echo bad >&2"}, "n2: 1\n", "n2: bad\n", 0},
			{[]string{"--on", "n9", "true"}, "", "muster: error: there is no node n9; did you mean n1? see the nodes with: muster node list\n", exitMuster},
			{
				[]string{"--all", "no-such-program"},
				"",
				"muster: n[1-2]: no-such-program: command not found on this node; add the Debian package that has it under packages: in the image definition, send the program along (--send FILE), or put it on a share\n", 127,
			},
		} {
			r := c.muster("", append([]string{"exec"}, step.args...)...)
			lines := strings.SplitAfter(r.stdout, "\n")
			slices.Sort(lines)
			if got := strings.Join(lines, ""); got != step.stdout || r.stderr != step.stderr || r.status != step.status {
				t.Errorf("muster exec %q ended with %d, %q, %q; want %d, %q, %q", step.args, r.status, got, r.stderr, step.status, step.stdout, step.stderr)
			}
		}
		if r := c.as(userA, "exec", "--all", "true"); r.status != exitMuster || !strings.Contains(r.stderr, "user 4000001 may not run commands on every node") {
			t.Errorf("a user's muster exec ended with %d: %s", r.status, r.stderr)
		}

		// Ctrl-C reaches every node.
		ctx, cancel := context.WithTimeout(t.Context(), jobTime)
		defer cancel()
		cmd := exec.CommandContext(ctx, c.bin, "exec", "--all", "--", "sh", "-c", "echo here; exec sleep 100")
		cmd.Env = append(os.Environ(), "MUSTER_HEAD="+c.socket())
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		var summary bytes.Buffer
		cmd.Stderr = &summary
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for n := 0; n < 2 && lines.Scan(); n++ {
		}
		if err := cmd.Process.Signal(os.Interrupt); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		want := "muster: n[1-2]: ended by signal 2 (interrupt), the same output on all 2 nodes\n"
		if cmd.ProcessState.ExitCode() != 130 || summary.String() != want {
			t.Errorf("after Ctrl-C it ended with %d and said %q, want 130 and %q", cmd.ProcessState.ExitCode(), summary.String(), want)
		}

		// A node that is not heard is said, and not waited for.
		agents[1].kill()
		agents[1].wait(api.NodeUnreachable)
		r := c.muster("", "exec", "--all", "echo", "still")
		if r.status != exitMuster || r.stdout != "n1: still\n" || !strings.Contains(r.stderr, "\nmuster: n2: unreachable since ") {
			t.Errorf("with a dead node it ended with %d, %q, %q", r.status, r.stdout, r.stderr)
		}
		r = c.muster("", "exec", "--all", "--json", "echo", "still")
		var doc execDocument
		if err := json.Unmarshal([]byte(r.stdout), &doc); err != nil || r.stderr != "" {
			t.Fatalf("muster exec --json: %v\n%s%s", err, r.stdout, r.stderr)
		}
		if len(doc.Items) != 2 || doc.Items[0].Stdout != "still\n" || !strings.HasPrefix(doc.Items[1].Error, "unreachable since") || doc.ExitCode != exitMuster || len(doc.Groups) != 2 {
			t.Errorf("muster exec --json says\n%s", r.stdout)
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
