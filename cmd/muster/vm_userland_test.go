package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"muster/api"
	"muster/images"
	"muster/internal/need"
	"muster/internal/vm"
)

// programs are what the userland of compute is for: each simply works.
var programs = []struct{ name, script, want string }{
	{"python3", `python3 -c 'print(6*7)'`, "42\n"},
	{"python3 modules", `python3 -c 'import json, os, re, socket, subprocess, sys, threading; print(json.dumps([6*7]), subprocess.check_output(["echo", "x"], text=True), end="")'`, "[42] x\n"},
	{"perl", `perl -MPOSIX -e 'print 6*7, "\n"'`, "42\n"},
	{"bash", `a=(1 2 3); [[ ${#a[@]} = 3 ]] && echo $((6*7))`, "42\n"},
	{"awk and sed", `awk 'BEGIN{print 6*7}' | sed s/4/5/`, "52\n"},
	{"tar", `cd /tmp; echo 42 >a; for z in z J; do tar c -$z -f a.tar a && tar x -$z -O -f a.tar; done; tar c --zstd -f a.tar a; zstd -dc a.tar | tar xO; xz -c a | xz -dc`, "42\n42\n42\n42\n"},
	{"ps", `ps -o comm= -p $$; ps -o comm= -p 1`, "bash\ninit\n"},
	{"ip", `ip -br addr show lo | awk '{print $1, $3}'`, "lo 127.0.0.1/8\n"},
	{"criu", `criu --version | head -1`, "Version: 4.1.1\n"},
	{"find", `find /usr/bin -name python3 | xargs ls`, "/usr/bin/python3\n"},
	{"certificates", `openssl verify -CAfile /usr/lib/ssl/cert.pem /usr/share/ca-certificates/mozilla/ISRG_Root_X1.crt | cut -d: -f2`, " OK\n"},
	{"libraries", `ldd /usr/bin/python3 /usr/sbin/criu | grep 'not found'; ldd /usr/bin/python3 | grep -c libc.so.6`, "1\n"},
	{"nothing is left over", `find / -xdev -xtype l 2>/dev/null; ls -d /usr/share/doc /usr/share/man /usr/share/locale 2>/dev/null | wc -l`, "0\n"},
	// Not in the initramfs: the kernel asks for it, and the node gets it from the head.
	{"a kernel module", `python3 -c 'import socket; socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_SCTP); print(42)'; grep -c '^sctp ' /proc/modules`, "42\n1\n"},
	{"dates and names", `date -d @0 +%Z; getent passwd nobody | cut -d: -f3; getent hosts localhost | awk '{print $1}'; LC_ALL=C.UTF-8 bash -c 'x=ü; echo ${#x}'`, "UTC\n65534\n::1\n1\n"},
}

// TestVMUserland boots machines of both kinds: their tasks see the userland of the image, which
// came from the head after the machine was approved.
func TestVMUserland(t *testing.T) {
	c := startCluster(t, "--dhcp=full")
	m := readTestManifest(t, c.image)
	described, ok := m.Userland()
	if !ok {
		t.Fatal("the image has no userland")
	}
	guests := []*guest{
		c.boot(vm.Config{Name: "bios", Firmware: vm.BIOS}, nil),
		c.boot(vm.Config{Name: "uefi", Firmware: vm.UEFI}, nil),
	}
	for _, g := range guests {
		node := c.ready(g)
		c.checkUserlandStage(g, described.Size)
		if node.Software.Userland != described.SHA256 {
			t.Errorf("%s says that it holds the userland %s, want %s", node.Name, node.Software.Userland, described.SHA256)
		}
		for _, p := range programs {
			t.Run(node.Name+" "+p.name, func(t *testing.T) {
				r := c.muster("", "run", "--on", node.Name, "--", "bash", "-c", p.script)
				if r.stdout != p.want || r.status != 0 {
					t.Errorf("%s prints %q, status %d (%s), want %q", p.script, r.stdout, r.status, r.stderr, p.want)
				}
			})
		}
	}
	c.logMemory(guests[0])
	t.Run("programs as alone", func(t *testing.T) {
		dir, alone := inUserland(t, c.image)
		c.checkUnchanged(t, "n1", dir, alone)
	})
	t.Run("a terminal", func(t *testing.T) {
		script := need.Program(t, "script", "bsdutils") // it gives muster a terminal
		cmd := exec.CommandContext(t.Context(), script, "-qec", c.bin+` --head `+c.socket()+` run -t bash -c 'tty; stty size; read -r x; echo "got $x"; exit 5'`, "/dev/null")
		cmd.Stdin = strings.NewReader("typed\n")
		out, err := cmd.Output()
		if want := "/dev/pts/0\r\n24 80\r\n"; !strings.Contains(string(out), want) || !strings.Contains(string(out), "got typed\r\n") {
			t.Errorf("it shows %q (%v), want %q", out, err, want)
		}
		if cmd.ProcessState.ExitCode() != 5 {
			t.Errorf("it ends with %v", cmd.ProcessState)
		}
	})
	t.Run("attach", func(t *testing.T) {
		r := c.muster("", "run", "-d", "bash", "-c", "echo first; sleep 2; echo last; exit 4")
		job := strings.TrimSpace(r.stdout)
		if r = c.muster("", "job", "attach", job); r.stdout != "first\nlast\n" || r.status != 4 {
			t.Errorf("attach to job %s: %+v", job, r)
		}
	})
	t.Run("containers", func(t *testing.T) {
		if r := c.muster("", "config", "set", "containers", "on"); r.status != 0 {
			t.Fatal(r.stderr)
		}
		// The module of FUSE comes from the head, and its device is there for such a task alone.
		args := []string{"--", "unshare", "-Urm", "perl", "-e", fuseMount}
		if r := c.as(userA, append([]string{"run", "--allow", "containers"}, args...)...); r.stdout != "0\n" || r.status != 0 {
			t.Errorf("a FUSE file system in a namespace of its own: %+v", r)
		}
		if r := c.as(userA, append([]string{"run"}, args...)...); r.status == 0 {
			t.Errorf("without --allow it works too: %+v", r)
		}
		if r := c.as(userA, "run", "test", "-e", "/dev/fuse"); r.status != 1 {
			t.Errorf("without --allow there is /dev/fuse: %+v", r)
		}
	})
	t.Run("exec", func(t *testing.T) {
		r := c.muster("", "exec", "--all", "--", "sh", "-c", "id -u; ls -d /usr/lib/muster")
		if want := "muster: n[1-2]: exit status 0, the same output on all 2 nodes\n"; r.stderr != want || r.status != 0 {
			t.Errorf("it says %q and ends with %d, want %q", r.stderr, r.status, want)
		}
	})
}

// fuseMount is a Perl program that mounts a FUSE file system and prints what mount(2) returned.
const fuseMount = `open(F, "+<", "/dev/fuse") or die "opening: $!";
my ($from, $to, $type, $options) = ("x", "/mnt", "fuse", sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", fileno(F)));
print syscall(165, $from, $to, $type, 0, $options), "\n";`

// TestVMLeastMemory boots machines with the memory that the build says a node needs.
func TestVMLeastMemory(t *testing.T) {
	if os.Getenv("MUSTER_LONG") != "1" {
		t.Skip("only in make test-vm: machines with the least memory for a userland")
	}
	c := startCluster(t, "--dhcp=full")
	described, ok := readTestManifest(t, c.image).Userland()
	if !ok {
		t.Fatal("the image has no userland")
	}
	for _, f := range []vm.Firmware{vm.BIOS, vm.UEFI} {
		g := c.boot(vm.Config{Name: "least-" + string(f), Firmware: f, MemMiB: int(described.MemoryMiB)}, nil)
		node := c.ready(g)
		if r := c.muster("", "run", "--on", node.Name, "--", "python3", "-c", "print(6*7)"); r.stdout != "42\n" {
			t.Errorf("%s with %d MiB: %q (%s)", f, described.MemoryMiB, r.stdout, r.stderr)
		}
		c.logMemory(g)
		g.Kill()
	}
}

// checkUserlandStage looks for the userland in the boot of a machine and logs how long
// it took.
func (c *cluster) checkUserlandStage(g *guest, size int64) {
	c.t.Helper()
	at := make(map[api.BootStage]time.Time)
	for _, e := range c.stages(g) {
		if _, ok := at[e.Stage]; !ok {
			at[e.Stage] = e.Time
		}
	}
	for _, stage := range []api.BootStage{api.StageApproved, api.StageUserland, api.StageReady} {
		if at[stage].IsZero() {
			c.t.Errorf("the timeline lacks the stage %s: %+v", stage, c.stages(g))
		}
	}
	c.t.Logf("%s: approved to ready with %.1f MB of userland in %v", g.mac, float64(size)/1e6, at[api.StageReady].Sub(at[api.StageApproved]).Round(10*time.Millisecond))
}

// logMemory logs what a node with a userland uses.
func (c *cluster) logMemory(g *guest) {
	c.t.Helper()
	node := c.waitState(g, api.NodeReady)
	r := c.muster("", "run", "--on", node.Name, "--", "cat", "/proc/meminfo")
	lines := regexp.MustCompile(`(?m)^(MemTotal|MemFree|MemAvailable|Cached|Shmem|AnonPages|Slab): +(\d+)`).FindAllString(r.stdout, -1)
	c.t.Logf("memory of %s in kB: %s", node.Name, strings.Join(strings.Fields(strings.Join(lines, " ")), " "))
}

// buildWithoutUserland builds the image of the tests without packages. The lock is that of
// the image less what nobody asks for any more, so that no archive is.
func buildWithoutUserland(t *testing.T, c *cluster) string {
	t.Helper()
	dir := t.TempDir()
	definition, lockFile, out := filepath.Join(dir, "tiny.yaml"), filepath.Join(dir, "lock.json"), filepath.Join(dir, "tiny")
	if err := os.WriteFile(definition, []byte("name: tiny\nfrom: compute-vm\npackages: []\nmedia: [netboot]\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	d, err := images.Load(definition)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(c.image, "lock.json"))
	if err != nil {
		t.Fatal(err)
	}
	lock, err := images.ParseLock("lock.json", text)
	if err != nil {
		t.Fatal(err)
	}
	lock.Request, lock.Asked = d.RequestHash(), nil
	lock.Packages = slices.DeleteFunc(lock.Packages, func(p images.LockedPackage) bool { return p.Role == images.RoleUserland })
	if err := os.WriteFile(lockFile, lock.Encode(), 0o644); err != nil {
		t.Fatal(err)
	}
	if r := c.muster("", "build", definition, "--lock", lockFile, "--locked", "--offline", "--output", out); r.status != 0 {
		t.Fatalf("muster build: %s", r.stderr)
	}
	return out
}

// TestVMWithoutUserland boots the image that has no userland: a node that gets only
// what names it, and whose tasks see the small root.
func TestVMWithoutUserland(t *testing.T) {
	c := newCluster(t)
	c.image = buildWithoutUserland(t, c)
	c.startHead("--dhcp=full")
	node := c.ready(c.boot(vm.Config{Name: "tiny", Firmware: vm.BIOS, MemMiB: 192}, nil))
	if node.Software.Userland != "" {
		t.Errorf("the node says that it has the userland %s", node.Software.Userland)
	}
	r := c.muster("", "run", "--on", node.Name, "--", "ls", "-d", "/bbin", "/etc/muster/image")
	if r.stdout != "bbin\nimage\n" {
		t.Errorf("a task sees %q (%s), want the small root", r.stdout, r.stderr)
	}
	r = c.muster("", "run", "-d", "hostname")
	id, err := strconv.ParseUint(strings.TrimSpace(r.stdout), 10, 64)
	if err != nil {
		t.Fatalf("muster run -d prints %q (%s): %v", r.stdout, r.stderr, err)
	}
	// It waits, and a later one that names the node does not.
	if r := c.muster("", "run", "--on", node.Name, "hostname"); r.stdout != node.Name+"\n" {
		t.Errorf("with --on: %q (%s)", r.stdout, r.stderr)
	}
	job, err := c.client.Job(t.Context(), id)
	if err != nil || job.State != api.JobQueued || !strings.Contains(job.Reason, "userland") {
		t.Errorf("a job that names no node is %s: %q, %v; want queued, for want of a userland", job.State, job.Reason, err)
	}
}

// TestVMSmallMachines boots mini, with the kernel for any hardware, on the smallest machine
// that it is for, and on ones that are too small, which say so.
func TestVMSmallMachines(t *testing.T) {
	if os.Getenv("MUSTER_LONG") != "1" {
		t.Skip("only in make test-vm: boots machines that are too small")
	}
	c := startClusterOf(t, shippedImage(t, "mini"), "--dhcp=full")
	for _, f := range []vm.Firmware{vm.BIOS, vm.UEFI} {
		g := c.boot(vm.Config{Name: "small-" + string(f), Firmware: f, MemMiB: 192}, nil)
		c.ready(g)
		c.logMemory(g)
		g.Kill()
	}
	for mib, want := range map[int]string{
		96: `Initramfs unpacking failed: Out of memory|Kernel panic - not syncing: .*(memory|root fs)`,
	} {
		g := c.boot(vm.Config{Name: "too-small", Firmware: vm.BIOS, MemMiB: mib, NoReboot: true}, nil)
		if _, err := g.WaitFor(t.Context(), regexp.MustCompile(want)); err != nil {
			t.Errorf("with %d MiB: %v", mib, err)
		}
		g.Kill()
	}
}
