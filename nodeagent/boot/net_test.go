package boot

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// fakeLinks is a link table in memory.
type fakeLinks struct {
	mu      sync.Mutex
	links   []link
	changed chan struct{}
	applied []string
	fail    error // of apply
	failUp  error
}

func newFakeLinks(links ...link) *fakeLinks {
	return &fakeLinks{links: links, changed: make(chan struct{}, 1)}
}

func (f *fakeLinks) list() ([]link, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.links), nil
}

func (f *fakeLinks) up(l link) error {
	if f.failUp != nil {
		return f.failUp
	}
	f.set(l.Name, func(l *link) { l.Up = true })
	return nil
}

func (f *fakeLinks) loopback() error { return nil }

func (f *fakeLinks) watch(context.Context) (<-chan struct{}, error) { return f.changed, nil }

func (f *fakeLinks) apply(l Lease, before *Lease) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fail != nil {
		return f.fail
	}
	verb := "add"
	if before != nil {
		verb = "extend"
	}
	f.applied = append(f.applied, verb+" "+l.Addr.String()+" "+l.Link)
	return nil
}

func (f *fakeLinks) remove(l Lease) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.applied = append(f.applied, "remove "+l.Addr.String()+" "+l.Link)
	return nil
}

// set changes a link and tells of it.
func (f *fakeLinks) set(name string, change func(*link)) {
	f.mu.Lock()
	for i := range f.links {
		if f.links[i].Name == name {
			change(&f.links[i])
		}
	}
	f.mu.Unlock()
	select {
	case f.changed <- struct{}{}:
	default:
	}
}

func (f *fakeLinks) history() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.applied)
}

// fakeDHCP answers after a delay that depends on the link.
type fakeDHCP struct {
	delay map[string]time.Duration // by link; absent: no answer at all

	mu     sync.Mutex
	count  int
	asked  []string          // extensions: when and how
	answer func(n int) error // to the nth extension, from 1; nil: yes
	begin  time.Time
	time   time.Duration // of leases; 0: for ever
}

func (f *fakeDHCP) acquire(ctx context.Context, l link, choose func(context.Context) bool) (Lease, error) {
	d, ok := f.delay[l.Name]
	if !ok {
		<-ctx.Done()
		return Lease{}, ctx.Err()
	}
	if !wait(ctx, d) || !choose(ctx) {
		return Lease{}, context.Canceled
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.count++
	return f.lease(l.Name, l.MAC), nil
}

// lease makes a lease; the caller holds mu.
func (f *fakeDHCP) lease(name string, mac net.HardwareAddr) Lease {
	return Lease{
		Link: name, MAC: mac, Addr: netip.MustParsePrefix(fmt.Sprintf("10.0.0.%d/24", f.count)),
		DNS:   []netip.Addr{netip.MustParseAddr("10.0.0.254")},
		Start: time.Now(), Renew: f.time / 2, Rebind: f.time / 8 * 7, Expires: f.time,
	}
}

func (f *fakeDHCP) extend(_ context.Context, l Lease, broadcast bool) (Lease, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	how := "server"
	if broadcast {
		how = "any"
	}
	f.asked = append(f.asked, how+" "+time.Since(f.begin).String())
	if f.answer != nil {
		if err := f.answer(len(f.asked)); err != nil {
			return Lease{}, err
		}
	}
	return f.lease(l.Link, l.MAC), nil
}

func (f *fakeDHCP) requests() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.asked)
}

var (
	mac0 = net.HardwareAddr{2, 0, 0, 0, 0, 0}
	mac1 = net.HardwareAddr{2, 0, 0, 0, 0, 1}
	eth0 = link{Name: "eth0", MAC: mac0, Up: true, Carrier: true}
	eth1 = link{Name: "eth1", MAC: mac1, Up: true, Carrier: true}
)

// network runs a Network in a bubble of synctest and keeps what it tells.
type network struct {
	links *fakeLinks
	dhcp  *fakeDHCP
	begin time.Time

	mu      sync.Mutex
	changes []string // when and what
	waiting string
}

func runNetwork(t *testing.T, prefer net.HardwareAddr, links *fakeLinks, dhcp *fakeDHCP) *network {
	t.Helper()
	n := &network{links: links, dhcp: dhcp, begin: time.Now()}
	dhcp.begin = n.begin
	cfg := NetworkConfig{
		BootMAC:    prefer,
		ResolvConf: filepath.Join(t.TempDir(), "resolv.conf"),
		Changed: func(l *Lease) {
			n.mu.Lock()
			defer n.mu.Unlock()
			what := "lost"
			if l != nil {
				what = l.Addr.String() + " " + l.Link
			}
			n.changes = append(n.changes, what+" "+time.Since(n.begin).String())
		},
		Waiting: func(why string) {
			n.mu.Lock()
			defer n.mu.Unlock()
			n.waiting = why
		},
		Log:   slog.New(slog.DiscardHandler),
		links: links,
		dhcp:  dhcp,
	}
	nw, err := NewNetwork(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- nw.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run() = %v, want nil", err)
		}
	})
	synctest.Wait()
	return n
}

// after lets time pass.
func (n *network) after(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func (n *network) told() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.changes)
}

func (n *network) check(t *testing.T, want ...string) {
	t.Helper()
	if d := cmp.Diff(want, n.told()); d != "" {
		t.Errorf("told, -want +got:\n%s", d)
	}
}

func (n *network) checkWaiting(t *testing.T, want string) {
	t.Helper()
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.waiting != want {
		t.Errorf("waiting = %q, want %q", n.waiting, want)
	}
}

func TestNetworkFirstAnswerWins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := runNetwork(t, nil, newFakeLinks(eth0, eth1), &fakeDHCP{delay: map[string]time.Duration{"eth0": 2 * time.Second, "eth1": time.Second}})
		n.checkWaiting(t, "waiting for an address from a DHCP server on eth0 eth1")
		n.after(time.Hour)
		n.check(t, "10.0.0.1/24 eth1 1s")
		n.checkWaiting(t, "")
		if d := cmp.Diff([]string{"add 10.0.0.1/24 eth1"}, n.links.history()); d != "" {
			t.Errorf("links, -want +got:\n%s", d)
		}
	})
}

func TestNetworkPrefersTheBootLink(t *testing.T) {
	tests := map[string]struct {
		delay map[string]time.Duration
		want  string
	}{
		"answers within the grace": {map[string]time.Duration{"eth0": 2 * time.Second, "eth1": 0}, "10.0.0.1/24 eth0 2s"},
		"answers too late":         {map[string]time.Duration{"eth0": time.Minute, "eth1": time.Second}, "10.0.0.1/24 eth1 4s"},
		"does not answer":          {map[string]time.Duration{"eth1": 0}, "10.0.0.1/24 eth1 3s"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := runNetwork(t, mac0, newFakeLinks(eth0, eth1), &fakeDHCP{delay: tc.delay})
				n.after(time.Hour)
				n.check(t, tc.want)
			})
		})
	}
}

func TestNetworkLinkComesLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		links := newFakeLinks()
		n := runNetwork(t, nil, links, &fakeDHCP{delay: map[string]time.Duration{"eth0": time.Second}})
		n.checkWaiting(t, "looking for a network adapter")
		n.after(time.Minute)
		n.checkWaiting(t, "no network adapter was found; the image may lack its driver")
		links.mu.Lock()
		links.links = []link{{Name: "eth0", MAC: mac0}}
		links.mu.Unlock()
		links.set("", nil) // only tells
		n.after(time.Second)
		n.checkWaiting(t, "no cable has a signal: eth0")
		if l, _ := links.list(); !l[0].Up {
			t.Error("eth0 was not brought up")
		}
		links.set("eth0", func(l *link) { l.Carrier = true })
		n.after(time.Minute)
		n.check(t, "10.0.0.1/24 eth0 1m2s")
	})
}

func TestNetworkCarrierComesAndGoesBeforeTheAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		links := newFakeLinks(eth0)
		n := runNetwork(t, nil, links, &fakeDHCP{delay: map[string]time.Duration{"eth0": 2 * time.Second}})
		n.after(time.Second)
		links.set("eth0", func(l *link) { l.Carrier = false })
		n.after(time.Minute)
		n.check(t)
		links.set("eth0", func(l *link) { l.Carrier = true })
		n.after(time.Minute)
		n.check(t, "10.0.0.1/24 eth0 1m3s")
	})
}

func TestNetworkExtends(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := runNetwork(t, nil, newFakeLinks(eth0), &fakeDHCP{delay: map[string]time.Duration{"eth0": 0}, time: time.Hour})
		n.after(65 * time.Minute)
		n.check(t, "10.0.0.1/24 eth0 0s", "10.0.0.1/24 eth0 30m0s", "10.0.0.1/24 eth0 1h0m0s")
		if d := cmp.Diff([]string{"server 30m0s", "server 1h0m0s"}, n.dhcp.requests()); d != "" {
			t.Errorf("extensions, -want +got:\n%s", d)
		}
	})
}

// With nobody to extend it, the lease is kept to its end, and a new one is
// asked for.
func TestNetworkLeaseEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		silent := func(int) error { return errors.New("no answer") }
		n := runNetwork(t, nil, newFakeLinks(eth0), &fakeDHCP{delay: map[string]time.Duration{"eth0": 0}, time: time.Hour, answer: silent})
		n.after(61 * time.Minute)
		n.check(t, "10.0.0.1/24 eth0 0s", "lost 1h0m0s", "10.0.0.2/24 eth0 1h0m0s")
		asked := n.dhcp.requests()
		if len(asked) < 6 || len(asked) > 12 || asked[0] != "server 30m0s" || !slices.Contains(asked, "any 52m30s") {
			t.Errorf("extensions = %v, want some, from T1 (30m0s) at the server, from T2 (52m30s) at any", asked)
		}
	})
}

func TestNetworkRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := runNetwork(t, nil, newFakeLinks(eth0), &fakeDHCP{delay: map[string]time.Duration{"eth0": 0}, time: time.Hour, answer: func(int) error { return errNak }})
		n.after(31 * time.Minute)
		n.check(t, "10.0.0.1/24 eth0 0s", "lost 30m0s", "10.0.0.2/24 eth0 30m0s")
		want := []string{"add 10.0.0.1/24 eth0", "remove 10.0.0.1/24 eth0", "add 10.0.0.2/24 eth0"}
		if d := cmp.Diff(want, n.links.history()); d != "" {
			t.Errorf("links, -want +got:\n%s", d)
		}
	})
}

func TestNetworkCable(t *testing.T) {
	tests := map[string]struct {
		links  []link
		steps  func(n *network)
		want   []string
		extend []string
	}{
		"out and in: the lease is asked about": {
			[]link{eth0},
			func(n *network) {
				n.links.set("eth0", func(l *link) { l.Carrier = false })
				n.after(5 * time.Minute)
				n.links.set("eth0", func(l *link) { l.Carrier = true })
				n.after(time.Second)
			},
			[]string{"10.0.0.1/24 eth0 0s", "10.0.0.1/24 eth0 5m0s"},
			[]string{"any 5m0s"},
		},
		"out for an instant: the lease is asked about": {
			[]link{eth0},
			func(n *network) {
				n.after(5 * time.Minute)
				n.links.set("eth0", func(l *link) { l.Changes += 2 })
				n.after(time.Second)
			},
			[]string{"10.0.0.1/24 eth0 0s", "10.0.0.1/24 eth0 5m0s"},
			[]string{"any 5m0s"},
		},
		"to another port: a new lease": {
			[]link{eth0, {Name: "eth1", MAC: mac1, Up: true}},
			func(n *network) {
				n.links.set("eth0", func(l *link) { l.Carrier = false })
				n.links.set("eth1", func(l *link) { l.Carrier = true })
				n.after(time.Minute)
			},
			[]string{"10.0.0.1/24 eth0 0s", "lost 10s", "10.0.0.2/24 eth1 10s"},
			nil,
		},
		"adapter gone": {
			[]link{eth0},
			func(n *network) {
				n.links.mu.Lock()
				n.links.links = nil
				n.links.mu.Unlock()
				n.links.set("", nil)
				n.after(time.Second)
			},
			[]string{"10.0.0.1/24 eth0 0s", "lost 0s"},
			nil,
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := runNetwork(t, nil, newFakeLinks(tc.links...), &fakeDHCP{delay: map[string]time.Duration{"eth0": 0, "eth1": 0}})
				tc.steps(n)
				n.check(t, tc.want...)
				if d := cmp.Diff(tc.extend, n.dhcp.requests()); d != "" {
					t.Errorf("extensions, -want +got:\n%s", d)
				}
			})
		})
	}
}

func TestNetworkLinkWithoutFirmware(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		links := newFakeLinks(link{Name: "eth0", MAC: mac0})
		links.failUp = errors.New("bringing eth0 up: no such file or directory")
		n := runNetwork(t, nil, links, &fakeDHCP{})
		n.checkWaiting(t, "bringing eth0 up: no such file or directory; the image may lack the adapter's firmware")
	})
}

func TestNetworkAddressNotUsable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		links := newFakeLinks(eth0)
		links.fail = errors.New("no buffer space")
		n := runNetwork(t, nil, links, &fakeDHCP{delay: map[string]time.Duration{"eth0": 0}})
		n.checkWaiting(t, "no buffer space")
		links.mu.Lock()
		links.fail = nil
		links.mu.Unlock()
		n.after(10 * time.Second)
		n.check(t, "10.0.0.2/24 eth0 1s")
	})
}

func TestNetworkWritesNameServers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "resolv.conf")
		nw, err := NewNetwork(NetworkConfig{
			ResolvConf: path, Changed: func(*Lease) {},
			links: newFakeLinks(eth0), dhcp: &fakeDHCP{delay: map[string]time.Duration{"eth0": 0}},
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- nw.Run(ctx) }()
		synctest.Wait()
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(path)
		if want := "nameserver 10.0.0.254\n"; err != nil || string(b) != want {
			t.Errorf("resolv.conf = %q, %v, want %q", b, err, want)
		}
	})
}

func TestNewNetworkWithoutCallback(t *testing.T) {
	if _, err := NewNetwork(NetworkConfig{}); err == nil || !strings.Contains(err.Error(), "Changed") {
		t.Errorf("NewNetwork() error = %v, want one that names Changed", err)
	}
}

func TestNextExtend(t *testing.T) {
	start := time.Unix(1000, 0)
	at := func(s int) time.Time { return start.Add(time.Duration(s) * time.Second) }
	l := Lease{Start: start, Renew: 1800 * time.Second, Rebind: 3150 * time.Second, Expires: 3600 * time.Second}
	asked := func(s int) Lease { l := l; l.asked = at(s); return l }
	tests := map[string]struct {
		lease Lease
		now   time.Time
		want  int // seconds after the start
	}{
		"at T1":                       {l, at(0), 1800},
		"half of what is left":        {asked(1800), at(1800), 2475},
		"at T2 at the latest":         {asked(3140), at(3140), 3150},
		"half of the rest to the end": {asked(3150), at(3150), 3375},
		"not too often":               {asked(3590), at(3590), 3600},
	}
	for name, tc := range tests {
		if got := int(nextExtend(tc.lease, tc.now).Sub(start) / time.Second); got != tc.want {
			t.Errorf("%s: nextExtend() = %d s, want %d s", name, got, tc.want)
		}
	}
}
