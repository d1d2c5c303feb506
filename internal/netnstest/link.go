package netnstest

import (
	"errors"
	"net"
	"net/netip"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// End is one end of a cable.
type End struct {
	NS     *NS              // nil: the namespace of the tests
	Name   string           // name of the link, at most 15 bytes
	MAC    net.HardwareAddr // nil: the kernel's choice
	Addrs  []netip.Prefix   // addresses with their networks
	MTU    int              // 0: the kernel's choice
	Bridge string           // bridge in the same namespace to plug it into, "" for none
}

// Addr is an [End.Addrs] with one address, "192.0.2.1/24"; it panics when
// the text is no address.
func Addr(text string) []netip.Prefix { return []netip.Prefix{netip.MustParsePrefix(text)} }

// Veth joins two ends by a cable; both are switched on. It is removed when
// the test ends.
func Veth(t testing.TB, a, b End) {
	t.Helper()
	pair := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: a.Name}, PeerName: b.Name}
	if b.NS != nil && b.NS.set {
		pair.PeerNamespace = netlink.NsFd(int(b.NS.handle))
	} else if a.NS != nil && a.NS.set {
		Veth(t, b, a)
		return
	}
	a.NS.Do(t, func() {
		if err := netlink.LinkAdd(pair); err != nil {
			t.Fatalf("making the cable %s to %s: %v", a.Name, b.Name, err)
		}
	})
	removeLater(t, a.NS, a.Name)
	configure(t, a)
	configure(t, b)
}

// Bridge makes a switch and switches it on. It is removed when the test ends.
func Bridge(t testing.TB, at End) {
	t.Helper()
	at.NS.Do(t, func() {
		if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: at.Name}}); err != nil {
			t.Fatalf("making the bridge %s: %v", at.Name, err)
		}
	})
	removeLater(t, at.NS, at.Name)
	configure(t, at)
}

// SetUp switches a link on or off, like plugging its cable.
func SetUp(t testing.TB, ns *NS, name string, up bool) {
	t.Helper()
	withLink(t, ns, name, func(l netlink.Link) {
		set := netlink.LinkSetDown
		if up {
			set = netlink.LinkSetUp
		}
		if err := set(l); err != nil {
			t.Fatalf("switching %s: %v", name, err)
		}
	})
}

// DefaultRoute sends what has no other way through gateway.
func DefaultRoute(t testing.TB, ns *NS, gateway netip.Addr) {
	t.Helper()
	ns.Do(t, func() {
		if err := netlink.RouteAdd(&netlink.Route{Gw: gateway.AsSlice()}); err != nil {
			t.Fatalf("adding a default route by %s: %v", gateway, err)
		}
	})
}

func configure(t testing.TB, e End) {
	t.Helper()
	withLink(t, e.NS, e.Name, func(l netlink.Link) {
		check := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatalf("configuring %s: %v", e.Name, err)
			}
		}
		if e.MAC != nil {
			check(netlink.LinkSetHardwareAddr(l, e.MAC))
		}
		if e.MTU != 0 {
			check(netlink.LinkSetMTU(l, e.MTU))
		}
		if e.Bridge != "" {
			bridge, err := netlink.LinkByName(e.Bridge)
			check(err)
			check(netlink.LinkSetMaster(l, bridge))
		}
		for _, p := range e.Addrs {
			addr := &netlink.Addr{IPNet: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}}
			if p.Addr().Is6() {
				addr.Flags = unix.IFA_F_NODAD
			}
			check(netlink.AddrAdd(l, addr))
		}
		check(netlink.LinkSetUp(l))
	})
}

func withLink(t testing.TB, ns *NS, name string, f func(netlink.Link)) {
	t.Helper()
	ns.Do(t, func() {
		l, err := netlink.LinkByName(name)
		if err != nil {
			t.Fatalf("finding the link %s: %v", name, err)
		}
		f(l)
	})
}

func removeLater(t testing.TB, ns *NS, name string) {
	t.Cleanup(func() {
		ns.Do(t, func() {
			// Gone already when its other end, namespace or the test removed it.
			if l, err := netlink.LinkByName(name); err == nil {
				_ = netlink.LinkDel(l)
			}
		})
	})
}

// AllowBroadcast lets a socket send to broadcast addresses.
func AllowBroadcast(t testing.TB, c net.PacketConn) {
	t.Helper()
	sc, ok := c.(syscall.Conn)
	if !ok {
		t.Fatalf("a %T has no options", c)
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var optErr error
	err = raw.Control(func(fd uintptr) { optErr = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_BROADCAST, 1) })
	if err := errors.Join(err, optErr); err != nil {
		t.Fatalf("allowing broadcasts: %v", err)
	}
}
