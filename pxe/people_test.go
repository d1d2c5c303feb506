package pxe

import (
	"net/netip"
	"testing"
	"time"
)

func TestLimiter(t *testing.T) {
	now := time.Unix(1e9, 0)
	l := newLimiter(func() time.Time { return now })
	count := func(mac MAC, n int) (ok int) {
		for range n {
			if l.allow(mac) {
				ok++
			}
		}
		return ok
	}
	if got := count(machine(1), 100); got != rateBurst {
		t.Errorf("%d of 100 at once, want %d", got, rateBurst)
	}
	if got := count(machine(2), 4); got != 4 {
		t.Errorf("another machine: %d of 4, want all", got)
	}
	now = now.Add(10 * rateRefill)
	if got := count(machine(1), 100); got != 10 {
		t.Errorf("%d of 100 after %v, want 10", got, 10*rateRefill)
	}
	for i := range 3 * maxPeople {
		l.allow(machine(i))
	}
	if n := len(l.per); n > maxPeople {
		t.Errorf("%d machines are remembered, want %d at most", n, maxPeople)
	}
}

func TestPeopleAreBounded(t *testing.T) {
	p := newPeople()
	for i := range 3 * maxPeople {
		mac := machine(i)
		p.meet(Machine{MAC: mac[:]})
		p.at(u32Addr(uint32(i+1)), mac)
	}
	p.at(netip.Addr{}, machine(1))
	if len(p.is) > maxPeople || len(p.byIP) > maxPeople {
		t.Errorf("%d machines and %d addresses are remembered, want %d at most", len(p.is), len(p.byIP), maxPeople)
	}
}
