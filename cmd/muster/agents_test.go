package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"muster/api"
	"muster/api/client"
	"muster/internal/need"
	"muster/internal/netnstest"
)

// agentTime is how long an agent may take to be where a test wants it.
const agentTime = 30 * time.Second

// headAddr is the head's address on the network of the tests.
const headAddr = "10.77.0.1"

// newAgentCluster makes a cluster whose machines are not virtual: each is the
// real agent in a network namespace of its own. That starts in a moment, and
// its cable can be pulled.
func newAgentCluster(t testing.TB) *cluster {
	t.Helper()
	if testing.Short() {
		t.Skip("starts a whole head")
	}
	need.Root(t)
	c := &cluster{
		t: t, dir: t.ArtifactDir(), state: filepath.Join(t.TempDir(), "state"), bridge: "mt0",
		bin:   need.File(t, os.Getenv("MUSTER_BIN"), "run the tests with make, which builds bin/muster"),
		image: os.Getenv("MUSTER_IMAGE"),
	}
	need.File(t, filepath.Join(c.image, "manifest.json"), "run the tests with make, which builds the image")
	netnstest.Bridge(t, netnstest.End{Name: c.bridge, Addrs: netnstest.Addr(headAddr + "/24")})
	var err error
	if c.client, err = client.New(c.socket()); err != nil {
		t.Fatal(err)
	}
	return c
}

// during makes t, a part of the cluster's test, the one that fails.
func (c *cluster) during(t *testing.T) {
	whole := c.t
	c.t = t
	t.Cleanup(func() { c.t = whole })
}

// agent is a machine that is nothing but an agent.
type agent struct {
	c    *cluster
	t    testing.TB // the test that it lives as long as
	ns   *netnstest.NS
	link string // the end of its cable at the agent
	addr string
	dir  string // keeps its key and tasks, and its programs
	log  string // file with what it says
	cmd  *exec.Cmd
	// before is a shell command that runs before the agent, with its mounts; "": none.
	before string
}

// newAgent makes a machine that is connected to the head, and does not start its
// agent yet.
func (c *cluster) newAgent() *agent {
	c.t.Helper()
	c.next++
	a := &agent{
		c: c, t: c.t, ns: netnstest.New(c.t), link: "eth0",
		addr: fmt.Sprintf("10.77.0.%d", 100+c.next),
		log:  filepath.Join(c.dir, fmt.Sprintf("agent%d.log", c.next)),
	}
	netnstest.Veth(c.t, netnstest.End{Name: fmt.Sprintf("mh%d", c.next), Bridge: c.bridge},
		netnstest.End{NS: a.ns, Name: a.link, Addrs: netnstest.Addr(a.addr + "/24")})
	// Tasks run as their user and have to pass, so this is not t.TempDir.
	var err error
	if a.dir, err = os.MkdirTemp("/tmp", "muster-agent-"); err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() {
		a.endTasks()
		os.RemoveAll(a.dir)
		if raw, err := os.ReadFile(a.log); c.t.Failed() && err == nil {
			c.t.Logf("the log of the agent %s:\n%s", a.addr, lastLines(string(raw), 40))
		}
	})
	if err := errors.Join(os.Chmod(a.dir, 0o755), os.Mkdir(a.gatesDir(), 0o755)); err != nil {
		c.t.Fatal(err)
	}
	for _, name := range []string{"muster-agent", "muster-init"} {
		program, err := payload(name)
		if err != nil {
			need.Missing(c.t, "%v", err)
		}
		if err := os.WriteFile(filepath.Join(a.dir, name), program, 0o755); err != nil {
			c.t.Fatal(err)
		}
	}
	return a
}

// start starts the agent; args are further flags of it.
func (a *agent) start(args ...string) {
	a.c.t.Helper()
	log, err := os.OpenFile(a.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		a.c.t.Fatal(err)
	}
	defer log.Close()
	// The agent finds its network cards in /sys, which is that of the
	// namespace it was mounted in. Of the agent's folder tasks see nothing, so
	// that of the gates is shown elsewhere.
	all := []string{
		"--mount", "sh", "-c", `mount -t sysfs sysfs /sys && mount --bind "$1" "$2" && eval "$3" && shift 3 && exec "$@"`,
		"sh", a.gatesDir(), gatesSeen, cmp.Or(a.before, ":"), filepath.Join(a.dir, "muster-agent"),
		"agent", "-head", headAddr, "-run", a.dir, "-init", filepath.Join(a.dir, "muster-init"),
	}
	program := "unshare"
	// Where tasks of an agent before it live the mounts are there, and so are the tasks' working directories.
	for _, shim := range processesWith("shim\x00" + a.dir + "/") {
		if a.holdsTask(shim) {
			program, all = "nsenter", append([]string{"-t", strconv.Itoa(shim), "-m"}, all[8:]...)
			break
		}
	}
	a.cmd = a.ns.Command(a.t.Context(), a.t, func(cmd *exec.Cmd) { cmd.Stdout, cmd.Stderr = log, log },
		need.Program(a.c.t, program, "util-linux"), append(all, args...)...)
}

// holdsTask tells whether a shim has a task. One that waits for a task ends with its agent.
func (a *agent) holdsTask(shim int) bool {
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", shim))
	return slices.ContainsFunc(files, func(f string) bool {
		to, _ := os.Readlink(f)
		return strings.HasPrefix(to, filepath.Join(a.dir, "tasks")+"/")
	})
}

// kill ends the agent as a crash does. Its tasks go on.
func (a *agent) kill() {
	a.c.t.Helper()
	if err := a.cmd.Process.Kill(); err != nil {
		a.c.t.Fatal(err)
	}
	_ = a.cmd.Wait() // killed: how it ended says nothing
}

// endTasks kills the shims of the agent, and their tasks with them.
func (a *agent) endTasks() {
	for _, pid := range processesWith("shim\x00" + a.dir + "/") {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			a.c.t.Errorf("ending a shim: %v", err)
		}
	}
}

// processesWith lists the processes with a text in their command line, whose
// arguments end with a zero byte each.
func processesWith(text string) []int {
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	var pids []int
	for _, f := range files {
		raw, err := os.ReadFile(f)
		var pid int
		if err != nil || !strings.Contains(string(raw), text) {
			continue // one that has ended is no such process
		}
		if _, err := fmt.Sscanf(f, "/proc/%d/", &pid); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// state returns what the head says of the machine; ok is false when it does
// not know it.
func (a *agent) state(ctx context.Context) (n api.Node, ok bool) {
	list, err := a.c.client.Nodes(ctx)
	if err != nil {
		return n, false // the head may be down for a moment
	}
	for _, n := range list.Items {
		if n.IP == a.addr {
			return n, true
		}
	}
	return n, false
}

// wait waits until the machine has a state at the head.
func (a *agent) wait(state api.NodeState) api.Node {
	a.c.t.Helper()
	var found api.Node
	a.c.eventually(agentTime, fmt.Sprintf("%s is %s", a.addr, state), func(ctx context.Context) (bool, error) {
		n, ok := a.state(ctx)
		found = n
		return ok && n.State == state, nil
	})
	return found
}

// ready approves the machine and waits until it is a node.
func (a *agent) ready() api.Node {
	a.c.t.Helper()
	n := a.wait(api.NodePending)
	if _, err := a.c.client.Approve(a.c.t.Context(), api.ApproveRequest{Machines: []string{n.Fingerprint}}); err != nil {
		a.c.t.Fatal(err)
	}
	return a.wait(api.NodeReady)
}

// said returns how often the agent has said text.
func (a *agent) said(text string) int {
	a.c.t.Helper()
	raw, err := os.ReadFile(a.log)
	if err != nil {
		a.c.t.Fatal(err)
	}
	return strings.Count(string(raw), text)
}

// waitSaid waits until the agent has said text.
func (a *agent) waitSaid(text string) {
	a.c.t.Helper()
	a.c.eventually(agentTime, fmt.Sprintf("the agent says %q", text), func(context.Context) (bool, error) {
		return a.said(text) > 0, nil
	})
}

// breakConnection makes the kernel drop the agent's connection to the head, at
// the agent or at the head. It tells whether there was one.
func (a *agent) breakConnection(atHead bool) bool {
	a.c.t.Helper()
	ns, which := a.ns, "dport = :7421"
	if atHead {
		ns, which = nil, "sport = :7421 and dst "+a.addr
	}
	out, err := ns.Output(a.c.t.Context(), a.c.t, need.Program(a.c.t, "ss", "iproute2"), "-HKtn", "state", "established", which)
	if err != nil {
		a.c.t.Fatalf("breaking the agent's connection: %v\n%s", err, out)
	}
	return strings.Contains(out, ":7421")
}
