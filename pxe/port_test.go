package pxe

import (
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"muster/pxe/pxetest"
)

// TestUserPorts sends, from a port that a program without rights may have, what takes a machine's
// address from it: nothing happens and nothing is answered. The same from port 68 is heard.
func TestUserPorts(t *testing.T) {
	l := newLAN(t, serverNet)
	s := l.full(t, nil)
	conn := l.raw(t)
	victim := &pxetest.Firmware{Kind: pxetest.UEFI, MAC: pxetest.MAC(1), Conn: conn}
	lease, err := victim.DHCP(t.Context(), false, nil)
	if err != nil {
		t.Fatal(err)
	}
	l.run(t, "ip", "addr", "add", "10.77.0.9/16", "dev", "c0")
	from := func(port int) net.PacketConn {
		var c net.PacketConn
		var err error
		l.machines.Do(t, func() { c, err = net.ListenUDP("udp4", &net.UDPAddr{IP: net.IP{10, 77, 0, 9}, Port: port}) })
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	say := func(typ dhcpv4.MessageType) *dhcpv4.DHCPv4 {
		m := victim.Discover(false)
		m.UpdateOption(dhcpv4.OptMessageType(typ))
		m.UpdateOption(dhcpv4.OptServerIdentifier(net.IP{10, 77, 0, 1}))
		if typ == dhcpv4.MessageTypeRelease {
			m.ClientIPAddr = lease.IP.AsSlice()
		} else {
			m.UpdateOption(dhcpv4.OptRequestedIPAddress(lease.IP.AsSlice()))
		}
		return m
	}
	server := &net.UDPAddr{IP: net.IP{10, 77, 0, 1}, Port: portServer}
	user := from(0)
	var sent []*dhcpv4.DHCPv4
	for _, typ := range []dhcpv4.MessageType{dhcpv4.MessageTypeRelease, dhcpv4.MessageTypeDecline, dhcpv4.MessageTypeDiscover, dhcpv4.MessageTypeRequest, dhcpv4.MessageTypeInform} {
		m := say(typ)
		sent = append(sent, m)
		if _, err := user.WriteTo(m.ToBytes(), server); err != nil {
			t.Fatal(err)
		}
	}
	if a := answerTo(t, conn, sent, 300*time.Millisecond); a != nil {
		t.Errorf("a program without rights was answered: %v", a.Summary())
	}
	// Messages to one socket are read in order: when this one is answered, those before were looked at.
	if exchange(t, conn, (&pxetest.Firmware{Kind: pxetest.UEFI, MAC: pxetest.MAC(2)}).Discover(false)) == nil {
		t.Fatal("a machine that asks from port 68 has no answer")
	}
	if mac, ok := s.book.Holder(lease.IP); !ok || mac != MAC(victim.MAC) {
		t.Fatalf("Holder(%v) = %v, %v: a program without rights took the address away", lease.IP, mac, ok)
	}
	// At the proxy's port such a message is answered, and takes no room among the machine's own.
	for range rateBurst + 3 {
		m := say(dhcpv4.MessageTypeInform)
		if _, err := user.WriteTo(m.ToBytes(), &net.UDPAddr{IP: net.IP{10, 77, 0, 1}, Port: portProxy}); err != nil {
			t.Fatal(err)
		}
	}
	if again, err := victim.DHCP(t.Context(), false, nil); err != nil || again.IP != lease.IP {
		t.Fatalf("the machine itself: %v, %v", again.IP, err)
	}
	root := from(portClient)
	if _, err := root.WriteTo(say(dhcpv4.MessageTypeRelease).ToBytes(), server); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the end of the lease", func() bool { _, ok := s.book.Holder(lease.IP); return !ok })
}

// answerTo reads what comes for a while, and returns the first answer to one of sent.
func answerTo(t *testing.T, c net.PacketConn, sent []*dhcpv4.DHCPv4, wait time.Duration) *dhcpv4.DHCPv4 {
	t.Helper()
	c.SetReadDeadline(time.Now().Add(wait))
	b := make([]byte, 2048)
	for {
		n, _, err := c.ReadFrom(b)
		if err != nil {
			return nil
		}
		a, err := dhcpv4.FromBytes(b[:n])
		if err == nil && slices.ContainsFunc(sent, func(m *dhcpv4.DHCPv4) bool { return m.TransactionID == a.TransactionID }) {
			return a
		}
	}
}

// TestFromSystem holds which ports messages are believed from.
func TestFromSystem(t *testing.T) {
	kernel := &port{udp: &net.UDPConn{}, num: portServer}
	for from, want := range map[string]bool{
		"0.0.0.0:68": true, "10.77.0.9:68": true, "10.77.0.254:67": true, "10.77.0.254:1023": true,
		"10.77.0.9:1024": false, "10.77.0.9:4011": false, "10.77.0.9:53211": false,
	} {
		if got := fromSystem(kernel, datagram{from: netip.MustParseAddrPort(from)}); got != want {
			t.Errorf("fromSystem(%s) = %v, want %v", from, got, want)
		}
	}
	if !fromSystem(&port{num: portServer}, datagram{}) {
		t.Error("a connection of a test is not believed")
	}
}
