package pxetest

import (
	"errors"
	"fmt"
	"net"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	"github.com/mdlayher/packet"
	"golang.org/x/sys/unix"
)

// receiveBuffer holds the answers to some thousand machines, so that what a
// test loses was lost by the server.
const receiveBuffer = 16 << 20

// Listen opens a connection for machines on an interface that needs no
// address. It broadcasts what is written, and reads everything that is sent to
// port 68, wherever to. It needs the right to open raw sockets.
func Listen(name string) (net.PacketConn, error) {
	ifi, err := net.InterfaceByName(name)
	if err != nil {
		return nil, err
	}
	c, err := packet.Listen(ifi, packet.Datagram, unix.ETH_P_IP, nil)
	if err != nil {
		return nil, fmt.Errorf("opening a raw socket on %s: %w", name, err)
	}
	rc, err := c.SyscallConn()
	if err == nil {
		var serr error
		err = rc.Control(func(fd uintptr) {
			serr = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer)
			if serr != nil { // in a user namespace: as much as the system allows
				serr = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, receiveBuffer)
			}
		})
		err = errors.Join(err, serr)
	}
	if err != nil {
		c.Close()
		return nil, fmt.Errorf("enlarging the buffer of a raw socket on %s: %w", name, err)
	}
	return nclient4.NewBroadcastUDPConn(c, &net.UDPAddr{Port: dhcpv4.ClientPort}), nil
}
