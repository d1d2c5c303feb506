package boot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// ueventBuffer is the receive buffer of the socket: room for the devices of a
// machine that all appear at once. What does not fit is noticed (ENOBUFS) and
// made good by looking at all devices again.
const ueventBuffer = 2 << 20

// uevent is what the kernel says of one device. Only the parts that PID 1
// needs are kept.
type uevent struct {
	Action    string // add, remove, change, ...
	DevPath   string // below /sys
	Subsystem string
	Modalias  string
	DevName   string // below /dev
}

// errNotUevent says that a datagram is not one of the kernel's events.
var errNotUevent = errors.New("not a kernel uevent")

// parseUevent reads a datagram of the kernel's uevent group:
// "ACTION@DEVPATH" and KEY=VALUE strings, each ended by NUL.
func parseUevent(b []byte) (uevent, error) {
	head, rest, ok := bytes.Cut(b, []byte{0})
	if !ok || !bytes.Contains(head, []byte("@")) {
		return uevent{}, errNotUevent
	}
	var e uevent
	for field := range bytes.SplitSeq(rest, []byte{0}) {
		key, value, _ := strings.Cut(string(field), "=")
		switch key {
		case "ACTION":
			e.Action = value
		case "DEVPATH":
			e.DevPath = value
		case "SUBSYSTEM":
			e.Subsystem = value
		case "MODALIAS":
			e.Modalias = value
		case "DEVNAME":
			e.DevName = value
		}
	}
	if e.Action == "" || e.DevPath == "" {
		return uevent{}, errNotUevent
	}
	return e, nil
}

// ueventSocket receives the kernel's uevents. Open it before looking at the
// devices that are there, so that none falls between.
type ueventSocket struct{ file *os.File }

func openUevents() (*ueventSocket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return nil, fmt.Errorf("opening the uevent socket: %w", err)
	}
	// Group 1 is the kernel's; group 2 would be udev's.
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("binding the uevent socket: %w", err)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, ueventBuffer); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("sizing the uevent socket: %w", err)
	}
	return &ueventSocket{os.NewFile(uintptr(fd), "uevent")}, nil
}

// read calls event for each uevent until ctx is done, and lost when some were
// lost.
func (s *ueventSocket) read(ctx context.Context, event func(uevent), lost func()) error {
	stop := context.AfterFunc(ctx, func() { s.file.Close() })
	defer stop()
	raw, err := s.file.SyscallConn()
	if err != nil {
		return fmt.Errorf("reading uevents: %w", err)
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
			return fmt.Errorf("reading uevents: %w", err)
		case readErr == unix.ENOBUFS:
			lost()
			continue
		case readErr == unix.EINTR:
			continue
		case readErr != nil:
			return fmt.Errorf("reading uevents: %w", readErr)
		}
		// A process may send to the group too, if it is root; only port 0 is
		// the kernel.
		if a, ok := from.(*unix.SockaddrNetlink); !ok || a.Pid != 0 {
			continue
		}
		if e, err := parseUevent(buf[:n]); err == nil {
			event(e)
		}
	}
}
