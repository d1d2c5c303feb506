package vm

import (
	"bytes"
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"golang.org/x/net/ipv4"

	"muster/internal/netnstest"
)

// frame wraps a datagram into an Ethernet frame with the right checksum.
func frame(to uint16, payload []byte) []byte {
	f := make([]byte, 14+20+8+len(payload), 14+20+8+len(payload)+1)
	copy(f, []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x52, 0x54, 0, 0, 0, 1, 8, 0})
	h := ipv4.Header{Version: 4, Len: 20, TotalLen: 28 + len(payload), TTL: 64, Protocol: 17, Src: net.IPv4zero, Dst: net.IPv4bcast}
	ip, err := h.Marshal()
	if err != nil {
		panic(err)
	}
	copy(f[14:], ip)
	udp := f[34:]
	binary.BigEndian.PutUint16(udp, 68)
	binary.BigEndian.PutUint16(udp[2:], to)
	binary.BigEndian.PutUint16(udp[4:], uint16(8+len(payload)))
	copy(udp[8:], payload)
	setChecksum(f, udp)
	return f
}

// validChecksum adds up the datagram with its checksum, which gives zero.
func validChecksum(f []byte) bool {
	udp, ok := udpOf(f)
	if !ok {
		return false
	}
	had := binary.BigEndian.Uint16(udp[6:])
	again := bytes.Clone(f)
	udp, _ = udpOf(again)
	setChecksum(again, udp)
	return had == binary.BigEndian.Uint16(udp[6:])
}

func discover(t testing.TB) []byte {
	t.Helper()
	m, err := dhcpv4.NewDiscovery(mac("52:54:00:00:00:01"),
		dhcpv4.WithOption(dhcpv4.OptClassIdentifier("PXEClient:Arch:00000:UNDI:002001")),
		dhcpv4.WithOption(dhcpv4.OptGeneric(dhcpv4.GenericOptionCode(userClass), []byte("iPXE"))),
		dhcpv4.WithOption(dhcpv4.OptGeneric(dhcpv4.GenericOptionCode(ipxeOptions), []byte{0xb1, 5, 1, 0x1a, 0xf4, 0x10, 0, 0x13, 1, 1})))
	if err != nil {
		t.Fatal(err)
	}
	return m.ToBytes()
}

func TestPlainROM(t *testing.T) {
	p := new(PlainROM)
	in := frame(dhcpPort, discover(t))
	out := p.Filter(bytes.Clone(in))
	if len(out) != len(in) {
		t.Fatalf("the frame has %d bytes, had %d", len(out), len(in))
	}
	m, err := dhcpv4.FromBytes(out[42:])
	if err != nil {
		t.Fatalf("the changed message cannot be read: %v", err)
	}
	if m.Options.Has(dhcpv4.GenericOptionCode(userClass)) || m.Options.Has(dhcpv4.GenericOptionCode(ipxeOptions)) {
		t.Errorf("options = %v, want none of iPXE", m.Options)
	}
	if m.MessageType() != dhcpv4.MessageTypeDiscover || m.ClassIdentifier() != "PXEClient:Arch:00000:UNDI:002001" {
		t.Errorf("message = %s, want the rest as it was", m.Summary())
	}
	if !validChecksum(out) || bytes.Equal(out, in) {
		t.Error("the checksum is wrong, or nothing was changed")
	}
	if p.Stripped() != 1 || p.Fetched() {
		t.Errorf("Stripped() = %d, Fetched() = %v, want 1 and false", p.Stripped(), p.Fetched())
	}

	other := frame(53, []byte("name?"))
	if got := p.Filter(bytes.Clone(other)); !bytes.Equal(got, other) {
		t.Error("a frame that is no DHCP was changed")
	}
	rrq := frame(tftpPort, []byte("\x00\x01undionly.kpxe\x00octet\x00"))
	if got := p.Filter(bytes.Clone(rrq)); !bytes.Equal(got, rrq) || !p.Fetched() {
		t.Errorf("a TFTP request was changed, or not noticed: Fetched() = %v", p.Fetched())
	}
	if got := p.Filter(bytes.Clone(in)); !bytes.Equal(got, in) {
		t.Error("DHCP after the request was changed")
	}
}

func FuzzPlainROM(f *testing.F) {
	f.Add(frame(dhcpPort, discover(f)))
	f.Add(frame(proxyPort, append(discover(f)[:240], 77, 200, 1)))
	f.Add(frame(dhcpPort, nil)[:40])
	f.Fuzz(func(t *testing.T, in []byte) {
		before := bytes.Clone(in)
		out := new(PlainROM).Filter(in)
		if len(out) != len(before) {
			t.Fatalf("%d bytes became %d", len(before), len(out))
		}
		if !bytes.Equal(out, before) && !validChecksum(out) {
			t.Error("a changed frame has a wrong checksum")
		}
	})
}

// TestPlainROMOnRealROM boots QEMU's ROM through the filter beside a small DHCP
// server, until it asks for the boot program by TFTP.
func TestPlainROMOnRealROM(t *testing.T) {
	port := network(t)
	seen := make(chan *dhcpv4.DHCPv4, 100)
	serveDHCP(t, "other.kpxe", seen)
	tftp, err := net.ListenPacket("udp4", "192.0.2.1:69")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tftp.Close() })

	rom := new(PlainROM)
	m := boot(t, Config{Name: "rom", Firmware: BIOS, MemMiB: 128, NICs: []NIC{{Port: port, MAC: mac("52:54:00:00:00:01"), Filter: rom.Filter}}})
	ctx := patience(t)
	stop := context.AfterFunc(ctx, func() { tftp.Close() })
	defer stop()
	buf := make([]byte, 600)
	n, _, err := tftp.ReadFrom(buf)
	if err != nil {
		t.Fatalf("no TFTP request came: %v; console:\n%s", err, m.ConsoleTail(20))
	}
	if want := []byte("\x00\x01other.kpxe\x00octet\x00"); !bytes.HasPrefix(buf[:n], want) {
		t.Errorf("request = %q, want %q", buf[:n], want)
	}
	if !rom.Fetched() || rom.Stripped() < 2 {
		t.Errorf("Fetched() = %v, Stripped() = %d, want DISCOVER and REQUEST changed", rom.Fetched(), rom.Stripped())
	}
	close(seen)
	for msg := range seen {
		if msg.Options.Has(dhcpv4.GenericOptionCode(userClass)) || msg.Options.Has(dhcpv4.GenericOptionCode(ipxeOptions)) {
			t.Errorf("the server saw iPXE's options: %s", msg.Summary())
		}
		if !slices.Equal(msg.ClientHWAddr, mac("52:54:00:00:00:01")) {
			t.Errorf("the server saw a message of %s", msg.ClientHWAddr)
		}
	}
}

// serveDHCP gives every machine on br0 one address and a boot file.
func serveDHCP(t *testing.T, file string, seen chan<- *dhcpv4.DHCPv4) {
	t.Helper()
	c, err := net.ListenPacket("udp4", ":67")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	t.Cleanup(func() { c.Close(); <-ended })
	netnstest.AllowBroadcast(t, c)
	server := netip.MustParseAddr("192.0.2.1").AsSlice()
	go func() {
		defer close(ended)
		buf := make([]byte, 1500)
		for {
			n, _, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			msg, err := dhcpv4.FromBytes(buf[:n])
			if err != nil {
				t.Errorf("reading a DHCP message: %v", err)
				return
			}
			answer := dhcpv4.MessageTypeOffer
			if msg.MessageType() == dhcpv4.MessageTypeRequest {
				answer = dhcpv4.MessageTypeAck
			}
			reply, err := dhcpv4.NewReplyFromRequest(msg, dhcpv4.WithMessageType(answer), dhcpv4.WithServerIP(server),
				dhcpv4.WithYourIP(net.IPv4(192, 0, 2, 50)), dhcpv4.WithNetmask(net.CIDRMask(24, 32)), dhcpv4.WithLeaseTime(600),
				dhcpv4.WithOption(dhcpv4.OptServerIdentifier(server)), dhcpv4.WithOption(dhcpv4.OptBootFileName(file)), dhcpv4.WithOption(dhcpv4.OptClassIdentifier("PXEClient")))
			if err != nil {
				t.Errorf("answering: %v", err)
				return
			}
			select {
			case seen <- msg:
			default:
			}
			if _, err := c.WriteTo(reply.ToBytes(), &net.UDPAddr{IP: net.IPv4(192, 0, 2, 255), Port: 68}); err != nil {
				t.Errorf("answering: %v", err)
				return
			}
		}
	}()
}
