package nodeagent

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"

	"golang.org/x/sys/unix"
)

// The ports that connections to the head come from: only root's programs may send from
// them, so that the head can tell an agent from a task, which may say that it is any machine. Below
// are the ports of services, among them those that boards with remote management keep to themselves.
const (
	lowFirst = 665
	lowLast  = 1023
)

// lowTries is how many ports are tried that others use.
const lowTries = 32

// dialLow connects from a port that only root's programs may use, or, where it may not or all are
// taken, from any: the head then asks a person.
func dialLow(ctx context.Context, d net.Dialer, network, address string) (net.Conn, error) {
	for range lowTries {
		d.LocalAddr = &net.TCPAddr{Port: lowFirst + rand.IntN(lowLast-lowFirst+1)}
		c, err := d.DialContext(ctx, network, address)
		switch {
		case errors.Is(err, unix.EADDRINUSE), errors.Is(err, unix.EADDRNOTAVAIL):
			continue
		case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
			d.LocalAddr = nil
			return d.DialContext(ctx, network, address)
		}
		return c, err
	}
	d.LocalAddr = nil
	return d.DialContext(ctx, network, address)
}
