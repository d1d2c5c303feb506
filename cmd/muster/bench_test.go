package main

import (
	"context"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// idleTime is how long idle processes are watched.
const idleTime = 30 * time.Second

// BenchmarkIdle tells what a head, an agent and the shim of a task that sleeps cost while nothing
// happens, some jobs after their start: resident memory and the share of one CPU.
func BenchmarkIdle(b *testing.B) {
	c := newAgentCluster(b)
	c.startHead()
	a := c.newAgent()
	a.start()
	a.ready()
	for range 10 {
		if r := c.muster("", "run", "true"); r.status != 0 {
			b.Fatalf("muster run true: status %d: %s", r.status, r.stderr)
		}
	}
	if r := c.muster("", "run", "-d", "sleep", "3600"); r.status != 0 {
		b.Fatalf("muster run -d: status %d: %s", r.status, r.stderr)
	}
	pids := c.children()
	c.eventually(agentTime, "the task has a shim and another one waits", func(context.Context) (bool, error) {
		shims := processesWith("shim\x00" + a.dir + "/")
		for _, pid := range shims {
			name := "waiting-shim"
			if hasChild(pid) {
				name = "shim"
			}
			pids[name] = pid
		}
		return len(shims) == 2 && pids["shim"] != pids["waiting-shim"], nil // those of the jobs before are gone
	})
	pids["keeper"], pids["agent"] = c.head.Process.Pid, a.agentPID(b)
	used := map[string]time.Duration{}
	var total time.Duration
	for b.Loop() {
		start := time.Now()
		for name, pid := range pids {
			used[name] -= cpuTime(b, pid)
		}
		<-time.After(idleTime)
		for name, pid := range pids {
			used[name] += cpuTime(b, pid)
		}
		total += time.Since(start)
	}
	for name, pid := range pids {
		b.ReportMetric(processMB(b, strconv.Itoa(pid)), "MB-rss/"+name)
		b.ReportMetric(100*used[name].Seconds()/total.Seconds(), "%cpu/"+name)
	}
}

// hasChild tells whether a process is the parent of another one.
func hasChild(pid int) bool {
	lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid)) // one for each thread
	return slices.ContainsFunc(lists, func(file string) bool {
		b, err := os.ReadFile(file)
		return err == nil && len(b) > 0
	})
}

// agentPID is the process of the agent.
func (a *agent) agentPID(b *testing.B) int {
	b.Helper()
	agents := processesWith(a.dir + "/muster-agent\x00agent\x00")
	agents = slices.DeleteFunc(agents, func(pid int) bool { return !strings.HasSuffix(executable(pid), "/muster-agent") })
	if len(agents) != 1 {
		b.Fatalf("%d processes are the agent, want 1", len(agents))
	}
	return agents[0]
}

func executable(pid int) string {
	exe, _ := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid)) // it may have ended
	return exe
}

// cpuTime is how long the threads of a process have run, to the nanosecond.
func cpuTime(b *testing.B, pid int) time.Duration {
	b.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil || len(files) == 0 {
		b.Fatalf("process %d has no threads (%v)", pid, err)
	}
	var sum int64
	for _, f := range files {
		raw, err := os.ReadFile(f)
		if err != nil {
			b.Fatal(err)
		}
		ran, _, _ := strings.Cut(string(raw), " ")
		n, err := strconv.ParseInt(ran, 10, 64)
		if err != nil {
			b.Fatal(err)
		}
		sum += n
	}
	return time.Duration(sum)
}

// processMB is the resident memory of a process in MB.
func processMB(b *testing.B, pid string) float64 {
	b.Helper()
	raw, err := os.ReadFile("/proc/" + pid + "/status")
	if err != nil {
		b.Fatal(err)
	}
	return residentMB(b, string(raw))
}

// residentMB finds VmRSS, which the kernel gives in KiB.
func residentMB(b *testing.B, status string) float64 {
	b.Helper()
	_, rest, ok := strings.Cut(status, "VmRSS:")
	f := strings.Fields(rest)
	if !ok || len(f) == 0 {
		b.Fatalf("there is no resident memory in %q", status)
	}
	kib, err := strconv.ParseFloat(f[0], 64)
	if err != nil {
		b.Fatal(err)
	}
	return math.Round(kib*1024/1e4) / 100
}
