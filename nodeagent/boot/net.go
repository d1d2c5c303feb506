package boot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// preferGrace is how long an offer on another link waits for one on
	// the link that the firmware booted from.
	preferGrace = 3 * time.Second
	// moveGrace is how long a link without carrier keeps its address while
	// another link has one: a switch that starts again takes longer, but then
	// no link has.
	moveGrace = 10 * time.Second
	// driverGrace is how long drivers may take to find a network adapter, and
	// links to find a carrier, before the absence is worth a word.
	driverGrace = 10 * time.Second
	// rescan looks at the links even when nothing was heard.
	rescan = 30 * time.Second
)

// NetworkConfig is what a [Network] needs.
type NetworkConfig struct {
	BootMAC  net.HardwareAddr // the link to prefer; nil: the first that gets an answer
	UUID     string           // SMBIOS UUID, sent to the server; empty: none
	HostName func() string    // sent to the server; nil: none

	// ResolvConf is the file that gets the name servers; empty:
	// /etc/resolv.conf.
	ResolvConf string

	// Changed is told a new or extended lease, and nil when the address is
	// lost. Called from one goroutine.
	Changed func(*Lease)
	// Waiting is told why there is no address, in words for people; "" when
	// there is one. Called from one goroutine. Nil: nobody is told.
	Waiting func(why string)

	Log *slog.Logger // nil: no log

	links linkTable // nil: the kernel's
	dhcp  addresser // nil: DHCP
}

// addresser gets and extends addresses. dhcpClient is the real one.
type addresser interface {
	acquire(ctx context.Context, l link, choose func(context.Context) bool) (Lease, error)
	extend(ctx context.Context, l Lease, broadcast bool) (Lease, error)
}

// Network gets an address by DHCP and keeps it: on all links at once, the
// first answer wins, with a short preference for the link that the machine
// booted from. Links may come later, go and change; a lost address is replaced.
type Network struct {
	cfg   NetworkConfig
	links linkTable
	dhcp  addresser
	log   *slog.Logger
}

// NewNetwork checks cfg.
func NewNetwork(cfg NetworkConfig) (*Network, error) {
	if cfg.Changed == nil {
		return nil, errors.New("boot: NetworkConfig.Changed is missing")
	}
	if cfg.Waiting == nil {
		cfg.Waiting = func(string) {}
	}
	if cfg.ResolvConf == "" {
		cfg.ResolvConf = "/etc/resolv.conf"
	}
	n := &Network{cfg: cfg, links: cfg.links, dhcp: cfg.dhcp, log: cfg.Log}
	if n.links == nil {
		n.links = kernelLinks{kinds: []string{"device"}}
	}
	if n.dhcp == nil {
		n.dhcp = dhcpClient{identity{uuid: cfg.UUID, hostName: cfg.HostName}}
	}
	if n.log == nil {
		n.log = slog.New(slog.DiscardHandler)
	}
	return n, nil
}

// Run keeps the machine's address until ctx is done, and leaves it then: what
// runs on the machine may still need it. The error says that the kernel's
// links cannot be seen at all.
func (n *Network) Run(ctx context.Context) error {
	// The DHCP library wants random numbers without waiting for them, and
	// fails when the kernel has none yet. This waits, and makes the kernel
	// gather some.
	if _, err := unix.Getrandom(make([]byte, 16), 0); err != nil {
		n.log.Warn("random numbers not ready", "err", err)
	}
	changes, err := n.links.watch(ctx)
	if err != nil {
		return err
	}
	if err := n.links.loopback(); err != nil {
		n.log.Warn("loopback not up", "err", err)
	}
	for {
		lease, ok := n.acquire(ctx, changes)
		if !ok {
			return nil
		}
		n.log.Info("address acquired", "link", lease.Link, "mac", lease.MAC.String(), "ip", lease.Addr.String(), "server", lease.Server.String(), "lease", lease.Expires)
		if err := n.take(lease, nil); err != nil {
			n.log.Error("address not usable", "err", err)
			n.cfg.Waiting(err.Error())
			if !wait(ctx, time.Second) {
				return nil
			}
			continue
		}
		why, ok := n.keep(ctx, lease, changes)
		if !ok {
			return nil
		}
		n.log.Warn("address lost", "link", lease.Link, "ip", lease.Addr.String(), "err", why)
		if err := n.links.remove(lease); err != nil {
			n.log.Warn("address not removed", "err", err)
		}
		n.cfg.Changed(nil)
		n.cfg.Waiting(why.Error())
	}
}

// take makes a lease the machine's address and tells of it.
func (n *Network) take(l Lease, before *Lease) error {
	if err := n.links.apply(l, before); err != nil {
		return err
	}
	if text := resolvConf(l); before == nil || text != resolvConf(*before) {
		if err := writeFile(n.cfg.ResolvConf, []byte(text)); err != nil {
			n.log.Warn("name servers not written", "err", err)
		}
	}
	n.cfg.Waiting("")
	n.cfg.Changed(&l)
	return nil
}

// acquire asks on every link that has a carrier, including those that get one
// meanwhile, until one has an address. False: ctx is done.
func (n *Network) acquire(ctx context.Context, changes <-chan struct{}) (Lease, bool) {
	ctx, cancel := context.WithCancel(ctx)
	var asking sync.WaitGroup
	defer asking.Wait()
	defer cancel()

	var (
		race   = newRace(n.cfg.BootMAC)
		leases = make(chan Lease)
		ended  = make(chan string)                   // a link's asking ended in vain
		active = make(map[string]context.CancelFunc) // by link name
		failed = make(map[string]string)             // why, by link name
		begin  = time.Now()
		tick   = time.NewTimer(driverGrace)
	)
	defer tick.Stop()
	for {
		links, err := n.links.list()
		if err != nil {
			n.log.Warn("links not listed", "err", err)
		}
		seen := make(map[string]bool)
		for _, l := range links {
			if !l.Up {
				delete(failed, l.Name)
				if err := n.links.up(l); err != nil {
					n.log.Warn("link not up", "link", l.Name, "err", err)
					failed[l.Name] = err.Error()
				}
			}
			if !l.Carrier {
				continue
			}
			seen[l.Name] = true
			if _, ok := active[l.Name]; ok {
				continue
			}
			linkCtx, stop := context.WithCancel(ctx)
			active[l.Name] = stop
			n.log.Info("asking for an address", "link", l.Name, "mac", l.MAC.String(), "up", Uptime())
			asking.Go(func() {
				lease, err := n.dhcp.acquire(linkCtx, l, func(ctx context.Context) bool { return race.choose(ctx, l.MAC) })
				if err == nil {
					select {
					case leases <- lease:
						return
					case <-ctx.Done():
						return
					}
				}
				if linkCtx.Err() == nil {
					n.log.Warn("no address", "link", l.Name, "err", err)
				}
				select {
				case ended <- l.Name:
				case <-ctx.Done():
				}
			})
		}
		for name, stop := range active {
			if !seen[name] {
				stop() // no carrier; its end is told below
			}
		}
		n.cfg.Waiting(waitingFor(links, failed, time.Since(begin)))
		select {
		case <-ctx.Done():
			return Lease{}, false
		case lease := <-leases:
			return lease, true
		case name := <-ended:
			active[name]()
			delete(active, name)
			// Asking ends only when a socket cannot be opened or the carrier
			// went away: not at once again.
			if !wait(ctx, 200*time.Millisecond) {
				return Lease{}, false
			}
		case <-changes:
		case <-tick.C:
			tick.Reset(rescan)
		}
	}
}

// waitingFor says what is missing for an address after that time; failed has
// the links that could not be brought up. Whether a link has a
// carrier is known only some time after it was brought up.
func waitingFor(links []link, failed map[string]string, since time.Duration) string {
	if len(links) == 0 && since < driverGrace {
		return "looking for a network adapter"
	}
	if len(links) == 0 {
		return "no network adapter was found; the image may lack its driver"
	}
	carrier := ""
	names := ""
	starting := false
	for _, l := range links {
		names += " " + l.Name
		if why := failed[l.Name]; why != "" && !l.Up {
			return why + "; the image may lack the adapter's firmware"
		}
		starting = starting || !l.Up
		if l.Carrier {
			carrier += " " + l.Name
		}
	}
	if carrier == "" && (starting || since < driverGrace) {
		return "starting" + names
	}
	if carrier == "" {
		return "no cable has a signal:" + names
	}
	return "waiting for an address from a DHCP server on" + carrier
}

// race decides which of several links' offers is taken.
type race struct {
	prefer net.HardwareAddr
	once   sync.Once
	won    chan struct{} // closed when an offer was taken
}

func newRace(prefer net.HardwareAddr) *race {
	return &race{prefer: prefer, won: make(chan struct{})}
}

// choose says whether to take an offer on the link of that address. An offer on
// a link other than the preferred one waits for a while, and loses if
// another was taken meanwhile.
func (r *race) choose(ctx context.Context, mac net.HardwareAddr) bool {
	if r.prefer != nil && !bytes.Equal(r.prefer, mac) {
		t := time.NewTimer(preferGrace)
		defer t.Stop()
		select {
		case <-ctx.Done():
			return false
		case <-t.C:
		case <-r.won:
			// The winner may still fail to have its offer confirmed: then
			// this one goes on.
			select {
			case <-ctx.Done():
				return false
			case <-t.C:
			}
		}
	}
	r.once.Do(func() { close(r.won) })
	return ctx.Err() == nil
}

// errors of keep.
var (
	errExpired   = errors.New("the lease has ended and no DHCP server extended it")
	errLinkGone  = errors.New("the network adapter is gone")
	errNoCarrier = errors.New("the cable has no signal any more, and another has")
)

// keep extends the lease until it is lost, and says why it was; false: ctx is
// done.
func (n *Network) keep(ctx context.Context, l Lease, changes <-chan struct{}) (error, bool) {
	carrier := true
	var lostAt time.Time // when the carrier went away
	var seen uint32      // how often it had come or gone when last looked at
	if here, _, err := n.look(l); err == nil && here != nil {
		seen = here.Changes
	}
	for {
		timer := time.NewTimer(time.Until(nextExtend(l, time.Now())))
		if l.Expires == 0 {
			timer.Stop()
		}
		move := (<-chan time.Time)(nil)
		if !carrier {
			move = time.After(max(time.Until(lostAt.Add(moveGrace)), time.Second))
		}
		extend, broadcast := false, false
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil, false
		case <-timer.C:
			if end := l.Start.Add(l.Expires); !time.Now().Before(end) {
				return errExpired, true
			}
			extend = true
			broadcast = !time.Now().Before(l.Start.Add(l.Rebind))
		case <-changes:
		case <-move:
		}
		timer.Stop()

		here, others, err := n.look(l)
		switch {
		case err != nil:
			n.log.Warn("links not listed", "err", err)
		case here == nil:
			return errLinkGone, true
		case here.Carrier && (!carrier || here.Changes != seen):
			// Perhaps another network: ask before anybody relies on it.
			carrier, extend, broadcast = true, true, true
			seen = here.Changes
		case !here.Carrier && carrier:
			carrier, lostAt = false, time.Now()
			n.log.Warn("link has no carrier", "link", l.Link)
		case !here.Carrier && others && time.Since(lostAt) >= moveGrace:
			return errNoCarrier, true
		}
		if !extend || !carrier {
			continue
		}
		next, err := n.dhcp.extend(ctx, l, broadcast)
		switch {
		case ctx.Err() != nil:
			return nil, false
		case errors.Is(err, errNak):
			return err, true
		case err != nil:
			n.log.Warn("lease not extended", "link", l.Link, "err", err)
			l.asked = time.Now()
			continue
		}
		if err := n.take(next, &l); err != nil {
			return fmt.Errorf("using the extended lease: %w", err), true
		}
		n.log.Debug("lease extended", "link", l.Link, "ip", next.Addr.String(), "lease", next.Expires)
		l = next
	}
}

// look finds the lease's link, nil if it is gone, and whether another link has
// a carrier. Links that are down are brought up: their carrier shows only then.
func (n *Network) look(l Lease) (here *link, others bool, err error) {
	links, err := n.links.list()
	if err != nil {
		return nil, false, err
	}
	for i, x := range links {
		if !x.Up {
			if err := n.links.up(x); err != nil {
				n.log.Warn("link not up", "link", x.Name, "err", err)
			}
		}
		switch {
		case x.Name == l.Link && bytes.Equal(x.MAC, l.MAC):
			here = &links[i]
		case x.Carrier:
			others = true
		}
	}
	return here, others, nil
}

// nextExtend is when to ask for more time: at T1, and after a failure when
// half of what remains to T2, then to the end, has passed, but not more often
// than each minute (RFC 2131 4.4.5); at the end of a lease at the latest.
func nextExtend(l Lease, now time.Time) time.Time {
	t1, t2, end := l.Start.Add(l.Renew), l.Start.Add(l.Rebind), l.Start.Add(l.Expires)
	if l.asked.IsZero() {
		return t1
	}
	goal := t2
	if !now.Before(t2) {
		goal = end
	}
	pause := max(goal.Sub(l.asked)/2, min(time.Minute, l.Expires/16))
	next := l.asked.Add(pause)
	if now.Before(t2) && next.After(t2) {
		next = t2
	}
	if next.After(end) {
		next = end
	}
	return next
}

// HostName returns the machine's present name.
func HostName() string {
	name, err := os.Hostname()
	if err != nil {
		return ""
	}
	return name
}
