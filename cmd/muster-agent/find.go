package main

import (
	"context"

	"muster/api"
	"muster/nodeagent"
	"muster/nodeagent/boot"
)

// Find implements nodeagent.Finder: what the DHCP server says first, then who answers.
func (m *machine) Find(ctx context.Context) ([]nodeagent.FoundHead, error) {
	var list []nodeagent.FoundHead
	add := func(by string, n api.HeadNote) {
		list = append(list, nodeagent.FoundHead{Addr: headAddress(n.Addr), Pin: n.Pin, By: by})
	}
	if n := m.leaseHead(); n.Addr != "" {
		add(nodeagent.FoundByDHCP, n)
	}
	heads, err := boot.HeadsByMDNS(ctx)
	for _, n := range heads {
		add(nodeagent.FoundByMDNS, n)
	}
	return list, err
}

// leaseHead is the head that the DHCP server named.
func (m *machine) leaseHead() api.HeadNote {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.lease == nil {
		return api.HeadNote{}
	}
	return m.lease.Head
}
