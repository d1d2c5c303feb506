package boot

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// link is a network interface that may have an address.
type link struct {
	Name    string
	Index   int
	MAC     net.HardwareAddr
	Up      bool
	Carrier bool
	Changes uint32 // how often the carrier came or went
}

// linkTable is the part of rtnetlink that [Network] uses. Tests have their own.
type linkTable interface {
	// list returns the Ethernet links.
	list() ([]link, error)
	// up brings a link up.
	up(l link) error
	// loopback brings the link to the machine itself up.
	loopback() error
	// watch sends after links changed, until ctx is done.
	watch(ctx context.Context) (<-chan struct{}, error)
	// apply gives a link the lease's address, routes and MTU. Called
	// again it replaces what differs from before.
	apply(l Lease, before *Lease) error
	// remove takes the lease's address away, and the routes with it.
	remove(l Lease) error
}

// kernelLinks asks the kernel.
type kernelLinks struct {
	kinds []string // of links: "device" is hardware
}

func (k kernelLinks) list() ([]link, error) {
	req := nl.NewNetlinkRequest(unix.RTM_GETLINK, unix.NLM_F_DUMP)
	req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	msgs, err := req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWLINK)
	// A dump that was interrupted by a change is followed by the news of it.
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, fmt.Errorf("listing the network links: %w", err)
	}
	var out []link
	for _, m := range msgs {
		l, err := netlink.LinkDeserialize(nil, m)
		if err != nil {
			return nil, fmt.Errorf("reading a network link: %w", err)
		}
		a := l.Attrs()
		if a.EncapType != "ether" || a.MasterIndex != 0 || len(a.HardwareAddr) != 6 || !slices.Contains(k.kinds, l.Type()) {
			continue
		}
		out = append(out, link{
			Name:    a.Name,
			Index:   a.Index,
			MAC:     a.HardwareAddr,
			Up:      a.Flags&net.FlagUp != 0,
			Carrier: a.RawFlags&unix.IFF_LOWER_UP != 0,
			Changes: carrierChanges(m),
		})
	}
	return out, nil
}

// carrierChanges reads IFLA_CARRIER_CHANGES of a link's message, which the
// library leaves out; 0 where there is none. A cable that was out for an
// instant is seen by nothing else: news of links are put together.
func carrierChanges(m []byte) uint32 {
	info := nl.DeserializeIfInfomsg(m)
	attrs, err := nl.ParseRouteAttr(m[info.Len():])
	if err != nil {
		return 0
	}
	for _, a := range attrs {
		if a.Attr.Type == unix.IFLA_CARRIER_CHANGES && len(a.Value) >= 4 {
			return nl.NativeEndian().Uint32(a.Value)
		}
	}
	return 0
}

func (kernelLinks) up(l link) error {
	if err := netlink.LinkSetUp(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Name: l.Name, Index: l.Index}}); err != nil {
		return fmt.Errorf("bringing %s up: %w", l.Name, err)
	}
	return nil
}

// loopback brings the link to the machine itself up.
func (kernelLinks) loopback() error {
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(lo)
	}
	if err != nil {
		return fmt.Errorf("bringing the loopback link up: %w", err)
	}
	return nil
}

func (kernelLinks) watch(ctx context.Context) (<-chan struct{}, error) {
	updates := make(chan netlink.LinkUpdate, 64)
	lost := make(chan struct{}, 1)
	err := netlink.LinkSubscribeWithOptions(updates, ctx.Done(), netlink.LinkSubscribeOptions{
		ErrorCallback: func(error) {
			select {
			case lost <- struct{}{}:
			default:
			}
		},
		ReceiveBufferSize: 1 << 20,
	})
	if err != nil {
		return nil, fmt.Errorf("watching the network links: %w", err)
	}
	out := make(chan struct{}, 1)
	go func() {
		// One token stands for any number of changes.
		for {
			select {
			case <-ctx.Done():
				// The subscription ends by itself; its sender must not block.
				for range updates {
				}
				return
			case _, ok := <-updates:
				if !ok {
					<-ctx.Done()
					return
				}
			case <-lost:
			}
			select {
			case out <- struct{}{}:
			default:
			}
		}
	}()
	return out, nil
}

func (k kernelLinks) apply(l Lease, before *Lease) error {
	dev, err := netlink.LinkByName(l.Link)
	if err != nil {
		return fmt.Errorf("configuring %s: %w", l.Link, err)
	}
	if l.MTU != 0 && l.MTU != dev.Attrs().MTU {
		if err := netlink.LinkSetMTU(dev, l.MTU); err != nil {
			return fmt.Errorf("setting the MTU of %s to %d: %w", l.Link, l.MTU, err)
		}
	}
	if before != nil && before.Addr != l.Addr {
		if err := k.remove(*before); err != nil {
			return err
		}
	}
	valid := 0 // no end
	if l.Expires > 0 {
		// Should this process be gone, the kernel ends the address in time.
		valid = int(l.Expires / time.Second)
	}
	addr := &netlink.Addr{IPNet: ipNet(l.Addr), ValidLft: valid, PreferedLft: valid}
	if err := netlink.AddrReplace(dev, addr); err != nil {
		return fmt.Errorf("giving %s to %s: %w", l.Addr, l.Link, err)
	}
	for _, r := range l.Routes {
		if err := netlink.RouteReplace(kernelRoute(dev.Attrs().Index, l, r)); err != nil {
			return fmt.Errorf("routing %s through %s: %w", r.Dst, r.Gateway, err)
		}
	}
	if before != nil && before.Addr == l.Addr {
		for _, r := range before.Routes {
			if !slices.Contains(l.Routes, r) {
				netlink.RouteDel(kernelRoute(dev.Attrs().Index, l, r)) //nolint:errcheck // it may be gone
			}
		}
	}
	return nil
}

// kernelRoute is r as the kernel wants it.
func kernelRoute(index int, l Lease, r Route) *netlink.Route {
	out := &netlink.Route{
		LinkIndex: index,
		Dst:       ipNet(r.Dst),
		Src:       l.Addr.Addr().AsSlice(),
		Scope:     netlink.SCOPE_LINK,
		Protocol:  unix.RTPROT_DHCP,
	}
	if r.Gateway.IsValid() {
		out.Gw = r.Gateway.AsSlice()
		out.Scope = netlink.SCOPE_UNIVERSE
		if !l.Addr.Contains(r.Gateway) {
			// Some networks give a single address and a router outside of it.
			out.Flags = int(netlink.FLAG_ONLINK)
		}
	}
	return out
}

func (kernelLinks) remove(l Lease) error {
	dev, err := netlink.LinkByName(l.Link)
	if err != nil {
		return nil // gone, with its addresses
	}
	err = netlink.AddrDel(dev, &netlink.Addr{IPNet: ipNet(l.Addr)})
	if err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
		return fmt.Errorf("taking %s from %s: %w", l.Addr, l.Link, err)
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), 32)}
}
