package pxetest

import (
	"crypto/sha256"
	"fmt"
	"net"
	"net/netip"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"
)

// Kind is the kind of firmware that a machine has.
type Kind string

// The kinds.
const (
	BIOS Kind = "bios" // BIOS with a PXE ROM
	UEFI Kind = "uefi" // EDK2, UEFI PXE
	HTTP Kind = "http" // EDK2, UEFI HTTP boot
	IPXE Kind = "ipxe" // iPXE, in ROM or fetched
)

// ipxeOptions is iPXE's option 175: the bus identifier of its card, its
// version and its features.
var ipxeOptions = []byte{
	0xb1, 5, 1, 0x1a, 0xf4, 0x10, 0, 0xeb, 3, 1, 0, 0,
	0x17, 1, 1, 0x22, 1, 1, 0x13, 1, 1, 0x11, 1, 1, 0x27, 1, 1, 0x19, 1, 1,
	0x29, 1, 1, 0x10, 1, 2, 0x21, 1, 1, 0x15, 1, 1, 0x18, 1, 1, 0x12, 1, 1,
}

// Discover is the first message of a machine: as iPXE where chain is set or
// the kind is IPXE, else as its firmware.
func (f *Firmware) Discover(chain bool) *dhcpv4.DHCPv4 {
	m := f.message(chain)
	m.UpdateOption(dhcpv4.OptMessageType(dhcpv4.MessageTypeDiscover))
	return m
}

// Request asks for what offer offers.
func (f *Firmware) Request(chain bool, offer *dhcpv4.DHCPv4) *dhcpv4.DHCPv4 {
	m := f.message(chain)
	m.TransactionID = offer.TransactionID
	m.UpdateOption(dhcpv4.OptMessageType(dhcpv4.MessageTypeRequest))
	m.UpdateOption(dhcpv4.OptRequestedIPAddress(offer.YourIPAddr))
	m.UpdateOption(dhcpv4.OptServerIdentifier(offer.ServerIdentifier()))
	if !chain && (f.Kind == UEFI || f.Kind == HTTP) {
		m.UpdateOption(dhcpv4.OptMaxMessageSize(65280)) // as EDK2 does
	}
	return m
}

// message has what all messages of the program have.
func (f *Firmware) message(chain bool) *dhcpv4.DHCPv4 {
	m := &dhcpv4.DHCPv4{
		OpCode: dhcpv4.OpcodeBootRequest, HWType: iana.HWTypeEthernet,
		TransactionID: f.nextID(), ClientHWAddr: f.MAC, Options: dhcpv4.Options{},
	}
	set := func(o dhcpv4.Option) { m.Options.Update(o) }
	set(dhcpv4.OptMaxMessageSize(1472))
	set(dhcpv4.OptParameterRequestList(
		dhcpv4.OptionSubnetMask, dhcpv4.OptionRouter, dhcpv4.OptionDomainNameServer, dhcpv4.OptionHostName,
		dhcpv4.OptionVendorSpecificInformation, dhcpv4.OptionClassIdentifier, dhcpv4.OptionTFTPServerName, dhcpv4.OptionBootfileName))
	set(dhcpv4.OptGeneric(dhcpv4.OptionClientMachineIdentifier, append([]byte{0}, f.guid()...)))
	arch, class := f.archOf(chain), "PXEClient"
	undi := "002001"
	if f.Kind == HTTP && !chain {
		class = "HTTPClient"
	}
	if arch != iana.INTEL_X86PC {
		undi = "003000"
	}
	set(dhcpv4.OptClassIdentifier(fmt.Sprintf("%s:Arch:%05d:UNDI:%s", class, arch, undi)))
	set(dhcpv4.OptClientArch(arch))
	set(dhcpv4.OptGeneric(dhcpv4.OptionClientNetworkInterfaceIdentifier, []byte{1, 3, 0}))
	if chain || f.Kind == IPXE {
		set(dhcpv4.OptUserClass("iPXE")) // no length byte
		set(dhcpv4.OptGeneric(dhcpv4.GenericOptionCode(175), ipxeOptions))
		set(dhcpv4.OptClientIdentifier(append([]byte{1}, f.MAC...)))
	} else if f.Kind != BIOS {
		m.SetBroadcast() // EDK2 cannot take a unicast before it has an address
	}
	if f.Broadcast {
		m.SetBroadcast()
	}
	if f.Relay.IsValid() {
		m.GatewayIPAddr = f.Relay.AsSlice()
		m.HopCount = 1
	}
	return m
}

// archOf is the client architecture of firmware, and of the iPXE that it
// fetches.
func (f *Firmware) archOf(chain bool) iana.Arch {
	switch {
	case f.Kind == UEFI, f.Kind == HTTP && chain:
		return iana.EFI_X86_64
	case f.Kind == HTTP:
		return iana.EFI_X86_64_HTTP
	}
	return iana.INTEL_X86PC
}

// guid is a machine identifier that follows from the hardware address.
func (f *Firmware) guid() []byte {
	sum := sha256.Sum256(f.MAC)
	return sum[:16]
}

func (f *Firmware) nextID() dhcpv4.TransactionID {
	f.sent++
	sum := sha256.Sum256(fmt.Appendf(nil, "%v %d", f.MAC, f.sent))
	return dhcpv4.TransactionID(sum[:4])
}

// MAC is the hardware address of the i-th machine of a test.
func MAC(i int) net.HardwareAddr {
	return net.HardwareAddr{0x52, 0x54, 0, byte(i >> 16), byte(i >> 8), byte(i)}
}

func addrOf(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip.To4())
	if !a.IsValid() || a.IsUnspecified() {
		return netip.Addr{}
	}
	return a
}
