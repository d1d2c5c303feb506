package pxe

import (
	"fmt"
	"net"
	"slices"
	"sync"
	"time"
)

// Bounds of what is remembered.
const (
	watchedMachines = 8192
	timelineLength  = 64
	loopFetches     = 3               // so many times the same loader is normal:
	loopTime        = 2 * time.Minute // in this time
	refusedEvery    = time.Minute     // one event for a machine that keeps asking
)

// watch remembers what each machine did, notices machines that boot in
// circles, and passes events on.
type watch struct {
	next Observer // may be nil
	now  func() time.Time

	mu       sync.Mutex
	machines map[MAC]*watched
}

// watched is one machine.
type watched struct {
	last    time.Time
	events  []Event
	refused time.Time
	loader  string // the one that was fetched last
	fetches []time.Time
	stuck   bool // was told for this series of fetches
}

func newWatch(next Observer, now func() time.Time) *watch {
	return &watch{next: next, now: now, machines: map[MAC]*watched{}}
}

// Observe records e and passes it on, with a second event where a loop is
// noticed. A machine that is refused is told of once a minute.
func (w *watch) Observe(e Event) {
	if e.Time.IsZero() {
		e.Time = w.now()
	}
	if len(e.MAC) != len(MAC{}) {
		w.pass(e) // a transfer to somebody unknown
		return
	}
	w.mu.Lock()
	m := w.machine(MAC(e.MAC), e.Time)
	if e.Stage == StageRefused {
		if !m.refused.IsZero() && e.Time.Sub(m.refused) < refusedEvery {
			w.mu.Unlock()
			return
		}
		m.refused = e.Time
	}
	events := []Event{e}
	if stuck, ok := m.loop(e); ok {
		events = append(events, stuck)
	}
	m.events = append(m.events, events...)
	if over := len(m.events) - timelineLength; over > 0 {
		m.events = slices.Delete(m.events, 0, over)
	}
	w.mu.Unlock()
	for _, e := range events {
		w.pass(e)
	}
}

func (w *watch) pass(e Event) {
	if w.next != nil {
		w.next.Observe(e)
	}
}

// machine finds or makes an entry; mu is held.
func (w *watch) machine(mac MAC, now time.Time) *watched {
	m := w.machines[mac]
	if m == nil {
		if len(w.machines) >= watchedMachines {
			w.evict()
		}
		m = &watched{}
		w.machines[mac] = m
	}
	m.last = now
	return m
}

// evict drops an eighth of the machines, those heard longest ago; mu is held.
func (w *watch) evict() {
	times := make([]time.Time, 0, len(w.machines))
	for _, m := range w.machines {
		times = append(times, m.last)
	}
	slices.SortFunc(times, time.Time.Compare)
	limit := times[len(times)/8]
	for mac, m := range w.machines {
		if !m.last.After(limit) {
			delete(w.machines, mac)
		}
	}
}

// loop counts fetches of the same loader with no script between them.
func (m *watched) loop(e Event) (Event, bool) {
	switch e.Stage {
	case StageScript:
		m.fetches, m.stuck = nil, false
		return Event{}, false
	case StageLoader:
	default:
		return Event{}, false
	}
	if e.Detail != m.loader {
		m.loader, m.fetches, m.stuck = e.Detail, nil, false
	}
	m.fetches = slices.DeleteFunc(m.fetches, func(t time.Time) bool { return e.Time.Sub(t) > loopTime })
	m.fetches = append(m.fetches, e.Time)
	if over := len(m.fetches) - loopFetches - 1; over > 0 {
		m.fetches = slices.Delete(m.fetches, 0, over)
	}
	if len(m.fetches) <= loopFetches || m.stuck {
		return Event{}, false
	}
	m.stuck = true
	e.Stage, e.Bytes, e.Dur = StageStuck, 0, 0
	e.Detail = fmt.Sprintf("fetched %s %d times in %v and never asked for the script", m.loader, len(m.fetches),
		e.Time.Sub(m.fetches[0]).Round(time.Second))
	return e, true
}

// timeline copies what mac did, oldest first.
func (w *watch) timeline(mac net.HardwareAddr) []Event {
	if len(mac) != len(MAC{}) {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if m := w.machines[MAC(mac)]; m != nil {
		return slices.Clone(m.events)
	}
	return nil
}
