package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"muster/api"
	"muster/internal/vm"
)

// TestVMBombs runs on a node with cgroups what takes all that there is of it. The one who started it is
// told; another job on the node and its agent go on.
func TestVMBombs(t *testing.T) {
	if os.Getenv("MUSTER_LONG") != "1" {
		t.Skip("only in make test-vm: fills a node's memory again and again")
	}
	c := startCluster(t, "--dhcp=full")
	g := c.boot(vm.Config{Name: "bios", Firmware: vm.BIOS, CPUs: 3, MemMiB: 768}, nil)
	node := c.ready(g)
	here := asker{dir: t.TempDir()}

	var ticks lines
	bystander := c.command(here, "run", "--name", "bystander", "sh", "-c", "i=0; while :; do i=$((i+1)); echo tick $i; sleep 0.5; done")
	bystander.Stdout, bystander.Stderr = &ticks, &ticks
	other := c.start(bystander)
	ticks.wait(t, "tick 2\n")

	alive := func(t *testing.T) {
		t.Helper()
		n := strings.Count(ticks.text(), "\n")
		ticks.wait(t, fmt.Sprintf("tick %d\n", n+3))
		select {
		case <-other.ended:
			t.Fatalf("the other job ended with %d: %s", other.status, lastLines(ticks.text(), 5))
		default:
		}
		if r := c.ask(here, "run", "echo", "lives"); r.stdout != "lives\n" || r.status != 0 {
			t.Errorf("another job afterwards: %+v", r)
		}
		list, err := c.client.Nodes(t.Context())
		if err != nil || len(list.Items) != 1 || list.Items[0].State != api.NodeReady {
			t.Errorf("the node is %+v, %v; want it ready", list.Items, err)
		}
	}
	for _, tc := range []struct {
		name   string
		args   []string
		status int // 0: any but 0
		said   string
	}{
		{"memory with a limit", []string{"--mem", "64M", "tail", "/dev/zero"}, 137, "out of memory: it needs more than the 64 MiB of --mem"},
		{"memory without", []string{"tail", "/dev/zero"}, 137, "out of memory: the tasks of this node need more than it has; with --mem SIZE a task is placed where it has room"},
		{"files in memory", []string{"sh", "-c", "cat /dev/zero >/tmp/full"}, 0, ""},
		{"files in all memory", []string{"sh", "-c", "for d in /tmp /var/tmp /run /dev/shm; do cat /dev/zero >$d/full; done"}, 0, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c.during(t)
			began := time.Now()
			r := c.ask(here, append([]string{"run"}, tc.args...)...)
			t.Logf("%d after %v: %s", r.status, time.Since(began).Round(time.Second), r.stderr)
			if r.status == 0 || tc.status != 0 && r.status != tc.status || !strings.Contains(r.stderr, tc.said) {
				t.Errorf("it ended with %d and said %q, want %d and %q", r.status, r.stderr, tc.status, tc.said)
			}
			if tc.said == "" && !strings.Contains(r.stderr, "No space left on device") && !strings.Contains(r.stderr, "out of memory") {
				t.Errorf("it said %q, and not what ran out", r.stderr)
			}
			alive(t)
		})
	}
	t.Run("processes", func(t *testing.T) {
		c.during(t)
		var said lines
		cmd := c.command(here, "run", "--name", "forks", "sh", "-c", "f() { f | f & }; f; sleep 1000")
		cmd.Stdout, cmd.Stderr = &said, &said
		run := c.start(cmd)
		id := c.named("forks").ID
		select {
		case <-run.ended: // memory ran out before processes did
		case <-time.After(20 * time.Second):
			alive(t)
			if r := c.ask(here, "job", "cancel", fmt.Sprint(id)); r.status != 0 {
				t.Errorf("muster job cancel: %+v", r)
			}
			began := time.Now()
			run.wait(t, 3*jobTime)
			t.Logf("it was gone %v after cancel", time.Since(began).Round(time.Second))
		}
		t.Logf("%d: %s", run.status, lastLines(said.text(), 3))
		if run.status != 137 && run.status != 143 {
			t.Errorf("it ended with %d", run.status)
		}
		alive(t)
		// Nothing of it is left.
		c.eventually(jobTime, "few processes are left", func(context.Context) (bool, error) {
			r := c.muster("", "run", "--on", node.Name, "cat", "/proc/loadavg")
			var total int
			_, err := fmt.Sscanf(r.stdout[strings.IndexByte(r.stdout, '/')+1:], "%d", &total)
			return total < 300, err
		})
	})
}
