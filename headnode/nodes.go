package headnode

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"muster/api"
	"muster/headnode/scheduler"
	"muster/headnode/store"
)

// kindMachine are the records of nodes, declared and rejected machines.
const kindMachine = "machine"

// machineSchema is the version of these records.
const machineSchema = 1

// Limits of what strangers can make the head remember.
const (
	maxPending = 4096 // machines that wait for approval
	maxBooting = 4096 // machines that asked something by network
)

// agentWire is how nodes reaches agents. *Agents implements it.
type agentWire interface {
	// Push tells an agent its state, unasked. It does not block.
	Push(key string, r api.JoinReply)
	// Kick ends the connection of an agent, after what was pushed.
	Kick(key string)
	// Connected tells whether an agent is connected now.
	Connected(key string) bool
	// Request asks an agent for something and returns the reply's body. An
	// error wraps errNotDelivered when the agent surely did not get it.
	Request(ctx context.Context, key, verb string, body []byte) ([]byte, error)
}

// machineRecord is what is durable of a machine. A machine that only booted
// or is pending has none; its agent or firmware asks again.
type machineRecord struct {
	Schema   int            `json:"schema"`
	State    api.NodeState  `json:"state"` // ready (a node), declared, rejected; else not durable
	Name     string         `json:"name,omitempty"`
	Admin    api.AdminState `json:"admin,omitempty"`
	Weight   int            `json:"weight"`
	Key      string         `json:"key,omitempty"` // public nkey of the session that was let in
	BootID   string         `json:"boot_id,omitempty"`
	Identity api.Identity   `json:"identity,omitempty"`
	FixedIP  string         `json:"fixed_ip,omitempty"`
	Image    string         `json:"image,omitempty"` // of its own, a name or an ID; "": the default
	// Labels are sorted.
	Labels []string `json:"labels,omitempty"`
	// Kexec is a start of another image that has not ended well; nil: there is none.
	Kexec      *kexecRecord `json:"kexec,omitempty"`
	Hardware   api.Hardware `json:"hardware"`
	Software   api.Software `json:"software"`
	By         string       `json:"by,omitempty"` // who approved, declared or rejected it
	FirstHeard time.Time    `json:"first_heard,omitzero"`
	Since      time.Time    `json:"since,omitzero"`
}

// machine is a machine or node as the head knows it now.
type machine struct {
	id  string
	rev uint64 // of its record; 0: it has none
	machineRecord

	order     uint64       // of arrival
	runs      api.Software // as it was heard last; its record follows
	ip        string
	anyone    bool   // any program of its computer may have connected
	headIP    string // address of the head that its agent connected to
	stage     string // what a booting machine does, as far as the head saw it
	said      string // what it says that it does before it can take tasks
	noted     string // that, as it is in its timeline
	starting  string // "kexec: image NAME" while it was told to start another image
	arriving  bool   // it was let in or prepares, and has not been ready since
	speed     float64
	load      api.Load
	lastHeard time.Time
	interval  time.Duration // between heartbeats, as it was told
	bootSeen  time.Time     // its firmware asked something, since it was last heard
	joined    bool          // as a node, at this head since it started and in this boot
	joining   bool          // it was let in and is expected to join as a node
	link      api.LinkState
	shown     api.NodeState // as it was published last
	waitsFor  string        // id of the node with its address, which it may replace
	waitWhy   string        // for its screen, while it is pending
	log       kernelLog
	mounts    []api.MountStatus // its shares, as it says
	// config is the configuration that it has, configFlying whether one is on its way,
	// and configNext when it may be sent again.
	config       uint64
	configFlying bool
	configNext   time.Time
	// whole are configurations for it, of this boot, that have every share that it is to have, and settled is whether it said that
	// it has one of them. In a room that is switched on each node that joins changes those of all. joinedAt is when it joined.
	whole    []uint64
	settled  bool
	joinedAt time.Time
	// softwareSaved is when its record followed runs last.
	softwareSaved time.Time
}

func (m *machine) isNode() bool { return m.State == api.NodeReady }

func (m *machine) mac() string {
	if len(m.Hardware.MACs) == 0 {
		return ""
	}
	return m.Hardware.MACs[0]
}

// nodesConfig is what [newNodes] needs; all is required but Log.
type nodesConfig struct {
	Store    store.Interface
	Events   *Events
	BootLogs *BootLogs
	Now      clock
	// Rejoin is the policy for a known machine at an address.
	Rejoin func(ip string) rejoinPolicy
	// FilesPort is where contents are served by hash; 0: nowhere.
	FilesPort int
	// BootCmdline adds to the command line of an image how its agent finds this head, with {host} for the head's address.
	BootCmdline func(image, id string) string
	Log         *slog.Logger
}

// Nodes knows every machine and node, lets them in and watches over them.
type Nodes struct {
	cfg     nodesConfig
	changed chan struct{}
	wire    agentWire  // set before anything joins
	sink    taskSink   // set before anything joins
	images  nodeImages // set before anything joins; nil: there are none
	// mountsOf are the shares of a node; set before anything joins; nil: there are none.
	// whole is false while some of them are still to come, as the server has not heard of the node yet.
	mountsOf func(shareNode) (list []api.NodeMount, whole bool)
	// located is called when a node joined, maybe at another address than before; nil: nobody asks.
	located func()
	// userlandOf is where a node that mounts these shares can read its userland. Nil: nowhere; soon: not yet.
	userlandOf func(n shareNode, mounts []api.NodeMount) (from *api.UserlandSource, soon bool)
	configs    chan struct{} // gets a token when configurations are to be sent at once

	texts         configTexts // guarded by mu
	textsRead     time.Time   // guarded by mu
	configsFlying int         // guarded by mu

	// changes is held through a change that is recorded, from the decision
	// to the moment it is visible; it is taken before mu, and mu is not held
	// while the store writes.
	changes sync.Mutex

	mu       sync.Mutex
	machines map[string]*machine // by id
	byKey    map[string]*machine
	byName   map[string]*machine // as named found them; each is looked at again
	arrivals uint64
	interval time.Duration
}

var (
	_ nodeAdmin = (*Nodes)(nil)
	_ fleet     = (*Nodes)(nil)
)

// newNodes reads the records.
func newNodes(cfg nodesConfig) (*Nodes, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	n := &Nodes{
		cfg: cfg, changed: make(chan struct{}, 1), configs: make(chan struct{}, 1),
		machines: map[string]*machine{}, byKey: map[string]*machine{}, interval: minHeartbeat,
	}
	now := cfg.Now()
	for _, r := range cfg.Store.List(kindMachine) {
		m := &machine{id: r.ID, rev: r.Rev}
		if err := json.Unmarshal(r.Data, &m.machineRecord); err != nil {
			return nil, fmt.Errorf("reading record of machine %s: %w", r.ID, err)
		}
		if m.Schema > machineSchema {
			return nil, fmt.Errorf("record of machine %s has format %d and this muster knows up to %d; use a newer one", r.ID, m.Schema, machineSchema)
		}
		n.arrivals++
		m.order, m.runs = n.arrivals, m.Software
		if m.isNode() {
			// It has the usual time to come back to a head that started.
			m.lastHeard, m.interval, m.link = now, minHeartbeat, api.LinkLate
			m.settled = true // if it did not boot meanwhile
		}
		m.shown = n.stateOf(m)
		n.machines[m.id] = m
		if m.Key != "" {
			n.byKey[m.Key] = m
		}
	}
	n.interval = heartbeatInterval(n.countNodes())
	return n, nil
}

// Run watches over the machines until ctx is done.
func (n *Nodes) Run(ctx context.Context) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			n.tick(ctx)
		}
	}
}

// tick notices what only time tells.
func (n *Nodes) tick(ctx context.Context) {
	now := n.cfg.Now()
	n.mu.Lock()
	var waiting []string
	for _, m := range n.machines {
		switch {
		case m.isNode():
			if m.joined && !m.settled && now.Sub(m.joinedAt) > settleFor {
				m.settled = true
				n.cfg.Log.Warn("a node takes tasks although it did not confirm its configuration", "node", m.Name)
			}
			n.updateLink(m, now, "head")
		case m.State == api.NodePending && now.Sub(m.lastHeard) >= pendingForgotten && !n.connected(m.Key):
			n.forget(m, "head")
		case (m.State == api.NodeBooting || m.State == api.NodeUnanswered) && now.Sub(m.lastHeard) >= bootingForgotten:
			n.forget(m, "head")
		case m.State == api.NodePending && m.waitsFor != "":
			waiting = append(waiting, m.id)
		}
	}
	n.interval = heartbeatInterval(n.countNodes())
	n.mu.Unlock()
	for _, id := range waiting {
		n.retryWaiting(ctx, id)
	}
	n.recordSoftware(ctx)
}

// updateLink recomputes a node's link and publishes what changed, if anything.
func (n *Nodes) updateLink(m *machine, now time.Time, actor string) (published bool) {
	silent := now.Sub(m.lastHeard)
	booting := m.bootSeen.After(m.lastHeard) || m.joining && silent < minUnreachable ||
		m.prepares() && silent < unreachableAfter(m.interval)
	m.link = linkOf(silent, m.interval, booting)
	if m.link == api.LinkUp && !m.joined {
		m.link = api.LinkLate // the head has just started and has not heard it yet
	}
	return n.publish(m, actor)
}

// publish tells watchers when the shown state of a machine is a new one.
func (n *Nodes) publish(m *machine, actor string) bool {
	state := n.stateOf(m)
	if state == m.shown {
		return false
	}
	n.cfg.Log.Info("machine changed state", "node", m.Name, "mac", m.mac(), "from", m.shown, "to", state, "actor", actor)
	m.shown = state
	m.Since = stamp(n.cfg.Now())
	n.announce(m, actor)
	return true
}

// announce tells watchers of a machine as it is now.
func (n *Nodes) announce(m *machine, actor string) {
	v := n.view(m)
	n.cfg.Events.Publish(api.Event{Kind: "node", Actor: actor, Node: &v})
	n.signal()
}

// signal wakes the scheduler.
func (n *Nodes) signal() {
	select {
	case n.changed <- struct{}{}:
	default:
	}
}

// forget drops a machine from memory.
func (n *Nodes) forget(m *machine, actor string) {
	delete(n.machines, m.id)
	if n.byKey[m.Key] == m {
		delete(n.byKey, m.Key)
	}
	v := n.view(m)
	n.cfg.Events.Publish(api.Event{Kind: "node", Actor: actor, Node: &v, Removed: true})
	n.signal()
}

func (n *Nodes) connected(key string) bool {
	return key != "" && n.wire != nil && n.wire.Connected(key)
}

func (n *Nodes) countNodes() int {
	count := 0
	for _, m := range n.machines {
		if m.isNode() {
			count++
		}
	}
	return count
}

func (n *Nodes) stateOf(m *machine) api.NodeState {
	if m.isNode() {
		return shownState(m.Admin, m.link)
	}
	return m.State
}

// Heard takes a heartbeat. It returns the name of the node, and false when
// the sender is no node or has to join again.
func (n *Nodes) Heard(key string, hb api.Heartbeat) (name string, ok bool) {
	cleanHeartbeat(&hb)
	n.mu.Lock()
	defer n.mu.Unlock()
	m := n.byKey[key]
	if m == nil || !m.isNode() || !m.joined || hb.BootID != m.BootID {
		return "", false
	}
	if hb.Speed > 0 {
		m.speed = hb.Speed
	}
	more := changedLoad(m.load, hb.Load) || !slices.Equal(m.mounts, hb.Mounts)
	m.mounts = hb.Mounts
	if !m.configFlying {
		m.config = hb.ConfigVersion
	}
	m.load, m.said = hb.Load, hb.Stage
	if !m.settled && slices.Contains(m.whole, hb.ConfigVersion) {
		m.settled, m.whole = true, nil
	}
	if hb.Software != nil {
		hb.Software.Protocol = m.runs.Protocol // that of its connection, which was checked
		more = more || m.runs != *hb.Software
		m.runs = *hb.Software
	}
	m.lastHeard = n.cfg.Now()
	n.noteStage(m, n.updateLink(m, m.lastHeard, m.Name))
	if more {
		n.signal()
	}
	return m.Name, true
}

// changedLoad tells whether the scheduler would see a difference.
func changedLoad(a, b api.Load) bool {
	return max(a.Runnable-b.Runnable, b.Runnable-a.Runnable) >= 0.5 || a.MemFreeMiB/64 != b.MemFreeMiB/64
}

// touch notes that something was heard of an agent, and returns the name of
// its node, "" when it is none.
func (n *Nodes) touch(key string) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	m := n.byKey[key]
	if m == nil {
		return ""
	}
	m.lastHeard = n.cfg.Now()
	if !m.isNode() {
		return ""
	}
	return m.Name
}

// isApproved tells whether an agent has the rights of a node.
func (n *Nodes) isApproved(key string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	m := n.byKey[key]
	return m != nil && m.isNode()
}

// silentFor is how long nothing was heard of an agent.
func (n *Nodes) silentFor(key string) time.Duration {
	n.mu.Lock()
	defer n.mu.Unlock()
	if m := n.byKey[key]; m != nil {
		return n.cfg.Now().Sub(m.lastHeard)
	}
	return silence
}

// Snapshot implements fleet.
func (n *Nodes) Snapshot() []scheduler.Node {
	n.mu.Lock()
	defer n.mu.Unlock()
	list := make([]scheduler.Node, 0, len(n.machines))
	for _, m := range n.machines {
		if !m.isNode() {
			continue
		}
		ready, reason := takesTasks(m)
		mem := m.load.MemTotalMiB
		if mem == 0 {
			mem = m.Hardware.MemoryMiB
		}
		list = append(list, scheduler.Node{
			Name: m.Name, Ready: ready, Reason: reason,
			Cores: m.Hardware.Cores, Speed: m.speed, Weight: m.Weight,
			MemMiB: mem, MemFree: m.load.MemFreeMiB, Runnable: m.load.Runnable,
			Shares: mountedPaths(m.mounts), Labels: m.Labels, NoUserland: hasNoUserland(m.runs), ImageID: m.runs.ImageID, RuntimeID: m.runs.RuntimeID,
		})
	}
	slices.SortFunc(list, func(a, b scheduler.Node) int { return api.CompareNames(a.Name, b.Name) })
	return list
}

// mountedPaths are the shares that tasks of a node can use.
func mountedPaths(list []api.MountStatus) []string {
	var paths []string
	for _, m := range list {
		if m.State == "mounted" || m.State == "stalled" {
			paths = append(paths, m.Path)
		}
	}
	return paths
}

// takesTasks tells whether a node takes tasks now, or why not.
func takesTasks(m *machine) (bool, string) {
	switch {
	case m.link == api.LinkUnreachable:
		return false, "unreachable since " + m.Since.Local().Format("15:04:05")
	case m.link == api.LinkBooting:
		if topic := stageTopic(m.preparing()); topic != "" {
			return false, "booting (" + topic + ")"
		}
		return false, "booting"
	case m.Admin != api.AdminReady:
		return false, string(m.Admin)
	case m.link != api.LinkUp:
		return false, "not heard for a moment"
	case m.runs.Protocol < api.Protocol:
		return false, "its agent is older than this head; reboot it: muster node reboot " + m.Name
	}
	return true, ""
}

// Changed implements fleet.
func (n *Nodes) Changed() <-chan struct{} { return n.changed }

// Request implements fleet.
func (n *Nodes) Request(ctx context.Context, node, verb string, body []byte) ([]byte, error) {
	n.mu.Lock()
	m := n.named(node)
	var key string
	if m != nil && m.isNode() {
		key = m.Key
	}
	n.mu.Unlock()
	if m == nil {
		return nil, &requestError{noMachine(node), errNotDelivered}
	}
	if key == "" {
		return nil, &requestError{&api.Error{Code: api.CodeUnreachable, Msg: fmt.Sprintf("node %s was not heard yet", node)}, errNotDelivered}
	}
	reply, err := n.wire.Request(ctx, key, verb, body)
	if err != nil {
		return nil, &requestError{&api.Error{Code: api.CodeUnreachable, Msg: fmt.Sprintf("node %s does not answer: %v", node, err), Hint: "see muster node show " + node}, err}
	}
	return reply, nil
}

// requestError is what people read of a request that was not answered, and
// why that was.
type requestError struct{ said, why error }

func (e *requestError) Error() string   { return e.said.Error() }
func (e *requestError) Unwrap() []error { return []error{e.said, e.why} }

// Trouble says why a node is not heard, "" when it is.
func (n *Nodes) Trouble(node string) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	m := n.named(node)
	if m == nil || m.link != api.LinkUnreachable && m.link != api.LinkBooting {
		return ""
	}
	return fmt.Sprintf("%s is %s since %s", node, m.link, m.Since.Local().Format("15:04:05"))
}

func (n *Nodes) named(name string) *machine {
	if name == "" {
		return nil
	}
	// A look through all for each task of a job for many nodes would be their square.
	if m := n.byName[name]; m != nil && m.Name == name && n.machines[m.id] == m {
		return m
	}
	n.byName = make(map[string]*machine, len(n.machines))
	for _, m := range n.machines {
		n.byName[m.Name] = m
	}
	return n.byName[name]
}

// view is a machine as the API shows it.
func (n *Nodes) view(m *machine) api.Node {
	v := api.Node{
		ID: m.id, Name: m.Name, State: n.stateOf(m), Stage: m.shownStage(), MAC: m.mac(), IP: cmp.Or(m.ip, m.FixedIP),
		Identity: m.Identity, BootID: m.BootID, Speed: m.speed, Weight: m.Weight,
		Hardware: m.Hardware, Software: m.runs, Load: m.load, Labels: slices.Clone(m.Labels),
		FirstHeard: m.FirstHeard, LastHeard: stamp(m.lastHeard), Since: m.Since,
	}
	if m.lastHeard.IsZero() {
		v.LastHeard = time.Time{}
	}
	v.Hardware.MACs = slices.Clone(m.Hardware.MACs)
	if m.Key != "" {
		v.Fingerprint, _ = keyFingerprint(m.Key)
	}
	if m.isNode() {
		v.Admin, v.Link = m.Admin, m.link
		if m.link != api.LinkBooting {
			v.Stage = ""
		}
	}
	v.Image, v.Kexec = n.imageOf(m), kexecState(m)
	v.Hint = hintFor(v, m.waitWhy)
	return v
}

// hintFor is the command that would take a machine further.
func hintFor(v api.Node, why string) string {
	switch v.State {
	case api.NodeUnanswered:
		return fmt.Sprintf("muster node add %s, or muster enroll open 30m", v.MAC)
	case api.NodePending:
		hint := "muster node approve " + cmp.Or(v.MAC, v.Fingerprint)
		if why != "" {
			hint += " (" + why + ")"
		}
		return hint
	case api.NodeRejected:
		return "muster node approve " + cmp.Or(v.MAC, v.Fingerprint) + " lets it in after all"
	case api.NodeUnreachable:
		return "muster boot log " + v.Name
	case api.NodePaused, api.NodeDraining:
		return "muster node ready " + v.Name
	}
	return imageHint(v)
}

// List implements nodeAdmin.
func (n *Nodes) List() []api.Node {
	n.mu.Lock()
	defer n.mu.Unlock()
	all := make([]*machine, 0, len(n.machines))
	for _, m := range n.machines {
		all = append(all, m)
	}
	rank := func(m *machine) int {
		switch {
		case m.isNode():
			return 0
		case m.State == api.NodePending:
			return 1
		}
		return 2
	}
	slices.SortFunc(all, func(a, b *machine) int {
		if c := cmp.Compare(rank(a), rank(b)); c != 0 {
			return c
		}
		if a.isNode() {
			return api.CompareNames(a.Name, b.Name)
		}
		return cmp.Compare(a.order, b.order)
	})
	list := make([]api.Node, len(all))
	for i, m := range all {
		list[i] = n.view(m)
	}
	return list
}

// counts is what Status says of the nodes.
func (n *Nodes) counts() (states map[api.NodeState]int, cores int, memMiB int64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	states = map[api.NodeState]int{}
	for _, m := range n.machines {
		states[n.stateOf(m)]++
		if ready, _ := takesTasks(m); m.isNode() && ready {
			cores += m.Hardware.Cores
			memMiB += m.Hardware.MemoryMiB
		}
	}
	return states, cores, memMiB
}

// running are the nodes that run an image now.
func (n *Nodes) running(imageID string) []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	names := []string{}
	for _, m := range n.machines {
		if m.isNode() && m.runs.ImageID == imageID && m.link != api.LinkUnreachable {
			names = append(names, m.Name)
		}
	}
	slices.SortFunc(names, api.CompareNames)
	return names
}
