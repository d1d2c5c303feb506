package headnode

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nkeys"

	"muster/api"
	"muster/headnode/store/storetest"
)

// fakeWire is an agentWire to agents that are not there.
type fakeWire struct {
	mu        sync.Mutex
	connected map[string]bool
	pushed    map[string][]api.JoinReply
	kicked    []string
	reply     func(key, verb string, body []byte) ([]byte, error)
}

func (w *fakeWire) Push(key string, r api.JoinReply) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pushed[key] = append(w.pushed[key], r)
}

func (w *fakeWire) Kick(key string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.kicked = append(w.kicked, key)
}

func (w *fakeWire) Connected(key string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.connected[key]
}

func (w *fakeWire) Request(_ context.Context, key, verb string, body []byte) ([]byte, error) {
	return w.reply(key, verb, body)
}

func (w *fakeWire) lastPush(key string) (r api.JoinReply) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if p := w.pushed[key]; len(p) > 0 {
		r = p[len(p)-1]
	}
	return r
}

// fakeSink is a taskSink that notes what it was told.
type fakeSink struct {
	mu      sync.Mutex
	joined  []string
	heard   map[string]int
	removed []string
	renamed []string
	events  []api.TaskEvent
	output  []byte
	// onEvent, when not nil, answers TaskEvent.
	onEvent func(api.TaskEvent) error
}

func (s *fakeSink) TaskEvent(_ context.Context, _ string, ev api.TaskEvent) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.events = append(s.events, ev)
	if s.onEvent != nil {
		return s.onEvent(ev)
	}
	return nil
}

func (s *fakeSink) TaskOutput(_ string, _ api.TaskRef, f api.Frame, done func(int64, error)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.output = append(s.output, f.Data...)
	if done != nil {
		go done(int64(len(s.output)), nil)
	}
}

func (s *fakeSink) JobFile(_ context.Context, _ string, req api.FileRequest) ([]byte, error) {
	if req.SHA256 == "" {
		return nil, &api.Error{Code: api.CodeNotFound, Msg: "no such file"}
	}
	return []byte("content of " + req.SHA256), nil
}

func (s *fakeSink) TaskFile(_ context.Context, _ string, p api.FilePut) (int64, error) {
	return p.Offset + int64(len(p.Data)), nil
}

func (s *fakeSink) NodeJoined(node, bootID string, _ []api.TaskStatus) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.joined = append(s.joined, node+" "+bootID)
}

func (s *fakeSink) NodeHeard(node string, _ []api.TaskStatus) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.heard == nil {
		s.heard = map[string]int{}
	}
	s.heard[node]++
}

func (s *fakeSink) NodeRemoved(node string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.removed = append(s.removed, node)
}

func (s *fakeSink) NodeRenamed(from, to string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.renamed = append(s.renamed, from+" "+to)
}

func (s *fakeSink) note(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

// world is a set of nodes without a network.
type world struct {
	t      *testing.T
	nodes  *Nodes
	wire   *fakeWire
	sink   *fakeSink
	store  *storetest.Mem
	events *Events
	policy rejoinPolicy
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, store: &storetest.Mem{}, events: newEvents(time.Now), policy: rejoinApprove}
	w.restart()
	return w
}

// restart is a head that starts anew with the same records.
func (w *world) restart() {
	w.t.Helper()
	w.wire = &fakeWire{connected: map[string]bool{}, pushed: map[string][]api.JoinReply{}}
	w.sink = &fakeSink{}
	var err error
	w.nodes, err = newNodes(nodesConfig{
		Store: w.store, Events: w.events, BootLogs: newBootLogs(), Now: time.Now,
		Rejoin: func(string) rejoinPolicy { return w.policy },
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.nodes.wire, w.nodes.sink = w.wire, w.sink
}

// agent is what a machine says of itself.
type agent struct{ key, mac, uuid, boot string }

func newKey(t testing.TB) string {
	t.Helper()
	pair, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	pub, err := pair.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	return pub
}

func (w *world) agent(mac string) agent {
	return agent{key: newKey(w.t), mac: mac, boot: "boot-" + newKey(w.t)[:8]}
}

func (a agent) request() api.JoinRequest {
	return api.JoinRequest{
		Key: a.key, BootID: a.boot, Speed: 1.5,
		Hardware: api.Hardware{MACs: []string{a.mac}, UUID: a.uuid, Arch: "amd64", Cores: 4, MemoryMiB: 2048},
		Software: api.Software{Protocol: api.Protocol, ImageID: "image", Agent: "test"},
	}
}

// join lets an agent connect and join, with the rights it has.
func (w *world) join(a agent) api.JoinReply {
	w.t.Helper()
	w.wire.mu.Lock()
	w.wire.connected[a.key] = true
	w.wire.mu.Unlock()
	withRights := w.nodes.isApproved(a.key)
	r, err := w.nodes.Join(context.Background(), a.key, agentSession{ip: "10.0.0.9", node: withRights}, a.request())
	if err != nil {
		w.t.Fatalf("Join(%s) = %v", a.mac, err)
	}
	if withRights && r.State == api.JoinApproved {
		w.nodes.welcome(a.key)
	}
	return r
}

func (w *world) disconnect(a agent) {
	w.wire.mu.Lock()
	defer w.wire.mu.Unlock()
	w.wire.connected[a.key] = false
}

func (w *world) approve(a agent, name string) api.Node {
	w.t.Helper()
	nodes, err := w.nodes.Approve(context.Background(), "root", api.ApproveRequest{Machines: []string{a.mac}, Names: name})
	if err != nil {
		w.t.Fatalf("Approve(%s) = %v", a.mac, err)
	}
	return nodes[0]
}

func (w *world) heartbeat(a agent) bool {
	_, ok := w.nodes.Heard(a.key, api.Heartbeat{BootID: a.boot, Load: api.Load{MemTotalMiB: 2000, MemFreeMiB: 1500}})
	return ok
}

func (w *world) find(ref string) api.Node {
	w.t.Helper()
	v, err := w.nodes.Find(ref)
	if err != nil {
		w.t.Fatalf("Find(%s) = %v", ref, err)
	}
	return v
}

func (w *world) wantState(ref string, want api.NodeState) {
	w.t.Helper()
	if got := w.find(ref); got.State != want {
		w.t.Errorf("state of %s = %s (%s), want %s", ref, got.State, got.Hint, want)
	}
}
