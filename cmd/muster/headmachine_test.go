package main

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"muster/internal/need"
	"muster/internal/powercut"
	"muster/internal/vm"
)

// headMachine is a virtual machine that is the head of a cluster, with the NFS servers of Debian 13: its system is
// testdata/head.yaml, as make built it, with the program of testdata/headvm as PID 1. What the head keeps and
// what it shares are on two disks that lose what was not flushed when their power is cut.
type headMachine struct {
	c            *cluster
	tool         string // headvm
	kernel, root string
	state, share *vm.VolatileDisk
	port         *vm.Port
	boots        int
	machine      *vm.Machine
}

// Where things are in the machine.
const (
	insideAddr   = "10.77.0.9"
	insideSocket = "/run/muster/head.sock"
	insideShares = "/srv"
)

// headSystem is what the system of the head has beside its packages. Debian's server would wait for clients for 90 seconds.
var headSystem = map[string]string{
	"etc/nfs.conf.d/test.conf": "[nfsd]\nthreads=4\nvers3=n\nlease-time=10\ngrace-time=10\n",
	"etc/hosts":                "127.0.0.1 localhost\n" + insideAddr + " head\n",
	"etc/exports":              "",
}

// newHeadMachine makes a cluster whose head is a machine, which is not switched on yet. The head publishes an image that
// make built.
func newHeadMachine(t *testing.T, image string) *headMachine {
	t.Helper()
	c := newCluster(t)
	m := &headMachine{
		c: c, kernel: filepath.Join(shippedImage(t, "head"), "vmlinuz"), tool: powercut.Build(t, "./testdata/headvm"),
		state: powercut.NewDiskOf(t, "1G"), share: powercut.NewDiskOf(t, "512M"),
	}
	c.inside = m
	m.root = m.makeRoot(t, shippedImage(t, "head"), shippedImage(t, image))
	var err error
	if m.port, err = c.network.NewPort("mt-head"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if m.machine == nil {
			return
		}
		if t.Failed() {
			t.Logf("console of the head's machine:\n%s", m.machine.ConsoleTail(40))
		}
		m.machine.Kill()
		<-m.machine.Done()
	})
	m.relay(t)
	return m
}

// makeRoot makes the file system of the machine.
func (m *headMachine) makeRoot(t *testing.T, system, image string) string {
	t.Helper()
	top := t.TempDir()
	dir := filepath.Join(top, "root")
	run := func(name, pkg string, args ...string) {
		t.Helper()
		if out, err := exec.CommandContext(t.Context(), need.Program(t, name, pkg), args...).CombinedOutput(); err != nil {
			t.Fatalf("%s %q: %v\n%s", name, args, err, out)
		}
	}
	run("unsquashfs", "squashfs-tools", "-q", "-n", "-d", dir, filepath.Join(system, "userland.sqfs"))
	run("tar", "tar", "-xf", filepath.Join(system, "modules.tar"), "-C", filepath.Join(dir, "usr"))
	run("depmod", "kmod", "-b", dir, readTestManifest(t, system).Kernel)
	for name, text := range headSystem {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	run("cp", "coreutils", m.tool, filepath.Join(dir, "usr/sbin/headvm"))
	run("cp", "coreutils", m.c.bin, filepath.Join(dir, "usr/bin/muster"))
	run("cp", "coreutils", "-r", image, filepath.Join(dir, "image"))
	run("ln", "coreutils", "-sf", "/proc/self/mounts", filepath.Join(dir, "etc/mtab"))
	file := filepath.Join(top, "root.ext4")
	run("mke2fs", "e2fsprogs", "-q", "-t", "ext4", "-O", "^has_journal", "-d", dir, file, "900M")
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	return file
}

// boot switches the machine on. The words are for its system, testdata/headvm.
func (m *headMachine) boot(t *testing.T, words string) {
	t.Helper()
	m.boots++
	machine, err := vm.Start(vm.Config{
		Name: "head" + string(rune('0'+m.boots)), Dir: m.c.dir, Firmware: vm.BIOS, MemMiB: 1536, CPUs: 2, NoReboot: true, Kernel: m.kernel,
		Append: "console=ttyS0 loglevel=4 panic=-1 no_timer_check root=/dev/nvme0n1 rw init=/sbin/headvm addr=" + insideAddr + "/24 " + words,
		NICs:   []vm.NIC{{Port: m.port, MAC: net.HardwareAddr{0x52, 0x54, 0, 0x77, 1, 1}}},
		Args: []string{
			"-drive", "if=none,id=root,format=raw,snapshot=on,file=" + m.root, "-device", "nvme,drive=root,serial=root",
			"-drive", m.state.Drive("state"), "-device", "virtio-blk-pci,drive=state,serial=state",
			"-drive", m.share.Drive("share"), "-device", "virtio-blk-pci,drive=share,serial=share",
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	m.machine = machine
	ctx, cancel := context.WithTimeout(t.Context(), bootTime)
	defer cancel()
	line, err := machine.WaitFor(ctx, regexp.MustCompile(`^guest: (started|error: .*)`))
	if err != nil || !strings.HasSuffix(line, "started") {
		t.Fatalf("the head's machine: %s %v", line, err)
	}
}

// cutPower ends the machine as a power cut does, and with it what its disks had not been told to keep.
func (m *headMachine) cutPower(t *testing.T) {
	t.Helper()
	m.machine.Kill()
	<-m.machine.Done()
	state, share := m.state.CutPower(nil), m.share.CutPower(nil)
	t.Logf("power cut: %d blocks of the head's disk and %d of the shares' were in caches and are lost", state, share)
	if m.c.head != nil { // its program out here has nobody to talk to any more
		_ = m.c.head.Process.Kill()
		<-m.c.headEnd
		m.c.head = nil
	}
}

// command is a command in the machine, with the input and output that it is given here.
func (m *headMachine) command(ctx context.Context, who account, dir string, env []string, args ...string) *exec.Cmd {
	raw, err := json.Marshal(map[string]any{"UID": who.uid, "GID": who.gid, "Groups": who.groups, "Dir": dir, "Env": env, "Args": args})
	if err != nil {
		panic(err) // of numbers and strings
	}
	cmd := exec.CommandContext(ctx, m.tool, "exec", insideAddr+":9", string(raw))
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

// startHead starts the head in the machine and waits until it serves.
func (m *headMachine) startHead(t *testing.T, args ...string) {
	t.Helper()
	all := []string{"/usr/bin/muster", "head", "--interface", "eth0", "--image", "/image"}
	m.c.runHead(m.command(context.WithoutCancel(t.Context()), account{}, "/", []string{"PATH=/usr/sbin:/usr/bin", "HOME=/root"}, append(all, args...)...))
}

// relay lets the test use the head's socket as if it were here.
func (m *headMachine) relay(t *testing.T) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(m.c.socket()), 0o755); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", m.c.socket())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			from, err := l.Accept()
			if err != nil {
				return
			}
			go join(from)
		}
	}()
}

// join has a connection be one to the head's socket. A head that is away ends it.
func join(from net.Conn) {
	defer from.Close()
	to, err := net.DialTimeout("tcp", insideAddr+":9", 2*time.Second)
	if err != nil {
		return
	}
	defer to.Close()
	if err := json.NewEncoder(to).Encode(map[string]string{"Socket": insideSocket}); err != nil {
		return
	}
	go func() {
		defer to.Close()
		_, _ = io.Copy(to, from) // how it went is what comes back
	}()
	_, _ = io.Copy(from, to)
}
