package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"muster/api"
	"muster/api/client"
	"muster/internal/need"
	"muster/internal/vm"
)

// Times of tests with machines. Emulated ones boot in 15 to 40 s on a quiet
// machine; these are bounds for a busy one.
const (
	headTime = 60 * time.Second
	bootTime = 4 * time.Minute
	jobTime  = time.Minute
)

// cluster is a head with a network for virtual machines, in the namespace
// of the tests.
type cluster struct {
	t       testing.TB
	bin     string // muster, as make built it
	image   string
	dir     string
	state   string
	bridge  string
	network *vm.Network
	client  *client.Client
	head    *exec.Cmd
	headEnd chan error
	next    byte
	inside  *headMachine // the head is in it; nil: it is a process here
}

// startCluster starts a head on a network of its own.
func startCluster(t testing.TB, headArgs ...string) *cluster {
	t.Helper()
	c := newCluster(t)
	c.startHead(headArgs...)
	return c
}

// startClusterOf starts a head that publishes another image than that of the tests.
func startClusterOf(t testing.TB, image string, headArgs ...string) *cluster {
	t.Helper()
	c := newCluster(t)
	c.image = image
	c.startHead(headArgs...)
	return c
}

// shippedImage is an image that make built beside that of the tests.
func shippedImage(t testing.TB, name string) string {
	t.Helper()
	dir := filepath.Join(filepath.Dir(os.Getenv("MUSTER_IMAGE")), name)
	need.File(t, filepath.Join(dir, "manifest.json"), "run the tests with make test-vm, which builds the image")
	return dir
}

// newCluster makes the network of a cluster without starting its head. The
// head's log and the consoles of machines are artifacts of a failed test.
func newCluster(t testing.TB) *cluster {
	t.Helper()
	need.Root(t)
	for _, f := range []vm.Firmware{vm.BIOS, vm.UEFI} {
		if err := vm.Installed(f); err != nil {
			need.Missing(t, "%v", err)
		}
	}
	c := &cluster{
		t: t, dir: t.ArtifactDir(), state: filepath.Join(t.TempDir(), "state"), bridge: "mt0",
		bin:   need.File(t, os.Getenv("MUSTER_BIN"), "run the tests with make, which builds bin/muster"),
		image: os.Getenv("MUSTER_IMAGE"),
	}
	need.File(t, filepath.Join(c.image, "manifest.json"), "run the tests with make, which builds the image")
	var err error
	c.network, err = vm.NewNetwork(vm.NetworkConfig{Bridge: c.bridge, Addrs: []netip.Prefix{netip.MustParsePrefix("10.77.0.1/24")}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.network.Close(); err != nil {
			t.Errorf("taking the network down: %v", err)
		}
	})
	c.client, err = client.New(c.socket())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// moveState has the head, which is not started yet, keep its state in another folder.
func (c *cluster) moveState(dir string) {
	c.t.Helper()
	c.state = dir
	var err error
	if c.client, err = client.New(c.socket()); err != nil {
		c.t.Fatal(err)
	}
}

func (c *cluster) socket() string { return filepath.Join(c.state, "run", "head.sock") }

// startHead starts the head and waits until it serves.
func (c *cluster) startHead(args ...string) {
	c.t.Helper()
	all := []string{"head", "--interface", c.bridge, "--state", c.state, "--image", c.image}
	c.runHead(exec.Command(c.bin, append(all, args...)...))
}

// runHead starts a command that is the head and waits until it serves.
func (c *cluster) runHead(cmd *exec.Cmd) {
	c.t.Helper()
	log, err := os.OpenFile(filepath.Join(c.dir, "head.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		c.t.Fatal(err)
	}
	defer log.Close()
	c.head = cmd
	c.head.Stdout, c.head.Stderr = log, log
	c.head.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := c.head.Start(); err != nil {
		c.t.Fatal(err)
	}
	end := make(chan error, 1)
	c.headEnd = end
	head := c.head
	go func() { end <- head.Wait() }()
	c.t.Cleanup(func() { c.stopHead(os.Interrupt) })
	most := headTime
	if c.inside != nil {
		most = 5 * time.Minute // it publishes its image with an emulated processor
	}
	c.eventually(most, "the head serves", func(ctx context.Context) (bool, error) {
		select {
		case err := <-end:
			end <- err
			return false, fmt.Errorf("the head ended: %w", err)
		default:
		}
		s, err := c.client.Status(ctx)
		return err == nil && s.Image != "" && len(s.Boot) > 0, nil
	})
	select {
	case err := <-end:
		end <- err
		c.t.Fatalf("a head serves, but not this one, which has ended: %v", err)
	default:
	}
	// The tests run as root, and so do their jobs.
	if _, err := c.client.SetSetting(c.t.Context(), "root-jobs", "on"); err != nil {
		c.t.Fatal(err)
	}
}

// stopHead ends the head with a signal and waits for it.
func (c *cluster) stopHead(sig os.Signal) {
	c.t.Helper()
	if c.head == nil {
		return
	}
	if err := c.head.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		c.t.Errorf("ending the head: %v", err)
	}
	<-c.headEnd
	c.head = nil
	if c.t.Failed() {
		if raw, err := os.ReadFile(filepath.Join(c.dir, "head.log")); err == nil {
			c.t.Logf("the head's log:\n%s", lastLines(string(raw), 40))
		}
	}
}

func lastLines(s string, n int) string {
	lines := strings.Split(strings.TrimRight(s, "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// eventually waits until done, which is asked every 100 ms.
func (c *cluster) eventually(most time.Duration, what string, done func(ctx context.Context) (bool, error)) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), most)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		ok, err := done(ctx)
		if err != nil {
			c.t.Fatalf("waiting until %s: %v", what, err)
		}
		if ok {
			return
		}
		select {
		case <-ctx.Done():
			c.t.Fatalf("it is not so after %v that %s", most, what)
		case <-tick.C:
		}
	}
}

// guest is a virtual machine of a test.
type guest struct {
	*vm.Machine
	mac string
}

// boot switches a machine on. The fields of cfg that a test does not care
// for are filled in.
func (c *cluster) boot(cfg vm.Config, filter func([]byte) []byte) *guest {
	c.t.Helper()
	c.next++
	mac := net.HardwareAddr{0x52, 0x54, 0, 0x77, 0, c.next}
	port, err := c.network.NewPort(fmt.Sprintf("mt-%d", c.next))
	if err != nil {
		c.t.Fatal(err)
	}
	cfg.Dir = c.dir
	cfg.NICs = []vm.NIC{{Port: port, MAC: mac, Filter: filter}}
	m, err := vm.Start(cfg)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() {
		if c.t.Failed() {
			c.t.Logf("console of %s:\n%s", cfg.Name, m.ConsoleTail(40))
		}
		m.Kill()
		<-m.Done()
	})
	return &guest{Machine: m, mac: mac.String()}
}

// waitState waits until the machine has a state, and returns it as the head
// lists it.
func (c *cluster) waitState(g *guest, state api.NodeState) api.Node {
	c.t.Helper()
	var found api.Node
	c.eventually(bootTime, fmt.Sprintf("%s is %s", g.mac, state), func(ctx context.Context) (bool, error) {
		list, err := c.client.Nodes(ctx)
		if err != nil {
			return false, nil // the head may be down for a moment
		}
		for _, n := range list.Items {
			if n.MAC == g.mac && n.State == state {
				found = n
				return true, nil
			}
		}
		return false, nil
	})
	return found
}

// ready approves a machine when it is pending and waits until it is a node.
func (c *cluster) ready(g *guest) api.Node {
	c.t.Helper()
	n := c.waitState(g, api.NodePending)
	if _, err := c.client.Approve(c.t.Context(), api.ApproveRequest{Machines: []string{n.Fingerprint}}); err != nil {
		c.t.Fatal(err)
	}
	return c.waitState(g, api.NodeReady)
}

// result is what a command printed and how it ended.
type result struct {
	stdout, stderr string
	status         int
}

// muster runs the program as a user of the cluster.
func (c *cluster) muster(stdin string, args ...string) result {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), jobTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, c.bin, args...)
	cmd.Env = append(os.Environ(), "MUSTER_HEAD="+c.socket())
	cmd.Dir = c.t.TempDir()
	cmd.Stdin = strings.NewReader(stdin)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		c.t.Fatalf("muster %s: %v", strings.Join(args, " "), err)
	}
	return result{out.String(), errOut.String(), cmd.ProcessState.ExitCode()}
}

// stages is the boot of a machine as the head tells it: stage and detail.
func (c *cluster) stages(g *guest) []api.BootEvent {
	c.t.Helper()
	l, err := c.client.BootLog(c.t.Context(), g.mac)
	if err != nil {
		c.t.Fatal(err)
	}
	return l.Events
}
