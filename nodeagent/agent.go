package nodeagent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/sync/errgroup"

	"muster/api"
	"muster/nodeagent/task"
)

const (
	// A lost connection is tried again after retryAfter and up to
	// retryJitter more, so that a thousand nodes do not come at once.
	retryAfter  = 200 * time.Millisecond
	retryJitter = time.Second
	// handover is how long a head may take to notice that a connection was
	// ended in favor of a new one, which it refuses until then.
	handover = 2 * time.Second
	// joinEvery is how often a machine that waits asks again.
	joinEvery = 30 * time.Second
	// requestTimeout is how long the head may take to answer.
	requestTimeout = 10 * time.Second
)

// Agent is a machine's side of the cluster. Make one with [New].
type Agent struct {
	cfg   Config
	key   sessionKey
	log   *slog.Logger
	tasks *task.Manager
	speed *speedTest
	beats atomic.Uint64 // heartbeats that were sent
	news  chan struct{} // gets a token when the head should hear at once

	mu     sync.Mutex
	status Status
	link   *nats.Conn // carries the traffic of tasks; nil while not approved
	pin    string     // of the only head that is spoken to; "" until one was met
	head   string     // HOST:PORT of it, "" while none is known
	// contacts is how often a head was reached.
	contacts uint64
	// starting is how far a start of another image is, "" when there is none, and kexeced how the last one went.
	starting string
	kexeced  *api.KexecReport
	// saidPin is the pin that whoever told of the head said it has; "" for a head that was configured.
	saidPin string
	known   bool   // the head has approved this machine during this run
	name    string // that Named was told last

	configVersion uint64 // of what the head wants the node to be
	shared        bool   // its shares were all there once
	held          bool   // its userland was there
}

// New returns an agent with the session key of cfg.RunDir, which is made if
// there is none, and the tasks that an earlier agent has left there.
func New(cfg Config) (*Agent, error) {
	cfg, err := cfg.check()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(cfg.RunDir, 0o755); err != nil {
		return nil, fmt.Errorf("making directory of the agent: %w", err)
	}
	key, err := loadKey(cfg.RunDir)
	if err != nil {
		return nil, err
	}
	a := &Agent{
		cfg: cfg, key: key, log: cfg.Log, pin: cfg.Pin, head: cfg.Head, speed: newSpeedTest(), news: make(chan struct{}, 1),
	}
	a.kexeced = cfg.Kexeced
	if a.pin == "" {
		a.pin = rememberedPin(cfg.RunDir)
	}
	a.tasks, err = task.New(cfg.taskConfig(a, a.tellHead))
	if err != nil {
		return nil, err
	}
	if cfg.Shares != nil {
		cfg.Shares.Tell(a.staged)
	}
	a.status = Status{
		Phase: PhaseConnecting, Head: cfg.Head, Fingerprint: key.fingerprint,
		HeadFingerprint: api.FingerprintOfPin(a.pin), Pinned: cfg.Pin != "",
	}
	return a, nil
}

// Run keeps the machine connected until ctx is done. Tasks go on after it has
// returned, and the next agent of the same RunDir takes them over.
func (a *Agent) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return a.tasks.Run(ctx) })
	g.Go(func() error { a.speed.run(ctx); return nil })
	g.Go(func() error { a.stayConnected(ctx); return nil })
	if u := a.cfg.Userland; u != nil {
		g.Go(func() error { u.Run(ctx, a.staged); return nil })
	}
	if m := a.cfg.Shares; m != nil {
		g.Go(func() error { return m.Run(ctx) })
		g.Go(func() error {
			// The machine has asked to join by then: it is not kept from that.
			select {
			case <-a.speed.ready:
				m.Preload()
			case <-ctx.Done():
			}
			return nil
		})
	}
	if r := a.cfg.Services; r != nil {
		g.Go(func() error { r.Run(ctx, a.staged); return nil })
	}
	return g.Wait()
}

// staged shows a stage that has changed, on the screen and at the head.
func (a *Agent) staged() {
	a.startServices()
	a.retryShares()
	stage := a.stage()
	a.show(func(s *Status) { s.Stage = stage })
	a.tellHead()
}

// retryShares mounts what could not be before the userland was there.
func (a *Agent) retryShares() {
	if a.cfg.Shares == nil || a.cfg.Userland == nil || a.cfg.Userland.Held() == "" {
		return
	}
	a.mu.Lock()
	first := !a.held
	a.held = true
	a.mu.Unlock()
	if first {
		a.cfg.Shares.Retry()
	}
}

// tellHead makes the next heartbeat one of now.
func (a *Agent) tellHead() {
	select {
	case a.news <- struct{}{}:
	default:
	}
}

// startServices starts the services of the image, if this machine is a node and has its
// userland.
func (a *Agent) startServices() {
	if a.cfg.Services == nil || !a.wasApproved() {
		return
	}
	if view, err := a.cfg.taskView(); err == nil {
		a.cfg.Services.Start(view.Root)
	}
}

// errReconnect ends a session whose head asked for a new connection.
var errReconnect = errors.New("the head asks for a new connection")

func (a *Agent) stayConnected(ctx context.Context) {
	if a.cfg.Head == "" && a.cfg.Finder == nil {
		a.show(func(s *Status) {
			s.Phase = PhaseNoHead
			s.Reason = cmp.Or(a.cfg.NoHead, "no head is known; give muster.head=ADDRESS on the kernel command line")
		})
		<-ctx.Done()
		return
	}
	var last time.Time // of an immediate new connection
	look := search{lost: time.Now()}
	for ctx.Err() == nil {
		if a.target().addr == "" {
			a.findHead(ctx)
			look = search{lost: time.Now(), last: time.Now()}
			continue
		}
		reached := a.reached()
		err := a.session(ctx)
		wait := retryAfter + rand.N(retryJitter)
		if a.reached() != reached {
			look.lost = time.Now()
		}
		if errors.Is(err, errReconnect) && time.Since(last) > time.Second {
			last = time.Now()
			continue
		}
		if ctx.Err() != nil {
			return
		}
		if refusesKey(err) && time.Since(last) < handover {
			pause(ctx, handover/40)
			continue
		}
		head := a.target().addr
		a.log.Warn("not connected to the head", "head", head, "error", err)
		a.show(func(s *Status) {
			s.Phase, s.Reason, s.Message = PhaseConnecting, reason(head, err), ""
		})
		if a.cfg.Finder != nil && look.due(err, time.Now()) {
			look.last = time.Now()
			a.follow(ctx)
		}
		pause(ctx, wait)
	}
}

// reached is how often a head was reached.
func (a *Agent) reached() uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.contacts
}

// pause waits for d or the end of ctx.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// show changes the status, and the screen if that made a difference.
func (a *Agent) show(change func(*Status)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	before := a.status
	change(&a.status)
	if a.status != before && a.cfg.Screen != nil {
		a.cfg.Screen.Show(a.status)
	}
}

// Status returns what the screen shows.
func (a *Agent) Status() Status {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.status
}
