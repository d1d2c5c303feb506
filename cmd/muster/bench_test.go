package main

import (
	"bytes"
	"fmt"
	"math"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"muster/internal/need"
)

// timings are how long one thing took each time.
type timings []time.Duration

// report gives the median in milliseconds and returns it.
func (l timings) report(b *testing.B, unit string) float64 {
	b.Helper()
	slices.Sort(l)
	median := float64(l[len(l)/2].Microseconds()) / 1000
	b.ReportMetric(median, unit)
	return median
}

// timed runs a command to its end, which must be a good one.
func timed(b *testing.B, cmd *exec.Cmd) time.Duration {
	b.Helper()
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	start := time.Now()
	if err := cmd.Run(); err != nil {
		b.Fatalf("%v: %v\n%s", cmd.Args, err, out.String())
	}
	return time.Since(start)
}

// BenchmarkRunAndSSH compares `muster run true` with `ssh true`, in turn on one
// machine: a whole head with its records on the disk and a real agent on the
// one side, OpenSSH over the loopback with a key on the other. Beside them are
// parts of the first: the start of the program, and a request to the head.
func BenchmarkRunAndSSH(b *testing.B) {
	ssh := startSSHD(b)
	c := newAgentCluster(b)
	c.startHead()
	a := c.newAgent()
	a.start()
	a.ready()
	program := func(args ...string) *exec.Cmd {
		cmd := exec.Command(c.bin, args...)
		cmd.Env = append(os.Environ(), "MUSTER_HEAD="+c.socket())
		return cmd
	}
	timed(b, ssh()) // keeps the host's key
	var starts, requests, runs, sshs timings
	for b.Loop() {
		sshs = append(sshs, timed(b, ssh()))
		runs = append(runs, timed(b, program("run", "true")))
		requests = append(requests, timed(b, program("status")))
		starts = append(starts, timed(b, program("version")))
	}
	starts.report(b, "ms/version")
	requests.report(b, "ms/status")
	run, peer := runs.report(b, "ms/run"), sshs.report(b, "ms/ssh")
	b.ReportMetric(run/peer, "ratio")
}

// startSSHD starts an SSH server with a key that is of no use to anyone else,
// and returns the command that runs true on it.
func startSSHD(b *testing.B) func() *exec.Cmd {
	b.Helper()
	need.Root(b)
	sshd := need.Program(b, "sshd", "openssh-server")
	ssh, keygen := need.Program(b, "ssh", "openssh-client"), need.Program(b, "ssh-keygen", "openssh-client")
	dir := b.TempDir()
	user, host := filepath.Join(dir, "user"), filepath.Join(dir, "host")
	for _, key := range []string{user, host} {
		timed(b, exec.Command(keygen, "-q", "-t", "ed25519", "-N", "", "-f", key))
	}
	if err := os.MkdirAll("/run/sshd", 0o755); err != nil { // it insists
		b.Fatal(err)
	}
	const port = "2222" // of a namespace that is ours alone
	cmd := exec.Command(sshd, "-D", "-e", "-f", "/dev/null", "-h", host, "-p", port, "-o", "ListenAddress=127.0.0.1",
		"-o", "AuthorizedKeysFile="+user+".pub", "-o", "StrictModes=no", "-o", "PidFile=none", "-o", "UsePAM=no")
	var said bytes.Buffer
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := cmd.Process.Kill(); err != nil {
			b.Errorf("ending sshd: %v", err)
		}
		_ = cmd.Wait() // killed
		if b.Failed() {
			b.Logf("sshd said:\n%s", said.String())
		}
	})
	for until := time.Now().Add(10 * time.Second); ; {
		conn, err := net.Dial("tcp", net.JoinHostPort("127.0.0.1", port))
		if err == nil {
			conn.Close()
			break
		}
		if time.Now().After(until) {
			b.Fatalf("sshd does not answer: %v", err)
		}
	}
	if version, err := exec.Command(ssh, "-V").CombinedOutput(); err == nil {
		b.Logf("compared with %s", bytes.TrimSpace(version))
	}
	return func() *exec.Cmd {
		return exec.Command(ssh, "-F", "/dev/null", "-i", user, "-p", port, "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=accept-new",
			"-o", "UserKnownHostsFile="+filepath.Join(dir, "known"), "-o", "LogLevel=ERROR", "127.0.0.1", "true")
	}
}

// idleTime is how long idle processes are watched.
const idleTime = 30 * time.Second

// BenchmarkIdle tells what a head and an agent cost while nothing happens, some
// jobs after their start: resident memory and the share of one CPU.
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
	agents := processesWith(a.dir + "/muster-agent\x00agent\x00")
	agents = slices.DeleteFunc(agents, func(pid int) bool { return !strings.HasSuffix(executable(pid), "/muster-agent") })
	if len(agents) != 1 {
		b.Fatalf("%d processes are the agent, want 1", len(agents))
	}
	pids := c.children()
	pids["keeper"], pids["agent"] = c.head.Process.Pid, agents[0]
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
