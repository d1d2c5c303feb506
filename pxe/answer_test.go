package pxe

import (
	"bytes"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/insomniacslk/dhcp/dhcpv4"
)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func testNetwork() Network {
	return Network{
		Server: addr("10.77.0.1"), Prefix: netip.MustParsePrefix("10.77.0.1/24"),
		Router: addr("10.77.0.254"), DNS: []netip.Addr{addr("10.77.0.2")}, Domain: "cluster", Lease: 2 * time.Hour,
		Classes: map[string][]byte{"muster": []byte("told"), "PXEClient:Arch:00000": []byte("never")},
	}
}

func classified(t testing.TB, m *dhcpv4.DHCPv4) *Request {
	t.Helper()
	parsed, err := Parse(m.ToBytes())
	if err != nil {
		t.Fatal(err)
	}
	r, err := Classify(parsed)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// opts lists an answer's options by code.
func opts(m *dhcpv4.DHCPv4) map[uint8]string {
	out := map[uint8]string{}
	for c, v := range m.Options {
		out[c] = string(v)
	}
	return out
}

func TestAnswer(t *testing.T) {
	const (
		offer    = "\x02"
		server   = "\x0a\x4d\x00\x01"
		mask     = "\xff\xff\xff\x00"
		bcast    = "\x0a\x4d\x00\xff"
		router   = "\x0a\x4d\x00\xfe"
		dns      = "\x0a\x4d\x00\x02"
		hour     = "\x00\x00\x0e\x10"
		half     = "\x00\x00\x07\x08"
		rebind   = "\x00\x00\x0c\x4e"
		twoHours = "\x00\x00\x1c\x20"
		rebind2  = "\x00\x00\x18\x9c"
		guidSent = "\x00\x44\x33\x22\x11\x66\x55\x88\x77\x99\xaa\xbb\xcc\xdd\xee\xff\x00"
		useFile  = "\x06\x01\x08\xff"
	)
	boots := map[uint8]string{
		53: offer, 54: server, 51: hour, 58: half, 59: rebind, 1: mask, 28: bcast, 3: router, 6: dns, 15: "cluster",
	}
	with := func(base map[uint8]string, more map[uint8]string) map[uint8]string {
		out := map[uint8]string{}
		for _, m := range []map[uint8]string{base, more} {
			for c, v := range m {
				out[c] = v
			}
		}
		return out
	}
	ip := addr("10.77.0.9")
	tests := map[string]struct {
		ask   *dhcpv4.DHCPv4
		reply Reply
		want  map[uint8]string
	}{
		"BIOS": {
			ask(discover, pxeBIOS, arch0, guid),
			Reply{Type: dhcpv4.MessageTypeOffer, IP: ip, File: "undionly.kpxe"},
			with(boots, map[uint8]string{60: "PXEClient", 43: useFile, 66: "10.77.0.1", 67: "undionly.kpxe\x00", 97: guidSent}),
		},
		"without a GUID none comes back": {
			ask(discover, pxeBIOS, arch0),
			Reply{Type: dhcpv4.MessageTypeOffer, IP: ip, File: "undionly.kpxe"},
			with(boots, map[uint8]string{60: "PXEClient", 43: useFile, 66: "10.77.0.1", 67: "undionly.kpxe\x00"}),
		},
		"firmware without option 43": {
			ask(discover, pxeUEFI, arch7),
			Reply{Type: dhcpv4.MessageTypeOffer, IP: ip, File: "snponly.efi", NoVendor: true},
			with(boots, map[uint8]string{60: "PXEClient", 66: "10.77.0.1", 67: "snponly.efi\x00"}),
		},
		"HTTP boot": {
			ask(discover, httpUEFI, arch16),
			Reply{Type: dhcpv4.MessageTypeOffer, IP: ip, File: "http://10.77.0.1/snponly.efi"},
			with(boots, map[uint8]string{60: "HTTPClient", 67: "http://10.77.0.1/snponly.efi\x00"}),
		},
		"iPXE": {
			ask(discover, pxeBIOS, arch0, userIPXE),
			Reply{Type: dhcpv4.MessageTypeOffer, IP: ip, File: "http://10.77.0.1/boot.ipxe", HostName: "n1"},
			with(boots, map[uint8]string{60: "PXEClient", 43: useFile, 66: "10.77.0.1", 67: "http://10.77.0.1/boot.ipxe\x00", 175: "\xb0\x01\x01", 12: "n1"}),
		},
		"operating system": {
			ask(discover, raw(61, 1, 2, 3), class("udhcp")),
			Reply{Type: dhcpv4.MessageTypeOffer, IP: ip, File: "never"},
			with(boots, map[uint8]string{51: twoHours, 58: hour, 59: rebind2, 61: "\x01\x02\x03"}),
		},
		"operating system of a class that is told something": {
			ask(discover, class("muster")),
			Reply{Type: dhcpv4.MessageTypeOffer, IP: ip},
			with(boots, map[uint8]string{51: twoHours, 58: hour, 59: rebind2, 43: "told"}),
		},
		"boot program of such a class": {
			ask(discover, pxeBIOS, arch0, class("PXEClient:Arch:00000")),
			Reply{Type: dhcpv4.MessageTypeOffer, IP: ip, File: "undionly.kpxe"},
			with(boots, map[uint8]string{60: "PXEClient", 43: useFile, 66: "10.77.0.1", 67: "undionly.kpxe\x00"}),
		},
		"beside another server, of a class": {
			ask(discover, class("muster")),
			Reply{Type: dhcpv4.MessageTypeOffer},
			map[uint8]string{53: offer, 54: server},
		},
		"beside another server": {
			ask(discover, pxeUEFI, arch7),
			Reply{Type: dhcpv4.MessageTypeOffer, File: "snponly.efi"},
			map[uint8]string{53: offer, 54: server, 60: "PXEClient", 43: useFile, 66: "10.77.0.1", 67: "snponly.efi\x00"},
		},
		"INFORM": {
			ask(dhcpv4.MessageTypeInform),
			Reply{Type: dhcpv4.MessageTypeAck},
			map[uint8]string{53: "\x05", 54: server, 1: mask, 28: bcast, 3: router, 6: dns, 15: "cluster"},
		},
		"NAK": {
			ask(dhcpv4.MessageTypeRequest, pxeUEFI),
			Reply{Type: dhcpv4.MessageTypeNak, Message: "no"},
			map[uint8]string{53: "\x06", 54: server, 56: "no"},
		},
		"relay agent information comes back": {
			ask(discover, raw(82, 1, 2, 'p', '1')),
			Reply{Type: dhcpv4.MessageTypeOffer, IP: ip},
			with(boots, map[uint8]string{51: twoHours, 58: hour, 59: rebind2, 82: "\x01\x02p1"}),
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			m := Answer(classified(t, tt.ask), testNetwork(), tt.reply)
			if diff := cmp.Diff(tt.want, opts(m)); diff != "" {
				t.Errorf("options differ (-want +got):\n%s", diff)
			}
		})
	}
}

func TestAnswerHeader(t *testing.T) {
	q := ask(discover, pxeUEFI, arch7, raw(82, 1, 1, 'x'))
	q.SetBroadcast()
	q.GatewayIPAddr = addr("10.88.0.1").AsSlice()
	m := Answer(classified(t, q), testNetwork(), Reply{Type: dhcpv4.MessageTypeOffer, IP: addr("10.77.0.9"), File: "snponly.efi"})
	b := m.ToBytes()
	if !m.IsBroadcast() || !m.GatewayIPAddr.Equal(q.GatewayIPAddr) {
		t.Error("flags or relay address did not come back")
	}
	if m.BootFileName != "snponly.efi" || m.ServerHostName != "10.77.0.1" || m.ServerIPAddr.String() != "10.77.0.1" {
		t.Errorf("file %q, sname %q, siaddr %v", m.BootFileName, m.ServerHostName, m.ServerIPAddr)
	}
	// RFC 3046 2.1: relay agent information is the last option.
	if want := []byte{82, 3, 1, 1, 'x', 255}; !bytes.Contains(b, want) {
		t.Errorf("option 82 is not right before END in % x", b[offOptions:])
	}
	long := Answer(classified(t, q), testNetwork(), Reply{Type: dhcpv4.MessageTypeOffer, File: string(bytes.Repeat([]byte("x"), 128))})
	if long.BootFileName != "" {
		t.Errorf("a name of 128 bytes was put into the file field, cut: %q", long.BootFileName)
	}
}

func TestAnswerFits(t *testing.T) {
	long := "http://10.77.0.1/" + string(bytes.Repeat([]byte("x"), 180))
	for name, tt := range map[string]struct {
		size []dhcpv4.Option
		max  int
	}{
		"not said":   {nil, 548},
		"too little": {[]dhcpv4.Option{raw(57, 0, 100)}, 548},
		"one byte":   {[]dhcpv4.Option{raw(57, 9)}, 548},
		"1472":       {[]dhcpv4.Option{dhcpv4.OptMaxMessageSize(1472)}, 1444},
		"65280":      {[]dhcpv4.Option{dhcpv4.OptMaxMessageSize(65280)}, 1472},
	} {
		t.Run(name, func(t *testing.T) {
			id := raw(61, bytes.Repeat([]byte{7}, 200)...)
			q := ask(discover, append(tt.size, pxeUEFI, arch7, guid, id)...)
			m := Answer(classified(t, q), testNetwork(), Reply{Type: dhcpv4.MessageTypeOffer, IP: addr("10.77.0.9"), File: long, HostName: "n1"})
			if n := len(m.ToBytes()); n > tt.max {
				t.Errorf("%d bytes, want %d at most", n, tt.max)
			}
			for _, code := range []uint8{53, 54, 51, 1, 60, 67} {
				if _, ok := m.Options[code]; !ok {
					t.Errorf("option %d was left out", code)
				}
			}
		})
	}
}

func TestDestination(t *testing.T) {
	ours := addr("10.77.0.9")
	plain := func() *dhcpv4.DHCPv4 { return ask(discover) }
	broadcast := func() *dhcpv4.DHCPv4 { m := ask(discover); m.SetBroadcast(); return m }
	using := func() *dhcpv4.DHCPv4 { m := ask(dhcpv4.MessageTypeRequest); m.ClientIPAddr = ours.AsSlice(); return m }
	relayed := func() *dhcpv4.DHCPv4 { m := broadcast(); m.GatewayIPAddr = addr("10.88.0.1").AsSlice(); return m }
	ack := Reply{Type: dhcpv4.MessageTypeAck, IP: ours}
	tests := map[string]struct {
		ask   *dhcpv4.DHCPv4
		port  int
		from  string
		reply Reply
		want  string
		raw   bool
	}{
		"has no address yet":        {plain(), 67, "0.0.0.0:68", ack, "10.77.0.9:68", true},
		"cannot take a unicast":     {broadcast(), 67, "0.0.0.0:68", ack, "255.255.255.255:68", false},
		"renews":                    {using(), 67, "10.77.0.9:68", ack, "10.77.0.9:68", false},
		"relayed":                   {relayed(), 67, "10.88.0.1:67", ack, "10.88.0.1:67", false},
		"offer of a proxy":          {plain(), 67, "0.0.0.0:68", Reply{Type: dhcpv4.MessageTypeOffer}, "255.255.255.255:68", false},
		"refused":                   {using(), 67, "10.77.0.9:68", Reply{Type: dhcpv4.MessageTypeNak}, "255.255.255.255:68", false},
		"OVMF at the proxy's port":  {using(), 4011, "10.77.0.9:4011", Reply{Type: dhcpv4.MessageTypeAck}, "10.77.0.9:4011", false},
		"iPXE at the proxy's port":  {using(), 4011, "10.77.0.9:68", Reply{Type: dhcpv4.MessageTypeAck}, "10.77.0.9:68", false},
		"no address at the proxy's": {plain(), 4011, "0.0.0.0:68", Reply{Type: dhcpv4.MessageTypeAck}, "255.255.255.255:68", false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			r := classified(t, tt.ask)
			q := query{Request: r, port: &port{num: tt.port}, from: netip.MustParseAddrPort(tt.from)}
			to, raw := destination(q, Answer(r, testNetwork(), tt.reply))
			if to.String() != tt.want || raw != tt.raw {
				t.Errorf("destination() = %v, %v, want %v, %v", to, raw, tt.want, tt.raw)
			}
		})
	}
}
