package headnode

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

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
		return &api.Error{Code: api.CodeNotFound, Msg: fmt.Sprintf("no machine or node is called %s", cleanText(ref)), Hint: fmt.Sprintf("the nearest name is %s; see: muster node list", near)}
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
			items, err := api.ParseNodeList(strings.Join(rest, ","))
			if err != nil {
				return nil, &api.Error{Code: api.CodeInvalid, Msg: err.Error(), Hint: "write nodes as n1,n3, n[1-10,14] or label:gpu"}
			}
			for _, item := range items {
				label, ok := api.CutLabel(item)
				if !ok {
					refs = append(refs, item)
					continue
				}
				with := n.labeled(label)
				if len(with) == 0 {
					return nil, noLabel(label, n.labels())
				}
				for _, m := range with {
					refs = append(refs, m.Name)
				}
			}
		}
	}
	nodes := make([]api.Node, 0, len(refs))
	seen := map[*machine]bool{}
	for _, ref := range refs {
		m, err := n.find(ref)
		if err != nil {
			return nil, err
		}
		if seen[m] {
			continue
		}
		seen[m] = true
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
