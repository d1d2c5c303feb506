package nodeagent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"time"

	"muster/api"
	"muster/nodeagent/mount"
	"muster/nodeagent/service"
	"muster/nodeagent/task"
	"muster/nodeagent/userland"
)

// Config is what an [Agent] needs. Only RunDir and Facts are required.
type Config struct {
	// Head is HOST:PORT of the head, or "" when none is known: the agent
	// then looks for one with Finder, or says so on its screen and waits.
	Head string
	// Pin is the SHA-256 of the head's public key in hexadecimal, as
	// [api.Pin] gives it. Empty: the first head that answers is remembered
	// in RunDir and no other is spoken to until the machine boots again.
	Pin string

	// Finder looks for heads: where Head is empty, and where the head of the known pin is out of
	// reach. Nil: the agent does not look.
	Finder Finder
	// NoHead is what the screen says where Head is empty: what a person can
	// do about it. Empty: a sentence about the kernel command line.
	NoHead string

	// RunDir keeps the session key and the tasks, /run/muster on a node. It
	// must be on a file system that ends with the boot.
	RunDir string
	// CgroupRoot is a directory of cgroup v2 in which tasks get their
	// groups, /sys/fs/cgroup on a node. Empty: tasks run without groups.
	CgroupRoot string
	// Init is the in-namespace init of tasks. Empty: /usr/lib/muster/init below
	// the root of tasks where they have one of their own, else that of this machine.
	Init string
	// Root is the folder that tasks see as /, such as a mounted userland. It
	// needs folders to mount on: dev, proc, sys, run, tmp. Empty: the root of
	// this machine.
	Root string
	// Userland brings the root of tasks from the head; none starts before it is
	// there. Nil: the image has no userland, or Root is it.
	Userland *userland.Holder
	// Shares keeps the shares of the node. Nil: it has none, and jobs that need
	// one do not start here.
	Shares *mount.Mounter
	// Services are started once the machine was approved and its userland is there; the node
	// takes tasks once all have passed their checks. Nil: there are none.
	Services *service.Runner
	// Shim is the command that runs [task.Shim] with the directory of a
	// task as its last argument. Empty: this program with argument shim.
	Shim []string
	// MaxTasks bounds the tasks that are held at a time. 0: 1024.
	MaxTasks int
	// Containers makes the machine ready for a task that makes namespaces and mounts of its
	// own. Nil: it is.
	Containers func()

	// Facts describes the machine for a join request: BootID, IP, Hardware,
	// Software, Uptime. The agent fills in the rest. Called from one
	// goroutine, at every join.
	Facts func() api.JoinRequest
	// Screen shows how far the machine is. Nil: nothing is shown.
	Screen Screen
	// Clock gets the head's time after every join. Nil: it is left alone.
	Clock Clock
	// Named is told the node's name when the head gives or changes it, before
	// any task starts. Nil: the host name is left alone.
	Named func(name string) error
	// KernelLog waits for lines of the kernel's log and returns them, at most
	// 100 at a time. It is called only while the head takes them. Nil: none
	// are sent. It returns an error only when it ends for good.
	KernelLog func(ctx context.Context) ([]api.KernelLine, error)
	// StartImage starts another image in the place of the one that runs, which it gets from
	// files, a base URL as in [api.JoinReply]. stage takes how far it is. Nil returned: the machine ends at any
	// moment. An error says why the machine goes on with what it runs; the end of ctx is one. Nil: the head is told that this
	// agent may not.
	StartImage func(ctx context.Context, b api.BootImage, files string, stage func(text string)) error
	// Kexeced tells that the machine came to what it runs by such a start. Nil: it did not.
	Kexeced *api.KexecReport
	// Reboot restarts the machine. Nil: the head is told that this agent
	// may not.
	Reboot func() error
	// Log may be nil.
	Log *slog.Logger

	view func() (task.View, error) // in place of what the above make; tests have one
}

// Screen is what shows a [Status] to a person before the machine.
type Screen interface {
	// Show replaces what was shown before. It must not block for long and
	// is called from one goroutine at a time.
	Show(Status)
}

// Clock is what sets the machine's clock.
type Clock interface {
	// Apply is told the head's time as of now: step the first time, slew from
	// then on.
	Apply(head time.Time)
}

// Phase is how far a machine is on its way to being a node.
type Phase string

// The phases.
const (
	PhaseNoHead     Phase = "no head"    // no head is known
	PhaseConnecting Phase = "connecting" // Reason says why it is not connected yet
	PhasePending    Phase = "pending"    // a person must approve it
	PhaseRejected   Phase = "rejected"   // a person has rejected it
	PhaseReady      Phase = "ready"      // it is a node
)

// Status is what a person before the machine should know.
type Status struct {
	Phase           Phase
	Name            string // of the node; empty before approval
	Head            string // HOST:PORT
	HeadFingerprint string // empty until a head has answered or when a pin is not known
	Pinned          bool   // HeadFingerprint comes from the image or command line, not from the network
	Fingerprint     string // of this machine's session key
	Message         string // from the head: what it waits for, what to type where
	Reason          string // why it is not connected, and what to try
	Stage           string // what a node still does before it can take tasks, or why it cannot
	Notice          string // what went wrong that a person should know of
	Tasks           int    // tasks that run here
}

// check fills in defaults.
func (c Config) check() (Config, error) {
	if c.Facts == nil {
		return c, errors.New("nodeagent: Config.Facts is missing")
	}
	if c.RunDir == "" {
		return c, errors.New("nodeagent: Config.RunDir is missing")
	}
	if c.Root != "" && c.Userland != nil {
		return c, errors.New("nodeagent: Config.Root and Config.Userland exclude each other")
	}
	if c.Head != "" {
		if _, _, err := net.SplitHostPort(c.Head); err != nil {
			return c, fmt.Errorf("reading address of the head %q: %w; want HOST:PORT", c.Head, err)
		}
	}
	c.Pin = strings.ToLower(c.Pin)
	if c.Pin != "" && !validPin(c.Pin) {
		return c, fmt.Errorf("reading pin of the head %q: want 64 hexadecimal digits", c.Pin)
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c, nil
}

// taskView is what a task that starts now sees, or why none can.
func (c Config) taskView() (task.View, error) {
	if c.view != nil {
		return c.view()
	}
	root, err := c.taskRoot()
	if err != nil {
		return task.View{}, err
	}
	v := task.View{Root: root}
	if c.Shares != nil {
		if v, err = c.Shares.View(root); err != nil {
			return v, err
		}
	}
	v.Files = etcFiles(c.RunDir)
	return v, nil
}

// taskRoot is what a task that starts now sees as its root.
func (c Config) taskRoot() (string, error) {
	if c.Userland == nil {
		return c.Root, nil
	}
	return c.Userland.Root()
}

// facts describes the machine as it is now.
func (c Config) facts() api.JoinRequest {
	req := c.Facts()
	req.Software = c.software(req.Software)
	return req
}

// software adds the userland to what the machine runs.
func (c Config) software(s api.Software) api.Software {
	if c.Userland != nil {
		s.Userland, s.UserlandWanted = c.Userland.Held(), c.Userland.Wanted()
		s.UserlandIn, s.UserlandFrom, s.UserlandBytes, s.UserlandStalled = c.Userland.Where()
	}
	return s
}

func (c Config) taskConfig(up task.Uplink, changed func()) task.Config {
	return task.Config{
		Dir:        filepath.Join(c.RunDir, "tasks"),
		CgroupRoot: c.CgroupRoot,
		Init:       c.Init,
		View:       c.taskView,
		Shim:       c.Shim,
		Max:        c.MaxTasks,
		Uplink:     up,
		Containers: c.Containers,
		Changed:    changed,
		Log:        c.Log,
	}
}
