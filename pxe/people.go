package pxe

import (
	"bufio"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"
)

// Bounds of the tables about machines.
const (
	maxPeople  = 16384
	rateBurst  = 12              // messages of one machine at once
	rateRefill = time.Second / 2 // and one more each
	rateForget = 10 * time.Second
)

// people remembers, of machines that asked by DHCP, what later requests do
// not say: architecture and UUID by MAC, and the MAC by address, also where
// another server gave the address.
type people struct {
	mu   sync.Mutex
	byIP map[netip.Addr]MAC
	is   map[MAC]Machine
}

func newPeople() *people {
	return &people{byIP: map[netip.Addr]MAC{}, is: map[MAC]Machine{}}
}

// meet remembers the sender of a DHCP message.
func (p *people) meet(m Machine) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.is) >= maxPeople {
		clear(p.is) // they are met again when they boot again
	}
	p.is[MAC(m.MAC)] = m
}

// at remembers that mac uses ip.
func (p *people) at(ip netip.Addr, mac MAC) {
	if !ip.IsValid() {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.byIP) >= maxPeople {
		clear(p.byIP)
	}
	p.byIP[ip] = mac
}

// facts is what mac said of itself when it booted.
func (s *Server) facts(mac MAC) Machine {
	s.people.mu.Lock()
	defer s.people.mu.Unlock()
	return s.people.is[mac]
}

func (s *Server) learn(ip netip.Addr, mac MAC) { s.people.at(ip, mac) }

// holder is the machine at an address: by our leases, by what was overheard,
// else by the kernel's neighbor table.
func (s *Server) holder(ip netip.Addr) (MAC, bool) {
	if mac, ok := s.book.Holder(ip); ok {
		return mac, true
	}
	s.people.mu.Lock()
	mac, ok := s.people.byIP[ip]
	s.people.mu.Unlock()
	if ok {
		return mac, true
	}
	return neighbor(ip)
}

// neighbor asks the kernel, which spoke to the machine a moment ago.
func neighbor(ip netip.Addr) (MAC, bool) {
	f, err := os.Open("/proc/net/arp")
	if err != nil {
		return MAC{}, false
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		// IP address, HW type, flags, HW address, mask, device
		col := strings.Fields(lines.Text())
		if len(col) < 4 || col[0] != ip.String() {
			continue
		}
		if hw, err := net.ParseMAC(col[3]); err == nil && len(hw) == len(MAC{}) && MAC(hw) != (MAC{}) {
			return MAC(hw), true
		}
	}
	return MAC{}, false
}

// limiter keeps one machine from taking the time of all.
type limiter struct {
	now func() time.Time
	mu  sync.Mutex
	per map[MAC]bucket
}

// bucket fills with time; a message takes one from it.
type bucket struct {
	tokens float64
	at     time.Time
}

func newLimiter(now func() time.Time) *limiter {
	return &limiter{now: now, per: map[MAC]bucket{}}
}

// allow tells whether a message of mac is looked at.
func (l *limiter) allow(mac MAC) bool {
	now := l.now()
	l.mu.Lock()
	defer l.mu.Unlock()
	b, ok := l.per[mac]
	if !ok {
		if len(l.per) >= maxPeople {
			l.forget(now)
		}
		b = bucket{tokens: rateBurst, at: now}
	}
	b.tokens = min(rateBurst, b.tokens+float64(now.Sub(b.at))/float64(rateRefill))
	b.at = now
	ok = b.tokens >= 1
	if ok {
		b.tokens--
	}
	l.per[mac] = b
	return ok
}

// forget makes room; mu is held. In a flood of invented addresses there is
// nothing to be remembered.
func (l *limiter) forget(now time.Time) {
	for mac, b := range l.per {
		if now.Sub(b.at) > rateForget {
			delete(l.per, mac)
		}
	}
	if len(l.per) >= maxPeople {
		clear(l.per)
	}
}

// TFTPDone takes the end of a TFTP transfer, for the timeline; err is nil for
// one that sent the whole file. Called by whoever runs the TFTP server beside
// this one, from any goroutine.
func (s *Server) TFTPDone(client netip.AddrPort, name string, bytes int64, d time.Duration, err error) {
	if err != nil || bytes == 0 {
		return // given up, as EDK2 does after it learned the size
	}
	ip := client.Addr().Unmap()
	mac, _ := s.holder(ip)
	c := s.facts(mac).Client
	if c == "" {
		c = ClientUEFI
	}
	s.loaderSent(mac, ip, c, name, bytes, d)
}
