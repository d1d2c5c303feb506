package mdns

import (
	"cmp"
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
)

// Bounds of a search.
const (
	browseLinks   = 8
	browsePackets = 512 // of one link
	askAgain      = time.Second
)

// Browse asks for a service on every interface that is up, has an IPv4 address and knows
// multicast, and returns what answered until wait is over or ctx is done, each instance once, in the order of their names.
// Nothing found is no error; an error says that it could not ask anywhere.
func Browse(ctx context.Context, service string, wait time.Duration) ([]Found, error) {
	ask, err := question(service)
	if err != nil {
		return nil, err
	}
	ifs, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	var (
		work  sync.WaitGroup
		mu    sync.Mutex
		found []Found
		errs  []error
		asked int
	)
	for _, ifi := range ifs {
		list := prefixes(&ifi)
		if ifi.Flags&net.FlagUp == 0 || ifi.Flags&net.FlagMulticast == 0 || ifi.Flags&net.FlagLoopback != 0 || len(list) == 0 || asked == browseLinks {
			continue
		}
		asked++
		work.Go(func() {
			err := browseLink(ctx, ifi.Index, list[0].Addr(), ask, service, func(f Found) {
				mu.Lock()
				defer mu.Unlock()
				if len(found) < maxFound && !slices.ContainsFunc(found, func(o Found) bool { return o.Instance == f.Instance && o.Addr == f.Addr }) {
					found = append(found, f)
				}
			})
			mu.Lock()
			defer mu.Unlock()
			errs = append(errs, err)
		})
	}
	work.Wait()
	slices.SortFunc(found, func(a, b Found) int {
		return cmp.Or(strings.Compare(a.Instance, b.Instance), a.Addr.Compare(b.Addr))
	})
	if err := errors.Join(errs...); err != nil && !slices.Contains(errs, nil) {
		return found, err
	}
	return found, nil
}

// browseLink asks on one link, again after a second since packets get lost, and tells what answers until ctx is done.
func browseLink(ctx context.Context, ifindex int, own netip.Addr, ask []byte, service string, tell func(Found)) error {
	conn, err := dial(ctx, ifindex, own)
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := conn.WriteTo(ask, group()); err != nil {
		return err
	}
	again := time.AfterFunc(askAgain, func() { _, _ = conn.WriteTo(ask, group()) })
	defer again.Stop()
	defer context.AfterFunc(ctx, func() { conn.SetReadDeadline(time.Now()) })()
	buf := make([]byte, maxMessage)
	for range browsePackets {
		n, from, err := conn.ReadFromUDPAddrPort(buf)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		if from.Port() != port { // RFC 6762 6
			continue
		}
		list, err := parseAnswer(buf[:n], service, from.Addr().Unmap())
		if err != nil {
			continue // a stranger's
		}
		for _, f := range list {
			tell(f)
		}
	}
	return nil
}
