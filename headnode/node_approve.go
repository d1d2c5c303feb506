package headnode

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"muster/api"
	"muster/headnode/store"
)

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
		a.rec.Weight, a.rec.Name, a.rec.FixedIP, a.rec.Image = a.into.Weight, a.into.Name, a.into.FixedIP, a.into.Image
		a.rec.Labels = a.into.Labels
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
		into.ip, into.headIP, into.speed = m.ip, m.headIP, max(m.speed, into.speed)
		into.runs, into.said = m.runs, m.said
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
	n.bootStage(into, api.StageApproved, "as "+into.Name+" by "+actor)
	return n.view(into)
}
