package main

import (
	"sync"

	"muster/nodeagent"
	"muster/nodeagent/boot"
)

// display puts together what network and agent say and shows it on the
// machine's screen.
type display struct {
	screen interface{ Show(boot.Status) }
	// problems are those that are known from the start; found returns what
	// PID 1 has noticed since.
	problems []string
	medium   string // that may be taken out
	found    func() []string

	mu      sync.Mutex
	lease   *boot.Lease      // guarded by mu, as all below
	waiting string           // why there is no address
	agent   nodeagent.Status // as the agent last said
}

func newDisplay(screen interface{ Show(boot.Status) }, problems []string) *display {
	return &display{screen: screen, problems: problems, found: boot.Problems, waiting: "starting"}
}

// Show implements nodeagent.Screen.
func (d *display) Show(s nodeagent.Status) { d.change(func() { d.agent = s }) }

func (d *display) address(l *boot.Lease) { d.change(func() { d.lease = l }) }

func (d *display) network(waiting string) { d.change(func() { d.waiting = waiting }) }

func (d *display) change(f func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f()
	d.screen.Show(d.status())
}

// status is what the screen says; the caller holds mu.
func (d *display) status() boot.Status {
	a := d.agent
	st := boot.Status{
		Name:            a.Name,
		Head:            a.Head,
		Fingerprint:     a.Fingerprint,
		HeadFingerprint: a.HeadFingerprint,
		Medium:          d.medium,
		Problems:        append(d.found(), d.problems...),
	}
	if a.Notice != "" {
		st.Problems = append(st.Problems, a.Notice)
	}
	if d.lease == nil {
		st.State = boot.StateBooting
		st.Why = d.waiting
		return st
	}
	st.Address = d.lease.Addr.String() + " on " + d.lease.Link
	st.Why = a.Reason
	switch a.Phase {
	case nodeagent.PhaseNoHead:
		st.State = boot.StateNoHead
	case nodeagent.PhasePending:
		st.State = boot.StatePending
		st.Why = a.Message
		st.Type = []string{"muster node approve " + a.Fingerprint}
	case nodeagent.PhaseRejected:
		st.State = boot.StateRejected
		st.Why = a.Message
	case nodeagent.PhaseReady:
		st.State = boot.StateReady
		st.Why = a.Message
		if a.Stage != "" { // a node, but none that takes tasks yet
			st.State, st.Why = boot.StateBooting, a.Stage
		}
	default:
		st.State = boot.StateConnecting
	}
	return st
}
