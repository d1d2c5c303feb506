package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"muster/internal/need"
)

// timings are how long one thing took each time.
type timings []time.Duration

// at is the time that a part of them, from 0 to 1, did not exceed, in milliseconds.
func (l timings) at(part float64) float64 {
	slices.Sort(l)
	return float64(l[int(part*float64(len(l)-1)+0.5)].Microseconds()) / 1000
}

// report gives the median in milliseconds and returns it.
func (l timings) report(b *testing.B, unit string) float64 {
	b.Helper()
	median := l.at(0.5)
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

// A contender is one way to run true on another machine.
type contender struct {
	name string
	cmd  func() *exec.Cmd
	took timings
}

// race runs all contenders in turn, so that what else this machine does hits them alike, and tells their medians, how
// far they spread, and what part of each peer's time the first one takes: by the medians of all, and in every
// fifth of the rounds by themselves.
func race(b *testing.B, ours *contender, peers ...*contender) {
	b.Helper()
	all := append([]*contender{ours}, peers...)
	for _, c := range all {
		timed(b, c.cmd()) // keeps keys, fills caches
	}
	for b.Loop() {
		for _, c := range all {
			c.took = append(c.took, timed(b, c.cmd()))
		}
	}
	for _, peer := range peers {
		b.Logf("%s / %s in each fifth of %d rounds: %s", ours.name, peer.name, len(ours.took), ratios(ours.took, peer.took, 5))
	}
	for _, c := range all {
		b.Logf("%-12s p10 %7.2f ms   p50 %7.2f ms   p90 %7.2f ms", c.name, c.took.at(0.1), c.took.at(0.5), c.took.at(0.9))
		b.ReportMetric(c.took.at(0.5), "ms/"+c.name)
	}
	for _, peer := range peers {
		b.ReportMetric(ours.took.at(0.5)/peer.took.at(0.5), "ratio/"+peer.name)
	}
}

// ratios are those of the medians in each of n parts of two series.
func ratios(ours, peer timings, n int) string {
	var list []string
	for i := range n {
		from, to := i*len(ours)/n, (i+1)*len(ours)/n
		if from < to {
			list = append(list, fmt.Sprintf("%.3f", slices.Clone(ours[from:to]).at(0.5)/slices.Clone(peer[from:to]).at(0.5)))
		}
	}
	return strings.Join(list, " ")
}

// BenchmarkRunAndSSH compares `muster run true` with `ssh true`, over a connection of its own and over one
// that is there already: a whole head with its records on the disk and a real agent on the one side, which changes to
// the user and keeps the task from the rest of its machine; OpenSSH over the loopback with a key on the other.
func BenchmarkRunAndSSH(b *testing.B) {
	ssh, shared := startSSHD(b)
	c, _ := benchCluster(b)
	tellGroups(b)
	program := c.asUser(b)
	race(b, &contender{name: "run", cmd: func() *exec.Cmd { return program("run", "true") }},
		&contender{name: "ssh-shared", cmd: shared},
		&contender{name: "ssh", cmd: ssh})
}

// BenchmarkRunAndSlurm compares `muster run true` with `srun -N1 true`, both as the same user: Slurm with slurmctld,
// slurmd and munge of this machine, without accounting and control groups.
func BenchmarkRunAndSlurm(b *testing.B) {
	if os.Getenv("MUSTER_NET") == "" {
		b.Skip("only in make bench-long")
	}
	c, _ := benchCluster(b) // makes the network, too: Slurm insists on more than the loopback
	srun := startSlurm(b)
	tellGroups(b)
	program := c.asUser(b)
	race(b, &contender{name: "run", cmd: func() *exec.Cmd { return program("run", "true") }},
		&contender{name: "srun", cmd: srun})
}

// startDaemon starts a program of a peer and ends it with the benchmark, which shows what it said if it failed.
func startDaemon(b *testing.B, env []string, name string, args ...string) {
	b.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), env...)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := cmd.Process.Kill(); err != nil {
			b.Errorf("ending %s: %v", name, err)
		}
		_ = cmd.Wait() // killed
		if b.Failed() {
			b.Logf("%s said:\n%s", name, lastLines(said.String(), 20))
		}
	})
}

// within waits until done, which is asked every 100 ms.
func within(b *testing.B, most time.Duration, what string, done func() bool) {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.Context(), most)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-ctx.Done():
			b.Fatalf("it is not so after %v that %s", most, what)
		case <-tick.C:
		}
	}
}

// startSSHD starts an SSH server with a key that is of no use to anyone else,
// and returns the commands that run true on it: over a connection of their own, and over a shared one.
func startSSHD(b *testing.B) (alone, shared func() *exec.Cmd) {
	b.Helper()
	need.Root(b)
	sshd := need.Program(b, "sshd", "openssh-server")
	ssh, keygen := need.Program(b, "ssh", "openssh-client"), need.Program(b, "ssh-keygen", "openssh-client")
	dir := b.TempDir()
	user, host := filepath.Join(dir, "user"), filepath.Join(dir, "host")
	for _, key := range []string{user, host} {
		timed(b, exec.Command(keygen, "-q", "-t", "ed25519", "-N", "", "-f", key))
	}
	cover(b, os.DevNull, filepath.Join(os.Getenv("HOME"), ".bashrc")) // of a person, it may take longer than all else
	if err := os.MkdirAll("/run/sshd", 0o755); err != nil {           // it insists
		b.Fatal(err)
	}
	const port = "2222" // of a namespace that is ours alone
	startDaemon(b, nil, sshd, "-D", "-e", "-f", "/dev/null", "-h", host, "-p", port, "-o", "ListenAddress=127.0.0.1",
		"-o", "AuthorizedKeysFile="+user+".pub", "-o", "StrictModes=no", "-o", "PidFile=none", "-o", "UsePAM=no")
	within(b, 10*time.Second, "sshd answers", func() bool {
		conn, err := net.Dial("tcp", net.JoinHostPort("127.0.0.1", port))
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	if version, err := exec.Command(ssh, "-V").CombinedOutput(); err == nil {
		b.Logf("compared with %s", bytes.TrimSpace(version))
	}
	command := func(more ...string) *exec.Cmd {
		return exec.Command(ssh, append([]string{
			"-F", "/dev/null", "-i", user, "-p", port, "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=accept-new",
			"-o", "UserKnownHostsFile=" + filepath.Join(dir, "known"), "-o", "LogLevel=ERROR",
		}, append(more, "127.0.0.1", "true")...)...)
	}
	control := "ControlPath=" + filepath.Join("/tmp", filepath.Base(filepath.Dir(dir))+".ssh") // such names are short
	master := command("-N", "-o", "ControlMaster=yes", "-o", control)
	master.Args = master.Args[:len(master.Args)-1] // no command
	startDaemon(b, nil, master.Path, master.Args[1:]...)
	b.Cleanup(func() { os.Remove(strings.TrimPrefix(control, "ControlPath=")) })
	within(b, 10*time.Second, "ssh shares a connection", func() bool {
		check := command("-O", "check", "-o", control)
		check.Args = check.Args[:len(check.Args)-1]
		return check.Run() == nil
	})
	return func() *exec.Cmd { return command() }, func() *exec.Cmd { return command("-o", control) }
}

// cover lays a file over another one in the mount namespace of the benchmarks, if that is there.
func cover(b *testing.B, file, over string) {
	b.Helper()
	if _, err := os.Stat(over); err != nil {
		return
	}
	if err := unix.Mount(file, over, "", unix.MS_BIND, ""); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := unix.Unmount(over, unix.MNT_DETACH); err != nil {
			b.Error(err)
		}
	})
}

// startSlurm starts a cluster of one node and returns the command that runs true on it.
func startSlurm(b *testing.B) func() *exec.Cmd {
	b.Helper()
	need.Root(b)
	programs := map[string]string{}
	for name, pkg := range map[string]string{"munged": "munge", "slurmctld": "slurm-wlm", "slurmd": "slurm-wlm", "srun": "slurm-wlm", "sinfo": "slurm-wlm"} {
		for _, path := range []string{"/usr/sbin/" + name, "/usr/bin/" + name} {
			if _, err := os.Stat(path); err == nil {
				programs[name] = path
			}
		}
		if programs[name] == "" {
			b.Skipf("%s is not installed, so there is no Slurm to compare with; get it with: apt-get install %s", name, pkg)
		}
	}
	dir, err := os.MkdirTemp("/tmp", "muster-slurm-") // users pass through it
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		b.Fatal(err)
	}
	host, err := os.Hostname()
	if err != nil {
		b.Fatal(err)
	}
	for _, sub := range []string{"ctld", "slurmd"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o755); err != nil {
			b.Fatal(err)
		}
	}
	at := func(name string) string { return filepath.Join(dir, name) }
	conf := strings.NewReplacer("DIR", dir, "HOST", host, "ADDR", headAddr, "CPUS", fmt.Sprint(runtime.NumCPU())).Replace(`ClusterName=bench
SlurmctldHost=HOST(ADDR)
AuthType=auth/munge
AuthInfo=socket=DIR/munge.sock
SlurmUser=root
SlurmdUser=root
StateSaveLocation=DIR/ctld
SlurmdSpoolDir=DIR/slurmd
SlurmctldPidFile=DIR/slurmctld.pid
SlurmdPidFile=DIR/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MailProg=/bin/true
ReturnToService=2
NodeName=n1 NodeHostname=HOST NodeAddr=ADDR CPUs=CPUS State=UNKNOWN
PartitionName=all Nodes=n1 Default=YES MaxTime=INFINITE State=UP
`)
	if err := os.WriteFile(at("slurm.conf"), []byte(conf), 0o644); err != nil {
		b.Fatal(err)
	}
	// The name of this machine need not be known to its resolver, which Slurm insists on.
	if err := os.WriteFile(at("hosts"), []byte("127.0.0.1 localhost\n"+headAddr+" "+host+"\n"), 0o644); err != nil {
		b.Fatal(err)
	}
	cover(b, at("hosts"), "/etc/hosts")
	key := bytes.Repeat([]byte("benchmark"), 32) // in a namespace that is ours alone
	if err := os.WriteFile(at("munge.key"), key, 0o400); err != nil {
		b.Fatal(err)
	}
	env := []string{"SLURM_CONF=" + at("slurm.conf")}
	startDaemon(b, nil, programs["munged"], "--foreground", "--force", "--socket="+at("munge.sock"), "--key-file="+at("munge.key"),
		"--log-file="+at("munge.log"), "--pid-file="+at("munge.pid"), "--seed-file="+at("munge.seed"))
	within(b, 10*time.Second, "munge listens", func() bool { _, err := os.Stat(at("munge.sock")); return err == nil })
	startDaemon(b, env, programs["slurmctld"], "-D", "-f", at("slurm.conf"))
	startDaemon(b, env, programs["slurmd"], "-D", "-N", "n1", "-f", at("slurm.conf"))
	command := func(name string, args ...string) *exec.Cmd {
		cmd := exec.Command(programs[name], args...)
		cmd.Env = append(os.Environ(), env...)
		cmd.Dir = "/"
		cmd.SysProcAttr = benchUser()
		return cmd
	}
	within(b, 30*time.Second, "the node of Slurm is idle", func() bool {
		out, err := command("sinfo", "-h", "-o", "%t").Output()
		return err == nil && strings.TrimSpace(string(out)) == "idle"
	})
	if version, err := command("srun", "--version").Output(); err == nil {
		b.Logf("compared with %s of Debian", bytes.TrimSpace(version))
	}
	return func() *exec.Cmd { return command("srun", "-N1", "true") }
}
