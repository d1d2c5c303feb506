package pxe

import (
	"errors"
	"net"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/insomniacslk/dhcp/dhcpv4"
)

var testMAC = net.HardwareAddr{0x52, 0x54, 0, 0x12, 0x34, 0x56}

// ask makes a message of testMAC.
func ask(kind dhcpv4.MessageType, opts ...dhcpv4.Option) *dhcpv4.DHCPv4 {
	m := &dhcpv4.DHCPv4{
		OpCode: dhcpv4.OpcodeBootRequest, HWType: 1, ClientHWAddr: testMAC,
		TransactionID: dhcpv4.TransactionID{1, 2, 3, 4}, Options: dhcpv4.Options{},
	}
	m.UpdateOption(dhcpv4.OptMessageType(kind))
	for _, o := range opts {
		m.UpdateOption(o)
	}
	return m
}

func raw(code uint8, v ...byte) dhcpv4.Option {
	return dhcpv4.OptGeneric(dhcpv4.GenericOptionCode(code), v)
}

func class(s string) dhcpv4.Option { return dhcpv4.OptClassIdentifier(s) }

var (
	pxeBIOS   = class("PXEClient:Arch:00000:UNDI:002001")
	pxeUEFI   = class("PXEClient:Arch:00007:UNDI:003000")
	httpUEFI  = class("HTTPClient:Arch:00016:UNDI:003000")
	userIPXE  = raw(77, []byte("iPXE")...)
	guid      = raw(97, append([]byte{0}, 0x44, 0x33, 0x22, 0x11, 0x66, 0x55, 0x88, 0x77, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff, 0)...)
	discover  = dhcpv4.MessageTypeDiscover
	arch0     = raw(93, 0, 0)
	arch7     = raw(93, 0, 7)
	arch16    = raw(93, 0, 16)
	ipxeByRFC = raw(77, append([]byte{4}, "iPXE"...)...)
)

func TestClassify(t *testing.T) {
	type want struct {
		Client     Client
		Arch, UUID string
	}
	const uuid = "11223344-5566-7788-99aa-bbccddeeff00"
	tests := map[string]struct {
		opts []dhcpv4.Option
		want want
	}{
		"BIOS ROM":                       {[]dhcpv4.Option{pxeBIOS, arch0, guid}, want{ClientBIOS, "amd64", uuid}},
		"UEFI PXE":                       {[]dhcpv4.Option{pxeUEFI, arch7, guid}, want{ClientUEFI, "amd64", uuid}},
		"UEFI HTTP boot":                 {[]dhcpv4.Option{httpUEFI, arch16}, want{ClientHTTP, "amd64", ""}},
		"iPXE in a BIOS ROM":             {[]dhcpv4.Option{pxeBIOS, arch0, userIPXE, raw(175, 0xb1, 1, 1)}, want{ClientIPXE, "amd64", ""}},
		"iPXE by user class alone":       {[]dhcpv4.Option{pxeUEFI, arch7, userIPXE}, want{ClientIPXE, "amd64", ""}},
		"iPXE by user class of RFC 3004": {[]dhcpv4.Option{pxeUEFI, arch7, ipxeByRFC}, want{ClientIPXE, "amd64", ""}},
		"iPXE by option 175 alone":       {[]dhcpv4.Option{raw(175, 0xb1, 1, 1)}, want{ClientIPXE, "", ""}},
		"user class of somebody else":    {[]dhcpv4.Option{pxeUEFI, arch7, raw(77, []byte("gPXE")...)}, want{ClientUEFI, "amd64", ""}},
		"9 is 64-bit x86 too":            {[]dhcpv4.Option{class("PXEClient:Arch:00009"), raw(93, 0, 9)}, want{ClientUEFI, "amd64", ""}},
		"arm64":                          {[]dhcpv4.Option{class("PXEClient"), raw(93, 0, 11)}, want{ClientUEFI, "arm64", ""}},
		"arm64 HTTP":                     {[]dhcpv4.Option{class("HTTPClient"), raw(93, 0, 19)}, want{ClientHTTP, "arm64", ""}},
		"32-bit UEFI":                    {[]dhcpv4.Option{class("PXEClient"), raw(93, 0, 6)}, want{ClientUEFI, "i386", ""}},
		"first known of several":         {[]dhcpv4.Option{class("PXEClient"), raw(93, 0, 99, 0, 7, 0, 0)}, want{ClientUEFI, "amd64", ""}},
		"architecture only in the class": {[]dhcpv4.Option{pxeUEFI}, want{ClientUEFI, "amd64", ""}},
		"broken 93, class decides":       {[]dhcpv4.Option{pxeUEFI, raw(93, 7)}, want{ClientUEFI, "amd64", ""}},
		"no architecture at all":         {[]dhcpv4.Option{class("PXEClient")}, want{ClientBIOS, "", ""}},
		"unknown architecture":           {[]dhcpv4.Option{class("PXEClient:Arch:00031:UNDI:003000"), raw(93, 0, 31)}, want{ClientUEFI, "", ""}},
		"unknown only in option 93":      {[]dhcpv4.Option{class("PXEClient"), raw(93, 0, 31)}, want{ClientUEFI, "", ""}},
		"class with a NUL":               {[]dhcpv4.Option{class("PXEClient:Arch:00007\x00")}, want{ClientUEFI, "amd64", ""}},
		"GUID without type":              {[]dhcpv4.Option{pxeBIOS, raw(97, guid.Value.ToBytes()[1:]...)}, want{ClientBIOS, "amd64", uuid}},
		"empty GUID":                     {[]dhcpv4.Option{pxeBIOS, raw(97)}, want{ClientBIOS, "amd64", ""}},
		"GUID of zeros":                  {[]dhcpv4.Option{pxeBIOS, raw(97, make([]byte, 17)...)}, want{ClientBIOS, "amd64", ""}},
		"operating system":               {[]dhcpv4.Option{class("udhcp 1.35.0")}, want{ClientOS, "", ""}},
		"operating system without class": {nil, want{ClientOS, "", ""}},
		"machine with everything empty":  {[]dhcpv4.Option{raw(60), raw(77), raw(93), raw(97), raw(175)}, want{ClientOS, "", ""}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			m, err := Parse(ask(discover, tt.opts...).ToBytes())
			if err != nil {
				t.Fatal(err)
			}
			r, err := Classify(m)
			if err != nil {
				t.Fatal(err)
			}
			got := want{r.Machine.Client, r.Arch, r.UUID}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("Classify() differs (-want +got):\n%s", diff)
			}
		})
	}
}

func TestClassifyNotOurs(t *testing.T) {
	tests := map[string]func(m *dhcpv4.DHCPv4){
		"reply":                   func(m *dhcpv4.DHCPv4) { m.OpCode = dhcpv4.OpcodeBootReply },
		"address of 0 bytes":      func(m *dhcpv4.DHCPv4) { m.ClientHWAddr = nil },
		"address of 16 bytes":     func(m *dhcpv4.DHCPv4) { m.ClientHWAddr = make([]byte, 16) },
		"address of zeros":        func(m *dhcpv4.DHCPv4) { m.ClientHWAddr = make([]byte, 6) },
		"multicast address":       func(m *dhcpv4.DHCPv4) { m.ClientHWAddr = []byte{1, 0, 0x5e, 0, 0, 1} },
		"BOOTP":                   func(m *dhcpv4.DHCPv4) { delete(m.Options, 53) },
		"OFFER in a request":      func(m *dhcpv4.DHCPv4) { m.UpdateOption(dhcpv4.OptMessageType(dhcpv4.MessageTypeOffer)) },
		"unknown type":            func(m *dhcpv4.DHCPv4) { m.Options[53] = []byte{99} },
		"type of two bytes":       func(m *dhcpv4.DHCPv4) { m.Options[53] = []byte{1, 1} },
		"boot ROM of a Raspberry": func(m *dhcpv4.DHCPv4) { m.ClientHWAddr = []byte{0xb8, 0x27, 0xeb, 1, 2, 3}; m.UpdateOption(pxeBIOS) },
	}
	for name, change := range tests {
		t.Run(name, func(t *testing.T) {
			m := ask(discover)
			change(m)
			if _, err := Classify(m); !errors.Is(err, ErrNotOurs) {
				t.Errorf("Classify() error = %v, want ErrNotOurs", err)
			}
		})
	}
}

func TestClassifyRaspberryOS(t *testing.T) {
	m := ask(discover)
	m.ClientHWAddr = net.HardwareAddr{0xb8, 0x27, 0xeb, 1, 2, 3}
	if _, err := Classify(m); err != nil {
		t.Errorf("Classify() of its operating system: %v", err)
	}
}
