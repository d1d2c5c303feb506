package task

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"muster/api"
)

// Manager holds the tasks of a node. Make one with [New].
type Manager struct {
	cfg     Config
	log     *slog.Logger
	cgroups cgroups
	begin   chan *remote  // tasks for Run to attend to
	uploads chan struct{} // holds a token for each task that brings files to the head
	spares  spares

	mu    sync.Mutex
	tasks map[api.TaskRef]*remote
	up    bool // the head takes output and events
}

// repeatEvery is how often events are looked through for those that the head
// did not acknowledge; repeatAfter is how long it may take.
const (
	repeatEvery = 2 * time.Second
	repeatAfter = 5 * time.Second
)

// New returns a manager that knows every task of cfg.Dir, as an earlier agent
// left them. [Manager.Run] attends to them.
func New(cfg Config) (*Manager, error) {
	cfg, err := cfg.check()
	if err != nil {
		return nil, err
	}
	old := unix.Umask(0o022)
	err = os.MkdirAll(cfg.Dir, 0o711)
	unix.Umask(old)
	if err != nil {
		return nil, fmt.Errorf("making directory of tasks: %w", err)
	}
	groups, err := newCgroups(cfg.CgroupRoot)
	if err != nil {
		cfg.Log.Warn("tasks run without cgroups", "error", err)
	}
	m := &Manager{
		cfg: cfg, log: cfg.Log, cgroups: groups,
		begin: make(chan *remote, cfg.Max+1), uploads: make(chan struct{}, uploads),
		tasks: map[api.TaskRef]*remote{},
	}
	m.spares.m = m
	if err := m.adopt(); err != nil {
		return nil, err
	}
	return m, nil
}

// adopt finds the tasks of an earlier agent.
func (m *Manager) adopt() error {
	entries, err := os.ReadDir(m.cfg.Dir)
	if err != nil {
		return fmt.Errorf("looking for tasks: %w", err)
	}
	for _, e := range entries {
		dir := filepath.Join(m.cfg.Dir, e.Name())
		ref, err := api.ParseTaskRef(e.Name())
		if err != nil {
			if strings.HasPrefix(e.Name(), "new-") { // not acknowledged yet
				os.RemoveAll(dir)
			}
			continue
		}
		sp, err := readSpec(dir)
		if err != nil || sp.Start.TaskRef != ref {
			m.log.Error("a task's directory cannot be understood", "task", ref, "error", err)
			continue
		}
		if len(m.begin) == cap(m.begin) {
			return fmt.Errorf("looking for tasks: there are more than %d in %s", m.cfg.Max, m.cfg.Dir)
		}
		r := newRemote(m, dir, sp)
		m.tasks[ref] = r
		m.begin <- r
	}
	return nil
}

// Run attends to tasks until ctx is done. The tasks themselves go on.
func (m *Manager) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { m.spares.run(ctx); return nil })
	repeat := time.NewTicker(repeatEvery)
	defer repeat.Stop()
	for {
		select {
		case r := <-m.begin:
			g.Go(func() error { r.run(ctx); return nil })
		case now := <-repeat.C:
			for _, r := range m.all() {
				r.repeatEvents(now.Add(-repeatAfter))
			}
		case <-ctx.Done():
			return g.Wait()
		}
	}
}

// Start takes a task on; how it goes is told by events. A task that is held
// already is left alone.
func (m *Manager) Start(t api.TaskStart) error {
	if err := checkStart(t); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.tasks[t.TaskRef]; ok {
		return nil
	}
	if len(m.tasks) >= m.cfg.Max {
		return &api.Error{
			Code: api.CodeUnavailable, Msg: fmt.Sprintf("node holds %d tasks already, which is its limit", m.cfg.Max),
			Hint: "start it elsewhere or wait until some have ended",
		}
	}
	r, err := m.create(t)
	if err != nil {
		return api.AsError(err)
	}
	m.tasks[t.TaskRef] = r
	m.weigh(t.Job)
	m.begin <- r // holds as many as there may be tasks
	return nil
}

// checkStart refuses what could never be started.
func checkStart(t api.TaskStart) error {
	invalid := func(format string, a ...any) error {
		return &api.Error{Code: api.CodeInvalid, Msg: fmt.Sprintf("starting task %s: ", t.TaskRef) + fmt.Sprintf(format, a...)}
	}
	if t.Index < 0 || t.Epoch < 0 {
		return invalid("its numbers are negative")
	}
	if len(t.Argv) == 0 || t.Argv[0] == "" {
		return invalid("there is no program to run")
	}
	if t.Host == "" || len(t.Host) > 64 {
		return invalid("host name %q must have 1 to 64 characters", t.Host)
	}
	for _, s := range slices.Concat(t.Argv, t.Env, []string{t.Host, t.Dir, t.Output, t.Errors}) {
		if s = api.DecodeText(s); strings.Contains(s, "\x00") {
			return invalid("%q has a zero byte", s)
		}
	}
	for _, l := range t.Limits {
		if !l.OfUsers() {
			return invalid("resource limit %d is the node's to set", l.Resource)
		}
	}
	if err := checkFetch(t.Fetch); err != nil {
		return err
	}
	return checkFiles(t.Files)
}

// checkPlaces refuses a task whose folder or files are in none of the node's shares.
func checkPlaces(t api.TaskStart, v View) error {
	for _, p := range []struct{ what, path string }{{"working directory", t.Dir}, {"output file", t.Output}, {"file for errors", t.Errors}} {
		path := api.DecodeText(p.path)
		if path == "" {
			continue
		}
		if _, shared := v.locate(path); !filepath.IsAbs(path) || path != filepath.Clean(path) || !shared {
			return &api.Error{Code: api.CodeInvalid, Msg: fmt.Sprintf("starting task %s: the %s %q is in no share of this node", t.TaskRef, p.what, path)}
		}
	}
	return nil
}

// create makes the directory of a task, as a whole or not at all.
func (m *Manager) create(t api.TaskStart) (*remote, error) {
	view, err := m.cfg.View()
	if err != nil {
		return nil, err
	}
	if err := checkPlaces(t, view); err != nil {
		return nil, err
	}
	if t.Containers && m.cfg.Containers != nil {
		m.cfg.Containers()
	}
	group, err := m.cgroups.make(t)
	if err != nil {
		return nil, err
	}
	sp := spec{Start: t, Init: m.cfg.init(view.Root), View: view, Cgroup: group}
	tmp := filepath.Join(m.cfg.Dir, "new-"+t.TaskRef.String())
	dir := filepath.Join(m.cfg.Dir, t.TaskRef.String())
	os.RemoveAll(tmp)
	if err := os.Mkdir(tmp, 0o711); err != nil {
		return nil, fmt.Errorf("making directory of task %s: %w", t.TaskRef, err)
	}
	err = writeJSON(filepath.Join(tmp, fileSpec), sp)
	if err == nil {
		err = os.Rename(tmp, dir)
	}
	if err != nil {
		os.RemoveAll(tmp)
		m.cgroups.remove(group)
		return nil, fmt.Errorf("making directory of task %s: %w", t.TaskRef, err)
	}
	return newRemote(m, dir, sp), nil
}

// weigh sets the weight of a job to the cores of its tasks here. m.mu is held.
func (m *Manager) weigh(job uint64) {
	cores := 0
	for ref, r := range m.tasks {
		if ref.Job == job {
			cores += r.spec.Start.Cores
		}
	}
	m.cgroups.weigh(job, cores)
}

// Input passes input on to a task. reply is called once, from any
// goroutine, when the task has taken it or has taken what it can for now; it
// may never be called when the task's shim is lost.
func (m *Manager) Input(c api.InputChunk, reply func(api.Ack)) error {
	if c.Offset < 0 || len(c.Data) > api.MaxInput {
		return &api.Error{Code: api.CodeInvalid, Msg: fmt.Sprintf("input for task %s: at most %d bytes at a position of 0 or more", c.TaskRef, api.MaxInput)}
	}
	r, err := m.find(c.TaskRef)
	if err != nil {
		return err
	}
	r.sendInput(c, reply)
	return nil
}

// Signal sends a signal to a task. One that has ended does not mind.
func (m *Manager) Signal(s api.TaskSignal) error {
	if s.Signal < 1 || s.Signal > 64 {
		return &api.Error{Code: api.CodeInvalid, Msg: fmt.Sprintf("signal %d does not exist", s.Signal), Hint: "signals are 1 to 64"}
	}
	r, err := m.find(s.TaskRef)
	if err != nil {
		return err
	}
	r.sendSignal(s.Signal)
	return nil
}

// Window tells a task with a terminal its new size. One without a terminal does not mind.
func (m *Manager) Window(w api.TaskWindow) error {
	r, err := m.find(w.TaskRef)
	if err != nil {
		return err
	}
	r.setWindow(w.Window)
	return nil
}

// Forget removes everything of a task that has ended.
func (m *Manager) Forget(ref api.TaskRef) error {
	r, err := m.find(ref)
	if err != nil {
		return err
	}
	return r.forget()
}

// OutputAcked takes the head's word that it has a task's output up to off.
func (m *Manager) OutputAcked(ref api.TaskRef, off int64) {
	if r, err := m.find(ref); err == nil {
		r.send(api.Frame{Type: api.FrameOutputAck, Offset: off})
	}
}

// EventAcked takes the head's word that it has a task's event of that state.
func (m *Manager) EventAcked(ref api.TaskRef, state api.JobState) {
	if r, err := m.find(ref); err == nil {
		r.eventAcked(state)
	}
}

// Link tells whether the head can be reached. Coming up, everything that it
// has not acknowledged is sent again.
func (m *Manager) Link(up bool) {
	m.mu.Lock()
	m.up = up
	m.mu.Unlock()
	for _, r := range m.all() {
		r.link(up)
	}
}

// Statuses lists every task that is held, in order.
func (m *Manager) Statuses() []api.TaskStatus {
	var list []api.TaskStatus
	for _, r := range m.all() {
		list = append(list, r.state())
	}
	slices.SortFunc(list, func(a, b api.TaskStatus) int {
		return cmp.Or(cmp.Compare(a.Job, b.Job), cmp.Compare(a.Index, b.Index), cmp.Compare(a.Epoch, b.Epoch))
	})
	return list
}

func (m *Manager) all() []*remote {
	m.mu.Lock()
	defer m.mu.Unlock()
	list := make([]*remote, 0, len(m.tasks))
	for _, r := range m.tasks {
		list = append(list, r)
	}
	return list
}

func (m *Manager) find(ref api.TaskRef) (*remote, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r, ok := m.tasks[ref]
	if !ok {
		return nil, &api.Error{Code: api.CodeNotFound, Msg: fmt.Sprintf("task %s is not on this node", ref)}
	}
	return r, nil
}

func (m *Manager) isUp() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.up
}

// roomForSent is roomForSent for the files of a task beside those of all others.
func (m *Manager) roomForSent(t api.TaskStart) error {
	if len(t.Files) == 0 {
		return nil
	}
	var tasks []api.TaskStart
	m.mu.Lock()
	for _, r := range m.tasks {
		tasks = append(tasks, r.spec.Start)
	}
	m.mu.Unlock()
	most, err := roomAt(m.cfg.Dir)
	if err != nil {
		return err
	}
	return roomForSent(tasks, most)
}

// gone removes what is left of a forgotten task.
func (m *Manager) gone(r *remote) {
	if err := errors.Join(removeWork(filepath.Join(r.dir, dirWork)), os.RemoveAll(r.dir)); err != nil {
		m.log.Error("a task's directory is left over", "task", r.ref, "error", err)
	}
	m.cgroups.remove(r.spec.Cgroup)
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.tasks, r.ref)
	m.weigh(r.ref.Job)
}

var errHeld = errors.New("another process holds it")
