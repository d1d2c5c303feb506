package main

import (
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"muster/api"
	"muster/images"
	"muster/internal/vm"
)

// shareUserland copies the userland of the cluster's image to a server, as an administrator does.
func (c *cluster) shareUserland(dir string, u images.Userland) (file string) {
	c.t.Helper()
	file = filepath.Join(dir, u.SHA256+".sqfs")
	from, err := os.Open(filepath.Join(c.image, "userland.sqfs"))
	if err != nil {
		c.t.Fatal(err)
	}
	defer from.Close()
	to, err := os.Create(file)
	if err == nil {
		_, err = io.Copy(to, from)
		to.Close()
	}
	if err != nil {
		c.t.Fatal(err)
	}
	return file
}

// TestVMUserlandShare has a machine that is too small to hold its userland read it from a share, whose
// server goes away for a while, and then changes it.
func TestVMUserlandShare(t *testing.T) {
	if os.Getenv("MUSTER_LONG") != "1" {
		t.Skip("only in make test-vm: needs an NFS server on this system")
	}
	c := startCluster(t, "--dhcp=full")
	u, ok := readTestManifest(t, c.image).Userland()
	if !ok || u.VerityRoot == "" {
		t.Fatalf("the image has no userland that can be read from a share: %+v", u)
	}
	nfs := startNFS(t)
	g := c.boot(vm.Config{Name: "small", Firmware: vm.BIOS, MemMiB: 256}, nil)
	// Without a share it says so, with the way out.
	node := c.waitStage(g, "needs a machine with 288 MiB, this one has 256 MiB, or a read-only share that has it; on the head: muster image set IMAGE --userland-share HOST:/FOLDER")
	r := c.muster("", "image", "set", "compute-vm", "--userland-share", "10.77.0.1:/x")
	if r.status != 0 || !strings.Contains(r.stdout, u.SHA256+".sqfs") {
		t.Fatalf("%+v", r)
	}
	c.waitStage(g, "10.77.0.1:/x has no file "+u.SHA256+".sqfs")
	begin := time.Now()
	file := c.shareUserland(nfs.dir, u)
	c.waitState(g, api.NodeReady)
	t.Logf("ready %v after the file was there", time.Since(begin).Round(time.Millisecond))
	for _, show := range [][]string{{"node", "show", node.Name}, {"image", "show", "compute-vm"}} {
		if r := c.muster("", show...); !strings.Contains(r.stdout, "read from 10.77.0.1:/x, takes no memory for good") {
			t.Errorf("%q: %+v", show, r)
		}
	}
	for _, p := range programs {
		t.Run(p.name, func(t *testing.T) {
			begin := time.Now()
			r := c.muster("", "run", "--on", node.Name, "--", "bash", "-c", p.script)
			if r.stdout != p.want || r.status != 0 {
				t.Errorf("%s prints %q, status %d (%s), want %q", p.script, r.stdout, r.status, r.stderr, p.want)
			}
			t.Log(time.Since(begin).Round(time.Millisecond))
		})
	}
	c.logMemory(g)

	t.Run("all of it", func(t *testing.T) {
		begin := time.Now()
		r := c.muster("", "run", "--on", node.Name, "--", "bash", "-c", "tar --one-file-system -cf - /usr 2>/dev/null | wc -c")
		if n, err := strconv.Atoi(strings.TrimSpace(r.stdout)); err != nil || n < 80e6 {
			t.Errorf("%+v", r)
		}
		t.Logf("%s bytes in %v", strings.TrimSpace(r.stdout), time.Since(begin).Round(time.Millisecond))
	})
	t.Run("server away", func(t *testing.T) { c.userlandServerAway(t, nfs, node.Name) })
	t.Run("server restarted", func(t *testing.T) {
		nfs.stop()
		done := make(chan result, 1)
		go func() { done <- c.muster("", "run", "--on", node.Name, "--", "bash", "-c", readMuch) }()
		c.waitShow(node.Name, stalledText)
		nfs.start(t)
		if r := <-done; r.stdout != "whole\n" || r.status != 0 {
			t.Errorf("%+v", r)
		}
	})

	// A byte of every block of the largest part of the file.
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for at := int64(64 << 10); at < u.VerityBlocks*4096; at += 4096 {
		b := make([]byte, 1)
		if _, err := f.ReadAt(b, at); err != nil {
			t.Fatal(err)
		}
		b[0] ^= 1
		if _, err := f.WriteAt(b, at); err != nil {
			t.Fatal(err)
		}
	}
	// What the node has read before stays right as long as it has it; what it has not is an error, be it of a program's
	// file or of a program.
	r = c.muster("", "run", "--on", node.Name, "--", "bash", "-c", readMuch+"; find /usr -type f -print0 | xargs -0 cat >/dev/null")
	if t.Logf("after a change: status %d: %.300s", r.status, r.stderr); r.status == 0 {
		t.Errorf("what was changed can be read: %+v", r)
	}
	c.waitStage(g, "a block of it at 10.77.0.1:/x is not what the image says: copy the file there again, then: muster node reboot NODE")
	if r := c.muster("", "node", "show", node.Name); !strings.Contains(r.stdout, "is not what the image says") {
		t.Errorf("%+v", r)
	}
	if _, err := g.WaitFor(t.Context(), regexp.MustCompile(`device-mapper: verity: .*data block \d+ is corrupted`)); err != nil {
		t.Error(err)
	}
	// It comes back once the file is what it was.
	c.shareUserland(nfs.dir, u)
	if r := c.muster("", "node", "reboot", node.Name); r.status != 0 {
		t.Fatalf("%+v", r)
	}
	c.eventually(2*time.Minute, "the node is ready again", func(ctx context.Context) (bool, error) {
		n, err := c.client.Node(ctx, node.Name)
		return err == nil && n.State == api.NodeReady && n.Software.UserlandIn == api.UserlandShare, nil
	})
	if r := c.muster("", "run", "--on", node.Name, "--", "python3", "-c", "print(6*7)"); r.stdout != "42\n" {
		t.Errorf("after it was repaired: %+v", r)
	}
}

// readMuch reads more than a small node keeps in memory.
const readMuch = "find /usr/lib -xdev -name '*.so*' -type f -print0 | xargs -0 cat >/dev/null && echo whole"

const stalledText = "10.77.0.1:/x does not answer; what reads its programs waits until it does"

// userlandServerAway stops the server for a while: what reads from it waits and goes on.
func (c *cluster) userlandServerAway(t *testing.T, nfs *nfsServer, node string) {
	if err := nfs.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	done := make(chan result, 1)
	begin := time.Now()
	go func() { done <- c.muster("", "run", "--on", node, "--", "bash", "-c", readMuch) }()
	c.waitShow(node, stalledText)
	select {
	case r := <-done:
		t.Errorf("it did not wait: %+v", r)
	default:
	}
	if err := nfs.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if r := <-done; r.stdout != "whole\n" || r.status != 0 {
		t.Errorf("%+v", r)
	}
	t.Logf("it went on; all took %v", time.Since(begin).Round(time.Millisecond))
	c.eventually(time.Minute, "the node reads again", func(ctx context.Context) (bool, error) {
		n, err := c.client.Node(ctx, node)
		return err == nil && n.Software.UserlandStalled == "", nil
	})
}

// waitShow waits until node show has a text.
func (c *cluster) waitShow(node, want string) {
	c.t.Helper()
	c.eventually(time.Minute, "node show says: "+want, func(context.Context) (bool, error) {
		return strings.Contains(c.muster("", "node", "show", node).stdout, want), nil
	})
}

// waitStage waits until a machine says why it takes no tasks, and approves it before.
func (c *cluster) waitStage(g *guest, want string) api.Node {
	c.t.Helper()
	var node api.Node
	c.eventually(3*time.Minute, want, func(ctx context.Context) (bool, error) {
		list, err := c.client.Nodes(ctx)
		if err != nil {
			return false, err
		}
		for _, n := range list.Items {
			if n.MAC != g.mac {
				continue
			}
			if n.State == api.NodePending {
				c.muster("", "node", "approve", n.MAC)
			}
			node = n
			if strings.Contains(n.Stage, want) {
				return true, nil
			}
		}
		return false, nil
	})
	return node
}

// TestVMUserlandOfHead has a machine that is too small to hold its userland read it from the head, which has an NFS server for
// that: nobody sets anything.
func TestVMUserlandOfHead(t *testing.T) {
	if os.Getenv("MUSTER_LONG") != "1" {
		t.Skip("only in make test-vm: needs an NFS server on this system")
	}
	if _, err := exec.LookPath("ganesha.nfsd"); err != nil {
		t.Skip("only in make test-vm after: apt install nfs-ganesha nfs-ganesha-vfs")
	}
	c := newCluster(t)
	// The userlands are in a folder beside the state, which has to be on a disk.
	top, err := os.MkdirTemp("/srv", "muster-state-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(top) })
	c.moveState(filepath.Join(top, "state"))
	c.startHead("--dhcp=full")
	u, _ := readTestManifest(t, c.image).Userland()
	small := c.boot(vm.Config{Name: "small", Firmware: vm.BIOS, MemMiB: 256}, nil)
	c.waitState(small, api.NodePending)
	begin := time.Now()
	node := c.ready(small)
	t.Logf("ready %v after its approval", time.Since(begin).Round(time.Millisecond))
	const from = "10.77.0.1:/share-65535"
	if r := c.muster("", "node", "show", node.Name); !strings.Contains(r.stdout, "read from "+from+", takes no memory for good") {
		t.Errorf("node show: %+v", r)
	}
	if r := c.muster("", "share", "list"); strings.Contains(r.stdout, "userlands") || r.status != 0 {
		t.Errorf("share list: %+v", r)
	}
	files, err := os.ReadDir(filepath.Join(top, "state-userlands"))
	if err != nil || len(files) != 1 || files[0].Name() != u.SHA256 {
		t.Errorf("served are %v, %v; want %s alone", files, err, u.SHA256)
	}
	whole := func(when string) {
		t.Helper()
		if r := c.muster("", "run", "--private", "--on", node.Name, "--", "bash", "-c", readMuch); r.stdout != "whole\n" || r.status != 0 {
			t.Errorf("%s: %+v", when, r)
		}
	}
	whole("at first")
	if err := syscall.Kill(c.enginePID(t), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	whole("the server was killed")
	c.stopHead(os.Interrupt)
	c.startHead("--dhcp=full")
	c.nodesBack(1, headTime)
	whole("the head was started again")
	// A folder of the head is served by the same server, beside it.
	data := filepath.Join(top, "data")
	if err := os.Mkdir(data, 0o755); err != nil {
		t.Fatal(err)
	}
	if r := c.muster("", "share", "add", data); r.status != 0 {
		t.Errorf("%+v", r)
	}
	c.mountedBy(data, 1, 20*time.Second)
	whole("beside a share")
	// A node that goes takes it with it.
	if r := c.muster("", "node", "remove", node.Name); r.status != 0 {
		t.Errorf("%+v", r)
	}
	c.eventually(20*time.Second, "userlands are not served any more", func(context.Context) (bool, error) {
		_, err := os.Stat(filepath.Join(top, "state-userlands"))
		return os.IsNotExist(err), nil
	})
}
