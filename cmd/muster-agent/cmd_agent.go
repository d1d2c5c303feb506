package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"muster/api"
	"muster/nodeagent"
	"muster/nodeagent/boot"
	"muster/nodeagent/mount"
	"muster/nodeagent/service"
	"muster/nodeagent/task"
	"muster/nodeagent/userland"
)

// headPort is where a head listens for agents, see docs/ports.md.
const headPort = "7421"

// agentRunDir is where an agent keeps what ends with the boot.
const agentRunDir = "/run/muster"

// agentMain is the agent. On a machine that was booted by muster's PID 1 it
// owns the network, the clock, the host name and the consoles; on any other
// system it leaves them alone.
func agentMain(args []string, stderr io.Writer) error {
	params := boot.ReadParams("/")
	f := flag.NewFlagSet("muster-agent agent", flag.ContinueOnError)
	f.SetOutput(stderr)
	head := f.String("head", params.Head, "address of the head, HOST or HOST:PORT")
	pin := f.String("pin", params.Pin, "SHA-256 of the head's public key, in hexadecimal")
	runDir := f.String("run", agentRunDir, "folder that keeps the session key and the tasks; it must end with the boot")
	cgroups := f.String("cgroup", "", "cgroup v2 folder for tasks (default: /sys/fs/cgroup on a machine that muster booted, else none)")
	initPath := f.String("init", "", "first process of a task's namespaces (default /usr/lib/muster/init, of the userland where there is one)")
	root := f.String("userland", "", "folder that tasks see as their root, such as a mounted userland.sqfs (default: the userland of the image that muster booted, else this machine's root)")
	owned := boot.Owned()
	shares := f.Bool("shares", owned, "mount the shares of the head (default: on a machine that muster booted)")
	if err := f.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return err
		}
		return errUsage
	}
	log := slog.New(slog.NewTextHandler(stderr, nil))
	if owned {
		log = boot.NewLog("muster-agent")
		if *cgroups == "" {
			*cgroups = "/sys/fs/cgroup"
		}
	}
	task.Protect()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()

	machine := &machine{params: params, head: headAddress(*head), log: log, mounted: make(chan struct{})}
	cfg := nodeagent.Config{
		Head:       machine.head,
		Pin:        *pin,
		RunDir:     *runDir,
		CgroupRoot: *cgroups,
		Init:       *initPath,
		Finder:     machine,
		NoHead:     noHead(params),
		Root:       *root,
		Facts:      machine.facts,
		Log:        log,
	}
	if owned {
		machine.cameByKexec(&cfg)
	}
	if owned && *root == "" {
		cfg.Userland = machine.userland(*runDir)
	}
	if *shares {
		var err error
		if cfg.Shares, err = nodeShares(*runDir, cfg.Userland, log); err != nil {
			return err
		}
	}
	if owned {
		cfg.Containers = shareFuse
		var err error
		if cfg.Services, err = imageServices(*runDir, *cgroups, log); err != nil {
			return err
		}
	}
	if !owned {
		cfg.Screen = logScreen{log}
		agent, err := nodeagent.New(cfg)
		if err != nil {
			return err
		}
		return agent.Run(ctx)
	}
	return machine.run(ctx, cfg)
}

// run is the agent of a machine that muster booted: the screen at once, the
// network, and as soon as there is an address the rest.
func (m *machine) run(ctx context.Context, cfg nodeagent.Config) error {
	screen := boot.NewScreen(boot.ScreenConfig{Consoles: m.params.Consoles, Log: m.log})
	m.display = newDisplay(screen, m.params.Problems)
	m.display.medium = boot.MediumText(m.params)
	hw := boot.ReadHardware("/", m.params.BootMAC)

	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { screen.Run(ctx); return nil })
	online := make(chan struct{})
	network, err := boot.NewNetwork(boot.NetworkConfig{
		BootMAC:  m.params.BootMAC,
		UUID:     hw.UUID,
		HostName: boot.HostName,
		Changed: func(l *boot.Lease) {
			m.setLease(l)
			if l != nil && online != nil {
				close(online)
				online = nil
			}
		},
		Waiting: m.display.network,
		Log:     m.log,
	})
	if err != nil {
		return err
	}
	g.Go(func() error { m.moreDrivers(ctx); return nil })
	ready := online
	g.Go(func() error { return network.Run(ctx) })
	g.Go(func() error {
		cfg.Screen = m.display
		cfg.Clock = &clock{log: m.log}
		cfg.Named = boot.SetHostName
		cfg.Reboot = boot.Reboot
		cfg.StartImage = m.startImage(cfg.RunDir)
		kernelLog, err := boot.OpenKernelLog(boot.KernelLogConfig{State: cfg.RunDir + "/kmsg"})
		if err != nil {
			m.log.Error("the kernel's log is not sent", "err", err)
		} else {
			defer kernelLog.Close()
			cfg.KernelLog = kernelLog.Next
		}
		agent, err := nodeagent.New(cfg)
		if err != nil {
			return err
		}
		m.display.Show(agent.Status())
		select {
		case <-ctx.Done():
			return nil
		case <-ready:
		}
		return agent.Run(ctx)
	})
	return g.Wait()
}

// nodeShares keeps the shares of the machine. The kernel's NFS client may be among the modules
// that come with the userland.
func nodeShares(runDir string, u *userland.Holder, log *slog.Logger) (*mount.Mounter, error) {
	return mount.New(mount.Config{
		Dir: runDir + "/shares", Log: log,
		Modprobe: func(name string) error {
			if _, err := os.Stat("/sys/module/" + name); err == nil {
				return nil // it is there
			}
			whole := u == nil
			if u != nil {
				_, err := u.Root()
				whole = err == nil
			}
			if err := exec.Command("/sbin/modprobe", "-q", name).Run(); err != nil && !whole {
				return errors.New("it waits for the userland")
			}
			return nil // what is missing the mount says
		},
	})
}

// shareFuse lets every user open /dev/fuse, as udev does elsewhere: only tasks to which containers are
// allowed have it in their /dev.
func shareFuse() {
	_ = exec.Command("/sbin/modprobe", "-q", "fuse").Run() // it may be built in, or nowhere: then a task finds none
	_ = os.Chmod("/dev/fuse", 0o666)
}

// imageServices are the services of the image that the machine was booted from; nil: it has
// none.
func imageServices(runDir, cgroups string, log *slog.Logger) (*service.Runner, error) {
	setup, err := boot.ReadSetup("/")
	if err == nil && len(setup.Services) == 0 {
		return nil, nil
	}
	return service.New(service.Config{Services: setup.Services, Problem: err, RunDir: runDir + "/services", CgroupRoot: cgroups, Log: log})
}

// clock gives the machine's clock the head's time.
type clock struct {
	clock boot.Clock
	log   *slog.Logger
}

// Apply implements nodeagent.Clock.
func (c *clock) Apply(head time.Time) {
	off, err := c.clock.Apply(head)
	switch {
	case err != nil:
		c.log.Warn("clock not set", "err", err)
	case off.Abs() > time.Second:
		c.log.Info("clock set", "behind", off)
	}
}

// noHead says what a person can do where no head is known. "": what the agent says.
func noHead(p boot.Params) string {
	switch boot.Medium(p) {
	case "iso", "usb":
		return "write its address to the medium with: muster personalize FILE --head ADDRESS --pin PIN"
	case "uki":
		return "put its address under site: in the definition and build the image again, " +
			"or, if it is not signed, write it into the file with: muster personalize FILE --head ADDRESS --pin PIN"
	}
	return ""
}

// headAddress adds the agents' port where the address has none.
func headAddress(s string) string {
	if s == "" {
		return ""
	}
	if _, _, err := net.SplitHostPort(s); err == nil {
		return s
	}
	return net.JoinHostPort(strings.Trim(s, "[]"), headPort)
}

// outgoingIP is the address that this system uses towards the head; empty if
// there is no route. Nothing is sent.
func outgoingIP(head string) string {
	conn, err := net.Dial("udp", head)
	if err != nil {
		return ""
	}
	defer conn.Close()
	host, _, err := net.SplitHostPort(fmt.Sprint(conn.LocalAddr()))
	if err != nil {
		return ""
	}
	return host
}

// facts describes the machine for a join request.
func (m *machine) facts() api.JoinRequest {
	software := boot.ReadSoftware("/", m.params)
	software.Agent = version()
	software.Protocol = api.Protocol
	return api.JoinRequest{
		BootID:   boot.BootID("/"),
		IP:       m.address(),
		Hardware: boot.ReadHardware("/", m.params.BootMAC),
		Software: software,
		Uptime:   boot.Uptime().Seconds(),
	}
}
