package pxetest

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// CrowdReport is how DHCP went for many machines.
type CrowdReport struct {
	Addresses map[netip.Addr]int // how many machines got each
	Without   int                // machines that got none
	Resent    int                // messages beyond two for each machine
	Slowest   time.Duration      // from the start to the last ACK
}

// Crowd lets machines with the messages of all[i] (their Conn is not used)
// get an address over conn, all at the same moment or as many at a time as
// window says (0: all). Each asks again after wait, tries times at most.
func Crowd(ctx context.Context, conn net.PacketConn, server net.Addr, all []*Firmware, window int, wait time.Duration, tries int) (CrowdReport, error) {
	if window <= 0 {
		window = len(all)
	}
	c := &crowd{conn: conn, server: server, at: map[dhcpv4.TransactionID]*member{}}
	rd, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(rd, func() { conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	conn.SetReadDeadline(time.Time{})
	readErr := make(chan error, 1)
	go func() { readErr <- c.read() }()

	start := time.Now()
	slots := make(chan struct{}, window)
	r := CrowdReport{Addresses: map[netip.Addr]int{}}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, f := range all {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			ip, sent, err := c.dora(ctx, f, wait, tries)
			d := time.Since(start)
			mu.Lock()
			defer mu.Unlock()
			r.Resent += sent - 2
			if err != nil {
				r.Without++
				return
			}
			r.Addresses[ip]++
			r.Slowest = max(r.Slowest, d)
		})
	}
	wg.Wait()
	cancel()
	return r, errors.Join(<-readErr, ctx.Err())
}

// crowd hands answers on a common connection to the machine that asked.
type crowd struct {
	conn   net.PacketConn
	server net.Addr

	mu sync.Mutex
	at map[dhcpv4.TransactionID]*member
}

type member struct{ in chan *dhcpv4.DHCPv4 }

func (c *crowd) read() error {
	buf := make([]byte, 2048)
	for {
		n, _, err := c.conn.ReadFrom(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return nil
		}
		if err != nil {
			return err
		}
		m, err := dhcpv4.FromBytes(buf[:n])
		if err != nil || m.OpCode != dhcpv4.OpcodeBootReply {
			continue
		}
		c.mu.Lock()
		who := c.at[m.TransactionID]
		c.mu.Unlock()
		if who != nil {
			select {
			case who.in <- m:
			default: // it has more answers than it waits for
			}
		}
	}
}

// dora is one machine's DISCOVER, OFFER, REQUEST, ACK.
func (c *crowd) dora(ctx context.Context, f *Firmware, wait time.Duration, tries int) (netip.Addr, int, error) {
	sent := 0
	discover := f.Discover(false)
	me := &member{in: make(chan *dhcpv4.DHCPv4, 8)}
	c.mu.Lock()
	c.at[discover.TransactionID] = me
	c.mu.Unlock()
	offer, err := c.ask(ctx, me, discover, dhcpv4.MessageTypeOffer, wait, tries, &sent)
	if err != nil {
		return netip.Addr{}, max(sent, 2), err
	}
	ack, err := c.ask(ctx, me, f.Request(false, offer), dhcpv4.MessageTypeAck, wait, tries, &sent)
	if err != nil {
		return netip.Addr{}, max(sent, 2), err
	}
	return addrOf(ack.YourIPAddr), sent, nil
}

func (c *crowd) ask(ctx context.Context, me *member, m *dhcpv4.DHCPv4, want dhcpv4.MessageType, wait time.Duration, tries int, sent *int) (*dhcpv4.DHCPv4, error) {
	for range tries {
		if _, err := c.conn.WriteTo(m.ToBytes(), c.server); err != nil {
			return nil, err
		}
		*sent++
		timeout := time.NewTimer(wait)
		for waiting := true; waiting; {
			select {
			case a := <-me.in:
				if a.MessageType() == want {
					timeout.Stop()
					return a, nil
				}
			case <-timeout.C:
				waiting = false
			case <-ctx.Done():
				timeout.Stop()
				return nil, ctx.Err()
			}
		}
	}
	return nil, ErrNoAnswer
}
