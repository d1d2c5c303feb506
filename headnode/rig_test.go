package headnode

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"muster/api"
	"muster/api/client"
	"muster/headnode/store"
	"muster/headnode/store/storetest"
)

// rig is a head with a fake fleet, spoken to over its Unix socket.
type rig struct {
	t      testing.TB
	dir    string
	sock   string
	store  store.Interface
	mem    *storetest.Mem
	fleet  *fakeFleet
	client *client.Client
	change func(*jobsConfig) // before a start; may be nil

	js   *jobs
	http *httpServer
	stop context.CancelFunc
	done chan struct{}
}

func newRig(t testing.TB, nodes ...string) *rig {
	t.Helper()
	r := newStoppedRig(t, nodes...)
	r.startHead()
	t.Cleanup(r.stopHead)
	return r
}

func newStoppedRig(t testing.TB, nodes ...string) *rig {
	t.Helper()
	// A socket's path is short; the folders of tests are not.
	short, err := os.MkdirTemp("", "muster")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(short) })
	mem := &storetest.Mem{}
	r := &rig{t: t, dir: t.TempDir(), sock: filepath.Join(short, "s"), store: mem, mem: mem, fleet: newFakeFleet(nodes...)}
	r.client, err = client.New(r.sock)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *rig) startHead() {
	r.t.Helper()
	log := slog.New(slog.DiscardHandler)
	if testing.Verbose() {
		log = slog.New(slog.NewTextHandler(r.t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	ev := &fakeEvents{}
	cfg := jobsConfig{
		Store: r.store, Fleet: r.fleet, Dir: filepath.Join(r.dir, "output"), Log: log,
		RetryEvery: 20 * time.Millisecond, Notify: func(e api.Event) { ev.Publish(e) },
		Allows: func(string) bool { return true }, // the tests run as root
	}
	if r.change != nil {
		r.change(&cfg)
	}
	js, err := newJobs(cfg)
	if err != nil {
		r.t.Fatal(err)
	}
	os.Remove(r.sock)
	ln, err := net.Listen("unix", r.sock)
	if err != nil {
		r.t.Fatal(err)
	}
	srv, err := newHTTP(httpConfig{
		Jobs: js, Events: ev, Unix: ln, Log: log, HeadUID: uint32(os.Getuid()),
		Nodes: fakeNodes{fleet: r.fleet}, Images: fakeImages{}, Settings: fakeSettings{}, Enroll: fakeEnroll{}, Boot: fakeBoot{},
		Status: func() api.Status { return api.Status{Version: "test"} },
	})
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r.js, r.http, r.stop, r.done = js, srv, cancel, make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() { js.Run(ctx) })
	wg.Go(func() { srv.Run(ctx) })
	go func() { wg.Wait(); close(r.done) }()
	r.fleet.attach(js)
}

func (r *rig) stopHead() {
	if r.stop == nil {
		return
	}
	r.fleet.attach(nil)
	r.stop()
	<-r.done
	r.stop = nil
}

func (r *rig) restartHead() {
	r.t.Helper()
	r.stopHead()
	r.startHead()
}

// result is what a run left.
type result struct {
	job  api.Job
	err  error
	out  bytes.Buffer
	errs bytes.Buffer
}

func (r *rig) run(spec api.JobSpec, opts client.RunOptions) *result {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	res := &result{}
	opts.Output = func(_ int, s api.Stream, b []byte) error {
		if s == api.Stderr {
			res.errs.Write(b)
		} else {
			res.out.Write(b)
		}
		return nil
	}
	res.job, res.err = r.client.Run(ctx, spec, opts)
	return res
}

func (r *rig) submit(spec api.JobSpec) api.Job {
	r.t.Helper()
	j, err := r.client.Submit(context.Background(), spec)
	if err != nil {
		r.t.Fatal(err)
	}
	return j
}

// until waits for a job to be as ok says.
func (r *rig) until(id uint64, what string, ok func(api.Job) bool) api.Job {
	r.t.Helper()
	end := time.Now().Add(20 * time.Second)
	for {
		j, err := r.client.Job(context.Background(), id)
		if err == nil && ok(j) {
			return j
		}
		if time.Now().After(end) {
			r.t.Fatalf("job %d never was %s: %+v, %v", id, what, j, err)
		}
		<-time.After(2 * time.Millisecond)
	}
}

func (r *rig) ended(id uint64) api.Job {
	r.t.Helper()
	return r.until(id, "ended", func(j api.Job) bool { return j.State.Ended() })
}

func (r *rig) running(id uint64) api.Job {
	r.t.Helper()
	return r.until(id, "running", func(j api.Job) bool { return j.State == api.JobRunning })
}

// fakeEvents keeps all events.
type fakeEvents struct {
	mu   sync.Mutex
	list []api.Event
	more chan struct{}
}

func (e *fakeEvents) Publish(ev api.Event) uint64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	ev.Revision = uint64(len(e.list) + 1)
	e.list = append(e.list, ev)
	if e.more != nil {
		close(e.more)
		e.more = nil
	}
	return ev.Revision
}

func (e *fakeEvents) Revision() uint64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	return uint64(len(e.list))
}

func (e *fakeEvents) Next(ctx context.Context, after uint64, n int) ([]api.Event, error) {
	for {
		e.mu.Lock()
		if int(after) < len(e.list) {
			evs := append([]api.Event(nil), e.list[after:min(len(e.list), int(after)+n)]...)
			e.mu.Unlock()
			return evs, nil
		}
		if e.more == nil {
			e.more = make(chan struct{})
		}
		more := e.more
		e.mu.Unlock()
		select {
		case <-more:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// The services of the node side: what a test does not use panics.
type (
	fakeNodes struct {
		nodeAdmin
		fleet *fakeFleet
	}
	fakeImages   struct{ imageStore }
	fakeSettings struct{ settings }
	fakeEnroll   struct{ enrollment }
	fakeBoot     struct{ bootDesk }
)

func (n fakeNodes) List() []api.Node {
	var out []api.Node
	for _, s := range n.fleet.Snapshot() {
		out = append(out, api.Node{ID: s.Name, Name: s.Name, State: api.NodeReady})
	}
	return out
}

// Expand implements nodeAdmin for single names; "waiting" is a machine.
func (n fakeNodes) Expand(list string) ([]api.Node, error) {
	if list == "waiting" {
		return nil, &api.Error{Code: api.CodePending, Msg: "machine waiting is pending and no node", Hint: "muster node approve waiting"}
	}
	x, err := n.Find(list)
	return []api.Node{x}, err
}

func (n fakeNodes) Find(ref string) (api.Node, error) {
	for _, x := range n.List() {
		if x.Name == ref {
			return x, nil
		}
	}
	return api.Node{}, &api.Error{Code: api.CodeNotFound, Msg: "there is no machine " + ref}
}

func (n fakeNodes) Approve(context.Context, string, api.ApproveRequest) ([]api.Node, error) {
	return n.List(), nil
}

func (fakeEnroll) Get() api.Enrollment { return api.Enrollment{Policy: "test"} }

func (fakeBoot) BootDecision(q api.BootQuery) api.BootDecision {
	return api.BootDecision{Answer: true, HostName: q.MAC}
}

// clientOutput are options of a run that hands its output to f.
func clientOutput(f func([]byte) error) client.RunOptions {
	return client.RunOptions{Output: func(_ int, _ api.Stream, b []byte) error { return f(b) }}
}
