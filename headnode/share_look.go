package headnode

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// How often external servers are looked at, and for how long.
const (
	shareLookEvery = 10 * time.Second
	shareLookFor   = 3 * time.Second
	shareLooks     = 32 // at a time
)

// Run looks at the servers of shares until ctx is done.
func (s *Shares) Run(ctx context.Context) error {
	tick := time.NewTicker(shareLookEvery)
	defer tick.Stop()
	for {
		s.mu.Lock()
		list := append([]*share(nil), s.list...)
		s.mu.Unlock()
		// Each takes its time when its server hangs.
		var moved atomic.Bool
		var g errgroup.Group
		g.SetLimit(shareLooks)
		for _, sh := range list {
			if sh.isLocal() {
				s.lookLocal(ctx, sh)
				continue
			}
			g.Go(func() error {
				if s.look(ctx, sh) {
					moved.Store(true)
				}
				return nil
			})
		}
		_ = g.Wait() // none fails
		if moved.Load() {
			s.cfg.Nodes.configure()
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// look finds the server of a share and asks whether it serves. It tells whether nodes are to
// mount it from another address.
func (s *Shares) look(ctx context.Context, sh *share) (moved bool) {
	ctx, cancel := context.WithTimeout(ctx, shareLookFor)
	defer cancel()
	state, reason := shareServed, ""
	addr, err := addressOf(ctx, sh.Server)
	if err == nil {
		err = probeNFS(ctx, netip.AddrPortFrom(addr, nfsPort))
	}
	if err != nil {
		state, reason = shareUnreachable, err.Error()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if state != sh.state && sh.state != shareStarting {
		s.cfg.Log.Warn("share", "path", sh.Path, "state", state, "why", reason)
	}
	sh.state, sh.reason = state, reason
	// A name that cannot be looked up for a moment does not take the share from the nodes.
	if addr.IsValid() && addr.String() != sh.addr {
		sh.addr, moved = addr.String(), true
	}
	return moved
}

const nfsPort = 2049

// addressOf looks a host up. Nodes get its address: they know no names.
func addressOf(ctx context.Context, host string) (netip.Addr, error) {
	if a, err := netip.ParseAddr(host); err == nil {
		return a.Unmap(), nil
	}
	found, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		var dns *net.DNSError
		if errors.As(err, &dns) && dns.IsNotFound {
			return netip.Addr{}, fmt.Errorf("the name %s is not known to the head", host)
		}
		return netip.Addr{}, fmt.Errorf("the head's resolver does not know %s: %w", host, err)
	}
	for _, a := range found {
		if a.Unmap().Is4() {
			return a.Unmap(), nil // most nodes have no other
		}
	}
	return found[0], nil
}

// probeNFS asks a server for nothing by NFS version 4 (RFC 5531, procedure 0 of program 100003): it
// answers if it serves.
func probeNFS(ctx context.Context, at netip.AddrPort) error {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", at.String())
	switch {
	case errors.Is(err, unix.ECONNREFUSED):
		return fmt.Errorf("%s runs no NFS server on port %d", at.Addr(), at.Port())
	case err != nil && (ctx.Err() != nil || errors.Is(err, os.ErrDeadlineExceeded)):
		return fmt.Errorf("%s does not answer on port %d; is there a firewall?", at.Addr(), at.Port())
	case err != nil:
		return fmt.Errorf("%s cannot be reached: %w", at.Addr(), cause(err))
	}
	defer c.Close()
	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = time.Now().Add(shareLookFor)
	}
	c.SetDeadline(deadline)
	xid := rand.Uint32()
	call := []uint32{1<<31 | 40, xid, 0, 2, 100003, 4, 0, 0, 0, 0, 0} // last fragment, CALL, RPC 2, NFS 4, NULL, no credentials
	b := make([]byte, 0, 4*len(call))
	for _, n := range call {
		b = binary.BigEndian.AppendUint32(b, n)
	}
	if _, err := c.Write(b); err != nil {
		return fmt.Errorf("asking %s: %w", at, cause(err))
	}
	answer := make([]byte, 28)
	if _, err := io.ReadFull(c, answer); err != nil {
		return fmt.Errorf("%s does not answer as an NFS server does", at)
	}
	return checkNull(answer, xid)
}

// checkNull reads the answer to a call of procedure 0.
func checkNull(b []byte, xid uint32) error {
	word := func(i int) uint32 { return binary.BigEndian.Uint32(b[4*i:]) }
	switch {
	case word(1) != xid || word(2) != 1:
		return errors.New("the server does not answer as an NFS server does")
	case word(3) != 0:
		return errors.New("the NFS server refuses this head")
	case word(6) != 0: // PROG_UNAVAIL, PROG_MISMATCH
		return errors.New("the server does not speak NFS 4")
	}
	return nil
}

// cause is what the operating system said, without the addresses around it.
func cause(err error) error {
	var call *net.OpError
	if errors.As(err, &call) {
		return call.Err
	}
	return err
}
