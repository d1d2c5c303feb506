package pxe

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"
)

// Ports, RFC 2131 4.1 and PXE 2.1 section 2.2.
const (
	portServer = 67
	portClient = 68
	portProxy  = 4011

	firstUserPort = 1024 // which programs of ordinary users may have (Linux: ip_unprivileged_port_start)
)

// datagram is a message that came in. Its bytes belong to the reader's
// buffer and are gone after the call that got it.
type datagram struct {
	b    []byte
	from netip.AddrPort
	to   netip.Addr // address that it was sent to, the zero Addr when unknown
	peer net.Addr   // from, as the socket gave it
}

// port is one socket of one interface.
type port struct {
	conn net.PacketConn
	udp  *net.UDPConn // conn, when it is one
	num  int          // 67 or 4011
}

func newPort(c net.PacketConn, num int) *port {
	udp, _ := c.(*net.UDPConn)
	return &port{conn: c, udp: udp, num: num}
}

// read waits for the next datagram. oob is room for control messages.
func (p *port) read(b, oob []byte) (datagram, error) {
	if p.udp == nil {
		n, peer, err := p.conn.ReadFrom(b)
		if err != nil {
			return datagram{}, err
		}
		return datagram{b: b[:n], from: addrPortOf(peer), peer: peer}, nil
	}
	n, oobn, _, from, err := p.udp.ReadMsgUDPAddrPort(b, oob)
	if err != nil {
		return datagram{}, err
	}
	d := datagram{b: b[:n], from: netip.AddrPortFrom(from.Addr().Unmap(), from.Port())}
	var cm ipv4.ControlMessage
	if cm.Parse(oob[:oobn]) == nil {
		d.to = addrOf(cm.Dst)
	}
	return d, nil
}

// write sends from source, out of the interface with index ifIndex.
func (p *port) write(b []byte, to netip.AddrPort, source netip.Addr, ifIndex int) error {
	if p.udp == nil {
		_, err := p.conn.WriteTo(b, net.UDPAddrFromAddrPort(to))
		return err
	}
	cm := ipv4.ControlMessage{IfIndex: ifIndex, Src: source.AsSlice()}
	_, _, err := p.udp.WriteMsgUDPAddrPort(b, cm.Marshal(), to)
	return err
}

// loop reads until ctx is done and hands each datagram to handle, one after
// the other. A socket that fails for good ends it with an error.
func (p *port) loop(ctx context.Context, handle func(datagram)) error {
	b, oob := make([]byte, maxMessage), make([]byte, 128)
	failed := 0
	for {
		d, err := p.read(b, oob)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed), err != nil && failed > 100:
			return fmt.Errorf("reading from port %d: %w", p.num, err)
		case err != nil: // an ICMP error for something that was sent
			failed++
			continue
		}
		failed = 0
		if len(d.b) < len(b) { // else it was cut off, and is none of ours
			handle(d)
		}
	}
}

// stopOnDone makes reads of conns fail when ctx is done, without closing
// them: they belong to the caller, who may read from them again once stop has returned.
func stopOnDone(ctx context.Context, conns ...interface{ SetReadDeadline(time.Time) error }) (stop func()) {
	done := make(chan struct{})
	cancel := context.AfterFunc(ctx, func() {
		defer close(done)
		for _, c := range conns {
			c.SetReadDeadline(time.Unix(1, 0))
		}
	})
	return func() {
		if !cancel() {
			<-done // else it would end the reads of whoever comes next
		}
	}
}

func addrPortOf(a net.Addr) netip.AddrPort {
	u, ok := a.(*net.UDPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	ap := u.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

// rawSocket sends to a hardware address without asking by ARP, which a
// machine that has no address yet cannot answer.
type rawSocket struct {
	f *os.File // AF_PACKET, SOCK_DGRAM: the kernel writes the Ethernet header
	c interface {
		Read(func(fd uintptr) bool) error
		Write(func(fd uintptr) bool) error
	}
}

func newRawSocket(f *os.File) (*rawSocket, error) {
	c, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	return &rawSocket{f: f, c: c}, nil
}

// send puts a UDP datagram into a frame to mac.
func (r *rawSocket) send(payload []byte, from, to netip.AddrPort, mac MAC, ifIndex int) error {
	sa := &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_IP), Ifindex: ifIndex, Halen: 6}
	copy(sa.Addr[:], mac[:])
	packet := udpPacket(payload, from, to)
	var err error
	if werr := r.c.Write(func(fd uintptr) bool {
		err = unix.Sendto(int(fd), packet, unix.MSG_DONTWAIT, sa)
		return !errors.Is(err, unix.EAGAIN)
	}); werr != nil {
		return werr
	}
	return err
}

// recv reads the next IPv4 packet that the socket's filter lets through.
func (r *rawSocket) recv(b []byte) (n int, err error) {
	if rerr := r.c.Read(func(fd uintptr) bool {
		n, _, err = unix.Recvfrom(int(fd), b, unix.MSG_DONTWAIT)
		return !errors.Is(err, unix.EAGAIN)
	}); rerr != nil {
		return 0, rerr
	}
	return n, err
}

func (r *rawSocket) SetReadDeadline(t time.Time) error { return r.f.SetReadDeadline(t) }

// Sizes and places of headers without options, RFC 791 and RFC 768.
const (
	ipHeader  = 20
	udpHeader = 8
)

// udpPacket is an IPv4 packet with a UDP datagram, checksums and all.
func udpPacket(payload []byte, from, to netip.AddrPort) []byte {
	p := make([]byte, ipHeader+udpHeader+len(payload))
	be := binary.BigEndian
	p[0] = 0x45
	be.PutUint16(p[2:], uint16(len(p)))
	p[8], p[9] = 64, unix.IPPROTO_UDP
	src, dst := from.Addr().As4(), to.Addr().As4()
	copy(p[12:], src[:])
	copy(p[16:], dst[:])
	be.PutUint16(p[10:], ^onesSum(0, p[:ipHeader]))

	u := p[ipHeader:]
	be.PutUint16(u[0:], from.Port())
	be.PutUint16(u[2:], to.Port())
	be.PutUint16(u[4:], uint16(len(u)))
	copy(u[udpHeader:], payload)
	pseudo := onesSum(uint32(unix.IPPROTO_UDP)+uint32(len(u)), p[12:20])
	sum := ^onesSum(uint32(pseudo), u)
	if sum == 0 { // RFC 768: all zero would mean that there is none
		sum = 0xffff
	}
	be.PutUint16(u[6:], sum)
	return p
}

// parseUDP takes an IPv4 packet apart; ok is false for anything but a whole
// UDP datagram.
func parseUDP(p []byte) (payload []byte, from, to netip.AddrPort, ok bool) {
	if len(p) < ipHeader || p[0]>>4 != 4 || p[9] != unix.IPPROTO_UDP {
		return nil, from, to, false
	}
	hl := int(p[0]&15) * 4
	if hl < ipHeader || len(p) < hl+udpHeader {
		return nil, from, to, false
	}
	be := binary.BigEndian
	u := p[hl:]
	n := int(be.Uint16(u[4:]))
	if n < udpHeader || n > len(u) {
		return nil, from, to, false
	}
	from = netip.AddrPortFrom(netip.AddrFrom4([4]byte(p[12:16])), be.Uint16(u[0:]))
	to = netip.AddrPortFrom(netip.AddrFrom4([4]byte(p[16:20])), be.Uint16(u[2:]))
	return u[udpHeader:n], from, to, true
}

// onesSum is the Internet checksum (RFC 1071) before its complement.
func onesSum(sum uint32, b []byte) uint16 {
	for ; len(b) >= 2; b = b[2:] {
		sum += uint32(b[0])<<8 | uint32(b[1])
	}
	if len(b) == 1 {
		sum += uint32(b[0]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return uint16(sum)
}

func htons(v uint16) uint16 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], v)
	return binary.NativeEndian.Uint16(b[:])
}
