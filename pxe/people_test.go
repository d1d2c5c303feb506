package pxe

import (
	"errors"
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

func TestTFTPDone(t *testing.T) {
	var seen lockedRecorder
	s, err := New(Config{Booter: decider(bootAll), Sockets: &Sockets{}, Observer: &seen})
	if err != nil {
		t.Fatal(err)
	}
	mac := machine(1)
	s.people.meet(Machine{MAC: mac[:], Client: ClientBIOS, Arch: "amd64", UUID: "u"})
	s.learn(addr("10.77.0.9"), mac)
	at := func(a string) netip.AddrPort { return netip.AddrPortFrom(addr(a), 2000) }
	s.TFTPDone(at("10.77.0.9"), "undionly.kpxe", 0, 0, nil)                      // learned the size
	s.TFTPDone(at("10.77.0.9"), "undionly.kpxe", 9, 0, errors.New("timeout"))    // gave up
	s.TFTPDone(at("::ffff:10.77.0.9"), "undionly.kpxe", 74213, time.Second, nil) // got it
	s.TFTPDone(at("10.77.0.8"), "x.efi", 5, 0, nil)                              // is not known
	events := seen.all()
	if len(events) != 2 {
		t.Fatalf("events %+v, want two", events)
	}
	e := events[0]
	if e.Stage != StageLoader || e.MAC.String() != mac.String() || e.Client != ClientBIOS || e.UUID != "u" || e.Bytes != 74213 || e.Dur != time.Second {
		t.Errorf("event %+v", e)
	}
	if e := events[1]; e.MAC != nil || e.IP != addr("10.77.0.8") {
		t.Errorf("event of a stranger: %+v", e)
	}
}
