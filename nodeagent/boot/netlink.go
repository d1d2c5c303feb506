package boot

import (
	"context"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// netlinkBuffer is the receive buffer of a socket: room for the devices of a
// machine that all appear at once. What does not fit is noticed (ENOBUFS).
const netlinkBuffer = 2 << 20

// netlinkSocket receives what the kernel tells a multicast group.
type netlinkSocket struct {
	name string
	file *os.File
}

func openNetlink(name string, protocol, group int) (*netlinkSocket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, protocol)
	if err != nil {
		return nil, fmt.Errorf("opening the %s socket: %w", name, err)
	}
	err = unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
	if err == nil {
		err = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, group)
	}
	if err == nil {
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, netlinkBuffer)
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("setting up the %s socket: %w", name, err)
	}
	return &netlinkSocket{name, os.NewFile(uintptr(fd), name)}, nil
}

// read calls message for each datagram until ctx is done, and lost when some
// were lost. message may not keep the datagram.
func (s *netlinkSocket) read(ctx context.Context, message func([]byte), lost func()) error {
	stop := context.AfterFunc(ctx, func() { s.file.Close() })
	defer stop()
	raw, err := s.file.SyscallConn()
	if err != nil {
		return fmt.Errorf("reading %s messages: %w", s.name, err)
	}
	buf := make([]byte, 16<<10)
	for {
		var n int
		var from unix.Sockaddr
		var readErr error
		err := raw.Read(func(fd uintptr) bool {
			n, from, readErr = unix.Recvfrom(int(fd), buf, 0)
			return readErr != unix.EAGAIN
		})
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return fmt.Errorf("reading %s messages: %w", s.name, err)
		case readErr == unix.ENOBUFS:
			lost()
			continue
		case readErr == unix.EINTR:
			continue
		case readErr != nil:
			return fmt.Errorf("reading %s messages: %w", s.name, readErr)
		}
		// A process may send to the group too, if it is root; only port 0 is
		// the kernel.
		if a, ok := from.(*unix.SockaddrNetlink); ok && a.Pid == 0 {
			message(buf[:n])
		}
	}
}
