package nodeagent

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"muster/api"
)

func TestChooseHead(t *testing.T) {
	pinA, pinB := strings.Repeat("aa", 32), strings.Repeat("bb", 32)
	dhcp := func(addr, pin string) FoundHead { return FoundHead{Addr: addr, Pin: pin, By: FoundByDHCP} }
	mdns := func(addr, pin string) FoundHead { return FoundHead{Addr: addr, Pin: pin, By: FoundByMDNS} }
	many := []FoundHead{}
	for _, c := range "12345" {
		many = append(many, mdns("h"+string(c)+":1", strings.Repeat(string(c), 64)))
	}
	for name, c := range map[string]struct {
		found []FoundHead
		pin   string
		want  string
		why   string
	}{
		"none":                           {why: "no head answers here"},
		"one":                            {found: []FoundHead{mdns("a:1", pinA)}, want: "a:1"},
		"one by two addresses":           {found: []FoundHead{mdns("a:1", pinA), mdns("b:1", pinA)}, want: "a:1"},
		"two":                            {found: []FoundHead{mdns("a:1", pinA), mdns("b:1", pinB)}, why: "2 heads answer here and nothing says which to join: a:1 " + api.FingerprintOfPin(pinA) + ", b:1 " + api.FingerprintOfPin(pinB)},
		"two without pins":               {found: []FoundHead{mdns("a:1", ""), mdns("b:1", "")}, why: "2 heads answer here and nothing says which to join: a:1, b:1"},
		"two that claim one address":     {found: []FoundHead{mdns("a:1", pinA), mdns("a:1", pinB)}, why: "2 heads answer here"},
		"five":                           {found: many, why: "and 2 more"},
		"the DHCP server's before two":   {found: []FoundHead{mdns("a:1", pinA), mdns("b:1", pinB), dhcp("c:1", pinB)}, want: "c:1"},
		"with a pin":                     {found: []FoundHead{dhcp("a:1", pinA), mdns("b:1", pinB)}, pin: pinB, want: "b:1"},
		"with a pin, another":            {found: []FoundHead{mdns("a:1", pinA)}, pin: pinB, why: "the head that is looked for, " + api.FingerprintOfPin(pinB) + ", does not answer here; others do: a:1 "},
		"with a pin, none":               {pin: pinB, why: "no head answers here; the one that is looked for is " + api.FingerprintOfPin(pinB)},
		"with a pin, one that says none": {found: []FoundHead{mdns("a:1", pinA), dhcp("b:1", "")}, pin: pinB, want: "b:1"},
	} {
		got, why := chooseHead(c.found, c.pin)
		if got.Addr != c.want || !strings.Contains(why, c.why) || (why == "") != (c.why == "") {
			t.Errorf("%s: chooseHead = %q, %q, want %q, %q", name, got.Addr, why, c.want, c.why)
		}
	}
}

func TestSearchDue(t *testing.T) {
	begin := time.Unix(1000, 0)
	other := &pinError{}
	lost := errors.New("no way")
	for name, c := range map[string]struct {
		err        error
		lost, last time.Duration // before now; 0 of last: never
		want       bool
	}{
		"just lost":                       {lost, time.Second, 0, false},
		"lost for long":                   {lost, lostAfter, 0, true},
		"lost for long, just looked":      {lost, time.Hour, time.Second, false},
		"lost for long, looked long ago":  {lost, time.Hour, lostAfter, true},
		"another head is there":           {other, time.Second, 0, true},
		"another is there, just looked":   {other, time.Second, time.Second, false},
		"another is there, looked before": {other, time.Second, findAgain, true},
	} {
		s := search{lost: begin.Add(-c.lost)}
		if c.last > 0 {
			s.last = begin.Add(-c.last)
		}
		if got := s.due(c.err, begin); got != c.want {
			t.Errorf("%s: due = %v, want %v", name, got, c.want)
		}
	}
}

// fakeFinder finds what it was told.
type fakeFinder struct {
	mu    sync.Mutex
	heads []FoundHead
	err   error
}

func (f *fakeFinder) Find(context.Context) ([]FoundHead, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.heads, f.err
}

func (f *fakeFinder) set(err error, heads ...FoundHead) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.heads, f.err = heads, err
}

// An agent that was told no head says what it finds, joins the only one, and follows it.
func TestHeadIsFound(t *testing.T) {
	h := newFakeHead(t)
	f := &fakeFinder{}
	f.set(errors.New("no link"))
	a, s, _ := startAgent(t, Config{Finder: f})
	s.wait(t, "why it finds none", func(st Status) bool {
		return st.Phase == PhaseNoHead && strings.Contains(st.Reason, "looking for a head: no link; give muster.head=")
	})
	f.set(nil, FoundHead{Addr: h.addr, Pin: strings.Repeat("ab", 32), By: FoundByMDNS}, FoundHead{Addr: "192.0.2.1:1", By: FoundByMDNS})
	s.wait(t, "both heads", func(st Status) bool { return strings.Contains(st.Reason, "2 heads answer here") })
	// Whoever told of it lied about its pin.
	f.set(nil, FoundHead{Addr: h.addr, Pin: strings.Repeat("ab", 32), By: FoundByMDNS})
	s.wait(t, "another head", func(st Status) bool { return strings.Contains(st.Reason, "is not the pinned abab") })
	f.set(nil, FoundHead{Addr: h.addr, Pin: h.pin(), By: FoundByMDNS})
	got := s.wait(t, "pending", inPhase(PhasePending))
	if got.Head != h.addr || got.HeadFingerprint != api.Fingerprint(h.pub) || got.Pinned || got.Fingerprint != a.key.fingerprint {
		t.Errorf("screen %+v", got)
	}
}

// A head that was known by its pin is found where it is now.
func TestHeadIsFollowed(t *testing.T) {
	h, other := newFakeHead(t), newFakeHead(t)
	f := &fakeFinder{}
	f.set(nil, FoundHead{Addr: other.addr, Pin: other.pin(), By: FoundByDHCP}, FoundHead{Addr: h.addr, Pin: h.pin(), By: FoundByMDNS})
	// Another head has its address by now.
	_, s, _ := startAgent(t, Config{Head: other.addr, Pin: h.pin(), Finder: f})
	got := s.wait(t, "pending", inPhase(PhasePending))
	if got.Head != h.addr || !got.Pinned {
		t.Errorf("screen %+v, want the head at %s", got, h.addr)
	}
	if len(other.joins) != 0 {
		t.Error("it has joined another head")
	}
}
