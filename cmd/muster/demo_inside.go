package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"muster/api"
	"muster/api/client"
	"muster/images"
	"muster/internal/vm"
)

// demoMachine is a virtual machine of the demo.
type demoMachine struct {
	name     string // what it is called until it is a node
	firmware vm.Firmware
	mac      net.HardwareAddr
	onScreen chan string // the fingerprint that its screen shows
}

// Times of the demo. Emulated machines boot in 15 to 40 s; a loaded build
// machine takes longer.
const (
	demoHeadWait = 30 * time.Second
	demoBootWait = 5 * time.Minute
)

const demoBridge = "muster0"

// demo is the part of the demo that runs in namespaces of its own.
type demo struct {
	opts     demoOptions
	self     string
	socket   string
	client   *client.Client
	machines []*demoMachine

	shown atomic.Bool // all was shown; Ctrl-C is the ordinary end from here on

	mu  sync.Mutex // out is written by several goroutines, a line at a time
	out io.Writer
}

// demoInside runs the cluster and shows it, in namespaces that end, with all that was started there, when their first
// process does (demoFirst).
func demoInside(ctx context.Context, o demoOptions, out io.Writer) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	state := filepath.Join(o.Dir, "state")
	d := &demo{opts: o, self: self, socket: filepath.Join(state, "run", "head.sock"), out: out}
	for i, f := range []vm.Firmware{vm.BIOS, vm.UEFI} {
		d.machines = append(d.machines, &demoMachine{
			name: string(f), firmware: f, onScreen: make(chan string, 1),
			mac: net.HardwareAddr{0x52, 0x54, 0, 0xde, 0x30, byte(i + 1)},
		})
	}
	// Each demo is a new cluster: what an earlier one left is taken away.
	if err := os.RemoveAll(state); err != nil {
		return fmt.Errorf("removing the state of an earlier demo: %w; remove it with: sudo rm -r %s", err, state)
	}
	network, err := vm.NewNetwork(vm.NetworkConfig{
		Bridge: demoBridge, Addrs: []netip.Prefix{netip.MustParsePrefix("10.77.0.1/24")},
	})
	if errors.Is(err, unix.EPERM) {
		// AppArmor lets users make the namespace, then forbids them its use.
		return userNamespaceError(os.ReadFile, err)
	}
	if err != nil {
		return err
	}
	defer network.Close()

	g, ctx := errgroup.WithContext(ctx)
	stop := errors.New("the demo is over")
	g.Go(func() error { return d.runHead(ctx, state) })
	g.Go(func() error {
		if err := d.show(ctx, g, network); err != nil {
			return err
		}
		return stop
	})
	err = g.Wait()
	if errors.Is(err, stop) || d.shown.Load() && errors.Is(err, context.Canceled) {
		return nil
	}
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return exitStatus(130) // 128 + SIGINT
	}
	return err
}

// runHead runs the head until ctx is done.
func (d *demo) runHead(ctx context.Context, state string) error {
	log, err := os.Create(filepath.Join(d.opts.Dir, "head.log"))
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.CommandContext(ctx, d.self, "head", "--interface", demoBridge, "--dhcp=full", "--state", state, "--image", d.opts.Image)
	if d.opts.Engine != "" {
		cmd.Args = append(cmd.Args, "--nfs-engine", demoEngineSocket(d.opts.Dir))
	}
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 2 * stopGrace
	err = cmd.Run()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return fmt.Errorf("the head ended by itself (%v); its log, %s, ends with:\n%s", err, log.Name(), endOf(log.Name(), 3))
}

// endOf returns the end of a file for people, or why there is none.
func endOf(path string, n int) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// show is the demo as its viewer sees it.
func (d *demo) show(ctx context.Context, g *errgroup.Group, network *vm.Network) error {
	d.say("$ muster head --interface %s --image %s", demoBridge, rel(d.opts.Image))
	if err := d.waitForHead(ctx); err != nil {
		return err
	}
	g.Go(func() error { return d.showTimeline(ctx) })
	accel := vm.DetectAccel(ctx)
	how := "emulated, since " + accel.Reason
	if accel.KVM {
		how = "by KVM"
	}
	d.say("starting two machines without disk, %d MiB each, %s", d.opts.MemMiB, how)
	start := time.Now()
	for _, m := range d.machines {
		if err := d.startMachine(ctx, g, network, m, accel); err != nil {
			return err
		}
	}
	nodes, err := d.waitForNodes(ctx, api.NodePending)
	if err != nil {
		return err
	}
	d.say("both wait for approval %.1f s after they were switched on", time.Since(start).Seconds())
	if err := d.compareFingerprints(ctx, nodes); err != nil {
		return err
	}
	d.say("$ muster node approve --all")
	if err := d.muster(ctx, "", "node", "approve", "--all"); err != nil {
		return err
	}
	if _, err := d.waitForNodes(ctx, api.NodeReady); err != nil {
		return err
	}
	d.say("both are ready %.1f s after they were switched on", time.Since(start).Seconds())
	if err := d.allowJobs(ctx); err != nil {
		return err
	}
	if err := d.runJobs(ctx); err != nil {
		return err
	}
	if err := d.showShare(ctx); err != nil {
		return err
	}
	d.say("$ muster exec --all uname -r")
	if err := d.muster(ctx, "", "exec", "--all", "uname", "-r"); err != nil {
		return err
	}
	d.say("$ muster node list")
	if err := d.muster(ctx, "", "node", "list"); err != nil {
		return err
	}
	return d.finish(ctx)
}

// say writes a line of the demo's own.
func (d *demo) say(format string, args ...any) {
	d.mu.Lock()
	defer d.mu.Unlock()
	fmt.Fprintf(d.out, format+"\n", args...)
}

func (d *demo) waitForHead(parent context.Context) error {
	ctx, cancel := context.WithTimeout(parent, demoHeadWait)
	defer cancel()
	c, err := client.New(d.socket)
	if err != nil {
		return err
	}
	d.client = c
	for {
		s, err := c.Status(ctx)
		if err == nil && s.Image != "" && len(s.Boot) > 0 {
			d.say("head %s serves DHCP, TFTP and HTTP on %s, in a network of its own", s.Fingerprint, demoBridge)
			return nil
		}
		select {
		case <-parent.Done():
			return parent.Err()
		case <-ctx.Done():
			return fmt.Errorf("the head does not serve after %v (%v); its log is %s", demoHeadWait, err, filepath.Join(d.opts.Dir, "head.log"))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// fingerprintLine is how a machine's screen shows its own fingerprint and the
// head's.
var fingerprintLine = regexp.MustCompile(`muster: fingerprint node ((?:[a-z2-7]{4}-){3}[a-z2-7]{4})`)

func (d *demo) startMachine(ctx context.Context, g *errgroup.Group, network *vm.Network, m *demoMachine, accel vm.Accel) error {
	port, err := network.NewPort("tap-" + m.name)
	if err != nil {
		return err
	}
	machine, err := vm.Start(vm.Config{
		Name: m.name, Dir: d.opts.Dir, Firmware: m.firmware, MemMiB: d.opts.MemMiB, Accel: accel,
		NICs: []vm.NIC{{Port: port, MAC: m.mac}},
		Line: func(line string) {
			if f := fingerprintLine.FindStringSubmatch(line); f != nil {
				select {
				case m.onScreen <- f[1]:
				default:
				}
			}
		},
	})
	if err != nil {
		return err
	}
	g.Go(func() error {
		select {
		case <-ctx.Done():
			machine.Kill()
			<-machine.Done()
			return ctx.Err()
		case <-machine.Done():
		}
		if err := machine.Wait(); err != nil {
			return err
		}
		return fmt.Errorf("the machine %s ended by itself; what it said is in %s", m.name, machine.ConsoleFile())
	})
	return nil
}

// showTimeline writes what the machines do as they boot.
func (d *demo) showTimeline(ctx context.Context) error {
	names := map[string]string{}
	start := map[string]time.Time{}
	for _, m := range d.machines {
		names[m.mac.String()] = m.name
	}
	err := d.client.Events(ctx, 0, func(e api.Event) error {
		if e.Boot == nil || names[e.Boot.MAC] == "" {
			return nil
		}
		if start[e.Boot.MAC].IsZero() {
			start[e.Boot.MAC] = e.Boot.Time
		}
		d.say("  %-4s %6.2f s  %s", names[e.Boot.MAC], e.Boot.Time.Sub(start[e.Boot.MAC]).Seconds(), bootText(*e.Boot))
		return nil
	})
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return fmt.Errorf("following what the machines do: %w", err)
}

// waitForNodes waits until every machine has the state.
func (d *demo) waitForNodes(parent context.Context, state api.NodeState) ([]api.Node, error) {
	ctx, cancel := context.WithTimeout(parent, demoBootWait)
	defer cancel()
	for {
		list, err := d.client.Nodes(ctx)
		if err != nil && ctx.Err() == nil {
			return nil, err
		}
		var there []api.Node
		for _, n := range list.Items {
			if n.State == state {
				there = append(there, n)
			}
		}
		if len(there) == len(d.machines) {
			return there, nil
		}
		select {
		case <-parent.Done():
			return nil, parent.Err()
		case <-ctx.Done():
			return nil, fmt.Errorf("%d of %d machines are %s after %v; what they said is in %s", len(there), len(d.machines), state, demoBootWait, d.opts.Dir)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// compareFingerprints shows what each machine's screen says beside what it
// told the head.
func (d *demo) compareFingerprints(ctx context.Context, nodes []api.Node) error {
	d.say("      fingerprint on the screen   fingerprint at the head")
	for _, m := range d.machines {
		var screen string
		select {
		case screen = <-m.onScreen:
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(demoHeadWait):
			return fmt.Errorf("the screen of %s shows no fingerprint; see %s", m.name, filepath.Join(d.opts.Dir, m.name+".console"))
		}
		for _, n := range nodes {
			if n.MAC != m.mac.String() {
				continue
			}
			d.say("%-4s  %-26s  %s", m.name, screen, n.Fingerprint)
			if n.Fingerprint != screen {
				return fmt.Errorf("the machine %s shows another fingerprint than it told the head: do not approve it", m.name)
			}
		}
	}
	return nil
}

// allowJobs says who submits the jobs. Where nobody called sudo that is root, to whom the demo's own cluster allows it.
func (d *demo) allowJobs(ctx context.Context) error {
	switch {
	case d.opts.User != nil:
		d.say("jobs are submitted as %s, who called sudo", orWord(d.opts.User.Name, fmt.Sprint(d.opts.User.UID)))
		return nil
	case os.Geteuid() != 0:
		return nil
	}
	d.say("$ muster config set root-jobs on      # jobs run as root in this demo: nobody called sudo")
	return d.muster(ctx, "", "config", "set", "root-jobs", "on")
}

// demoJob is a job of the demo, as a person types it and as it is run.
type demoJob struct {
	shown, stdin string
	args         []string
	status       int
	file         string // what it left behind, which is shown
}

// hasUserland says whether the image in a folder has a userland.
func hasUserland(dir string) bool {
	raw, err := os.ReadFile(filepath.Join(dir, "manifest.json"))
	if err != nil {
		return false
	}
	m, err := images.ParseManifest(dir, raw)
	if err != nil {
		return false
	}
	_, ok := m.Userland()
	return ok
}

// runJobs runs the jobs of the demo and checks what they say.
func (d *demo) runJobs(ctx context.Context) error {
	prime, err := payload("demo-prime")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(d.opts.Dir, "bin"), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(d.opts.Dir, "bin", "demo-prime"), prime, 0o755); err != nil {
		return err
	}
	jobs := []demoJob{
		{"muster run hostname", "", []string{"hostname"}, 0, ""},
		{"muster run -n 2 --spread -- uname -n -r -m", "", []string{"-n", "2", "--spread", "--", "uname", "-n", "-r", "-m"}, 0, ""},
		{`printf 'b\na\n' | muster run sort`, "b\na\n", []string{"sort"}, 0, ""},
		{"muster run python3 -c 'print(6*7)'", "", []string{"python3", "-c", "print(6*7)"}, 0, ""},
		{"muster run sh -c 'exit 7'; echo $?", "", []string{"sh", "-c", "exit 7"}, 7, ""},
		{
			"muster run --send ./bin/demo-prime -- ./bin/demo-prime 2000000", "",
			[]string{"--send", "./bin/demo-prime", "--", "./bin/demo-prime", "2000000"},
			0, "",
		},
		{
			"muster run -n 8 --prefix sh -c 'echo task $MUSTER_TASK of $MUSTER_TASKS'", "",
			[]string{"-n", "8", "--prefix", "sh", "-c", "echo task $MUSTER_TASK of $MUSTER_TASKS"},
			0, "",
		},
		{
			"muster run --send in.dat --fetch out.dat -- sh -c 'sort in.dat >out.dat'; cat out.dat", "",
			[]string{"--send", "in.dat", "--fetch", "out.dat", "--", "sh", "-c", "sort in.dat >out.dat"},
			0, "out.dat",
		},
	}
	if err := os.WriteFile(filepath.Join(d.opts.Dir, "in.dat"), []byte("pear\napple\n"), 0o644); err != nil {
		return err
	}
	if !hasUserland(d.opts.Image) {
		jobs = slices.DeleteFunc(jobs, func(j demoJob) bool { return j.args[0] == "python3" })
	}
	for _, j := range jobs {
		d.say("$ %s", j.shown)
		err := d.muster(ctx, j.stdin, append([]string{"run"}, j.args...)...)
		var exit *exec.ExitError
		switch {
		case err == nil && j.status == 0:
		case errors.As(err, &exit) && exit.ExitCode() == j.status:
			d.say("%d", j.status)
		default:
			return fmt.Errorf("%s: %w, want exit status %d", j.shown, err, j.status)
		}
		if j.file != "" {
			text, err := os.ReadFile(filepath.Join(d.opts.Dir, j.file))
			if err != nil {
				return fmt.Errorf("%s: %w", j.shown, err)
			}
			d.say("%s", bytes.TrimSpace(text))
		}
	}
	return d.runDetached(ctx)
}

// runDetached starts a job that goes on alone and looks at its output.
func (d *demo) runDetached(ctx context.Context) error {
	d.say("$ muster run -d --name count -- sh -c 'for i in 1 2 3; do echo $i; sleep 1; done'")
	var number bytes.Buffer
	cmd := d.command(ctx, "", "run", "-d", "--name", "count", "--", "sh", "-c", "for i in 1 2 3; do echo $i; sleep 1; done")
	cmd.Stdout = &number
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("starting a job with -d: %w", err)
	}
	job := strings.TrimSpace(number.String())
	d.say("%s\n$ muster job logs -f %s", job, job)
	return d.muster(ctx, "", "job", "logs", "-f", job)
}

// muster runs this program as a user of the demo's cluster would.
func (d *demo) muster(ctx context.Context, stdin string, args ...string) error {
	err := d.command(ctx, stdin, args...).Run()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// command is a call of this program, whose output is the demo's. Jobs are those of a user where the
// demo knows one.
func (d *demo) command(ctx context.Context, stdin string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, d.self, args...)
	cmd.Env = append(os.Environ(), "MUSTER_HEAD="+d.socket)
	cmd.Dir = d.opts.Dir
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), d.out, os.Stderr
	if u := d.opts.User; u != nil && args[0] == "run" {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: u.credential()}
		cmd.Env = append(cmd.Env, "HOME="+u.Home, "USER="+u.Name, "LOGNAME="+u.Name)
	}
	return cmd
}

// finish says what was seen and how to go on, and on a terminal waits.
func (d *demo) finish(ctx context.Context) error {
	d.say(`
Two machines without a disk booted over the network, one from BIOS and one from UEFI
firmware, both from one image, %s; they joined, were
approved, and ran jobs. On real machines, with eth1 the card to their network:
  muster build compute
  sudo muster head --interface eth1 --image compute
Then switch them on. docs/quickstart.md goes on from here.`, rel(d.opts.Image))
	d.shown.Store(true)
	if !d.opts.Keep {
		return nil
	}
	d.say(`
The cluster stays up until Ctrl-C. From a second terminal:
  export MUSTER_HEAD=%s
  %s run uname -a`, d.socket, d.self)
	if d.opts.Share == filepath.Join(d.opts.Dir, "share") { // else it is seen in here alone
		d.say("  cd %s && %s run ./prog data.txt", filepath.Join(d.opts.Share, "work"), d.self)
	}
	<-ctx.Done()
	return nil
}

// rel is a path as short as it can be written from here.
func rel(path string) string {
	wd, err := os.Getwd()
	if err != nil {
		return path
	}
	r, err := filepath.Rel(wd, path)
	if err != nil || strings.HasPrefix(r, "..") {
		return path
	}
	return r
}
