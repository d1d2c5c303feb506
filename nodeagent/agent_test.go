package nodeagent

import (
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"muster/api"
)

// screen remembers what it showed.
type screen struct {
	mu      sync.Mutex
	changed *sync.Cond
	shown   []Status
}

func newScreen() *screen {
	s := &screen{}
	s.changed = sync.NewCond(&s.mu)
	return s
}

func (s *screen) Show(st Status) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.shown = append(s.shown, st)
	s.changed.Broadcast()
}

// wait blocks until the screen shows what is wanted.
func (s *screen) wait(t *testing.T, what string, want func(Status) bool) Status {
	t.Helper()
	expired := false
	timer := time.AfterFunc(60*time.Second, func() {
		s.mu.Lock()
		expired = true
		s.changed.Broadcast()
		s.mu.Unlock()
	})
	defer timer.Stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		if n := len(s.shown); n > 0 && want(s.shown[n-1]) {
			return s.shown[n-1]
		}
		if expired {
			t.Fatalf("waited 60 s for %s; the screen showed %+v", what, s.shown)
		}
		s.changed.Wait()
	}
}

func inPhase(p Phase) func(Status) bool { return func(s Status) bool { return s.Phase == p } }

// startAgent runs an agent that no head has approved.
func startAgent(t *testing.T, cfg Config) (*Agent, *screen, func()) {
	t.Helper()
	s := newScreen()
	if cfg.RunDir == "" {
		cfg.RunDir = runDir(t)
	}
	cfg.Screen = s
	if cfg.Facts == nil {
		cfg.Facts = testFacts
	}
	a, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	stop := runAgent(t, a)
	t.Cleanup(stop)
	return a, s, stop
}

func TestJoin(t *testing.T) {
	h := newFakeHead(t)
	var names []string
	clock := &fakeClock{}
	lines := make(chan []api.KernelLine, 1)
	lines <- []api.KernelLine{{Micro: 1, Priority: 6, Text: "Linux version"}, {Micro: 2, Priority: 3, Text: "oops"}}
	a, s, _ := startAgent(t, Config{
		Head: h.addr, Pin: h.pin(), Clock: clock,
		Named: func(name string) error { names = append(names, name); return nil },
		KernelLog: func(ctx context.Context) ([]api.KernelLine, error) {
			select {
			case l := <-lines:
				return l, nil
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		},
	})
	got := s.wait(t, "pending", inPhase(PhasePending))
	want := Status{
		Phase: PhasePending, Head: h.addr, HeadFingerprint: api.Fingerprint(h.pub), Pinned: true,
		Fingerprint: a.key.fingerprint, Message: "type: muster node approve",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("screen (-want +got):\n%s", diff)
	}
	h.mu.Lock()
	first := h.joins[0]
	h.mu.Unlock()
	if first.Key != a.key.public || first.BootID != "boot-1" || first.Software.Protocol != api.Protocol || first.Speed != 0 {
		t.Errorf("join request %+v", first)
	}
	// The speed is measured while it waits, and told at once.
	h.wait("the speed", func() bool { return h.joins[len(h.joins)-1].Speed > 0 })
	if len(names) != 0 || len(h.beats) != 0 {
		t.Errorf("a pending machine has names %q and %d heartbeats", names, len(h.beats))
	}

	h.approve(a.key.public)
	got = s.wait(t, "ready", inPhase(PhaseReady))
	want.Phase, want.Message, want.Name = PhaseReady, "", "n1"
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("screen (-want +got):\n%s", diff)
	}
	h.wait("heartbeats", func() bool { return len(h.beats) >= 3 })
	h.wait("the kernel's log", func() bool { return len(h.logs) == 2 && h.logs[1].Text == "oops" })
	h.mu.Lock()
	defer h.mu.Unlock()
	b := h.beats[2]
	if b.Seq != 3 || b.BootID != "boot-1" || b.Load.MemTotalMiB == 0 || b.Load.MemFreeMiB == 0 || b.Load.UptimeSecond == 0 || b.Speed == 0 {
		t.Errorf("heartbeat %+v", b)
	}
	if diff := cmp.Diff([]string{"n1"}, names); diff != "" {
		t.Errorf("names: %s", diff)
	}
	if d := time.Since(clock.last()); d > time.Minute || d < -time.Minute {
		t.Errorf("the clock is off by %s", d)
	}
}

type fakeClock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *fakeClock) Apply(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = t
}

func (c *fakeClock) last() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func TestRejectedAndApprovedAgain(t *testing.T) {
	h := newFakeHead(t)
	a, s, _ := startAgent(t, Config{Head: h.addr, Pin: h.pin()})
	s.wait(t, "pending", inPhase(PhasePending))
	h.reject(a.key.public)
	if got := s.wait(t, "rejected", inPhase(PhaseRejected)); got.Message != "a person rejected this machine" {
		t.Errorf("message %q", got.Message)
	}
	h.mu.Lock()
	delete(h.rejected, a.key.public)
	h.mu.Unlock()
	h.approve(a.key.public)
	s.wait(t, "ready", inPhase(PhaseReady))
	h.reject(a.key.public)
	s.wait(t, "rejected", inPhase(PhaseRejected))
}

func TestReasonsOnScreen(t *testing.T) {
	h := newFakeHead(t)
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	go func() { // says something else than NATS
		for {
			c, err := silent.Accept()
			if err != nil {
				return
			}
			fmt.Fprint(c, "SSH-2.0-OpenSSH_9.2\r\n")
			c.Close()
		}
	}()
	for name, c := range map[string]struct {
		cfg   Config
		phase Phase
		want  string
	}{
		"wrong pin":  {Config{Head: h.addr, Pin: strings.Repeat("ab", 32)}, PhaseConnecting, "is not the pinned abababababababab...; boot an image of this head"},
		"refused":    {Config{Head: closed.Addr().String()}, PhaseConnecting, "refuses connections; is muster head running there?"},
		"no name":    {Config{Head: "no-such-head.invalid:7421"}, PhaseConnecting, "the name of the head no-such-head.invalid:7421 is not known here"},
		"not a head": {Config{Head: silent.Addr().String()}, PhaseConnecting, silent.Addr().String() + " does not speak as a head does"},
		"none known": {Config{}, PhaseNoHead, "no head is known"},
	} {
		t.Run(name, func(t *testing.T) {
			_, s, _ := startAgent(t, c.cfg)
			got := s.wait(t, "a reason", func(st Status) bool { return st.Reason != "" })
			if got.Phase != c.phase || !strings.Contains(got.Reason, c.want) {
				t.Errorf("phase %s, reason %q, want %q in it", got.Phase, got.Reason, c.want)
			}
		})
	}
}

// Without a pin the first head is remembered, also by the next agent of the
// same boot.
func TestHeadIsRemembered(t *testing.T) {
	first, second := newFakeHead(t), newFakeHead(t)
	dir := runDir(t)
	_, s, stop := startAgent(t, Config{Head: first.addr, RunDir: dir})
	got := s.wait(t, "pending", inPhase(PhasePending))
	if got.Pinned || got.HeadFingerprint != api.Fingerprint(first.pub) {
		t.Errorf("screen %+v", got)
	}
	stop()
	_, s, _ = startAgent(t, Config{Head: second.addr, RunDir: dir})
	got = s.wait(t, "a reason", func(st Status) bool { return st.Reason != "" })
	if !strings.Contains(got.Reason, "is not the pinned") {
		t.Errorf("reason %q", got.Reason)
	}
	if len(second.joins) != 0 {
		t.Error("it has joined another head")
	}
}

func TestRestartedAgentIsTheSame(t *testing.T) {
	h := newFakeHead(t)
	dir := runDir(t)
	a, s, stop := startAgent(t, Config{Head: h.addr, Pin: h.pin(), RunDir: dir})
	s.wait(t, "pending", inPhase(PhasePending))
	stop()
	b, s, _ := startAgent(t, Config{Head: h.addr, Pin: h.pin(), RunDir: dir})
	s.wait(t, "pending", inPhase(PhasePending))
	if a.key.public != b.key.public {
		t.Errorf("keys %s and %s", a.key.public, b.key.public)
	}
	st, err := os.Stat(filepath.Join(dir, "key"))
	if err != nil {
		t.Fatal(err)
	}
	if st.Mode().Perm() != 0o600 {
		t.Errorf("mode of the key is %o", st.Mode().Perm())
	}
}

func TestSecondAgentWithOneKey(t *testing.T) {
	h := newFakeHead(t)
	a, s, _ := startAgent(t, Config{Head: h.addr, Pin: h.pin()})
	s.wait(t, "pending", inPhase(PhasePending))
	dir := runDir(t)
	seed, err := a.key.pair.Seed()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "key"), seed, 0o600); err != nil {
		t.Fatal(err)
	}
	_, s2, _ := startAgent(t, Config{Head: h.addr, Pin: h.pin(), RunDir: dir})
	got := s2.wait(t, "a reason", func(st Status) bool { return st.Reason != "" })
	if want := "the head refused this machine's key: it was rejected or removed, or another agent uses the same key"; got.Reason != want {
		t.Errorf("reason %q, want %q", got.Reason, want)
	}
	h.approve(a.key.public)
	s.wait(t, "ready", inPhase(PhaseReady)) // the first is not disturbed
}

func TestHeadIsRestarted(t *testing.T) {
	h := newFakeHead(t)
	a, s, _ := startAgent(t, Config{Head: h.addr, Pin: h.pin()})
	h.mu.Lock()
	h.approved[a.key.public] = true
	h.mu.Unlock()
	h.approve(a.key.public)
	s.wait(t, "ready", inPhase(PhaseReady))
	addr := h.addr
	h.stop()
	got := s.wait(t, "a lost head", inPhase(PhaseConnecting))
	if got.Reason == "" {
		t.Error("no reason is shown")
	}
	h.start(addr)
	s.wait(t, "ready", func(st Status) bool { return st.Phase == PhaseReady && st.Reason == "" })
	h.mu.Lock()
	seen := len(h.beats)
	h.mu.Unlock()
	h.wait("heartbeats", func() bool { return len(h.beats) > seen })
}

func TestConnectionIsReplacedWhenTold(t *testing.T) {
	h := newFakeHead(t)
	a, s, _ := startAgent(t, Config{Head: h.addr, Pin: h.pin()})
	s.wait(t, "pending", inPhase(PhasePending))
	h.mu.Lock()
	before := h.connected[a.key.public]
	h.mu.Unlock()
	start := time.Now()
	h.approve(a.key.public)
	h.wait("another connection", func() bool { return h.connected[a.key.public] != before && len(h.beats) > 0 })
	t.Logf("a node %s after its approval", time.Since(start))
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, st := range s.shown {
		if st.Reason != "" {
			t.Errorf("the screen showed %q", st.Reason)
		}
	}
}

func TestConfigThatIsRefused(t *testing.T) {
	dir := runDir(t)
	bad := filepath.Join(dir, "bad")
	if err := os.MkdirAll(bad, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(bad, "key"), []byte(rand.Text()), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		cfg  Config
		want string
	}{
		"no facts":            {Config{RunDir: dir}, "Config.Facts is missing"},
		"no directory":        {Config{Facts: testFacts}, "Config.RunDir is missing"},
		"head without port":   {Config{Facts: testFacts, RunDir: dir, Head: "10.0.0.1"}, "want HOST:PORT"},
		"pin of another size": {Config{Facts: testFacts, RunDir: dir, Pin: "abcd"}, "want 64 hexadecimal digits"},
		"key that is none":    {Config{Facts: testFacts, RunDir: bad}, "remove it to start as a new machine"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := New(c.cfg); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q in it", err, c.want)
			}
		})
	}
}
