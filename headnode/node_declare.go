package headnode

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"

	"muster/api"
)

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
		return rec, &api.Error{Code: api.CodeInvalid, Msg: fmt.Sprintf(format, args...), Hint: "as in: muster node add 52:54:00:12:34:56 --name n7"}
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
			return nil, &api.Error{Code: api.CodeExists, Msg: fmt.Sprintf("this machine is known as %s", what), Hint: "see: muster node show " + what}
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
