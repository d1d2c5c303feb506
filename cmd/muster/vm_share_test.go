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

// nfsServer exports a folder of this system by NFS, as an external server does.
type nfsServer struct {
	dir     string // what it exports, as /x
	program string
	config  string
	cmd     *exec.Cmd
}

// The server of Debian 12, 4.3, answers READ_PLUS of version 4.2 with zeros.
const ganeshaConfig = `NFS_CORE_PARAM { Protocols = 4; NFS_Port = 2049; Enable_NLM = false; Enable_RQUOTA = false; Enable_UDP = false; }
NFSv4 { Minor_Versions = 1; Lease_Lifetime = 5; Grace_Period = 5; RecoveryBackend = fs; RecoveryRoot = "%[1]s/recovery"; Only_Numeric_Owners = true; Delegations = false; }
EXPORT { Export_Id = 1; Path = "%[2]s"; Pseudo = "/x"; Protocols = 4; Transports = TCP; SecType = sys; Access_Type = RW; Squash = no_root_squash; Attr_Expiration_Time = 0; Filesystem_Id = 1.1; FSAL { Name = VFS; } }
`

// startNFS starts a server in the namespace of the tests.
func startNFS(t *testing.T) *nfsServer {
	t.Helper()
	return startNFSWith(t, ganeshaConfig)
}

// startNFSWith starts a server with a configuration: a format of the folder of its state and of the folder
// that it exports.
func startNFSWith(t *testing.T, format string) *nfsServer {
	t.Helper()
	s := prepareNFS(t, format)
	s.start(t)
	t.Cleanup(s.stop)
	return s
}

// prepareNFS makes the folder and the configuration of a server.
func prepareNFS(t *testing.T, format string) *nfsServer {
	t.Helper()
	// The package starts a server of the whole system where it is installed, so make does not.
	program, err := exec.LookPath("ganesha.nfsd")
	if err != nil {
		t.Skip("only in make test-vm after: apt install nfs-ganesha nfs-ganesha-vfs")
	}
	// Tasks have a /tmp of their own, so no share can be there.
	dir, err := os.MkdirTemp("/srv", "muster-share-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	run := t.TempDir()
	config := filepath.Join(run, "ganesha.conf")
	if err := os.WriteFile(config, fmt.Appendf(nil, format, run, dir), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(run, "recovery"), 0o700); err != nil {
		t.Fatal(err)
	}
	return &nfsServer{dir: dir, program: program, config: config}
}

func (s *nfsServer) start(t *testing.T) {
	t.Helper()
	log, err := os.OpenFile(filepath.Join(t.ArtifactDir(), "ganesha.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	s.cmd = exec.Command(s.program, "-F", "-f", s.config, "-L", "STDERR", "-p", filepath.Join(filepath.Dir(s.config), "pid"))
	s.cmd.Stdout, s.cmd.Stderr = log, log
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
}

func (s *nfsServer) stop() {
	if s.cmd != nil {
		_ = s.cmd.Process.Kill()
		_ = s.cmd.Wait()
		s.cmd = nil
	}
}

// TestVMShare has a node mount a folder of an NFS server and runs commands in it, as
// somebody does who sits in that folder.
func TestVMShare(t *testing.T) {
	if os.Getenv("MUSTER_LONG") != "1" {
		t.Skip("only in make test-vm: needs an NFS server on this system")
	}
	c := startCluster(t, "--dhcp=full")
	nfs := startNFS(t)
	g := c.boot(vm.Config{Name: "bios", Firmware: vm.BIOS}, nil)
	node := c.ready(g)
	if r := c.muster("", "share", "add", "10.77.0.1:/x", "--at", nfs.dir); r.status != 0 || !strings.Contains(r.stdout, "is mounted at "+nfs.dir) {
		t.Fatalf("%+v", r)
	}
	begin := time.Now()
	c.eventually(time.Minute, "the node has mounted the share", func(ctx context.Context) (bool, error) {
		s, err := c.client.Share(ctx, nfs.dir)
		return err == nil && len(s.Mounts) == 1 && s.Mounts[0].State == "mounted", nil
	})
	t.Logf("mounted %v after share add", time.Since(begin).Round(time.Millisecond))

	// in runs a command from a folder.
	in := func(dir string, args ...string) (string, int) {
		cmd := exec.CommandContext(t.Context(), c.bin, append([]string{"--head", c.socket(), "run"}, args...)...)
		cmd.Dir = dir
		var out, errOut bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &errOut
		_ = cmd.Run()
		if errOut.Len() > 0 {
			t.Logf("%q: %s", args, errOut.String())
		}
		return out.String(), cmd.ProcessState.ExitCode()
	}
	work := filepath.Join(nfs.dir, "w\xffrk") // no UTF-8
	if err := os.Mkdir(work, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(work, "prog"), []byte("#!/usr/bin/python3\nimport os, sys\nprint(os.getcwdb(), sys.argv[1], os.environ['LEVEL'])\nsys.exit(3)\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("LEVEL", "high")
	if out, status := in(work, "./prog", "data"); out != fmt.Sprintf("b'%s' data high\n", strings.ReplaceAll(work, "\xff", `\xff`)) || status != 3 {
		t.Errorf("./prog data: %q, %d", out, status)
	}
	if out, status := in(work, "sh", "-c", "echo from $(uname -n) >file; umask; ls"); out != "0022\nfile\nprog\n" || status != 0 {
		t.Errorf("a shell: %q, %d", out, status)
	}
	if got, err := os.ReadFile(filepath.Join(work, "file")); err != nil || string(got) != "from "+node.Name+"\n" {
		t.Errorf("file on the server: %q, %v", got, err)
	}
	if out, status := in(work, "-o", "log-%j", "sh", "-c", "echo out; echo err >&2"); out != "" || status != 0 {
		t.Errorf("-o: %q, %d", out, status)
	}
	if logs, err := filepath.Glob(work + "/log-*"); err != nil || len(logs) != 1 {
		t.Errorf("logs are %q, %v", logs, err)
	} else if got, err := os.ReadFile(logs[0]); err != nil || string(got) != "out\nerr\n" {
		t.Errorf("the log: %q, %v", got, err)
	}
	// A detached job writes into its folder, unless it cannot.
	if out, status := in(work, "-d", "--name", "long%t/1", "--", "sh", "-c", "echo late; echo err >&2"); status != 0 {
		t.Errorf("-d: %q, %d", out, status)
	} else {
		id := strings.TrimSpace(out)
		file := filepath.Join(work, "long%t_1-"+id+".out")
		c.ended(c.latestJob())
		if got, err := os.ReadFile(file); err != nil || string(got) != "late\nerr\n" {
			t.Errorf("%s: %q, %v", file, got, err)
		}
		if r := c.muster("", "job", "show", id); !strings.Contains(r.stdout, "long%t_1-"+id+".out") {
			t.Errorf("muster job show says\n%s", r.stdout)
		}
	}
	// The cores that were asked for are the weight of the task's group.
	weight := "cat /sys/fs/cgroup$(cut -d: -f3 /proc/self/cgroup)/cpu.weight"
	if out, status := in(work, "--cpus", "1", "sh", "-c", weight); out != "1\n" || status != 0 {
		t.Errorf("--cpus 1: weight %q, %d", out, status)
	}
	// What was written a moment ago is what the node sees.
	for i := range 20 {
		want := fmt.Sprint("turn ", i, "\n")
		if err := os.WriteFile(filepath.Join(work, "turn"), []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		if out, _ := in(work, "cat", "turn"); out != want {
			t.Errorf("the node reads %q, want %q", out, want)
		}
	}
	if _, status := in(t.TempDir(), "true"); status != exitMuster {
		t.Errorf("a job in a folder of no share ends with %d", status)
	}
	if out, status := in(t.TempDir(), "--private", "pwd"); !strings.HasPrefix(out, "/run/muster/tasks/") || status != 0 {
		t.Errorf("--private: %q, %d", out, status)
	}
	if r := c.muster("", "share", "remove", nfs.dir); r.status != 0 {
		t.Errorf("%+v", r)
	}
	c.eventually(time.Minute, "the node has unmounted the share", func(ctx context.Context) (bool, error) {
		r := c.muster("", "run", "--on", node.Name, "grep", "-c", nfs.dir, "/proc/self/mounts")
		return strings.TrimSpace(r.stdout) == "0", nil
	})
}
