package headnode

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"muster/api"
	"muster/headnode/store"
)

// What administrators do with machines and nodes.

// minPrefix is how much of a fingerprint or id names a machine.
const minPrefix = 4

// Find implements nodeAdmin.
func (n *Nodes) Find(ref string) (api.Node, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	m, err := n.find(ref)
	if err != nil {
		return api.Node{}, err
	}
	return n.view(m), nil
}

// find looks a machine up as Find does; n.mu is held.
func (n *Nodes) find(ref string) (*machine, error) {
	ref = strings.TrimSpace(ref)
	if m := n.named(ref); m != nil {
		return m, nil
	}
	if m := n.machines[ref]; m != nil {
		return m, nil
	}
	if mac, ok := normalMAC(ref); ok {
		if m := n.byMAC(mac); m != nil {
			return m, nil
		}
		return nil, noMachine(mac)
	}
	var found []*machine
	prefix := strings.ToLower(ref)
	if len(prefix) >= minPrefix {
		for _, m := range n.machines {
			fp, _ := keyFingerprint(m.Key)
			if strings.HasPrefix(m.id, prefix) || strings.HasPrefix(fp, prefix) || m.Hardware.UUID == prefix {
				found = append(found, m)
			}
		}
	}
	switch len(found) {
	case 0:
		return nil, n.notFound(ref)
	case 1:
		return found[0], nil
	}
	var names []string
	for _, m := range found {
		names = append(names, cmp.Or(m.Name, m.mac(), m.id))
	}
	slices.Sort(names)
	return nil, &api.Error{Code: api.CodeInvalid, Msg: fmt.Sprintf("%q may be each of %s", cleanText(ref), strings.Join(names, ", ")), Hint: "write more of it"}
}

func noMachine(ref string) error {
	return &api.Error{Code: api.CodeNotFound, Msg: fmt.Sprintf("no machine or node is called %s", cleanText(ref)), Hint: "muster node list shows all of them"}
}

// notFound is noMachine with the nearest name.
func (n *Nodes) notFound(ref string) error {
	var names []string
	for _, m := range n.machines {
		if m.Name != "" {
			names = append(names, m.Name)
		}
	}
	if near := nearest(ref, names); near != "" {
		return &api.Error{Code: api.CodeNotFound, Msg: fmt.Sprintf("no machine or node is called %s", cleanText(ref)), Hint: fmt.Sprintf("the nearest name is %s", near)}
	}
	return noMachine(ref)
}

// Expand implements nodeAdmin.
func (n *Nodes) Expand(list string) ([]api.Node, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	var refs []string
	if m, err := n.find(list); err == nil {
		refs = []string{m.id}
	} else {
		rest := []string{}
		for _, item := range strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == ' ' }) {
			if mac, ok := normalMAC(item); ok {
				refs = append(refs, mac)
			} else {
				rest = append(rest, item)
			}
		}
		if len(rest) > 0 || len(refs) == 0 {
			names, err := api.ParseHostList(strings.Join(rest, ","))
			if err != nil {
				return nil, &api.Error{Code: api.CodeInvalid, Msg: err.Error(), Hint: "write names as n1,n3 or n[1-10,14]"}
			}
			refs = append(refs, names...)
		}
	}
	nodes := make([]api.Node, 0, len(refs))
	for _, ref := range refs {
		m, err := n.find(ref)
		if err != nil {
			return nil, err
		}
		if !m.isNode() {
			v := n.view(m)
			code := api.CodeConflict
			if v.State == api.NodePending {
				code = api.CodePending
			}
			return nil, &api.Error{Code: code, Msg: fmt.Sprintf("machine %s is %s and no node", cmp.Or(m.Name, m.mac(), m.id), v.State), Hint: v.Hint}
		}
		nodes = append(nodes, n.view(m))
	}
	return nodes, nil
}

// freeNames returns the lowest free names n1, n2, …
func (n *Nodes) freeNames(count int) []string {
	taken := n.takenNames()
	names := make([]string, 0, count)
	for i := 1; len(names) < count; i++ {
		if name := fmt.Sprintf("n%d", i); taken[name] == nil {
			names = append(names, name)
		}
	}
	return names
}

func (n *Nodes) takenNames() map[string]*machine {
	taken := map[string]*machine{}
	for _, m := range n.machines {
		if m.Name != "" {
			taken[m.Name] = m
		}
	}
	return taken
}

// chooseNames names count machines from a host list, or by the lowest free
// names when the list is empty.
func (n *Nodes) chooseNames(list string, count int) ([]string, error) {
	if list == "" {
		return n.freeNames(count), nil
	}
	wanted, err := api.ParseHostList(list)
	if err != nil {
		return nil, &api.Error{Code: api.CodeInvalid, Msg: err.Error(), Hint: "write names as n1,n3 or n[1-10,14]"}
	}
	taken := n.takenNames()
	var names []string
	for _, name := range wanted {
		m := taken[name]
		if m == nil {
			names = append(names, name)
			continue
		}
		if len(wanted) == 1 {
			return nil, &api.Error{Code: api.CodeExists, Msg: fmt.Sprintf("the name %s belongs to machine %s", name, cmp.Or(m.mac(), m.id)), Hint: "choose another, or remove that one: muster node remove " + name}
		}
	}
	if len(names) < count {
		return nil, &api.Error{Code: api.CodeInvalid, Msg: fmt.Sprintf("%s has %d free names and %d machines want one", list, len(names), count), Hint: "write a longer list"}
	}
	return names[:count], nil
}

// Approve implements nodeAdmin. All machines are approved, or none.
func (n *Nodes) Approve(ctx context.Context, actor string, req api.ApproveRequest) ([]api.Node, error) {
	if req.All == (len(req.Machines) > 0) {
		return nil, &api.Error{Code: api.CodeInvalid, Msg: "either machines are named or all are meant", Hint: "muster node approve MAC…, or muster node approve --all"}
	}
	n.changes.Lock()
	defer n.changes.Unlock()
	n.mu.Lock()
	plan, err := n.planApproval(req)
	n.mu.Unlock()
	if err != nil {
		return nil, err
	}
	now := stamp(n.cfg.Now())
	var ops []store.Op
	for i := range plan {
		a := &plan[i]
		a.rec.State, a.rec.By, a.rec.Since = api.NodeReady, actor, now
		op, err := machineOp(a.into.id, a.rec, a.into.rev)
		if err != nil {
			return nil, err
		}
		ops = append(ops, op)
	}
	last, err := n.cfg.Store.Commit(ctx, ops...)
	if err != nil {
		return nil, recordError(err)
	}
	nodes := make([]api.Node, len(plan))
	for i, a := range plan {
		nodes[i] = n.approved(a, last-uint64(len(plan)-1-i), actor)
	}
	for _, a := range plan {
		n.wire.Push(a.rec.Key, n.replyTo(a.into, api.JoinApproved, true))
	}
	return nodes, nil
}

// approval lets m in as into, which is m itself or the node that it was
// before.
type approval struct {
	m, into *machine
	rec     machineRecord
}

func (n *Nodes) planApproval(req api.ApproveRequest) ([]approval, error) {
	targets, err := n.targets(req)
	if err != nil {
		return nil, err
	}
	plan := make([]approval, 0, len(targets))
	fresh := 0
	claimed := map[*machine]bool{}
	for _, m := range targets {
		a := approval{m: m, into: m, rec: m.machineRecord}
		for _, o := range n.machines {
			if o != m && (o.isNode() || o.State == api.NodeDeclared) && sameAddress(o.Hardware, m.Hardware) && !claimed[o] && !n.stillHeard(o) {
				a.into = o
			}
		}
		claimed[a.into] = true
		a.rec.Admin = cmp.Or(a.into.Admin, api.AdminReady)
		a.rec.Weight, a.rec.Name, a.rec.FixedIP = a.into.Weight, a.into.Name, a.into.FixedIP
		if a.rec.Name == "" {
			fresh++
		}
		plan = append(plan, a)
	}
	names, err := n.chooseNames(req.Names, fresh)
	if err != nil {
		return nil, err
	}
	for i := range plan {
		if plan[i].rec.Name == "" {
			plan[i].rec.Name, names = names[0], names[1:]
		}
	}
	return plan, nil
}

// stillHeard tells whether a node is alive, so that a machine with its
// address is another one.
func (n *Nodes) stillHeard(m *machine) bool {
	return m.isNode() && n.cfg.Now().Sub(m.lastHeard) < silence && n.connected(m.Key)
}

// targets are the machines that a request means.
func (n *Nodes) targets(req api.ApproveRequest) ([]*machine, error) {
	var targets []*machine
	if req.All {
		for _, m := range n.machines {
			if m.State == api.NodePending {
				targets = append(targets, m)
			}
		}
		slices.SortFunc(targets, func(a, b *machine) int { return cmp.Compare(a.order, b.order) })
		if len(targets) == 0 {
			return nil, &api.Error{Code: api.CodeNotFound, Msg: "no machine is pending", Hint: "muster node list shows what is there"}
		}
		return targets, nil
	}
	for _, ref := range req.Machines {
		m, err := n.findWaiting(ref)
		if err != nil {
			return nil, err
		}
		if !slices.Contains(targets, m) {
			targets = append(targets, m)
		}
	}
	return targets, nil
}

// findWaiting finds a machine that can be approved. Where an address is that
// of a node and of a pending machine, the pending one is meant.
func (n *Nodes) findWaiting(ref string) (*machine, error) {
	if mac, ok := normalMAC(ref); ok {
		for _, m := range n.machines {
			if m.State == api.NodePending && slices.Contains(m.Hardware.MACs, mac) {
				return m, nil
			}
		}
	}
	m, err := n.find(ref)
	if err != nil {
		return nil, err
	}
	what := cmp.Or(m.Name, m.mac(), m.id)
	switch m.State {
	case api.NodePending:
		return m, nil
	case api.NodeRejected:
		if m.Key != "" {
			return m, nil
		}
		return nil, &api.Error{Code: api.CodeConflict, Msg: fmt.Sprintf("machine %s was rejected and has not been heard since", what), Hint: "let it boot again after: muster node remove " + what}
	case api.NodeReady:
		return nil, &api.Error{Code: api.CodeConflict, Msg: fmt.Sprintf("%s is a node already", what)}
	case api.NodeDeclared:
		return nil, &api.Error{Code: api.CodeConflict, Msg: fmt.Sprintf("%s is declared: it is let in when it boots", what)}
	}
	return nil, &api.Error{Code: api.CodeConflict, Msg: fmt.Sprintf("machine %s is %s: its agent was not heard yet", what, m.State), Hint: "let it in when it comes: muster node add " + what}
}

// approved makes an approval visible.
func (n *Nodes) approved(a approval, rev uint64, actor string) api.Node {
	n.mu.Lock()
	defer n.mu.Unlock()
	m, into := a.m, a.into
	// A rejected machine goes the way through pending.
	for from := m.State; from == api.NodeRejected; from = api.NodePending {
		m.State = api.NodePending
		n.publish(m, actor)
	}
	former := into.Key
	if into != m {
		delete(n.machines, m.id)
		if n.byKey[former] == into {
			delete(n.byKey, former)
		}
		into.ip, into.speed = m.ip, max(m.speed, into.speed)
		if former != "" && former != a.rec.Key {
			n.wire.Kick(former)
		}
	}
	n.machines[into.id] = into
	into.machineRecord, into.rev = a.rec, rev
	into.lastHeard, into.interval, into.bootSeen = n.cfg.Now(), n.interval, time.Time{}
	into.waitsFor, into.waitWhy = "", ""
	into.letIn()
	n.byKey[a.rec.Key] = into
	n.updateLink(into, into.lastHeard, actor)
	return n.view(into)
}

// Reject implements nodeAdmin.
func (n *Nodes) Reject(ctx context.Context, actor, ref string) (api.Node, error) {
	n.changes.Lock()
	defer n.changes.Unlock()
	n.mu.Lock()
	m, err := n.findWaiting(ref)
	if err == nil && m.State != api.NodeRejected {
		err = machineStep(m.State, api.NodeRejected)
	}
	n.mu.Unlock()
	if err != nil {
		return api.Node{}, err
	}
	return n.change(ctx, m, actor, func(rec *machineRecord) { rec.State, rec.By = api.NodeRejected, actor }, func() {
		n.wire.Push(m.Key, api.JoinReply{State: api.JoinRejected, Message: "rejected by " + actor})
		n.wire.Kick(m.Key)
	})
}

// change records a change of one machine and makes it visible; then runs
// afterwards without a lock. n.changes is held.
func (n *Nodes) change(ctx context.Context, m *machine, actor string, edit func(*machineRecord), then func()) (api.Node, error) {
	n.mu.Lock()
	rec := m.machineRecord
	edit(&rec)
	rec.Since = stamp(n.cfg.Now())
	n.mu.Unlock()
	rev, err := n.commit(ctx, m.id, rec, m.rev)
	if err != nil {
		return api.Node{}, recordError(err)
	}
	n.mu.Lock()
	m.machineRecord, m.rev = rec, rev
	m.shown = n.stateOf(m)
	n.announce(m, actor)
	v := n.view(m)
	n.mu.Unlock()
	if then != nil {
		then()
	}
	return v, nil
}

// Remove implements nodeAdmin. A machine that still runs becomes pending
// when it asks again.
func (n *Nodes) Remove(ctx context.Context, actor, ref string) (api.Node, error) {
	n.changes.Lock()
	defer n.changes.Unlock()
	n.mu.Lock()
	m, err := n.find(ref)
	n.mu.Unlock()
	if err != nil {
		return api.Node{}, err
	}
	if m.rev != 0 {
		if _, err := n.cfg.Store.Commit(ctx, store.Op{Kind: kindMachine, ID: m.id, Expect: m.rev}); err != nil {
			return api.Node{}, recordError(err)
		}
	}
	n.mu.Lock()
	v := n.view(m)
	wasNode := m.isNode()
	n.forget(m, actor)
	n.mu.Unlock()
	if wasNode {
		n.sink.NodeRemoved(v.Name)
	}
	if m.Key != "" {
		n.wire.Push(m.Key, api.JoinReply{State: api.JoinPending, Message: "removed by " + actor, Reconnect: true})
		n.wire.Kick(m.Key)
	}
	n.cfg.Log.Info("machine removed", "node", v.Name, "mac", v.MAC, "actor", actor)
	return v, nil
}

// Rename implements nodeAdmin.
func (n *Nodes) Rename(ctx context.Context, actor, ref, name string) (api.Node, error) {
	if err := api.CheckHostName(name); err != nil {
		return api.Node{}, &api.Error{Code: api.CodeInvalid, Msg: err.Error()}
	}
	n.changes.Lock()
	defer n.changes.Unlock()
	n.mu.Lock()
	m, err := n.find(ref)
	if err == nil && m.Name == "" && m.State != api.NodeDeclared {
		v := n.view(m)
		err = &api.Error{Code: api.CodeConflict, Msg: fmt.Sprintf("machine %s is %s: only a node has a name", cmp.Or(m.mac(), m.id), m.State), Hint: v.Hint}
	}
	if err == nil {
		if o := n.named(name); o != nil && o != m {
			err = &api.Error{Code: api.CodeExists, Msg: fmt.Sprintf("the name %s belongs to machine %s", name, cmp.Or(o.mac(), o.id))}
		}
	}
	n.mu.Unlock()
	if err != nil {
		return api.Node{}, err
	}
	former := m.Name
	since := m.Since
	return n.change(ctx, m, actor, func(rec *machineRecord) { rec.Name = name }, func() {
		n.mu.Lock()
		m.Since = since // its state is what it was
		n.mu.Unlock()
		if former != "" && former != name {
			n.sink.NodeRenamed(former, name)
		}
		if m.isNode() && m.Key != "" {
			n.wire.Push(m.Key, n.replyTo(m, api.JoinApproved, false))
		}
	})
}

// Declare implements nodeAdmin. A machine that waits already is approved.
func (n *Nodes) Declare(ctx context.Context, actor string, req api.DeclareRequest) (api.Node, error) {
	rec, err := declaredRecord(req)
	if err != nil {
		return api.Node{}, err
	}
	n.mu.Lock()
	m, err := n.declarable(rec)
	pending := m != nil && m.State == api.NodePending
	n.mu.Unlock()
	if err != nil {
		return api.Node{}, err
	}
	if pending {
		nodes, err := n.Approve(ctx, actor, api.ApproveRequest{Machines: []string{m.id}, Names: req.Name})
		if err != nil {
			return api.Node{}, err
		}
		return nodes[0], nil
	}
	n.changes.Lock()
	defer n.changes.Unlock()
	n.mu.Lock()
	if m, err = n.declarable(rec); err != nil {
		n.mu.Unlock()
		return api.Node{}, err
	}
	if m == nil {
		m = &machine{id: newMachineID(), machineRecord: machineRecord{Schema: machineSchema, Weight: 100}}
		n.arrivals++
		m.order = n.arrivals
	} else if err := machineStep(m.State, api.NodeDeclared); err != nil {
		n.mu.Unlock()
		return api.Node{}, err
	}
	n.mu.Unlock()
	return n.change(ctx, m, actor, func(r *machineRecord) {
		r.State, r.Name, r.FixedIP, r.By = api.NodeDeclared, rec.Name, rec.FixedIP, actor
		if len(rec.Hardware.MACs) > 0 {
			r.Hardware.MACs = rec.Hardware.MACs
		}
		r.Hardware.UUID = cmp.Or(rec.Hardware.UUID, r.Hardware.UUID)
		r.Key = ""
	}, func() {
		n.mu.Lock()
		n.machines[m.id] = m
		n.mu.Unlock()
	})
}

// declaredRecord checks what can be checked of a request by itself.
func declaredRecord(req api.DeclareRequest) (machineRecord, error) {
	var rec machineRecord
	fail := func(format string, args ...any) (machineRecord, error) {
		return rec, &api.Error{Code: api.CodeInvalid, Msg: fmt.Sprintf(format, args...), Hint: "muster node add 52:54:00:12:34:56 --name n1"}
	}
	if req.MAC != "" {
		mac, ok := normalMAC(req.MAC)
		if !ok {
			return fail("%q is no hardware address", cleanText(req.MAC))
		}
		rec.Hardware.MACs = []string{mac}
	}
	if req.UUID != "" {
		if rec.Hardware.UUID = normalUUID(req.UUID); rec.Hardware.UUID == "" {
			return fail("%q is no UUID of one machine alone", cleanText(req.UUID))
		}
	}
	if req.MAC == "" && req.UUID == "" {
		return fail("a machine is declared by its hardware address or its UUID")
	}
	if req.Name != "" {
		if err := api.CheckHostName(req.Name); err != nil {
			return fail("%v", err)
		}
		rec.Name = req.Name
	}
	if req.IP != "" {
		ip, err := netip.ParseAddr(req.IP)
		if err != nil || !ip.Is4() {
			return fail("%q is no IPv4 address", cleanText(req.IP))
		}
		rec.FixedIP = ip.String()
	}
	return rec, nil
}

// declarable finds the machine that a declaration is about, nil for one that
// was never seen.
func (n *Nodes) declarable(rec machineRecord) (*machine, error) {
	var found *machine
	for _, m := range n.machines {
		what := cmp.Or(m.Name, m.mac(), m.id)
		same := sameAddress(m.Hardware, rec.Hardware)
		switch {
		case same && (m.isNode() || m.State == api.NodeDeclared):
			return nil, &api.Error{Code: api.CodeExists, Msg: fmt.Sprintf("this machine is known as %s", what), Hint: "muster node show " + what}
		case same && m.State == api.NodeRejected:
			return nil, &api.Error{Code: api.CodeConflict, Msg: fmt.Sprintf("machine %s was rejected", what), Hint: "muster node remove " + what + " forgets that"}
		case rec.Name != "" && m.Name == rec.Name:
			return nil, &api.Error{Code: api.CodeExists, Msg: fmt.Sprintf("the name %s belongs to machine %s", rec.Name, cmp.Or(m.mac(), m.id))}
		case rec.FixedIP != "" && m.FixedIP == rec.FixedIP:
			return nil, &api.Error{Code: api.CodeExists, Msg: fmt.Sprintf("the address %s belongs to machine %s", rec.FixedIP, what)}
		case same && (found == nil || m.State == api.NodePending):
			found = m
		}
	}
	return found, nil
}

// SetAdmin implements nodeAdmin.
func (n *Nodes) SetAdmin(ctx context.Context, actor, ref string, to api.AdminState) (api.Node, error) {
	n.changes.Lock()
	defer n.changes.Unlock()
	n.mu.Lock()
	m, err := n.find(ref)
	if err == nil && !m.isNode() {
		err = &api.Error{Code: api.CodeConflict, Msg: fmt.Sprintf("machine %s is %s and no node", cmp.Or(m.mac(), m.id), m.State), Hint: n.view(m).Hint}
	}
	if err == nil {
		err = adminStep(m.Admin, to)
	}
	n.mu.Unlock()
	if err != nil {
		return api.Node{}, err
	}
	return n.change(ctx, m, actor, func(rec *machineRecord) { rec.Admin = to }, nil)
}

// Reboot implements nodeAdmin.
func (n *Nodes) Reboot(ctx context.Context, actor, ref string) error {
	n.mu.Lock()
	m, err := n.find(ref)
	if err == nil && !m.isNode() {
		err = &api.Error{Code: api.CodeConflict, Msg: fmt.Sprintf("machine %s is %s and no node", cmp.Or(m.mac(), m.id), m.State), Hint: n.view(m).Hint}
	}
	var name string
	if err == nil {
		name = m.Name
	}
	n.mu.Unlock()
	if err != nil {
		return err
	}
	n.cfg.Log.Info("node told to reboot", "node", name, "actor", actor)
	body, err := n.Request(ctx, name, api.VerbReboot, []byte("{}"))
	if err != nil {
		return err
	}
	var ack api.Ack
	if err := json.Unmarshal(body, &ack); err != nil {
		return &api.Error{Code: api.CodeInternal, Msg: fmt.Sprintf("reading the answer of node %s: %v", name, err)}
	}
	if ack.Err != nil {
		return ack.Err
	}
	return nil
}
