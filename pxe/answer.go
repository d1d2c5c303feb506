package pxe

import (
	"net"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// Network is what machines of one subnet are told about it.
type Network struct {
	// Server is this server's address there: server identifier, TFTP server
	// and host of all URLs. Required.
	Server netip.Addr
	Prefix netip.Prefix  // the subnet; its mask is told to machines
	Router netip.Addr    // the zero Addr: none
	DNS    []netip.Addr  // may be empty
	Domain string        // may be empty
	Lease  time.Duration // how long an address is given; 0: DefaultLease
	// Classes is vendor-specific information (option 43, at most 255 bytes) for operating systems
	// that were given an address, by their vendor class (option 60).
	Classes map[string][]byte
}

// DefaultLease is how long a machine may use an address without asking again.
// A head that is down for less than half of it is not noticed by DHCP clients.
const DefaultLease = 12 * time.Hour

// bootLease is for boot programs, which end within minutes.
const bootLease = time.Hour

// Reply is what a message is answered with.
type Reply struct {
	Type dhcpv4.MessageType
	// IP is the address given. The zero Addr gives none: the answer to
	// INFORM, and all answers beside another DHCP server.
	IP netip.Addr
	// File is the boot program: a file name for TFTP or a URL; "" for none.
	File string
	// HostName is option 12; "" for none.
	HostName string
	// NoVendor leaves option 43 out, for firmware that trips over it.
	NoVendor bool
	// Message says why a request was refused (NAK only).
	Message string
}

// Sizes of RFC 2131 section 2: what every client takes, without IP and UDP.
const (
	minDatagram  = 576
	ipUDPHeaders = 28
	maxFileField = 127 // the file field is 128 bytes and ends in a zero
)

// Option values that tell firmware to use the boot file it was offered.
var (
	// PXE 2.1, table 2-1, tag 6: bit 3, "if a boot file name is present in
	// the initial DHCP or ProxyDHCP offer packet, download the boot file".
	vendorUseFile = []byte{6, 1, 8, 255}
	// iPXE's "no-pxedhcp" (175.176): do not wait for a proxyDHCP offer.
	ipxeNoProxy = []byte{0xb0, 1, 1}
)

// Answer writes the reply to r. Pure. What the client sent for the relay or
// itself (flags, option 82, client identifier) goes back unchanged. Options
// that must not be too many for a client's buffer are left out from the least
// important on.
func Answer(r *Request, n Network, p Reply) *dhcpv4.DHCPv4 {
	m := &dhcpv4.DHCPv4{
		OpCode:        dhcpv4.OpcodeBootReply,
		HWType:        r.Msg.HWType,
		TransactionID: r.Msg.TransactionID,
		Flags:         r.Msg.Flags,
		ClientHWAddr:  r.Msg.ClientHWAddr,
		GatewayIPAddr: r.Msg.GatewayIPAddr,
		Options:       dhcpv4.Options{},
	}
	set := func(o dhcpv4.Option) { m.Options.Update(o) }
	set(dhcpv4.OptMessageType(p.Type))
	set(dhcpv4.OptServerIdentifier(n.Server.AsSlice()))
	echo(m, r.Msg, dhcpv4.OptionRelayAgentInformation) // RFC 3046 2.2
	echo(m, r.Msg, dhcpv4.OptionClientIdentifier)      // RFC 6842
	if p.Type == dhcpv4.MessageTypeNak {
		m.Flags |= 0x8000 // RFC 2131 4.3.2: the client's address may be wrong
		if p.Message != "" {
			set(dhcpv4.OptMessage(p.Message))
		}
		return m
	}
	if p.Type == dhcpv4.MessageTypeAck && r.Msg.ClientIPAddr != nil {
		m.ClientIPAddr = r.Msg.ClientIPAddr // RFC 2131 table 3
	}
	if p.IP.IsValid() {
		m.YourIPAddr = p.IP.AsSlice()
		lease := n.leaseFor(r)
		set(dhcpv4.OptIPAddressLeaseTime(lease))
		set(dhcpv4.OptRenewTimeValue(lease / 2))
		set(dhcpv4.OptRebindingTimeValue(lease * 7 / 8))
	}
	// INFORM has no address to be given, but wants to know the subnet.
	if p.IP.IsValid() || r.Type == dhcpv4.MessageTypeInform {
		describe(m, n)
		if p.HostName != "" {
			set(dhcpv4.OptHostName(p.HostName))
		}
		if v := n.Classes[r.Msg.ClassIdentifier()]; len(v) > 0 && !r.Boots() {
			set(dhcpv4.OptGeneric(optVendor, v))
		}
	}
	if r.Boots() && p.File != "" {
		bootOptions(m, r, n, p)
	}
	fit(m, r.Msg)
	return m
}

// leaseFor is how long the sender of r gets an address for.
func (n Network) leaseFor(r *Request) time.Duration {
	lease := n.Lease
	if lease <= 0 {
		lease = DefaultLease
	}
	if r.Boots() {
		lease = min(lease, bootLease)
	}
	return lease
}

// describe tells about the subnet.
func describe(m *dhcpv4.DHCPv4, n Network) {
	set := func(o dhcpv4.Option) { m.Options.Update(o) }
	set(dhcpv4.OptSubnetMask(net.CIDRMask(n.Prefix.Bits(), 32)))
	if b := broadcastOf(n.Prefix); b.IsValid() {
		set(dhcpv4.OptBroadcastAddress(b.AsSlice()))
	}
	if n.Router.IsValid() {
		set(dhcpv4.OptRouter(n.Router.AsSlice()))
	}
	if len(n.DNS) > 0 {
		var ips []net.IP
		for _, a := range n.DNS {
			ips = append(ips, a.AsSlice())
		}
		set(dhcpv4.OptDNS(ips...))
	}
	if n.Domain != "" {
		set(dhcpv4.OptDomainName(n.Domain))
	}
}

// bootOptions names the boot program in all the places where firmware looks.
func bootOptions(m *dhcpv4.DHCPv4, r *Request, n Network, p Reply) {
	set := func(code dhcpv4.OptionCode, v []byte) { m.Options.Update(dhcpv4.OptGeneric(code, v)) }
	m.ServerIPAddr = n.Server.AsSlice() // shim has been seen to need siaddr
	m.ServerHostName = n.Server.String()
	if len(p.File) <= maxFileField {
		m.BootFileName = p.File
	}
	// EDK2 ends an unterminated option 67 by writing a zero behind it, over
	// the code of the next option; so it gets its own zero.
	set(dhcpv4.OptionBootfileName, append([]byte(p.File), 0))
	if len(r.Msg.Options.Get(optGUID)) > 0 {
		echo(m, r.Msg, optGUID) // PXE 2.1, table 2-4; never invented
	}
	if r.Machine.Client == ClientHTTP {
		set(dhcpv4.OptionClassIdentifier, []byte(classHTTP)) // UEFI 24.7.3.1
		return
	}
	if _, asked := r.Msg.Options[dhcpv4.OptionClassIdentifier.Code()]; asked {
		set(dhcpv4.OptionClassIdentifier, []byte(classPXE))
		if !p.NoVendor {
			set(optVendor, vendorUseFile)
		}
	}
	set(dhcpv4.OptionTFTPServerName, []byte(n.Server.String()))
	if r.Machine.Client == ClientIPXE {
		set(optIPXE, ipxeNoProxy)
	}
}

// echo copies an option of the request, where it came.
func echo(m, from *dhcpv4.DHCPv4, code dhcpv4.OptionCode) {
	if v, ok := from.Options[code.Code()]; ok {
		m.Options[code.Code()] = v
	}
}

// spare are the options that a client can do without, the first to go first.
var spare = []dhcpv4.OptionCode{
	dhcpv4.OptionTFTPServerName, dhcpv4.OptionBroadcastAddress, dhcpv4.OptionDomainName,
	dhcpv4.OptionHostName, optGUID, dhcpv4.OptionRebindingTimeValue, dhcpv4.OptionRenewTimeValue,
	dhcpv4.OptionClientIdentifier, dhcpv4.OptionDomainNameServer,
}

// fit leaves options out until the message is no longer than the client said
// it takes (RFC 2132 9.10), or than everybody takes.
func fit(m, request *dhcpv4.DHCPv4) {
	limit := minDatagram
	if said, err := request.MaxMessageSize(); err == nil {
		limit = max(limit, min(int(said), 1500))
	}
	for _, code := range spare {
		if len(m.ToBytes()) <= limit-ipUDPHeaders {
			return
		}
		delete(m.Options, code.Code())
	}
}

// broadcastOf is the last address of an IPv4 prefix, the zero Addr for /31
// and /32, which have none.
func broadcastOf(p netip.Prefix) netip.Addr {
	if !p.Addr().Is4() || p.Bits() > 30 {
		return netip.Addr{}
	}
	return addrAt(p, 1<<(32-p.Bits())-1)
}

// addrAt is the i-th address of an IPv4 prefix.
func addrAt(p netip.Prefix, i uint32) netip.Addr {
	return u32Addr(addrU32(p.Masked().Addr()) + i)
}

func addrU32(a netip.Addr) uint32 {
	b := a.As4()
	return uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
}

func u32Addr(u uint32) netip.Addr {
	return netip.AddrFrom4([4]byte{byte(u >> 24), byte(u >> 16), byte(u >> 8), byte(u)})
}
