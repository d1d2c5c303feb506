package boot

import (
	"encoding/hex"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"muster/api"
)

// Lease is an address that a DHCP server gave to this machine, with what
// came along.
type Lease struct {
	Link    string
	MAC     net.HardwareAddr
	Addr    netip.Prefix
	Routes  []Route
	DNS     []netip.Addr
	Domain  string
	MTU     int          // 0: not said
	Server  netip.Addr   // who gave it
	Head    api.HeadNote // what it says of a head; zero: nothing
	Start   time.Time
	Renew   time.Duration // T1, after Start: ask the same server
	Rebind  time.Duration // T2, after Start: ask any server
	Expires time.Duration // after Start; 0: never

	ack   *dhcpv4.DHCPv4
	asked time.Time // when an extension was last asked for in vain
}

// Route leads to Dst through Gateway; a zero Gateway is the link itself.
type Route struct {
	Dst     netip.Prefix
	Gateway netip.Addr
}

const (
	// infinite is the lease time that means forever, RFC 2131 3.3.
	infinite = 0xffffffff * time.Second
	// leaseMin keeps a careless server from making the machine ask
	// all the time.
	leaseMin = 20 * time.Second
	mtuMin   = 576 // RFC 791 3.1
	mtuMax   = 9216
)

// leaseFromAck reads a server's ACK. ok is false when it holds no usable
// address.
func leaseFromAck(link string, ack *dhcpv4.DHCPv4, now time.Time) (l Lease, ok bool) {
	ip, ok := netip.AddrFromSlice(ack.YourIPAddr.To4())
	if !ok || !ip.IsValid() || ip.IsUnspecified() || ip.IsLoopback() || ip.IsMulticast() {
		return Lease{}, false
	}
	bits, size := ack.SubnetMask().Size()
	if size != 32 || bits == 0 {
		bits, _ = net.IP(ip.AsSlice()).DefaultMask().Size()
	}
	l = Lease{
		Link:   link,
		MAC:    slices.Clone(ack.ClientHWAddr),
		Addr:   netip.PrefixFrom(ip, bits),
		DNS:    addrs(ack.DNS()),
		Domain: domainOf(ack),
		Start:  now,
		ack:    ack,
	}
	if s, ok := netip.AddrFromSlice(ack.ServerIdentifier().To4()); ok {
		l.Server = s
	}
	if b := ack.Options.Get(dhcpv4.OptionInterfaceMTU); len(b) == 2 {
		if mtu := int(b[0])<<8 | int(b[1]); mtu >= mtuMin && mtu <= mtuMax {
			l.MTU = mtu
		}
	}
	l.Routes = routesOf(ack)
	// Others' information for other clients is no head.
	if n, err := api.ParseHeadNote(ack.Options.Get(dhcpv4.OptionVendorSpecificInformation)); err == nil {
		l.Head = n
	}
	l.Renew, l.Rebind, l.Expires = leaseTimes(ack)
	return l, true
}

// leaseTimes are T1, T2 and the end of a lease, RFC 2131 4.4.5; all 0 for a
// lease without end.
func leaseTimes(ack *dhcpv4.DHCPv4) (renew, rebind, expires time.Duration) {
	expires = ack.IPAddressLeaseTime(time.Hour)
	if expires == infinite {
		return 0, 0, 0
	}
	expires = max(expires, leaseMin)
	renew = ack.IPAddressRenewalTime(expires / 2)
	rebind = ack.IPAddressRebindingTime(expires / 8 * 7)
	if renew <= 0 || rebind <= renew || expires <= rebind {
		renew, rebind = expires/2, expires/8*7
	}
	return renew, rebind, expires
}

// routesOf returns the classless routes where there are some, which then
// stand for all (RFC 3442), else the default route.
func routesOf(ack *dhcpv4.DHCPv4) []Route {
	const most = 64
	var list []Route
	for _, r := range ack.ClasslessStaticRoute() {
		if r == nil || r.Dest == nil || len(list) == most {
			continue
		}
		dst, ok := netip.AddrFromSlice(r.Dest.IP.To4())
		bits, size := r.Dest.Mask.Size()
		if !ok || size != 32 {
			continue
		}
		gw, _ := netip.AddrFromSlice(r.Router.To4())
		if gw.IsUnspecified() {
			gw = netip.Addr{}
		}
		list = append(list, Route{netip.PrefixFrom(dst, bits).Masked(), gw})
	}
	if len(list) > 0 {
		return list
	}
	if r := addrs(ack.Router()); len(r) > 0 {
		return []Route{{netip.PrefixFrom(netip.IPv4Unspecified(), 0), r[0]}}
	}
	return nil
}

// domainOf is the first search domain, else the domain's name, if it is a
// name: it goes to a file that programs read.
func domainOf(ack *dhcpv4.DHCPv4) string {
	name := ack.DomainName()
	if ds := ack.DomainSearch(); ds != nil && len(ds.Labels) > 0 {
		name = ds.Labels[0]
	}
	name = strings.Trim(name, ".\x00")
	if len(name) > 253 {
		return ""
	}
	for label := range strings.SplitSeq(name, ".") {
		if !validHostName(label) {
			return ""
		}
	}
	return name
}

func addrs(ips []net.IP) []netip.Addr {
	const most = 8
	var out []netip.Addr
	for _, ip := range ips {
		if a, ok := netip.AddrFromSlice(ip.To4()); ok && !a.IsUnspecified() && len(out) < most {
			out = append(out, a)
		}
	}
	return out
}

// resolvConf is the text of /etc/resolv.conf for a lease.
func resolvConf(l Lease) string {
	const most = 3 // MAXNS of resolv.h
	var b strings.Builder
	if l.Domain != "" {
		b.WriteString("search " + l.Domain + "\n")
	}
	for _, a := range l.DNS[:min(len(l.DNS), most)] {
		b.WriteString("nameserver " + a.String() + "\n")
	}
	return b.String()
}

// machineID is option 97 (RFC 4578 2.3) for an SMBIOS UUID as sysfs writes it:
// type 0 and the 16 bytes as firmware sends them, of whose fields the first
// three are little-endian (SMBIOS 3.4 7.2.1). nil where there is none.
func machineID(uuid string) []byte {
	b, err := hex.DecodeString(strings.ReplaceAll(uuid, "-", ""))
	if err != nil || len(b) != 16 {
		return nil
	}
	slices.Reverse(b[0:4])
	slices.Reverse(b[4:6])
	slices.Reverse(b[6:8])
	return append([]byte{0}, b...)
}
