package pxe

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/net/ipv6"
)

// routerMemory is how long another router that was heard keeps this server
// silent: the longest interval between two advertisements (RFC 4861 6.2.1),
// twice.
const routerMemory = time.Hour

// advertisement is a router advertisement that says nothing (RFC 4861 4.2):
// no prefix, no flags, no lifetime, nothing specified. iPXE waits for one
// before it goes on, 16 s if none comes; no other program changes anything
// on its account.
var advertisement = [16]byte{0: 134}

// advertiser answers router solicitations on one interface, and only those.
// It is silent where there is another router.
type advertiser struct {
	name string
	conn net.PacketConn
	log  *slog.Logger
	now  func() time.Time

	mu    sync.Mutex
	other time.Time // when another router was last heard
}

// run answers until ctx is done. IPv6 that goes away is no reason to stop
// serving DHCP, so a failing socket only ends this.
func (a *advertiser) run(ctx context.Context) {
	defer stopOnDone(ctx, a.conn)()
	a.conn.SetReadDeadline(time.Time{}) // a run before this one may have set it
	b := make([]byte, 1500)
	pc := ipv6.NewPacketConn(a.conn)
	if err := pc.SetControlMessage(ipv6.FlagHopLimit, true); err != nil {
		a.log.Warn("router advertisements are not sent", "if", a.name, "err", err)
		return
	}
	for {
		n, cm, from, err := pc.ReadFrom(b)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			a.log.Warn("router advertisements stopped", "if", a.name, "err", err)
			return
		}
		hops := 0
		if cm != nil {
			hops = cm.HopLimit
		}
		if to := a.react(b[:n], hops, from); to != nil {
			if _, err := a.conn.WriteTo(advertisement[:], to); err != nil {
				a.log.Debug("sending router advertisement", "if", a.name, "err", err)
			}
		}
	}
}

// react decides whom an advertisement is sent to; nil for nobody.
func (a *advertiser) react(b []byte, hops int, from net.Addr) net.Addr {
	src, ok := from.(*net.IPAddr)
	if !ok || len(b) < 8 || hops != 255 { // RFC 4861 6.1: from this very link
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	switch ipv6.ICMPType(b[0]) {
	case ipv6.ICMPTypeRouterAdvertisement:
		if bytes.Equal(b[4:], advertisement[4:]) {
			return nil // it says as little as ours: another boot server's, or our own
		}
		if a.other.IsZero() {
			a.log.Info("another IPv6 router was heard; router solicitations are left to it", "if", a.name, "ip", src.IP)
		}
		a.other = a.now()
	case ipv6.ICMPTypeRouterSolicitation:
		if !a.other.IsZero() && a.now().Sub(a.other) < routerMemory {
			return nil
		}
		if src.IP.IsUnspecified() { // it has no address yet
			return &net.IPAddr{IP: netip.MustParseAddr("ff02::1").AsSlice(), Zone: a.name}
		}
		return src
	}
	return nil
}
