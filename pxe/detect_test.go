package pxe

import (
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

func TestChoose(t *testing.T) {
	other := []netip.Addr{addr("10.77.0.5")}
	tests := map[string]struct {
		choice       Choice
		named, force bool
		others       []netip.Addr
		want         Mode
		reason       string // part of the reason or of the error
		fails        bool
	}{
		"auto, nobody, named":          {ChooseAuto, true, false, nil, ModeFull, "no DHCP server answers here", false},
		"auto, nobody, not named":      {ChooseAuto, false, false, nil, ModeOff, "--interface eth1", false},
		"auto, somebody, named":        {ChooseAuto, true, false, other, ModeProxy, "10.77.0.5 answers here", false},
		"auto, somebody, not named":    {ChooseAuto, false, false, other, ModeProxy, "10.77.0.5 answers here", false},
		"nothing chosen is auto":       {"", true, false, nil, ModeFull, "no DHCP server", false},
		"full, nobody":                 {ChooseFull, true, false, nil, ModeFull, "--dhcp=full", false},
		"full, not named":              {ChooseFull, false, false, nil, ModeOff, "--interface eth1", false},
		"full, somebody":               {ChooseFull, true, false, other, ModeOff, "--dhcp=proxy", true},
		"full, somebody, forced":       {ChooseFull, true, true, other, ModeFull, "10.77.0.5 answers here too", false},
		"full, forced, yet not named":  {ChooseFull, false, true, other, ModeOff, "--interface eth1", false},
		"proxy does not look for them": {ChooseProxy, true, false, nil, ModeProxy, "--dhcp=proxy", false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			mode, reason, err := choose(tt.choice, "eth1", tt.named, tt.force, tt.others)
			if mode != tt.want || (err != nil) != tt.fails {
				t.Errorf("choose() = %s, %v, want %s", mode, err, tt.want)
			}
			if err != nil {
				if !errors.Is(err, ErrOtherServer) {
					t.Errorf("error %v is not ErrOtherServer", err)
				}
				reason = err.Error()
			}
			if !strings.Contains(reason, tt.reason) {
				t.Errorf("reason %q has no %q", reason, tt.reason)
			}
		})
	}
}

func TestOfferOf(t *testing.T) {
	xid := dhcpv4.TransactionID{1, 2, 3, 4}
	offer := func(change func(*dhcpv4.DHCPv4)) []byte {
		m := Answer(classified(t, ask(discover)), testNetwork(), Reply{Type: dhcpv4.MessageTypeOffer, IP: addr("10.77.0.9")})
		if change != nil {
			change(m)
		}
		return udpPacket(m.ToBytes(), netip.MustParseAddrPort("10.77.0.7:67"), netip.MustParseAddrPort("255.255.255.255:68"))
	}
	good := offer(nil)
	tests := map[string]struct {
		packet []byte
		want   string
	}{
		"offer":              {good, "10.77.0.1"},
		"without identifier": {offer(func(m *dhcpv4.DHCPv4) { delete(m.Options, 54) }), "10.77.0.7"},
		"of a proxy":         {offer(func(m *dhcpv4.DHCPv4) { m.YourIPAddr = net.IPv4zero }), ""},
		"for somebody else":  {offer(func(m *dhcpv4.DHCPv4) { m.TransactionID[0]++ }), ""},
		"an ACK":             {offer(func(m *dhcpv4.DHCPv4) { m.UpdateOption(dhcpv4.OptMessageType(dhcpv4.MessageTypeAck)) }), ""},
		"cut":                {good[:60], ""},
		"empty":              {nil, ""},
	}
	for name, tt := range tests {
		ip, ok := offerOf(tt.packet, xid)
		if ok != (tt.want != "") || ok && ip.String() != tt.want {
			t.Errorf("%s: offerOf() = %v, %v, want %q", name, ip, ok, tt.want)
		}
	}
}

func FuzzParseUDP(f *testing.F) {
	f.Add(udpPacket([]byte("hello"), netip.MustParseAddrPort("10.0.0.1:67"), netip.MustParseAddrPort("10.0.0.2:68")))
	f.Add([]byte{0x4f})
	f.Fuzz(func(t *testing.T, b []byte) {
		payload, from, to, ok := parseUDP(b)
		if !ok {
			return
		}
		again, from2, to2, ok := parseUDP(udpPacket(payload, from, to))
		if !ok || string(again) != string(payload) || from2 != from || to2 != to {
			t.Fatalf("%v to %v with %d bytes came back as %v to %v with %d, %v", from, to, len(payload), from2, to2, len(again), ok)
		}
	})
}
