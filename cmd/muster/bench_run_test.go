package main

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"muster/api"
	"muster/api/client"
)

// benchCluster is a whole head with its records on the disk and one real agent.
func benchCluster(b *testing.B) (*cluster, *agent) {
	c := newAgentCluster(b)
	c.startHead()
	a := c.newAgent()
	a.start()
	a.ready()
	return c, a
}

// benchUser runs what is measured: a user of every Debian system who is not root.
func benchUser() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
}

// asUser returns muster as benchUser starts it, who has to pass to the head's socket.
func (c *cluster) asUser(b *testing.B) func(args ...string) *exec.Cmd {
	b.Helper()
	for dir := filepath.Dir(c.socket()); len(dir) > len(os.TempDir()); dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o711); err != nil {
			b.Fatal(err)
		}
	}
	return func(args ...string) *exec.Cmd {
		cmd := exec.Command(c.bin, args...)
		cmd.Env = append(os.Environ(), "MUSTER_HEAD="+c.socket())
		cmd.Dir = "/"
		cmd.SysProcAttr = benchUser()
		return cmd
	}
}

// tellGroups says whether the tasks of the nodes here are in control groups that limit them.
func tellGroups(b *testing.B) {
	b.Helper()
	raw, err := os.ReadFile("/sys/fs/cgroup/cgroup.controllers")
	switch {
	case err != nil:
		b.Log("this machine has no cgroup v2 at /sys/fs/cgroup: tasks run without groups")
	case len(bytes.TrimSpace(raw)) == 0:
		b.Log("cgroup v2 has no controllers on this machine: groups are made and limit nothing")
	default:
		b.Logf("controllers of cgroup v2: %s", bytes.TrimSpace(raw))
	}
}

// BenchmarkRunStages tells where the time of `muster run true` goes. The stages follow each other: the start of
// the program and its end (those of a `muster run --help`), the request with the record of the job, the way to
// the node until it has taken the task, the task there with shim, init and namespaces, and the way back with the
// record of the end. "rest" is what they leave of the whole, as it is on average.
func BenchmarkRunStages(b *testing.B) {
	c, _ := benchCluster(b)
	tellGroups(b)
	program := c.asUser(b)
	var whole, start, submit, place, task, end timings
	for b.Loop() {
		whole = append(whole, timed(b, program("run", "true")))
		start = append(start, timed(b, program("run", "--help")))
		fresh, err := client.New(c.socket())
		if err != nil {
			b.Fatal(err)
		}
		begin := time.Now()
		j, err := fresh.Submit(b.Context(), api.JobSpec{Argv: []string{"true"}, Private: true})
		if err != nil {
			b.Fatal(err)
		}
		submitted := time.Now()
		if j, err = fresh.Attach(b.Context(), j.ID, client.RunOptions{}); err != nil || j.State != api.JobFinished {
			b.Fatal(j.State, err)
		}
		ended := time.Now()
		submit = append(submit, submitted.Sub(begin))
		place = append(place, j.Tasks[0].Started.Sub(submitted))
		task = append(task, j.Tasks[0].Ended.Sub(j.Tasks[0].Started))
		end = append(end, ended.Sub(j.Tasks[0].Ended))
	}
	rest := whole.report(b, "ms/run") - start.report(b, "ms/1-program")
	rest -= submit.report(b, "ms/2-submit") + place.report(b, "ms/3-placed") + task.report(b, "ms/4-task") + end.report(b, "ms/5-end")
	b.ReportMetric(rest, "ms/rest")
}

// BenchmarkRunOutput tells how fast output of a task comes out of `muster run`, which takes the way over the
// head's disk, and how much processor time each process on that way takes for a megabyte. Beside it is
// the speed of that disk alone: the same bytes, synced as often as the head does at least.
func BenchmarkRunOutput(b *testing.B) {
	c, a := benchCluster(b)
	program := c.asUser(b)
	const size = 1 << 30
	b.SetBytes(size)
	used := map[string]time.Duration{}
	look := map[string]int{"core": c.children()["core"], "agent": a.agentPID(b)}
	var disk timings
	for b.Loop() {
		for name, pid := range look {
			used[name] -= cpuTime(b, pid)
		}
		cmd := program("run", "head", "-c", strconv.Itoa(size), "/dev/zero")
		out, err := cmd.StdoutPipe()
		if err != nil {
			b.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			b.Fatal(err)
		}
		n, err := io.Copy(io.Discard, out)
		if err != nil {
			b.Fatal(err)
		}
		if err := cmd.Wait(); err != nil || n != size {
			b.Fatalf("%d bytes came, want %d (%v)", n, size, err)
		}
		for name, pid := range look {
			used[name] += cpuTime(b, pid)
		}
		used["client"] += cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
		b.StopTimer()
		disk = append(disk, writeSynced(b, filepath.Join(c.state, "speed"), size))
		b.StartTimer()
	}
	for name, d := range used {
		b.ReportMetric(float64(d.Microseconds())/1000/(size/1e6)/float64(b.N), "ms/MB-"+name)
	}
	b.ReportMetric(size/1e3/disk.report(b, "ms/disk"), "MB/s-disk")
}

// BenchmarkRunInput tells how fast a task gets its input through `muster run`, beside how fast output of the same
// size comes back. Input goes no way over a disk; the task takes each piece before the next but one is sent.
func BenchmarkRunInput(b *testing.B) {
	c, _ := benchCluster(b)
	program := c.asUser(b)
	const size = 256 << 20
	b.SetBytes(size)
	zeros, err := os.Create(filepath.Join(b.TempDir(), "zeros"))
	if err != nil {
		b.Fatal(err)
	}
	defer zeros.Close()
	if err := zeros.Truncate(size); err != nil {
		b.Fatal(err)
	}
	var output timings
	for b.Loop() {
		if _, err := zeros.Seek(0, io.SeekStart); err != nil {
			b.Fatal(err)
		}
		cmd := program("run", "wc", "-c")
		cmd.Stdin = zeros
		out, err := cmd.Output()
		if err != nil || string(bytes.TrimSpace(out)) != strconv.Itoa(size) {
			b.Fatalf("wc -c said %q, want %d (%v)", out, size, err)
		}
		b.StopTimer()
		begin := time.Now()
		if err := program("run", "head", "-c", strconv.Itoa(size), "/dev/zero").Run(); err != nil {
			b.Fatal(err)
		}
		output = append(output, time.Since(begin))
		b.StartTimer()
	}
	b.ReportMetric(size/1e3/output.report(b, "ms/output"), "MB/s-output")
}

// writeSynced is how long the disk takes for size bytes that are synced every 8 MiB.
func writeSynced(b *testing.B, path string, size int) time.Duration {
	b.Helper()
	f, err := os.Create(path)
	if err != nil {
		b.Fatal(err)
	}
	defer os.Remove(path)
	defer f.Close()
	piece := make([]byte, 8<<20)
	start := time.Now()
	for range size / len(piece) {
		if _, err := f.Write(piece); err != nil {
			b.Fatal(err)
		}
		if err := syscall.Fdatasync(int(f.Fd())); err != nil {
			b.Fatal(err)
		}
	}
	return time.Since(start)
}
