package main

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"muster/internal/vm"
)

// apartAddr is the address of a server of files that is a computer of its own.
const apartAddr = "10.77.0.2"

// startNFSApart starts a server of files in a network namespace of its own, which is on the network of
// the cluster as another computer is.
func startNFSApart(t *testing.T, c *cluster) *nfsServer {
	t.Helper()
	s := prepareNFS(t, squashedConfig)
	log, err := os.OpenFile(filepath.Join(t.ArtifactDir(), "ganesha-apart.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	// The shell waits until its namespace has a network.
	s.cmd = exec.Command("sh", "-c", "read go && exec \"$@\"", "sh", s.program, "-F", "-f", s.config, "-L", "STDERR", "-p", filepath.Join(filepath.Dir(s.config), "pid"))
	s.cmd.Stdout, s.cmd.Stderr = log, log
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Cloneflags: syscall.CLONE_NEWNET}
	in, err := s.cmd.StdinPipe()
	if err == nil {
		err = s.cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.stop)
	pid := strconv.Itoa(s.cmd.Process.Pid)
	for _, line := range []string{
		"ip link add mtapart type veth peer name eth0 netns " + pid,
		"ip link set mtapart master " + c.bridge + " up",
		"nsenter -t " + pid + " -n ip link set lo up",
		"nsenter -t " + pid + " -n ip addr add " + netip.MustParsePrefix(apartAddr+"/24").String() + " dev eth0",
		"nsenter -t " + pid + " -n ip link set eth0 up",
	} {
		args := strings.Fields(line)
		if out, err := exec.CommandContext(t.Context(), args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", line, err, out)
		}
	}
	if _, err := in.Write([]byte("go\n")); err != nil {
		t.Fatal(err)
	}
	return s
}

// TestVMCommands is a day of a user: three nodes, a home on a server of files that is there already, a folder
// of the head, and the commands that docs/running.md and docs/shares.md show.
func TestVMCommands(t *testing.T) {
	if os.Getenv("MUSTER_LONG") != "1" {
		t.Skip("only in make test-vm: boots three machines and needs an NFS server on this system")
	}
	haveAccounts(t)
	c := newCluster(t)
	nfs := startNFSApart(t, c)
	c.startHead("--dhcp=full")
	var guests []*guest
	for i := range 3 {
		guests = append(guests, c.boot(vm.Config{Name: fmt.Sprintf("commands%d", i), Firmware: vm.BIOS}, nil))
	}
	var nodes []string
	for _, g := range guests {
		nodes = append(nodes, c.ready(g).Name)
	}
	data, err := os.MkdirTemp("/srv", "muster-data-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(data) })
	if err := os.Chmod(data, 0o755); err != nil {
		t.Fatal(err)
	}
	admin := func(args ...string) string {
		t.Helper()
		r := c.muster("", args...)
		if r.status != 0 {
			t.Fatalf("muster %q ends with %d: %s", args, r.status, r.stderr)
		}
		return r.stdout
	}
	admin("share", "add", apartAddr+":/x", "--at", nfs.dir)
	admin("share", "add", data, "--ro")
	begin := time.Now()
	for _, at := range []string{nfs.dir, data} {
		c.eventually(time.Minute, "all nodes have mounted "+at, func(ctx context.Context) (bool, error) {
			s, err := c.client.Share(ctx, at)
			mounted := 0
			for _, m := range s.Mounts {
				if m.State == "mounted" {
					mounted++
				}
			}
			return err == nil && mounted == len(nodes), nil
		})
	}
	t.Logf("two shares on three nodes %v after share add", time.Since(begin).Round(time.Millisecond))
	for _, at := range []string{nfs.dir, data} {
		shown := admin("share", "show", at)
		for _, n := range nodes {
			if !strings.Contains(shown, n) {
				t.Errorf("share show %s does not name %s:\n%s", at, n, shown)
			}
		}
	}
	if list := admin("share", "list"); !strings.Contains(list, nfs.dir) || !strings.Contains(list, data) {
		t.Errorf("share list:\n%s", list)
	}

	s := newSharedFolder(t, c, nfs.dir, [2]string{nodes[0], nodes[1]}, "")
	in := func(dir, script string) result {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), shareTime)
		defer cancel()
		cmd := s.shell(ctx, ada, dir, script)
		cmd.Env = append(cmd.Env, "DATA="+data, "TERM=xterm")
		var out, errOut bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &errOut
		_ = cmd.Run()
		return result{out.String(), errOut.String(), cmd.ProcessState.ExitCode()}
	}
	private, err := os.MkdirTemp("/tmp", "muster-private-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(private) })
	if err := os.Chown(private, int(ada.uid), int(ada.gid)); err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		name, dir, script string
		want              string
		status            int
	}{
		{"own program", s.dir, `
printf '#!/bin/sh\nread x <"$1"; echo "$x $(id -u) $PWD $LEVEL"; exit 3\n' >prog; chmod +x prog
echo content >data.txt; LEVEL=high muster run ./prog data.txt`, "content 1000 " + s.dir + " high\n", 3},
		{"input and output", s.dir, `printf 'b\na\n' | muster run sort | cat`, "a\nb\n", 0},
		{
			"terminal", s.dir, `sleep 5 | script -qec "stty rows 33 cols 77; muster run -t python3 -c 'import os; print(os.isatty(0), os.get_terminal_size(), os.getuid())'" /dev/null | tr -d '\r'`,
			"True os.terminal_size(columns=77, lines=33) 1000\n", 0,
		},
		{
			"tasks", s.dir, `muster run -n 8 --prefix sh -c 'echo $MUSTER_TASK of $MUSTER_TASKS' | sort`,
			"0: 0 of 8\n1: 1 of 8\n2: 2 of 8\n3: 3 of 8\n4: 4 of 8\n5: 5 of 8\n6: 6 of 8\n7: 7 of 8\n", 0,
		},
		{"in the background", s.dir, `
printf '#!/bin/sh\nfor i in 1 2 3; do echo $i; sleep 1; done\n' >long; chmod +x long
id=$(muster run -d -o sim.log ./long | tr -dc '0-9 ' | awk '{print $1}')
muster job attach $id >/dev/null; cat sim.log`, "1\n2\n3\n", 0},
		{"its own log", s.dir, `
id=$(muster run -d --name nightly sh -c 'echo done' | tr -dc '0-9 ' | awk '{print $1}')
muster job attach $id >/dev/null; cat nightly-$id.out`, "done\n", 0},
		{"without a share", private, `
printf '#!/bin/sh\ntr a-z A-Z <$1 >out.dat\n' >tool; chmod +x tool; echo small >in.dat
muster run --send ./tool --send in.dat --fetch out.dat -- ./tool in.dat; cat out.dat`, "SMALL\n", 0},
		{"folder of the head", s.dir, `muster run sh -c "cat $DATA/table; touch $DATA/new 2>/dev/null || echo read-only"`, "table\nread-only\n", 0},
		{"all nodes", s.dir, `muster run -n 3 --spread sh -c 'cat data.txt; uname -n >>names.$MUSTER_TASK' && cat names.? | sort | uniq | wc -l`, "content\ncontent\ncontent\n3\n", 0},
	} {
		t.Run(step.name, func(t *testing.T) {
			if err := os.WriteFile(filepath.Join(data, "table"), []byte("table\n"), 0o644); err != nil {
				t.Fatal(err)
			}
			if r := in(step.dir, step.script); r.stdout != step.want || r.status != step.status {
				t.Errorf("it prints %q and ends with %d, want %q and %d\n%s", r.stdout, r.status, step.want, step.status, r.stderr)
			}
		})
	}
	t.Run("refusals", func(t *testing.T) {
		if r := in(private, "muster run true"); r.status == 0 || !strings.Contains(r.stderr, "is in no share") || !strings.Contains(r.stderr, "--send") {
			t.Errorf("a folder in no share: %+v", r)
		}
		if r := in(s.dir, "muster exec --all uname -r"); r.status == 0 {
			t.Errorf("exec by a user: %+v", r)
		}
	})
	release := readTestManifest(t, c.image).Kernel
	var want []string
	for _, n := range nodes {
		want = append(want, n+": "+release)
	}
	got := strings.Split(strings.TrimSpace(admin("exec", "--all", "uname", "-r")), "\n")
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("exec --all uname -r prints %q, want %q", got, want)
	}
	fresh := 0
	for i := range 40 {
		want := fmt.Sprintf("%d\n", i)
		if err := os.WriteFile(filepath.Join(data, "turn"), []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		if r := in(s.dir, "muster run cat $DATA/turn"); r.stdout == want {
			fresh++
		}
	}
	if fresh != 40 {
		t.Errorf("what was written on the head a moment ago was seen %d times of 40", fresh)
	}
}
