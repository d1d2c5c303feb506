package mdns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sync/errgroup"
)

// Times of RFC 6762 6 and 8.3.
const (
	multicastEvery = time.Second
	delayMin       = 20 * time.Millisecond
	delayMax       = 120 * time.Millisecond
	announceAgain  = time.Second
)

// unicastMost is how many answers by unicast are sent in a second: a flood of questions must not
// become one of answers.
const unicastMost = 200

// Link is an interface that is answered on, with its socket of [Listen].
type Link struct {
	Name string
	Conn *net.UDPConn
}

// Config is what a [Responder] needs.
type Config struct {
	Service Service      // required
	Links   []Link       // the caller closes their sockets after Run
	Log     *slog.Logger // nil: no log

	own func(link string) []netip.Prefix // nil: what the kernel says
}

// Responder answers for one service.
type Responder struct {
	cfg   Config
	names names
}

// New checks cfg.
func New(cfg Config) (*Responder, error) {
	n, err := cfg.Service.names()
	if err != nil {
		return nil, err
	}
	if _, err := cfg.Service.encode(reply{answers: everything()}, netip.IPv4Unspecified()); err != nil {
		return nil, fmt.Errorf("service %s: %w", cfg.Service.Instance, err)
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.own == nil {
		cfg.own = prefixesOf
	}
	return &Responder{cfg: cfg, names: n}, nil
}

func everything() []record { return []record{recordPTR, recordSRV, recordTXT, recordA} }

// Run announces the service and answers until ctx is done, then says goodbye. A link whose socket fails is
// left alone and said; that is no error.
func (r *Responder) Run(ctx context.Context) error {
	var g errgroup.Group
	for _, l := range r.cfg.Links {
		g.Go(func() error {
			if err := r.serve(ctx, l); err != nil && ctx.Err() == nil {
				r.cfg.Log.Warn("multicast DNS ended", "if", l.Name, "err", err)
			}
			return nil
		})
	}
	return g.Wait()
}

// asked is a question to be answered to all.
type asked struct{}

func (r *Responder) serve(ctx context.Context, l Link) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	questions := make(chan asked, 1)
	var g errgroup.Group
	g.Go(func() error {
		defer cancel()
		return r.read(ctx, l, questions)
	})
	g.Go(func() error { r.multicast(ctx, l, questions); return nil })
	stop := context.AfterFunc(ctx, func() { l.Conn.SetReadDeadline(time.Now()) })
	defer stop()
	return g.Wait()
}

// multicast announces the service twice, then answers questions to all: some
// milliseconds late, since others answer too, and at most once in a second.
func (r *Responder) multicast(ctx context.Context, l Link, questions <-chan asked) {
	r.toAll(l, false)
	timer := time.NewTimer(announceAgain)
	defer timer.Stop()
	last := time.Now()
	due := true
	for {
		select {
		case <-ctx.Done():
			r.toAll(l, true)
			return
		case <-questions:
			if !due {
				wait := delayMin + rand.N(delayMax-delayMin)
				timer.Reset(max(wait, time.Until(last.Add(multicastEvery))))
				due = true
			}
		case <-timer.C:
			r.toAll(l, false)
			last, due = time.Now(), false
		}
	}
}

// toAll sends every record, with the interface's address of now.
func (r *Responder) toAll(l Link, goodbye bool) {
	own := r.cfg.own(l.Name)
	if len(own) == 0 {
		return // it may come back
	}
	b, err := r.cfg.Service.encode(reply{answers: everything(), goodbye: goodbye}, own[0].Addr())
	if err == nil {
		_, err = l.Conn.WriteTo(b, group())
	}
	if err != nil {
		r.cfg.Log.Debug("multicast DNS not sent", "if", l.Name, "err", err)
	}
}

// read takes questions until the socket fails or ctx is done.
func (r *Responder) read(ctx context.Context, l Link, questions chan<- asked) error {
	buf := make([]byte, maxMessage)
	second, sent := time.Now(), 0
	for {
		n, from, err := l.Conn.ReadFromUDPAddrPort(buf)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return err
			}
			// An interface that is down for a moment.
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(announceAgain):
			}
			continue
		}
		q, err := parseQuery(buf[:n], r.names)
		if err != nil {
			continue
		}
		if now := time.Now(); now.Sub(second) >= time.Second {
			second, sent = now, 0
		}
		legacy := from.Port() != port
		if !legacy && !q.unicast {
			select {
			case questions <- asked{}:
			default: // one waits already
			}
			continue
		}
		if sent >= unicastMost {
			continue
		}
		sent++
		if err := r.toOne(l, q, from, legacy); err != nil {
			r.cfg.Log.Debug("multicast DNS not answered", "if", l.Name, "ip", from.Addr(), "err", err)
		}
	}
}

// toOne answers by unicast. Only neighbors ask this way (RFC 6762 11).
func (r *Responder) toOne(l Link, q query, from netip.AddrPort, legacy bool) error {
	own, ok := neighbor(r.cfg.own(l.Name), from.Addr().Unmap())
	if !ok {
		return fmt.Errorf("%s is not on this link", from.Addr())
	}
	b, err := r.cfg.Service.encode(reply{answers: q.wants, legacy: legacy, id: q.id, questions: q.questions}, own)
	if err != nil {
		return err
	}
	_, err = l.Conn.WriteToUDPAddrPort(b, from)
	return err
}

// neighbor is the own address in the network of another.
func neighbor(own []netip.Prefix, other netip.Addr) (netip.Addr, bool) {
	for _, p := range own {
		if p.Contains(other) {
			return p.Addr(), true
		}
	}
	return netip.Addr{}, false
}
