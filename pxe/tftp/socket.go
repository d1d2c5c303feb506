package tftp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The most that one send with segmentation offload takes.
const (
	maxOffload      = 65535 - 20 - 8 // a UDP datagram over IPv4, which has less room than one over IPv6
	maxOffloadParts = 64             // UDP_MAX_SEGMENTS, Linux 4.18; later ones allow 128
)

// scratchSize is enough for a whole window of the largest blocks.
const scratchSize = maxWindow * (defaultMTU + 4)

// receiveBuffer holds the requests of some thousand machines that are switched
// on at once; the kernel counts about 800 bytes for each.
const receiveBuffer = 4 << 20

// receiver reads requests together with the address and the interface that
// they came to.
type receiver struct {
	conn net.PacketConn
	udp  *net.UDPConn // nil: another kind, without that knowledge
	oob  [128]byte
	mtu  int // 0: by interface
	mtus map[int]mtuEntry
}

type mtuEntry struct {
	mtu  int
	read time.Time
}

func newReceiver(c net.PacketConn, mtu int) (*receiver, error) {
	r := &receiver{conn: c, mtu: mtu, mtus: map[int]mtuEntry{}}
	udp, ok := c.(*net.UDPConn)
	if !ok {
		return r, nil
	}
	r.udp = udp
	raw, err := udp.SyscallConn()
	if err != nil {
		return nil, err
	}
	var errs [2]error
	err = raw.Control(func(fd uintptr) {
		errs[0] = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_PKTINFO, 1)
		errs[1] = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1)
		// More needs CAP_NET_ADMIN; without it the kernel's limit holds.
		if unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer) != nil {
			_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, receiveBuffer)
		}
	})
	if err != nil {
		return nil, err
	}
	// A socket is of one family, or of both.
	if errs[0] != nil && errs[1] != nil {
		return nil, fmt.Errorf("asking for the address of packets: %w", errs[0])
	}
	return r, nil
}

// read waits for the next datagram. An error that is errNotRequest concerns
// this datagram only.
func (r *receiver) read(buf []byte) (arrival, error) {
	if r.udp == nil {
		return r.readPlain(buf)
	}
	n, oobn, _, client, err := r.udp.ReadMsgUDPAddrPort(buf, r.oob[:])
	if err != nil {
		return arrival{}, err
	}
	client = netip.AddrPortFrom(client.Addr().Unmap(), client.Port())
	a := arrival{packet: buf[:n], client: client}
	info := parsePacketInfo(r.oob[:oobn])
	if info.tellsBroadcast() {
		// RFC 1123 4.2.3.5: requests to a broadcast address are ignored.
		return a, fmt.Errorf("sent to %s: %w", info.asked, errNotRequest)
	}
	// A datagram that came before the kernel was asked has no address: it
	// then chooses the one to answer from.
	if !info.local.IsUnspecified() {
		a.local = info.local
	}
	if client.Addr().Zone() != "" && a.local.IsLinkLocalUnicast() {
		a.local = a.local.WithZone(client.Addr().Zone())
	}
	a.mtu = r.mtuOf(info.link)
	return a, nil
}

func (r *receiver) readPlain(buf []byte) (arrival, error) {
	n, from, err := r.conn.ReadFrom(buf)
	if err != nil {
		return arrival{}, err
	}
	client, ok := from.(*net.UDPAddr)
	if !ok {
		return arrival{}, fmt.Errorf("client has an address of type %T: %w", from, errNotRequest)
	}
	a := arrival{packet: buf[:n], client: client.AddrPort(), mtu: r.mtuOf(0)}
	if local, ok := r.conn.LocalAddr().(*net.UDPAddr); ok && !local.IP.IsUnspecified() {
		a.local = local.AddrPort().Addr().Unmap()
	}
	return a, nil
}

// mtuOf returns the MTU of an interface; it is looked up anew after a while,
// since an administrator may change it.
func (r *receiver) mtuOf(link int) int {
	if r.mtu != 0 {
		return r.mtu
	}
	if e, ok := r.mtus[link]; ok && time.Since(e.read) < 10*time.Second {
		return e.mtu
	}
	mtu := defaultMTU
	if link != 0 {
		if ifi, err := net.InterfaceByIndex(link); err == nil && ifi.MTU >= headers6+minBlock {
			// The way to the client may be narrower than jumbo frames or loopback.
			mtu = min(ifi.MTU, defaultMTU)
		}
	}
	r.mtus[link] = mtuEntry{mtu, time.Now()}
	return mtu
}

// packetInfo is what the kernel tells of a datagram's way in.
type packetInfo struct {
	asked netip.Addr // destination in the IP header
	local netip.Addr // address of this machine that stands for it
	link  int
}

// tellsBroadcast reports whether the datagram was sent to many.
func (p packetInfo) tellsBroadcast() bool {
	known := p.asked.IsValid() && !p.local.IsUnspecified()
	return known && (p.asked != p.local || p.asked.IsMulticast())
}

// parsePacketInfo reads the control messages of a datagram. A socket of both
// families gets two for IPv4; only that of IPv4 tells a broadcast.
func parsePacketInfo(oob []byte) (info packetInfo) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return info
	}
	for _, m := range messages {
		switch {
		case m.Header.Level == unix.IPPROTO_IP && m.Header.Type == unix.IP_PKTINFO && len(m.Data) >= unix.SizeofInet4Pktinfo:
			p := (*unix.Inet4Pktinfo)(unsafe.Pointer(&m.Data[0]))
			return packetInfo{netip.AddrFrom4(p.Addr), netip.AddrFrom4(p.Spec_dst), int(p.Ifindex)}
		case m.Header.Level == unix.IPPROTO_IPV6 && m.Header.Type == unix.IPV6_PKTINFO && len(m.Data) >= unix.SizeofInet6Pktinfo:
			p := (*unix.Inet6Pktinfo)(unsafe.Pointer(&m.Data[0]))
			addr := netip.AddrFrom16(p.Addr).Unmap()
			info = packetInfo{addr, addr, int(p.Ifindex)}
		}
	}
	return info
}

// newDialer returns a function that makes the sockets of transfers, each bound to
// the address that was asked and joined to its client. The sockets share the
// knowledge whether the kernel takes several datagrams in one send.
func newDialer() func(local, remote netip.AddrPort) (conn, error) {
	plain := &atomic.Bool{}
	return func(local, remote netip.AddrPort) (conn, error) {
		var from *net.UDPAddr
		if local.Addr().IsValid() {
			from = net.UDPAddrFromAddrPort(local)
		}
		c, err := net.DialUDP("udp", from, net.UDPAddrFromAddrPort(remote))
		if err != nil {
			return nil, err
		}
		return &udpConn{UDPConn: c, plain: plain}, nil
	}
}

// udpConn is the socket of a transfer.
type udpConn struct {
	*net.UDPConn
	plain *atomic.Bool // segmentation offload does not work here
}

func (c *udpConn) WriteSegments(p []byte, size int) error {
	most := size * min(maxOffload/size, maxOffloadParts)
	for len(p) > 0 {
		part := p[:min(len(p), most)]
		if err := c.writePart(part, size); err != nil {
			return err
		}
		p = p[len(part):]
	}
	return nil
}

func (c *udpConn) writePart(p []byte, size int) error {
	if len(p) > size && !c.plain.Load() {
		_, _, err := c.WriteMsgUDPAddrPort(p, segmentSize(size), netip.AddrPort{})
		if !offloadRefused(err) {
			return err
		}
		c.plain.Store(true)
	}
	for len(p) > 0 {
		n := min(len(p), size)
		if _, err := c.Write(p[:n]); err != nil {
			return err
		}
		p = p[n:]
	}
	return nil
}

// offloadRefused reports whether a send failed because of UDP_SEGMENT: an old
// kernel (EINVAL), a device without checksum offload (EIO), a tunnel.
func offloadRefused(err error) bool {
	return errors.Is(err, syscall.EIO) || errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.EOPNOTSUPP) || errors.Is(err, syscall.EMSGSIZE)
}

// segmentSize is the control message that asks for a datagram per size bytes.
func segmentSize(size int) []byte {
	oob := make([]byte, unix.CmsgSpace(2))
	h := (*unix.Cmsghdr)(unsafe.Pointer(&oob[0]))
	h.Level = unix.IPPROTO_UDP
	h.Type = unix.UDP_SEGMENT
	h.SetLen(unix.CmsgLen(2))
	binary.NativeEndian.PutUint16(oob[unix.CmsgLen(0):], uint16(size))
	return oob
}
