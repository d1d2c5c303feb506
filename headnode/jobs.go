package headnode

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"muster/api"
	"muster/headnode/scheduler"
	"muster/headnode/store"
)

// jobsConfig is what [newJobs] needs.
type jobsConfig struct {
	Store  store.Interface
	Fleet  fleet
	Dir    string // STATE/output
	Log    *slog.Logger
	Now    clock           // nil: time.Now
	Notify func(api.Event) // nil: nobody watches; must not block
	// NodeTrouble says why a node is not heard ("n1 is unreachable since
	// 10:32"), "" when it is. nil: never. Called with a lock held: it must
	// not call this package's job side.
	NodeTrouble func(node string) string

	// Shares lists the paths of the cluster's shares. nil: there are none.
	Shares func() []string
	// Writable tells whether tasks may write to a share. nil: to all.
	Writable func(share string) bool

	// Allows tells whether a setting of the cluster that allows jobs something is on. nil:
	// none is.
	Allows func(setting string) bool

	MinFree      int64         // bytes of disk that output leaves free; 0: 64 MiB
	KeepBytes    int64         // output of ended jobs that is kept; 0: 8 GiB
	KeepJobs     int           // ended jobs whose output is kept; 0: 10,000
	ClientGone   time.Duration // a job whose client is not heard for so long is hung up; 0: 30 s
	KillAfter    time.Duration // from TERM to KILL of a canceled job; 0: 5 s
	RetryEvery   time.Duration // between tries to reach a node or the disk; 0: 1 s
	ArchiveAfter time.Duration // an ended job leaves the records after this; 0: 10 s
}

func (c *jobsConfig) setDefaults() {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	for _, d := range []struct {
		p *time.Duration
		v time.Duration
	}{{&c.ClientGone, 30 * time.Second}, {&c.KillAfter, 5 * time.Second}, {&c.RetryEvery, time.Second}, {&c.ArchiveAfter, 10 * time.Second}} {
		if *d.p == 0 {
			*d.p = d.v
		}
	}
	if c.KeepBytes == 0 {
		c.KeepBytes = 8 << 30
	}
	if c.KeepJobs == 0 {
		c.KeepJobs = 10000
	}
}

// requestTimeout bounds one message to a node.
const requestTimeout = 10 * time.Second

// jobs is the job side of a head: it accepts jobs, finds nodes for their
// tasks, keeps their records and output, and tells their users. It
// implements taskSink. All methods may be called from any goroutine; none
// of them works before the records were read by [newJobs], and starts are sent
// only while [jobs.Run] runs.
type jobs struct {
	cfg     jobsConfig
	out     *outputs
	blobs   *jobBlobs
	fetched *fetched
	todo    *workQueue
	place   chan struct{} // capacity 1: look at the queue

	mu         sync.Mutex // guards all below; taken before outputs.mu, taskLog.mu, feed.mu and relay.mu
	jobs       map[uint64]*job
	lastID     uint64
	waiting    []*job // with queued tasks, by id
	requests   map[requestKey]uint64
	nodes      map[string]*nodeUse
	rec        *recorder
	starting   map[logKey]*startTry // placed, not known to run
	endDurable map[logKey]struct{}  // ended tasks whose end is recorded, until the node forgot them
	history    *jobHistory
}

type requestKey struct {
	uid uint32
	id  string
}

// nodeUse is what this head has placed on a node.
type nodeUse struct {
	boot  string // first digits of its boot id; "" while it was not heard
	tasks map[logKey]struct{}
	cores int
	mem   int64
	// trouble is why it was not heard when tellTrouble looked last.
	trouble string
}

// startTry is a start that has not been confirmed.
type startTry struct {
	flying bool // a message is under way
	next   time.Time
}

// newJobs reads the records and returns the job side, which does not run yet.
func newJobs(cfg jobsConfig) (*jobs, error) {
	cfg.setDefaults()
	js := &jobs{
		cfg: cfg, todo: newWorkQueue(), place: make(chan struct{}, 1),
		requests: map[requestKey]uint64{}, nodes: map[string]*nodeUse{}, rec: newRecorder(),
		starting: map[logKey]*startTry{}, endDurable: map[logKey]struct{}{},
	}
	var err error
	js.out, err = newOutputs(outputsConfig{
		Dir: cfg.Dir, Log: cfg.Log, MinFree: cfg.MinFree, Appended: js.appended, Stuck: js.stuck, Synced: js.synced, Loose: js.loose,
	})
	if err != nil {
		return nil, err
	}
	js.fetched = newFetched(js.out)
	if js.blobs, err = newJobBlobs(cfg.Dir, cfg.Now); err != nil {
		return nil, err
	}
	js.blobs.room = js.out.room
	if js.jobs, js.lastID, err = loadJobs(cfg.Store); err != nil {
		return nil, err
	}
	if js.history, err = loadHistory(cfg.Store); err != nil {
		return nil, err
	}
	js.lastID = max(js.lastID, js.history.lastID)
	if err := js.sweepRecords(context.Background()); err != nil {
		return nil, err
	}
	for _, kind := range []string{kindJob, kindJobSpec, kindTasks} {
		for _, r := range cfg.Store.List(kind) {
			js.rec.revs[kind+"/"+r.ID] = r.Rev
		}
	}
	for _, e := range js.history.recent {
		if e.RequestID != "" {
			js.requests[requestKey{e.UID, e.RequestID}] = e.ID
		}
	}
	for _, j := range js.jobs {
		js.adopt(j)
	}
	js.sortWaiting()
	js.wakePlace()
	return js, nil
}

// adopt books a job that was read from its records.
func (js *jobs) adopt(j *job) {
	now := js.cfg.Now()
	j.heard = now // time without a head does not count
	js.equip(j)
	if j.canceling && !j.state.Ended() {
		j.killAt = now.Add(js.cfg.KillAfter)
	}
	if j.spec.RequestID != "" {
		js.requests[requestKey{j.owner.UID, j.spec.RequestID}] = j.id
	}
	if j.queued > 0 {
		js.waiting = append(js.waiting, j)
	}
	for i := range j.tasks {
		k := logKey{j.id, i}
		switch t := &j.tasks[i]; {
		case t.active():
			js.book(k, j, t)
			if t.phase == phasePlaced {
				js.starting[k] = &startTry{}
			}
			if t.phase == phaseRunning {
				js.feedInput(j, i)
			}
		case t.phase == phaseEnded:
			js.endDurable[k] = struct{}{}
		}
	}
	js.blobs.hold(j.owner.UID, j.spec.Files)
}

// equip gives a job what is not recorded.
func (js *jobs) equip(j *job) {
	j.feed = &feed{}
	if j.spec.Stdin {
		j.relay = newRelay(len(j.tasks), j.feed)
		for i := 1; j.spec.StdinFirst && i < len(j.tasks); i++ {
			j.relay.shut(i)
		}
	}
}

// Run does the work until ctx is done. All its goroutines have ended when it
// returns. Output and records are durable then as far as they were
// acknowledged.
func (js *jobs) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return js.out.Run(ctx) })
	g.Go(func() error { return js.record(ctx) })
	g.Go(func() error { return js.todo.run(ctx) })
	g.Go(func() error { return js.placing(ctx) })
	g.Go(func() error { return js.ticking(ctx) })
	g.Go(func() error { return js.archiving(ctx) })
	return g.Wait()
}

func (js *jobs) wakePlace() {
	select {
	case js.place <- struct{}{}:
	default:
	}
}

// placing looks at the queue whenever a node or the queue changed.
func (js *jobs) placing(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-js.place:
		case <-js.cfg.Fleet.Changed():
		}
		nodes := js.cfg.Fleet.Snapshot()
		js.mu.Lock()
		js.placeQueued(nodes)
		js.mu.Unlock()
	}
}

// ticking looks once a second at what is due by time.
func (js *jobs) ticking(ctx context.Context) error {
	t := time.NewTicker(min(time.Second, js.cfg.RetryEvery))
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
			js.tick(js.cfg.Now())
		}
	}
}

// tellTrouble tells those who follow jobs that a node with tasks of theirs is not heard any more, or is again. js.mu
// is held.
func (js *jobs) tellTrouble() {
	if js.cfg.NodeTrouble == nil {
		return
	}
	for name, u := range js.nodes {
		if len(u.tasks) == 0 && u.trouble == "" {
			continue
		}
		why := js.cfg.NodeTrouble(name)
		if why == u.trouble {
			continue
		}
		u.trouble = why
		for k := range u.tasks {
			js.jobs[k.job].feed.changed()
		}
	}
}

// tick sends starts again, records what had no haste, kills what did not end
// on TERM and hangs up what has no client.
func (js *jobs) tick(now time.Time) {
	js.mu.Lock()
	defer js.mu.Unlock()
	for k := range js.starting {
		js.sendStart(k, now)
	}
	if len(js.rec.dirty) > 0 {
		js.rec.now()
	}
	js.tellTrouble()
	for _, j := range js.jobs {
		if j.state.Ended() {
			continue
		}
		for i := 0; j.spec.EachNode && i < len(j.tasks); i++ {
			js.giveUp(j, i)
		}
		if !j.killAt.IsZero() && !now.Before(j.killAt) {
			j.killAt = now.Add(js.cfg.KillAfter)
			if j.insist(js.cfg.KillAfter) {
				js.rec.note(j, -1)
			}
			js.signalRunning(j, sigKill)
		}
		if !j.spec.Detached && !j.hungUp && now.Sub(j.heard) > js.cfg.ClientGone {
			js.hangUp(j, now)
		}
	}
}

// hangUp tells the tasks of a job that nobody listens to them; those that did
// not start yet never will.
func (js *jobs) hangUp(j *job, now time.Time) {
	j.hungUp = true
	js.cfg.Log.Info("client gone", "job", j.id)
	js.signalRunning(j, sigHup)
	if j.queued == len(j.tasks) {
		js.cancelLocked(j, fmt.Sprintf("its client was not heard for %v", js.cfg.ClientGone), now)
	}
}

// mutate changes task i of j by f and keeps the books of its node.
func (js *jobs) mutate(j *job, i int, f func() bool) bool {
	t := &j.tasks[i]
	k := logKey{j.id, i}
	was, ended := t.active(), t.phase == phaseEnded
	before := *t
	if !f() {
		return false
	}
	switch {
	case was && !t.active():
		js.unbook(k, j, &before)
	case !was && t.active():
		js.book(k, j, t)
	}
	if t.phase != phasePlaced {
		delete(js.starting, k)
	}
	js.rec.note(j, i)
	if !ended && t.phase == phaseEnded {
		js.rec.batch.ended = append(js.rec.batch.ended, k)
		if j.relay != nil {
			j.relay.shut(i)
		}
		js.wakePlace()
	}
	return true
}

func (js *jobs) use(node string) *nodeUse {
	u := js.nodes[node]
	if u == nil {
		u = &nodeUse{tasks: map[logKey]struct{}{}}
		js.nodes[node] = u
	}
	return u
}

func (js *jobs) book(k logKey, j *job, t *task) {
	u := js.use(t.node)
	u.tasks[k] = struct{}{}
	u.cores += j.cores()
	u.mem += j.spec.MemMiB
}

func (js *jobs) unbook(k logKey, j *job, t *task) {
	u := js.use(t.node)
	delete(u.tasks, k)
	u.cores -= j.cores()
	u.mem -= j.spec.MemMiB
}

// errNotDelivered may be wrapped by what fleet.Request returns: the message
// surely did not reach the node.
var errNotDelivered = errors.New("nothing was sent")

// rollBack forgets a job whose submission could not be recorded.
func (js *jobs) rollBack(j *job) {
	for i := range j.tasks {
		if t := &j.tasks[i]; t.active() {
			js.unbook(logKey{j.id, i}, j, t)
		}
	}
	delete(js.jobs, j.id)
	delete(js.requests, requestKey{j.owner.UID, j.spec.RequestID})
	js.waiting = deleteJob(js.waiting, j)
	js.blobs.release(j.spec.Files)
}

// placeQueued places what fits now. js.mu is held; nodes may be a moment old.
func (js *jobs) placeQueued(nodes []scheduler.Node) {
	queue := js.requestsOf(nodes)
	if len(queue) == 0 {
		return
	}
	res := scheduler.Place(js.overlay(nodes), queue)
	for _, p := range res.Placed {
		j := js.jobs[p.Job]
		js.mutate(j, p.Task, func() bool {
			j.place(p.Task, p.Node, js.use(p.Node).boot, p.Why)
			return true
		})
		js.rec.batch.starts = append(js.rec.batch.starts, startKey{logKey{p.Job, p.Task}, j.tasks[p.Task].epoch})
	}
	for _, w := range res.Waiting {
		if j := js.jobs[w.Job]; j.waits != w.Why {
			j.waits = w.Why
			j.feed.changed()
		}
	}
	if len(res.Placed) > 0 {
		js.rec.now()
	}
	js.sortWaiting()
}

// queueDepth is how many jobs of the queue are looked at in one go.
const queueDepth = 2000

func (js *jobs) requestsOf(nodes []scheduler.Node) []scheduler.Request {
	var queue []scheduler.Request
	for _, j := range js.waiting[:min(len(js.waiting), queueDepth)] {
		r := scheduler.Request{Job: j.id, Cores: j.spec.Cores, MemMiB: j.spec.MemMiB, Spread: j.spec.Spread, On: onNodes(j.on, nodes), Shares: js.sharesOf(j)}
		for i := range j.tasks {
			switch t := &j.tasks[i]; {
			case t.phase == phaseQueued:
				r.Tasks = append(r.Tasks, i)
			case t.active():
				if j.spec.Spread {
					r.Used = append(r.Used, t.node)
				}
			}
		}
		if len(r.Tasks) > 0 {
			queue = append(queue, r)
		}
	}
	return queue
}

// overlay fills in what this head itself has placed: it counts at once, and
// so does memory that was asked for and is not used yet.
func (js *jobs) overlay(nodes []scheduler.Node) []scheduler.Node {
	out := make([]scheduler.Node, len(nodes))
	for i, n := range nodes {
		if u := js.nodes[n.Name]; u != nil {
			n.Running, n.MemPlaced = u.cores, u.mem
			if u.mem > 0 {
				for k := range u.tasks {
					j := js.jobs[k.job]
					n.MemFree -= max(0, j.spec.MemMiB-j.tasks[k.index].used)
				}
			}
		} else {
			n.Running, n.MemPlaced = 0, 0
		}
		out[i] = n
	}
	return out
}
