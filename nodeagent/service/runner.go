package service

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"muster/api"
)

// Values of [api.NodeService.Restart] and [api.NodeService.In].
const (
	restartAlways = "always"
	restartNever  = "never"
	inUserland    = "userland"
)

// Config is what a [Runner] needs. Services and RunDir are required.
type Config struct {
	Services []api.NodeService
	// Problem is why the services are not known. Then none is started, and the node is not fit.
	Problem error
	// RunDir is a folder of the services' own, on a file system that ends with the boot.
	RunDir string
	// CgroupRoot is a directory of cgroup v2 in which services get their groups. Empty: they
	// run without groups, and an agent that starts again does not find them.
	CgroupRoot string
	// ResolvConf is copied into the root of services of the userland. Empty: /etc/resolv.conf.
	ResolvConf string
	Log        *slog.Logger // nil: no log

	timing timing // zero: the usual ones
}

// timing is how long things take; tests have their own.
type timing struct {
	settle     time.Duration // a service without a check that ran for so long has passed
	firstCheck time.Duration // pause between checks until the first one passes, if Every is not shorter
	backoffMin time.Duration // before a service is started again, twice as long each time
	backoffMax time.Duration
	stable     time.Duration // that long running makes its next end the first one
}

func usualTiming() timing {
	return timing{time.Second, time.Second, time.Second, time.Minute, time.Minute}
}

// Runner runs the services of a node. Make one with [New].
type Runner struct {
	cfg     Config
	log     *slog.Logger
	time    timing
	started chan struct{} // closed by Start
	// mounting is held while the root of services is made.
	mounting sync.Mutex

	mu      sync.Mutex
	root    string // of services in the userland; set before started is closed
	states  []state
	changed func()
}

// state is what is known of one service.
type state struct {
	begun  bool   // it was its turn
	passed bool   // its check has passed at least once
	why    string // why its check does not pass; "": it does
}

// New checks cfg and returns a runner that has started nothing yet.
func New(cfg Config) (*Runner, error) {
	if cfg.RunDir == "" {
		return nil, errors.New("service: Config.RunDir is missing")
	}
	r := &Runner{cfg: cfg, log: cfg.Log, time: cfg.timing, started: make(chan struct{}), states: make([]state, len(cfg.Services))}
	if r.log == nil {
		r.log = slog.New(slog.DiscardHandler)
	}
	if r.time == (timing{}) {
		r.time = usualTiming()
	}
	for _, s := range cfg.Services {
		if s.Name == "" || s.Name != filepath.Base(s.Name) || len(s.Command) == 0 {
			return nil, fmt.Errorf("service %q: name or command cannot be used", s.Name)
		}
	}
	return r, nil
}

// Start lets Run begin. root is the folder that the userland is mounted on, "" for none.
// To call it again changes nothing.
func (r *Runner) Start(root string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	select {
	case <-r.started:
	default:
		r.root = root
		close(r.started)
	}
}

// Run starts the services and watches them until ctx is done. changed is called whenever
// [Runner.Stage] may say something else. Services go on when Run has returned: whoever ends
// the machine ends them.
func (r *Runner) Run(ctx context.Context, changed func()) {
	r.mu.Lock()
	r.changed = changed
	r.mu.Unlock()
	select {
	case <-ctx.Done():
		return
	case <-r.started:
	}
	if err := os.MkdirAll(r.cfg.RunDir, 0o700); err != nil {
		r.log.Error("services not started", "err", err)
		return
	}
	var work sync.WaitGroup
	defer work.Wait()
	for i := range r.cfg.Services {
		r.set(i, func(st *state) { st.begun, st.why = true, "starting" })
		passed := make(chan struct{})
		s := &supervised{
			r: r, i: i, NodeService: r.cfg.Services[i], log: r.log.With("service", r.cfg.Services[i].Name), passed: passed,
			poke: make(chan struct{}, 1),
		}
		work.Go(func() { s.run(ctx) })
		select {
		case <-ctx.Done():
			return
		case <-passed:
		}
	}
}

// Stage says for people what the node still waits for, or what makes it unfit: of the services
// in their order the first that has not passed its check yet, or that is required and does
// not pass now. Empty: the node is fit.
func (r *Runner) Stage() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.cfg.Problem != nil {
		return "services: " + r.cfg.Problem.Error()
	}
	for i, s := range r.cfg.Services {
		st := r.states[i]
		switch {
		case !st.passed:
			return "service " + s.Name + ": " + cmp.Or(st.why, "waiting")
		case s.Required && st.why != "":
			return "service " + s.Name + ": " + st.why
		}
	}
	return ""
}

// set changes what is known of service i and tells whoever wants to know.
func (r *Runner) set(i int, change func(*state)) {
	r.mu.Lock()
	before := r.states[i]
	change(&r.states[i])
	changed := r.changed
	if r.states[i] == before {
		changed = nil
	}
	r.mu.Unlock()
	if changed != nil {
		changed()
	}
}

// userland is the folder that the userland is mounted on.
func (r *Runner) userland() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.root
}
