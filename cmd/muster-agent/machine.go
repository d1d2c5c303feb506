package main

import (
	"log/slog"
	"sync"

	"muster/nodeagent/boot"
)

// machine is what the agent knows of the system that it runs on.
type machine struct {
	params  boot.Params
	head    string // HOST:PORT; empty: not known
	log     *slog.Logger
	display *display      // nil on a system that muster did not boot
	mounted chan struct{} // closed when the userland is there

	mu    sync.Mutex
	lease *boot.Lease // guarded by mu; nil: no address
}

func (m *machine) setLease(l *boot.Lease) {
	m.mu.Lock()
	m.lease = l
	m.mu.Unlock()
	m.display.address(l)
}

// address is the machine's own address.
func (m *machine) address() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.lease != nil {
		return m.lease.Addr.Addr().String()
	}
	return outgoingIP(m.head)
}
