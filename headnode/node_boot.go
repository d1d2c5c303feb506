package headnode

import (
	"slices"
	"time"

	"muster/api"
)

// bootStage adds a step to a machine's timeline.
func (n *Nodes) bootStage(m *machine, stage api.BootStage, detail string) {
	if m.mac() == "" {
		return
	}
	ev := api.BootEvent{Time: n.cfg.Now().UTC(), MAC: m.mac(), IP: m.ip, Stage: stage, Detail: detail, Arch: m.Hardware.Arch, UUID: m.Hardware.UUID}
	n.cfg.BootLogs.add(ev)
	n.cfg.Events.Publish(api.Event{Kind: "boot", Actor: "head", Boot: &ev})
}

// BootSeen takes what the boot service saw a machine do.
func (n *Nodes) BootSeen(ev api.BootEvent) {
	mac, ok := normalMAC(ev.MAC)
	if !ok || ev.Client == "os" {
		// An operating system that renews its address does not boot.
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	m := n.byMAC(mac)
	now := n.cfg.Now()
	if m == nil {
		m = n.newBooting(mac, now)
		if m == nil {
			return
		}
	}
	m.stage = string(ev.Stage)
	if detail := cleanText(ev.Detail); detail != "" {
		m.stage += " " + detail
	}
	// Any program on a node may fetch a boot script under another node's name, from its own node's address. A
	// node's address, by which it has its shares, is that of its connection.
	if ev.IP != "" && !m.isNode() {
		m.ip = ev.IP
	}
	switch m.State {
	case api.NodeReady:
		m.bootSeen = now
		if ev.Stage != api.StageRefused {
			n.updateLink(m, now, "head")
		}
	case api.NodeBooting, api.NodeUnanswered:
		m.lastHeard = now
		m.State = api.NodeBooting
		if ev.Stage == api.StageRefused {
			m.State = api.NodeUnanswered
		}
		n.publish(m, "head")
	}
}

// newBooting remembers a machine that was never seen, or none when strangers
// fill the memory: the one that was silent longest goes first.
func (n *Nodes) newBooting(mac string, now time.Time) *machine {
	var booting []*machine
	for _, m := range n.machines {
		if m.State == api.NodeBooting || m.State == api.NodeUnanswered {
			booting = append(booting, m)
		}
	}
	if len(booting) >= maxBooting {
		n.forget(slices.MinFunc(booting, func(a, b *machine) int { return a.lastHeard.Compare(b.lastHeard) }), "head")
	}
	m := n.newMachine()
	m.State, m.lastHeard = api.NodeBooting, now
	m.Hardware.MACs = []string{mac}
	return m
}

// byMAC is the machine with an address; a node comes before others.
func (n *Nodes) byMAC(mac string) *machine {
	var found *machine
	for _, m := range n.machines {
		if slices.Contains(m.Hardware.MACs, mac) && (found == nil || m.isNode() || !found.isNode() && m.order < found.order) {
			found = m
		}
	}
	return found
}
