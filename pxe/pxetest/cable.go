package pxetest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Cable joins a QEMU machine to a tap device of this network namespace and
// lets a filter change what the machine sends. The device goes away with it.
type Cable struct {
	tap    *os.File
	udp    *net.UDPConn
	qemu   *net.UDPAddr
	filter func(frame []byte) []byte
}

// NewCable makes the tap device; the caller sets it up and puts it into a
// bridge. A nil answer of filter drops a frame. QEMU must run in the same
// namespace, whose lo must be up, with the argument of [Cable.Netdev].
func NewCable(tap string, filter func(frame []byte) []byte) (_ *Cable, err error) {
	c := &Cable{filter: filter}
	defer func() {
		if err != nil {
			c.Close()
		}
	}()
	if c.tap, err = openTap(tap); err != nil {
		return nil, fmt.Errorf("making the tap device %s: %w", tap, err)
	}
	loopback := net.IPv4(127, 0, 0, 1)
	if c.udp, err = net.ListenUDP("udp4", &net.UDPAddr{IP: loopback}); err != nil {
		return nil, fmt.Errorf("opening the socket for QEMU: %w", err)
	}
	// A port that is free now, for QEMU's end.
	other, err := net.ListenUDP("udp4", &net.UDPAddr{IP: loopback})
	if err != nil {
		return nil, fmt.Errorf("finding a port for QEMU: %w", err)
	}
	c.qemu = other.LocalAddr().(*net.UDPAddr)
	return c, other.Close()
}

// Netdev is the value of QEMU's -netdev for the machine's end.
func (c *Cable) Netdev(id string) string {
	return fmt.Sprintf("socket,id=%s,udp=%v,localaddr=%v", id, c.udp.LocalAddr(), c.qemu)
}

// Run carries frames until ctx is done.
func (c *Cable) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() {
		c.tap.SetReadDeadline(time.Unix(1, 0))
		c.udp.SetReadDeadline(time.Unix(1, 0))
	})
	defer stop()
	var toTap, toQEMU error
	var wg sync.WaitGroup
	wg.Go(func() {
		toTap = carry(ctx, c.udp.Read, func(frame []byte) (int, error) {
			if frame = c.filter(frame); frame == nil {
				return 0, nil
			}
			return c.tap.Write(frame)
		})
	})
	wg.Go(func() {
		toQEMU = carry(ctx, c.tap.Read, func(frame []byte) (int, error) { return c.udp.WriteToUDP(frame, c.qemu) })
	})
	wg.Wait()
	return errors.Join(toTap, toQEMU)
}

// carry passes frames on. What cannot be sent is lost, as on a cable.
func carry(ctx context.Context, read, write func([]byte) (int, error)) error {
	frame := make([]byte, 1<<16)
	for {
		n, err := read(frame)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil && !errors.Is(err, unix.ECONNREFUSED) {
			return err
		}
		_, _ = write(frame[:n])
	}
}

// Close removes the device. Run must have ended.
func (c *Cable) Close() error {
	var errs []error
	if c.tap != nil {
		errs = append(errs, c.tap.Close())
	}
	if c.udp != nil {
		errs = append(errs, c.udp.Close())
	}
	return errors.Join(errs...)
}

func openTap(name string) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	req, err := unix.NewIfreq(name)
	if err == nil {
		req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, req)
	}
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}
