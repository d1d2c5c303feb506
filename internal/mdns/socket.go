package mdns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// port is that of multicast DNS.
const port = 5353

// group returns the address of multicast DNS, RFC 6762 3.
func group() *net.UDPAddr { return &net.UDPAddr{IP: net.IPv4(224, 0, 0, 251), Port: port} }

// Listen opens the socket of a [Responder] for one interface. It is bound to the group's address, so that
// unicast packets go to the other responder where the computer has one, and shared with it.
func Listen(ctx context.Context, ifname string) (*net.UDPConn, error) {
	ifi, err := net.InterfaceByName(ifname)
	if err != nil {
		return nil, err
	}
	lc := net.ListenConfig{Control: onSocket(func(fd int) error {
		return errors.Join(
			unix.BindToDevice(fd, ifname),
			unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
			unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1),
			unix.SetsockoptIPMreqn(fd, unix.IPPROTO_IP, unix.IP_ADD_MEMBERSHIP, &unix.IPMreqn{
				Multiaddr: [4]byte(group().IP.To4()), Ifindex: int32(ifi.Index),
			}),
			multicastOn(fd, ifi.Index),
		)
	})}
	conn, err := lc.ListenPacket(ctx, "udp4", group().String())
	if err != nil {
		return nil, fmt.Errorf("listening for multicast DNS on %s: %w", ifname, err)
	}
	return conn.(*net.UDPConn), nil
}

// dial opens a socket that asks on one interface.
func dial(ctx context.Context, ifindex int, own netip.Addr) (*net.UDPConn, error) {
	lc := net.ListenConfig{Control: onSocket(func(fd int) error { return multicastOn(fd, ifindex) })}
	conn, err := lc.ListenPacket(ctx, "udp4", netip.AddrPortFrom(own, 0).String())
	if err != nil {
		return nil, fmt.Errorf("asking by multicast DNS from %s: %w", own, err)
	}
	return conn.(*net.UDPConn), nil
}

// multicastOn makes packets to the group leave on an interface, with the time to live of RFC 6762 11.
func multicastOn(fd, ifindex int) error {
	return errors.Join(
		unix.SetsockoptIPMreqn(fd, unix.IPPROTO_IP, unix.IP_MULTICAST_IF, &unix.IPMreqn{Ifindex: int32(ifindex)}),
		unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MULTICAST_TTL, 255),
		unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_TTL, 255),
	)
}

func onSocket(f func(fd int) error) func(network, address string, c syscall.RawConn) error {
	return func(_, _ string, c syscall.RawConn) error {
		var err error
		if cerr := c.Control(func(fd uintptr) { err = f(int(fd)) }); cerr != nil {
			return cerr
		}
		return err
	}
}

// prefixesOf are the IPv4 addresses of a named interface, none where it is gone.
func prefixesOf(name string) []netip.Prefix {
	ifi, err := net.InterfaceByName(name)
	if err != nil {
		return nil
	}
	return prefixes(ifi)
}

// prefixes are the IPv4 addresses of an interface.
func prefixes(ifi *net.Interface) []netip.Prefix {
	addrs, err := ifi.Addrs()
	if err != nil {
		return nil
	}
	var list []netip.Prefix
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && n.IP.To4() != nil {
			if ip, ok := netip.AddrFromSlice(n.IP.To4()); ok {
				bits, _ := n.Mask.Size()
				list = append(list, netip.PrefixFrom(ip, bits))
			}
		}
	}
	return list
}
