package task

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"

	"muster/api"
)

// Config is what a [Manager] needs. Dir and Uplink are required.
type Config struct {
	Dir        string       // directory of the tasks' directories; it is made
	CgroupRoot string       // cgroup v2 directory; empty: no groups
	Init       string       // in-namespace init; empty: /usr/lib/muster/init, of the root where there is one
	Root       string       // folder that tasks see as /; empty: the node's root
	Shim       []string     // command of a shim; empty: this program, shim
	Max        int          // tasks held at a time; 0: 1024
	Uplink     Uplink       // way to the head
	Log        *slog.Logger // nil: no log

	// View returns what a task that starts now sees, or why none can start yet. Nil: the
	// node's root and nothing else.
	View func() (View, error)

	// Containers makes the node ready for a task that makes namespaces and mounts of its own,
	// before it starts. Nil: the node is.
	Containers func()
	// Changed is called when a task's status has changed in a way that people wait for. It
	// must not block. Nil: nobody asks.
	Changed func()
}

// Uplink is the way to the head. Its methods may be called from any goroutine,
// at any time; while the head is not reached they fail, which is not logged.
type Uplink interface {
	// Output sends a frame of a task's output (wire form, FrameOutput). The
	// answer comes through [Manager.OutputAcked]. frame is the caller's again
	// when Output returns.
	Output(ref api.TaskRef, frame []byte) error
	// Event sends a start or end. The answer comes through
	// [Manager.EventAcked]. Events of one task arrive in the order of the
	// calls.
	Event(ev api.TaskEvent) error
	// File reads a part of a file that was sent with a job, at most
	// api.MaxChunk bytes and not none unless the file is at its end.
	File(ctx context.Context, req api.FileRequest) ([]byte, error)
	// Put sends a piece of a file that a task's user wants back, and returns what the head
	// says. It waits for a head that is not reached.
	Put(ctx context.Context, piece api.FilePut) (api.Ack, error)
}

// defaultInit is where a userland has the in-namespace init.
const defaultInit = "/usr/lib/muster/init"

// init is the in-namespace init of a task that sees root as /.
func (c Config) init(root string) string {
	if c.Init != "" {
		return c.Init
	}
	return filepath.Join("/", root, defaultInit)
}

func (c Config) check() (Config, error) {
	if c.Dir == "" || c.Uplink == nil {
		return c, errors.New("task: Config.Dir or Config.Uplink is missing")
	}
	if !filepath.IsAbs(c.Dir) {
		return c, fmt.Errorf("task: directory %q is not absolute", c.Dir)
	}
	if c.View == nil {
		c.View = func() (View, error) { return View{}, nil }
	}
	if c.Changed == nil {
		c.Changed = func() {}
	}
	if len(c.Shim) == 0 {
		c.Shim = []string{"/proc/self/exe", "shim"}
	}
	if c.Max == 0 {
		c.Max = 1024
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c, nil
}
