package mount

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"muster/api"
)

// probeFor is how long a server may take to accept a connection before it is asked by
// mount(2), which nothing ends.
const probeFor = 5 * time.Second

// Userland mounts what n says on dir, read-only, for the file that a userland is read from. It never changes, so
// that the server is rarely asked whether it has. An error is for people.
func Userland(ctx context.Context, n api.NodeMount, dir string) error {
	err := reach(ctx, n)
	if err != nil {
		return errors.New(reason(n, err))
	}
	n.ReadOnly = true
	// 4.1 has all that reading takes, and there are servers that answer READ_PLUS of 4.2 wrongly.
	for _, version := range []string{"4.1", "4.2"} {
		err = mountVersion(n, dir, version+",sec=sys,nocto,actimeo=600")
		if !errors.Is(err, unix.EPROTONOSUPPORT) {
			break
		}
	}
	if err != nil {
		return errors.New(reason(n, err))
	}
	return nil
}

// reach connects to the server and hangs up: one that does not answer is told in seconds, and not by a mount(2) that
// nothing ends.
func reach(ctx context.Context, n api.NodeMount) error {
	dialer := net.Dialer{Timeout: probeFor}
	conn, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort(n.Server, strconv.Itoa(cmp.Or(n.Port, nfsPort))))
	if err != nil {
		var timeout net.Error
		if errors.As(err, &timeout) && timeout.Timeout() {
			err = unix.ETIMEDOUT
		}
		return err
	}
	return conn.Close()
}

// From is the source of a mount as the kernel shows it.
func From(server, export string) string {
	if ip := net.ParseIP(server); ip != nil && ip.To4() == nil {
		server = "[" + server + "]"
	}
	return fmt.Sprintf("%s:%s", server, export)
}
