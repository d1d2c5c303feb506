package pxe

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// ErrNotOurs is the error of a packet that this server has nothing to say to.
// It is no failure: such packets are dropped with a reason at debug level.
var ErrNotOurs = errors.New("not ours")

// Options that the dhcpv4 package has no name for.
var (
	optOverload  = dhcpv4.OptionOptionOverload            // RFC 2132 9.3
	optVendor    = dhcpv4.OptionVendorSpecificInformation // RFC 2132 8.4, filled by PXE 2.1
	optGUID      = dhcpv4.OptionClientMachineIdentifier   // RFC 4578 2.3
	optIPXE      = dhcpv4.GenericOptionCode(175)          // iPXE's own options
	optUserClass = dhcpv4.OptionUserClassInformation      // RFC 3004, and as iPXE writes it
)

// Vendor classes of firmware; an architecture follows (PXE 2.1, UEFI 24.7).
const (
	classPXE  = "PXEClient"
	classHTTP = "HTTPClient"
)

// Request is a DHCP message and what it tells of its sender.
type Request struct {
	Machine
	Msg  *dhcpv4.DHCPv4
	Type dhcpv4.MessageType

	// ServerID is the server that the sender speaks to, the zero Addr when
	// it speaks to all.
	ServerID netip.Addr
	// Wanted is the address that it asks for (option 50) or uses (ciaddr).
	Wanted netip.Addr
}

// Key is the hardware address as a map key.
func (r *Request) Key() MAC { return MAC(r.Machine.MAC) }

// MAC is a hardware address that can be a map key.
type MAC [6]byte

// String gives the usual form, 52:54:00:12:34:56.
func (m MAC) String() string { return net.HardwareAddr(m[:]).String() }

// Relayed tells whether the message came through a relay agent.
func (r *Request) Relayed() bool { return r.Gateway().IsValid() }

// Gateway is the relay's address, the zero Addr when there is none.
func (r *Request) Gateway() netip.Addr { return addrOf(r.Msg.GatewayIPAddr) }

// Boots tells whether the sender is a boot program, which wants more than an
// address.
func (r *Request) Boots() bool { return r.Machine.Client != ClientOS }

// Classify says what a message is and who sent it. A message that this server
// has nothing to say to gives an error that is [ErrNotOurs]. Pure.
func Classify(m *dhcpv4.DHCPv4) (*Request, error) {
	if m.OpCode != dhcpv4.OpcodeBootRequest {
		return nil, fmt.Errorf("%w: it is a reply", ErrNotOurs)
	}
	if len(m.ClientHWAddr) != len(MAC{}) {
		return nil, fmt.Errorf("%w: hardware address of %d bytes", ErrNotOurs, len(m.ClientHWAddr))
	}
	mac := MAC(m.ClientHWAddr)
	if mac == (MAC{}) || mac[0]&1 != 0 {
		return nil, fmt.Errorf("%w: %v is no address of one machine", ErrNotOurs, mac)
	}
	r := &Request{Msg: m, Type: m.MessageType()}
	switch r.Type {
	case dhcpv4.MessageTypeDiscover, dhcpv4.MessageTypeRequest, dhcpv4.MessageTypeDecline,
		dhcpv4.MessageTypeRelease, dhcpv4.MessageTypeInform:
	case dhcpv4.MessageTypeNone:
		return nil, fmt.Errorf("%w: BOOTP, not DHCP", ErrNotOurs)
	default:
		return nil, fmt.Errorf("%w: message type %v", ErrNotOurs, r.Type)
	}
	arch, said := archOf(m)
	r.Machine = Machine{
		MAC:    net.HardwareAddr(mac[:]),
		UUID:   uuidOf(m.Options.Get(optGUID)),
		Client: clientOf(m, arch, said),
		IP:     addrOf(m.ClientIPAddr),
	}
	if said {
		r.Arch = archNames[arch]
	}
	if r.Boots() && arch == archBIOS && isRaspberry(mac) {
		// The Raspberry Pi's boot ROM says architecture 0 as a PC does.
		return nil, fmt.Errorf("%w: %v is a Raspberry Pi, whose boot ROM is not served", ErrNotOurs, mac)
	}
	r.ServerID = addrOf(m.ServerIdentifier())
	if r.Wanted = addrOf(m.RequestedIPAddress()); !r.Wanted.IsValid() {
		r.Wanted = r.IP
	}
	return r, nil
}

// Client architectures (option 93) of the IANA registry "Processor
// Architecture Types". RFC 4578 exchanged 7 and 9 in its first edition, so
// both are 64-bit x86.
const (
	archBIOS      = 0
	archEFI32     = 6
	archEFI64     = 7
	archEFIBC     = 9
	archARM32     = 10
	archARM64     = 11
	archHTTP32    = 15
	archHTTP64    = 16
	archHTTPEBC   = 17
	archHTTPARM32 = 18
	archHTTPARM64 = 19
	archBIOSHTTP  = 20
)

// archNames are the architectures that are known, as Debian names them. A PC
// with a BIOS is taken for amd64: nothing in its message says what it is.
var archNames = map[uint16]string{
	archBIOS: "amd64", archEFI32: "i386", archEFI64: "amd64", archEFIBC: "amd64",
	archARM32: "armhf", archARM64: "arm64",
	archHTTP32: "i386", archHTTP64: "amd64", archHTTPEBC: "amd64",
	archHTTPARM32: "armhf", archHTTPARM64: "arm64", archBIOSHTTP: "amd64",
}

// archOf finds the first known architecture of option 93, else the one in the
// vendor class ("PXEClient:Arch:00007:UNDI:003000"), else an unknown one of
// option 93. said is false when there is none at all.
func archOf(m *dhcpv4.DHCPv4) (arch uint16, said bool) {
	raw := m.Options.Get(dhcpv4.OptionClientSystemArchitectureType)
	for ; len(raw) >= 2; raw = raw[2:] {
		a := uint16(raw[0])<<8 | uint16(raw[1])
		if _, ok := archNames[a]; ok {
			return a, true
		}
		arch, said = a, true
	}
	_, rest, ok := strings.Cut(m.ClassIdentifier(), ":Arch:")
	digits, _, _ := strings.Cut(rest, ":")
	if n, err := strconv.ParseUint(strings.TrimRight(digits, "\x00"), 10, 16); ok && err == nil {
		return uint16(n), true
	}
	return arch, said
}

// clientOf says what kind of program sent the message.
func clientOf(m *dhcpv4.DHCPv4, arch uint16, said bool) Client {
	class := m.ClassIdentifier()
	switch {
	case isIPXE(m):
		return ClientIPXE
	case strings.HasPrefix(class, classHTTP):
		return ClientHTTP
	case !strings.HasPrefix(class, classPXE):
		return ClientOS
	case !said, arch == archBIOS:
		return ClientBIOS // ROMs from before RFC 4578 do not say what they are
	default:
		return ClientUEFI // whatever is not known is newer
	}
}

// isIPXE recognizes iPXE by its own option, or by its user class, which it
// writes without the length byte that RFC 3004 wants.
func isIPXE(m *dhcpv4.DHCPv4) bool {
	if len(m.Options.Get(optIPXE)) > 0 {
		return true
	}
	uc := string(m.Options.Get(optUserClass))
	return strings.HasPrefix(uc, "iPXE") || strings.HasPrefix(uc, "\x04iPXE")
}

// uuidOf reads option 97: a type byte of 0 and a GUID. ROMs have been seen to
// leave the type out, or to send it empty. The GUID is as SMBIOS stores it:
// the first three fields have their least byte first (SMBIOS 7.2.1).
func uuidOf(b []byte) string {
	switch {
	case len(b) == 17 && b[0] == 0:
		b = b[1:]
	case len(b) != 16:
		return ""
	}
	var or, and byte = 0, 0xff
	for _, c := range b {
		or |= c
		and &= c
	}
	if or == 0 || and == 0xff { // boards that were never given one
		return ""
	}
	return fmt.Sprintf("%x-%x-%x-%x-%x", []byte{b[3], b[2], b[1], b[0]}, []byte{b[5], b[4]}, []byte{b[7], b[6]}, b[8:10], b[10:16])
}

// isRaspberry tells the address blocks of the Raspberry Pi makers.
func isRaspberry(m MAC) bool {
	switch [3]byte(m[:3]) {
	case [3]byte{0xb8, 0x27, 0xeb}, [3]byte{0xdc, 0xa6, 0x32}, [3]byte{0xe4, 0x5f, 0x01},
		[3]byte{0xd8, 0x3a, 0xdd}, [3]byte{0x28, 0xcd, 0xc1}, [3]byte{0x2c, 0xcf, 0x67}:
		return true
	}
	return false
}

// addrOf turns an IPv4 address of a message into an Addr; 0.0.0.0 and
// whatever is not IPv4 give the zero Addr.
func addrOf(ip net.IP) netip.Addr {
	v4 := ip.To4()
	if v4 == nil || v4.IsUnspecified() {
		return netip.Addr{}
	}
	return netip.AddrFrom4([4]byte(v4))
}
