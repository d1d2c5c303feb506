package headnode

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"muster/api"
	"muster/headnode/store"
)

// rejoinPolicy says how a machine that is recognized by its address alone is
// let in again.
type rejoinPolicy string

const (
	rejoinAddress rejoinPolicy = "address" // at once, when the one before is silent
	rejoinApprove rejoinPolicy = "approve" // a person approves each time
)

// joinView is what a join is decided by.
type joinView struct {
	key      api.NodeState // state of the machine that has this key, "" for none
	rejected bool          // a rejected machine has its address
	declared bool          // it was declared beforehand
	known    bool          // a node has its address
	anyone   bool          // any program of a computer may have sent this
	silent   time.Duration // how long that node was not heard
	policy   rejoinPolicy
}

// joinDecision says what becomes of a machine.
type joinDecision struct {
	state api.JoinState
	bind  bool // it takes the place of the declared machine or known node
	waits bool // it may, when that node is silent
	why   string
}

// decideJoin decides whether a machine is let in.
func decideJoin(v joinView) joinDecision {
	switch {
	case v.key == api.NodeReady:
		return joinDecision{state: api.JoinApproved}
	case v.key == api.NodeRejected || v.rejected:
		return joinDecision{state: api.JoinRejected, why: "an administrator rejected this machine"}
	case v.anyone && (v.declared || v.known):
		// Anybody who runs a job could say so of any machine.
		return joinDecision{state: api.JoinPending, why: "its address is known, and its connection comes from a port that any program may use"}
	case v.declared:
		return joinDecision{state: api.JoinApproved, bind: true, why: "it was declared"}
	case v.known && v.policy == rejoinApprove:
		return joinDecision{state: api.JoinPending, why: "known by its address, and the setting rejoin is approve"}
	case v.known && v.silent < silence:
		return joinDecision{state: api.JoinPending, waits: true, why: "a node with its address is still heard"}
	case v.known:
		return joinDecision{state: api.JoinApproved, bind: true, why: "known by its address"}
	}
	return joinDecision{state: api.JoinPending}
}

// Join decides on a machine that asks to join over the connection s. An error
// that is an *api.Error is for the agent.
func (n *Nodes) Join(ctx context.Context, key string, s agentSession, req api.JoinRequest) (api.JoinReply, error) {
	cleanFacts(&req)
	if _, err := keyFingerprint(key); err != nil {
		return api.JoinReply{}, &api.Error{Code: api.CodeInvalid, Msg: err.Error()}
	}
	if p := req.Software.Protocol; p > api.Protocol || p < max(api.Protocol-1, 1) {
		return api.JoinReply{}, &api.Error{
			Code: api.CodeInvalid,
			Msg:  fmt.Sprintf("the agent speaks version %d of the protocol and this head speaks %d", p, api.Protocol),
			Hint: "boot the machine with an image that was built with the head's muster",
		}
	}
	n.changes.Lock()
	defer n.changes.Unlock()
	n.mu.Lock()
	m, err := n.machineFor(key, &req)
	if err != nil {
		n.mu.Unlock()
		return api.JoinReply{}, err
	}
	news := m.BootID != req.BootID
	n.heardJoin(m, s, &req)
	other, d := n.decide(m)
	n.mu.Unlock()

	if news {
		n.bootStage(m, api.StageAgent, req.Software.Kernel)
	}
	switch {
	case d.bind:
		err = n.bind(ctx, m, other, d.why)
		m = other
	case d.state == api.JoinApproved:
		err = n.refresh(ctx, m, &req)
	default:
		n.wait(m, other, d)
	}
	if err != nil {
		return api.JoinReply{}, recordError(err)
	}
	reply := n.replyTo(m, d.state, !s.node)
	if d.state == api.JoinApproved && s.node {
		reply.Boot = n.kexec(ctx, m, &req)
	}
	return reply, nil
}

// machineFor finds or makes the machine that a key stands for.
func (n *Nodes) machineFor(key string, req *api.JoinRequest) (*machine, error) {
	if m := n.byKey[key]; m != nil {
		return m, nil
	}
	pending := 0
	var m *machine
	for _, o := range n.machines {
		if o.State == api.NodePending {
			pending++
		}
		// What asked by network with this address, or waited with a key whose
		// connection is gone, is this machine; two that are connected are
		// shown as two.
		sameMachine := o.State == api.NodeBooting || o.State == api.NodeUnanswered || o.State == api.NodePending && !n.connected(o.Key)
		if sameMachine && o.mac() != "" && slices.Contains(req.Hardware.MACs, o.mac()) {
			m = o
		}
	}
	if m == nil {
		if pending >= maxPending {
			return nil, &api.Error{Code: api.CodeUnavailable, Msg: fmt.Sprintf("%d machines wait for approval already", pending), Hint: "approve or reject some: muster node list"}
		}
		m = n.newMachine()
	}
	if n.byKey[m.Key] == m {
		delete(n.byKey, m.Key)
	}
	m.Key = key
	n.byKey[key] = m
	return m, nil
}

func newMachineID() string { return "m" + strings.ToLower(rand.Text()[:10]) }

func (n *Nodes) newMachine() *machine {
	n.arrivals++
	m := &machine{
		id: newMachineID(), order: n.arrivals,
		machineRecord: machineRecord{Schema: machineSchema, Weight: 100, FirstHeard: stamp(n.cfg.Now())},
	}
	n.machines[m.id] = m
	return m
}

// heardJoin notes what a machine says of itself, as far as it is not durable.
func (n *Nodes) heardJoin(m *machine, s agentSession, req *api.JoinRequest) {
	if m.FirstHeard.IsZero() {
		m.FirstHeard = stamp(n.cfg.Now())
	}
	m.lastHeard = n.cfg.Now()
	m.ip, m.headIP, m.anyone = s.ip, s.local, s.anyone
	m.runs, m.said = req.Software, req.Stage
	if req.Speed > 0 {
		m.speed = req.Speed
	}
	if !m.isNode() {
		m.Hardware, m.Software, m.BootID = req.Hardware, req.Software, req.BootID
		m.Identity = api.IdentityAddress
	}
}

// decide decides on a machine, and names the rejected or declared machine or
// the node that it is by its address, nil for none.
func (n *Nodes) decide(m *machine) (other *machine, d joinDecision) {
	v := joinView{key: m.State}
	if m.isNode() {
		return m, decideJoin(v)
	}
	var rejected, declared, known *machine
	for _, o := range n.machines {
		if o == m || !sameAddress(o.Hardware, m.Hardware) {
			continue
		}
		switch o.State {
		case api.NodeRejected:
			rejected = o
		case api.NodeDeclared:
			declared = o
		case api.NodeReady:
			known = o
			v.silent = n.cfg.Now().Sub(o.lastHeard)
		}
	}
	v.rejected, v.declared, v.known = rejected != nil, declared != nil, known != nil
	v.anyone = m.anyone
	v.policy = n.cfg.Rejoin(m.ip)
	return cmp.Or(rejected, declared, known), decideJoin(v)
}

// sameAddress tells whether two machines are one by what recognizes a machine
// without a TPM: a hardware address in common and no two different UUIDs, or,
// for one that was declared by it alone, the UUID.
func sameAddress(a, b api.Hardware) bool {
	if a.UUID != "" && b.UUID != "" && a.UUID != b.UUID {
		return false
	}
	if len(a.MACs) == 0 || len(b.MACs) == 0 {
		return a.UUID != "" && a.UUID == b.UUID
	}
	return slices.ContainsFunc(a.MACs, func(mac string) bool { return slices.Contains(b.MACs, mac) })
}

// bind lets m in as other, a declared machine or a node that booted anew. m is
// gone then, and who had other's key before is cut off.
func (n *Nodes) bind(ctx context.Context, m, other *machine, why string) error {
	n.mu.Lock()
	rec := other.machineRecord
	former := rec.Key
	rec.Key, rec.BootID, rec.Identity = m.Key, m.BootID, m.Identity
	rec.Hardware, rec.Software = m.Hardware, m.Software
	if rec.State == api.NodeDeclared {
		rec.Hardware.UUID = max(rec.Hardware.UUID, other.Hardware.UUID)
		rec.Admin = api.AdminReady
		rec.FirstHeard = m.FirstHeard
		if rec.Name == "" {
			rec.Name = n.freeNames(1)[0]
		}
	}
	rec.State = api.NodeReady
	rec.Since = stamp(n.cfg.Now())
	n.mu.Unlock()
	rev, err := n.commit(ctx, other.id, rec, other.rev)
	if err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.machines, m.id)
	if n.byKey[former] == other {
		delete(n.byKey, former)
	}
	other.machineRecord, other.rev = rec, rev
	other.ip, other.headIP, other.speed = m.ip, m.headIP, max(m.speed, other.speed)
	other.lastHeard, other.interval = m.lastHeard, n.interval
	other.runs, other.said = m.runs, m.said
	other.bootSeen, other.waitsFor = time.Time{}, ""
	other.letIn()
	if former != "" {
		other.log.add([]api.KernelLine{{Text: "--- booted anew ---"}})
	}
	n.byKey[rec.Key] = other
	n.cfg.Log.Info("machine recognized", "node", rec.Name, "mac", other.mac(), "why", why)
	n.updateLink(other, other.lastHeard, "head")
	n.bootStage(other, api.StageApproved, why)
	n.announce(other, "head")
	if former != "" && former != rec.Key && n.wire != nil {
		n.wire.Kick(former)
	}
	return nil
}

// refresh records what changed of a node that joins again with its key.
func (n *Nodes) refresh(ctx context.Context, m *machine, req *api.JoinRequest) error {
	n.mu.Lock()
	rec := m.machineRecord
	rec.Hardware, rec.Software, rec.BootID = req.Hardware, req.Software, req.BootID
	if rec.BootID != m.BootID {
		m.letIn()
	}
	same := sameRecord(rec, m.machineRecord)
	n.mu.Unlock()
	if !same {
		rev, err := n.commit(ctx, m.id, rec, m.rev)
		if err != nil {
			return err
		}
		n.mu.Lock()
		m.machineRecord, m.rev = rec, rev
		n.mu.Unlock()
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	m.interval = n.interval
	m.bootSeen = time.Time{}
	n.updateLink(m, m.lastHeard, m.Name)
	return nil
}

// letIn makes a node one that is expected to join with its rights.
func (m *machine) letIn() {
	m.joined, m.joining, m.stage = false, true, "joining"
	m.arriving, m.noted = true, ""
	m.mounts, m.config, m.configNext = nil, 0, time.Time{}
	m.settled, m.whole = false, nil
}

// welcome makes a node that joined with its rights one that takes tasks once it is prepared, after
// the job side was told of it: a task that it got before would be
// taken for one that it lost.
func (n *Nodes) welcome(key string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	m := n.byKey[key]
	if m == nil || !m.isNode() {
		return
	}
	m.joined, m.joining, m.stage = true, false, ""
	m.lastHeard = n.cfg.Now()
	m.joinedAt = m.lastHeard
	if n.mountsOf == nil {
		m.settled = true // nothing is configured
	}
	n.noteStage(m, n.updateLink(m, m.lastHeard, m.Name))
	if n.located != nil {
		n.located()
	}
	n.configure()
}

func sameRecord(a, b machineRecord) bool {
	x, err1 := json.Marshal(a)
	y, err2 := json.Marshal(b)
	return err1 == nil && err2 == nil && string(x) == string(y)
}

// wait makes a machine pending, or leaves it rejected.
func (n *Nodes) wait(m, other *machine, d joinDecision) {
	n.mu.Lock()
	defer n.mu.Unlock()
	m.waitWhy, m.waitsFor = d.why, ""
	if d.waits {
		m.waitsFor = other.id
	}
	if m.State == api.NodeRejected {
		return
	}
	if d.state == api.JoinRejected {
		// A rejected machine that booted anew is not listed twice: the one
		// that was rejected stands for it.
		delete(n.machines, m.id)
		if n.byKey[other.Key] == other {
			delete(n.byKey, other.Key)
		}
		other.Key, other.lastHeard = m.Key, m.lastHeard
		n.byKey[m.Key] = other
		return
	}
	if m.State == api.NodePending {
		return
	}
	if err := machineStep(m.State, api.NodePending); err != nil {
		n.cfg.Log.Error("machine took a way that does not exist", "mac", m.mac(), "err", err)
		return
	}
	m.State, m.stage = api.NodePending, ""
	n.arrivals++
	m.order = n.arrivals
	n.publish(m, "head")
	n.bootStage(m, api.StagePending, d.why)
}

// retryWaiting looks again at a machine that waits for a node with its
// address to be silent.
func (n *Nodes) retryWaiting(ctx context.Context, id string) {
	n.changes.Lock()
	defer n.changes.Unlock()
	n.mu.Lock()
	m := n.machines[id]
	if m == nil || m.State != api.NodePending || !n.connected(m.Key) {
		n.mu.Unlock()
		return
	}
	other, d := n.decide(m)
	n.mu.Unlock()
	if !d.bind {
		return
	}
	key := m.Key
	if err := n.bind(ctx, m, other, d.why); err != nil {
		n.cfg.Log.Error("letting a known machine in", "node", other.Name, "err", err)
		return
	}
	n.wire.Push(key, n.replyTo(other, api.JoinApproved, true))
}

// replyTo is what an agent is told.
func (n *Nodes) replyTo(m *machine, state api.JoinState, reconnect bool) api.JoinReply {
	n.mu.Lock()
	defer n.mu.Unlock()
	r := api.JoinReply{State: state, Heartbeat: api.Duration(n.interval), Clock: n.cfg.Now().UTC()}
	switch state {
	case api.JoinApproved:
		r.Name, r.Reconnect, r.Files = m.Name, reconnect, filesURL(m.headIP, n.cfg.FilesPort)
		m.interval = n.interval
	case api.JoinPending:
		r.Message = "waits for approval"
		if m.waitWhy != "" {
			r.Message += " (" + m.waitWhy + ")"
		}
	case api.JoinRejected:
		r.Message = "rejected; on the head: muster node approve " + m.mac()
	}
	return r
}

// filesURL is where an agent that reached the head at an address finds contents
// by hash, "" when that is not known.
func filesURL(host string, port int) string {
	if host == "" || port == 0 {
		return ""
	}
	return "http://" + net.JoinHostPort(host, strconv.Itoa(port))
}

// commit records a machine.
func (n *Nodes) commit(ctx context.Context, id string, rec machineRecord, expect uint64) (uint64, error) {
	op, err := machineOp(id, rec, expect)
	if err != nil {
		return 0, err
	}
	return n.cfg.Store.Commit(ctx, op)
}

func machineOp(id string, rec machineRecord, expect uint64) (store.Op, error) {
	data, err := json.Marshal(rec)
	if err != nil {
		return store.Op{}, fmt.Errorf("writing record of machine %s: %w", id, err)
	}
	return store.Op{Kind: kindMachine, ID: id, Expect: expect, Data: data}, nil
}
