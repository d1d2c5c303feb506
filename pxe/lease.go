package pxe

import (
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// Errors of the lease book.
var (
	ErrPoolFull = errors.New("no address is left in the pool")
	ErrNotYours = errors.New("address belongs to another machine")
	ErrOutside  = errors.New("address is not of this network")
)

// Times of the lease book.
const (
	offerTime      = time.Minute      // an offered address is kept for its machine
	quarantineTime = 10 * time.Minute // an address that a machine found in use is not given
)

// Pool is a range of addresses to give out. Comparable.
type Pool struct {
	First, Last netip.Addr   // IPv4, inclusive
	Net         netip.Prefix // the subnet that they are of; its Addr is the server, which is never given out
}

// PoolOf is the range that is used when none is set: every host address of p
// but the first sixteenth, which is left to machines with addresses set by
// hand. At most 65,536 addresses.
func PoolOf(p netip.Prefix) Pool {
	hosts := uint32(1) << min(32-p.Bits(), 16)
	first, last := addrAt(p, max(hosts/16, 1)), addrAt(p, max(hosts, 3)-2)
	return Pool{First: first, Last: last, Net: p}
}

// size is the number of addresses.
func (p Pool) size() uint32 { return addrU32(p.Last) - addrU32(p.First) + 1 }

// contains tells whether the pool may give a.
func (p Pool) contains(a netip.Addr) bool {
	return a.Is4() && !a.Less(p.First) && !p.Last.Less(a) && a != p.Net.Addr()
}

// leaseState says why an address is not free.
type leaseState uint8

const (
	stateOffered  leaseState = iota + 1 // promised for a minute, in memory only
	stateBound                          // given
	stateDeclined                       // a machine found it in use
)

// lease is an address and who has it. It stays in the book when it has run
// out, so that a machine gets the address it had before.
type lease struct {
	mac   MAC
	ip    netip.Addr
	state leaseState
	until time.Time
	fixed bool // reserved for mac, wherever it lies
}

// Book is who has which address. A lease is keyed by hardware address:
// firmware, boot loader and operating system of one machine name themselves
// differently, and shall get one address. Confirmed leases are durable before
// the machine hears of them. All methods may be called from any goroutine.
type Book struct {
	log *slog.Logger
	now func() time.Time
	out *leaseLog // nil: kept in memory only

	mu    sync.Mutex       // guards all below
	byMAC map[MAC][]*lease // one for each network that it was seen on
	byIP  map[netip.Addr]*lease
	// fullUntil is when a pool that was found full may have an address again.
	fullUntil map[netip.Addr]time.Time
}

// OpenBook reads the leases in the file path, which is made when it is not
// there. With path "" the book lives in memory only. Leases end no later than
// maxLease from now: a clock that was wrong when they were written cannot
// hold addresses for years. [Book.Run] must run for leases to be confirmed.
func OpenBook(path string, maxLease time.Duration, log *slog.Logger) (*Book, error) {
	b := newBook(log)
	if path == "" {
		return b, nil
	}
	read, err := readLeases(path)
	if err != nil {
		return nil, fmt.Errorf("reading leases: %w", err)
	}
	b.load(read.leases, maxLease)
	if b.out, err = openLeaseLog(path, read, b.snapshot); err != nil {
		return nil, fmt.Errorf("opening leases: %w", err)
	}
	if read.damaged > 0 {
		log.Warn("lease file had damaged lines, which were left out", "file", path, "damaged", read.damaged, "leases", len(read.leases))
	}
	return b, nil
}

func newBook(log *slog.Logger) *Book {
	return &Book{
		log: log, now: time.Now,
		byMAC:     map[MAC][]*lease{},
		byIP:      map[netip.Addr]*lease{},
		fullUntil: map[netip.Addr]time.Time{},
	}
}

// load takes over what was read.
func (b *Book) load(leases []lease, maxLease time.Duration) {
	if maxLease <= 0 {
		maxLease = DefaultLease
	}
	now := b.now()
	slices.SortFunc(leases, func(x, y lease) int { return x.until.Compare(y.until) })
	for _, l := range leases {
		// Measured from now, so that later steps of the clock do not matter.
		left := min(l.until.Sub(now.Round(0)), maxLease)
		l.until = now.Add(left)
		b.byIP[l.ip] = &l
		if l.state == stateBound {
			b.byMAC[l.mac] = append(b.byMAC[l.mac], &l)
		}
	}
}

// Close closes the lease file. Run must have ended.
func (b *Book) Close() error {
	if b.out == nil {
		return nil
	}
	return b.out.close()
}

// Offer chooses an address for mac: fixed where that is set and free, the one
// it has or had, the one it wants, else one that follows from its hardware
// address. It stays promised for a minute. The error is ErrPoolFull.
func (b *Book) Offer(p Pool, mac MAC, want, fixed netip.Addr) (netip.Addr, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.now()
	old := b.find(p, mac)
	ip, err := b.choose(p, mac, old, want, fixed, now)
	if err != nil {
		return netip.Addr{}, err
	}
	if old != nil && old.ip == ip && old.state == stateBound && old.until.After(now) {
		return ip, nil // a bound lease is not turned into a mere promise
	}
	b.put(p, &lease{mac: mac, ip: ip, state: stateOffered, until: now.Add(offerTime), fixed: ip == fixed})
	return ip, nil
}

// choose is Offer's decision; mu is held.
func (b *Book) choose(p Pool, mac MAC, old *lease, want, fixed netip.Addr, now time.Time) (netip.Addr, error) {
	if fixed.IsValid() {
		if b.usable(fixed, mac, now) {
			return fixed, nil
		}
		b.log.Warn("fixed address is in use by another machine", "mac", mac, "ip", fixed)
	}
	if old != nil && p.contains(old.ip) {
		return old.ip, nil
	}
	if want.IsValid() && p.contains(want) && b.usable(want, mac, now) {
		return want, nil
	}
	if until, ok := b.fullUntil[p.First]; ok && now.Before(until) {
		return netip.Addr{}, ErrPoolFull
	}
	delete(b.fullUntil, p.First)
	return b.search(p, mac, now)
}

// search walks the pool from the place that mac's hash names: first for an
// address that nobody ever had, then for the one that ran out longest ago.
func (b *Book) search(p Pool, mac MAC, now time.Time) (netip.Addr, error) {
	h := fnv.New32a()
	h.Write(mac[:])
	size, first := p.size(), addrU32(p.First)
	start := h.Sum32() % size
	var oldest *lease
	next := now.Add(offerTime)
	for i := range size {
		ip := u32Addr(first + (start+i)%size)
		if ip == p.Net.Addr() {
			continue
		}
		l := b.byIP[ip]
		switch {
		case l == nil || l.state == stateOffered && !l.until.After(now):
			return ip, nil
		case l.until.After(now):
			if l.until.Before(next) {
				next = l.until
			}
		case oldest == nil || l.until.Before(oldest.until):
			oldest = l
		}
	}
	if oldest == nil {
		b.fullUntil[p.First] = next
		return netip.Addr{}, ErrPoolFull
	}
	return oldest.ip, nil
}

// find is mac's latest lease in p's network, nil for none; mu is held.
func (b *Book) find(p Pool, mac MAC) *lease {
	for _, l := range slices.Backward(b.byMAC[mac]) {
		if p.Net.Contains(l.ip) && b.byIP[l.ip] == l {
			return l
		}
	}
	return nil
}

// unlink takes mac's lease in p's network out of byMAC, and those whose
// address went to another machine; mu is held.
func (b *Book) unlink(p Pool, mac MAC) {
	kept := slices.DeleteFunc(b.byMAC[mac], func(l *lease) bool {
		return p.Net.Contains(l.ip) || b.byIP[l.ip] != l
	})
	if len(kept) == 0 {
		delete(b.byMAC, mac)
		return
	}
	b.byMAC[mac] = kept
}

// usable tells whether mac may have ip now; mu is held.
func (b *Book) usable(ip netip.Addr, mac MAC, now time.Time) bool {
	l := b.byIP[ip]
	if l == nil || !l.until.After(now) {
		return true
	}
	return l.mac == mac && l.state != stateDeclined
}

// put enters l and drops what l's machine and address had in p before; mu is
// held.
func (b *Book) put(p Pool, l *lease) {
	if old := b.find(p, l.mac); old != nil && old.ip != l.ip {
		delete(b.byIP, old.ip)
	}
	b.unlink(p, l.mac)
	if other := b.byIP[l.ip]; other != nil && other.mac != l.mac {
		b.unlink(p, other.mac)
	}
	b.byMAC[l.mac] = append(b.byMAC[l.mac], l)
	b.byIP[l.ip] = l
}

// Confirm gives ip to mac for d. It fails at once when it cannot be given:
// ErrOutside or ErrNotYours (which a machine is told by NAK). Otherwise done
// is called once, from another goroutine, when the lease is durable, or with
// the reason why it is not; the machine must not be told before.
func (b *Book) Confirm(p Pool, mac MAC, ip, fixed netip.Addr, d time.Duration, done func(error)) error {
	l, err := b.bind(p, mac, ip, fixed, d)
	if err != nil {
		return err
	}
	b.record(*l, done)
	return nil
}

func (b *Book) bind(p Pool, mac MAC, ip, fixed netip.Addr, d time.Duration) (*lease, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.now()
	switch {
	case !ip.IsValid(), ip != fixed && !p.contains(ip):
		return nil, ErrOutside
	case !b.usable(ip, mac, now):
		return nil, ErrNotYours
	case fixed.IsValid() && ip != fixed && b.usable(fixed, mac, now):
		return nil, ErrNotYours // it shall ask again and get the fixed one
	}
	l := &lease{mac: mac, ip: ip, state: stateBound, until: now.Add(d), fixed: ip == fixed}
	b.put(p, l)
	return l, nil
}

// Decline keeps an address that mac found in use from being given for ten
// minutes. Only the machine that has it can decline it: false for others.
func (b *Book) Decline(p Pool, mac MAC, ip netip.Addr) bool {
	b.mu.Lock()
	l := b.byIP[ip]
	if l == nil || l.mac != mac || l.state == stateDeclined {
		b.mu.Unlock()
		return false
	}
	bad := &lease{mac: mac, ip: ip, state: stateDeclined, until: b.now().Add(quarantineTime)}
	b.byIP[ip] = bad
	b.unlink(p, mac)
	b.mu.Unlock()
	b.record(*bad, nil)
	return true
}

// Release ends mac's lease of ip; the address stays its first choice. False
// when it had none.
func (b *Book) Release(mac MAC, ip netip.Addr) bool {
	b.mu.Lock()
	l := b.byIP[ip]
	if l == nil || l.mac != mac || l.state == stateDeclined {
		b.mu.Unlock()
		return false
	}
	bound := l.state == stateBound
	l.until = b.now()
	clear(b.fullUntil)
	copied := *l
	b.mu.Unlock()
	if bound {
		b.record(copied, nil)
	}
	return true
}

// Fixed is the address that was reserved for mac when it last booted, the
// zero Addr for none. Its operating system asks without saying that.
func (b *Book) Fixed(p Pool, mac MAC) netip.Addr {
	b.mu.Lock()
	defer b.mu.Unlock()
	if l := b.find(p, mac); l != nil && l.fixed {
		return l.ip
	}
	return netip.Addr{}
}

// Forget drops the promise to mac, which chose another server.
func (b *Book) Forget(p Pool, mac MAC) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if l := b.find(p, mac); l != nil && l.state == stateOffered {
		delete(b.byIP, l.ip)
		b.unlink(p, mac)
		clear(b.fullUntil)
	}
}

// Holder is the machine that has ip now.
func (b *Book) Holder(ip netip.Addr) (MAC, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	l := b.byIP[ip]
	if l == nil || l.state == stateDeclined || !l.until.After(b.now()) {
		return MAC{}, false
	}
	return l.mac, true
}

// snapshot copies the leases that are worth keeping in the file.
func (b *Book) snapshot() []lease {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := make([]lease, 0, len(b.byIP))
	for _, l := range b.byIP {
		if l.state != stateOffered {
			out = append(out, *l)
		}
	}
	return out
}

// record hands a lease to the log; done may be nil.
func (b *Book) record(l lease, done func(error)) {
	if b.out == nil {
		if done != nil {
			done(nil)
		}
		return
	}
	b.out.add(l, done)
}
