package nodeagent

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"

	"muster/api"
)

// session is one connection to the head.
type session struct {
	a      *Agent
	nc     *nats.Conn
	closed chan error         // gets why the connection ended
	pushes chan api.JoinReply // what the head says unasked
	served bool               // subscribed to the head's requests
	image  starting           // of another image
}

// session connects, joins and serves until the connection ends.
func (a *Agent) session(ctx context.Context) error {
	s := &session{a: a, closed: make(chan error, 1), pushes: make(chan api.JoinReply, 8)}
	s.image.ended = make(chan struct{}, 1)
	if err := s.connect(ctx); err != nil {
		return err
	}
	defer context.AfterFunc(ctx, s.nc.Close)()
	defer s.nc.Close()
	a.show(func(st *Status) { st.Reason = "" })
	return s.serve(ctx)
}

// connect opens the connection. The head that answers first is remembered.
func (s *session) connect(ctx context.Context) error {
	a := s.a
	head := a.target()
	var seen []byte
	var refused error
	verify := tlsConfig(head.pin, func(pub []byte) { seen = pub })
	check := verify.VerifyConnection
	verify.VerifyConnection = func(cs tls.ConnectionState) error {
		refused = check(cs)
		return refused
	}
	dial := &dialer{ctx: ctx}
	nc, err := nats.Connect("tls://"+head.addr,
		nats.Name("muster-agent"),
		nats.Secure(verify),
		nats.Nkey(a.key.public, a.key.pair.Sign),
		nats.CustomInboxPrefix(strings.TrimSuffix(api.InboxPrefix, ".")+"."+a.key.public),
		nats.SetCustomDialer(dial),
		nats.Timeout(requestTimeout),
		nats.PingInterval(5*time.Second), nats.MaxPingsOutstanding(2),
		nats.NoReconnect(), nats.IgnoreDiscoveredServers(),
		nats.NoCallbacksAfterClientClose(),
		nats.ErrorHandler(s.asyncError),
		nats.DisconnectErrHandler(func(nc *nats.Conn, err error) { s.ended(err) }),
		nats.ClosedHandler(func(nc *nats.Conn) { s.ended(nc.LastError()) }),
	)
	switch {
	case refused != nil:
		return refused
	case err != nil && dial.err != nil:
		return dial.err
	case err != nil:
		return err
	}
	s.nc = nc
	return a.met(seen)
}

// dialer lets the end of the agent end a connection attempt, and keeps what
// nats.go replaces by "no servers available".
type dialer struct {
	ctx context.Context
	err error
}

// Dial implements nats.CustomDialer.
func (d *dialer) Dial(network, address string) (net.Conn, error) {
	c, err := dialLow(d.ctx, net.Dialer{Timeout: requestTimeout, KeepAlive: 15 * time.Second}, network, address)
	d.err = err
	return c, err
}

// met remembers the head that has answered.
func (a *Agent) met(pub []byte) error {
	if pub == nil {
		return errors.New("the head did not show its key")
	}
	pin := api.Pin(pub)
	a.mu.Lock()
	news := a.pin == ""
	a.pin = pin
	a.contacts++
	a.mu.Unlock()
	a.show(func(st *Status) { st.HeadFingerprint = api.FingerprintOfPin(pin) })
	if news {
		return rememberPin(a.cfg.RunDir, pin)
	}
	return nil
}

func (s *session) ended(err error) {
	if err == nil {
		err = errors.New("the head closed the connection")
	}
	select {
	case s.closed <- err:
	default:
	}
}

func (s *session) asyncError(_ *nats.Conn, sub *nats.Subscription, err error) {
	subject := ""
	if sub != nil {
		subject = sub.Subject
	}
	s.a.log.Warn("message not carried", "subject", subject, "error", err)
}

// serve joins and does what the head's answers ask for, until the session
// ends.
func (s *session) serve(ctx context.Context) error {
	a := s.a
	if _, err := s.nc.Subscribe(api.InboxPrefix+a.key.public+".state", s.pushed); err != nil {
		return fmt.Errorf("listening to the head: %w", err)
	}
	if a.wasApproved() {
		if err := s.takeRequests(); err != nil {
			return err
		}
	}
	work := worker{s: s}
	defer work.stop()
	defer s.image.stop()
	reply, err := s.join(ctx)
	if err != nil {
		return err
	}
	again := time.NewTimer(joinEvery)
	defer again.Stop()
	speed := a.speed.ready
	for {
		if err := s.apply(reply); err != nil {
			return err
		}
		if reply.State == api.JoinApproved && reply.Boot != nil {
			s.image.begin(ctx, a, reply)
		}
		a.speed.begin()
		if reply.State == api.JoinApproved {
			err = work.start(ctx, time.Duration(reply.Heartbeat))
		} else {
			work.stop()
			again.Reset(joinEvery)
		}
		if err != nil {
			return err
		}
		reply, speed, err = s.wait(ctx, again.C, speed, reply)
		if err != nil {
			return err
		}
	}
}

// wait returns the head's next word: it says something unasked, or is asked
// again because time has passed or the speed is known now.
func (s *session) wait(ctx context.Context, again <-chan time.Time, speed <-chan struct{}, last api.JoinReply) (api.JoinReply, chan struct{}, error) {
	for {
		select {
		case <-ctx.Done():
			return last, nil, ctx.Err()
		case err := <-s.closed:
			return last, nil, err
		case r := <-s.pushes:
			return r, s.a.speed.ready, nil
		case <-again:
			if last.State == api.JoinApproved {
				continue // heartbeats say it
			}
			r, err := s.join(ctx)
			return r, s.a.speed.ready, err
		case <-s.image.ended:
			r, err := s.join(ctx)
			return r, s.a.speed.ready, err
		case <-speed:
			speed = nil
			r, err := s.join(ctx)
			return r, nil, err
		}
	}
}

func (a *Agent) wasApproved() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.known
}

// refusesKey tells whether the head did not let this machine's key in.
func refusesKey(err error) bool {
	return errors.Is(err, nats.ErrAuthorization) || errors.Is(err, nats.ErrAuthExpired) || errors.Is(err, nats.ErrAuthRevoked) ||
		err != nil && strings.Contains(strings.ToLower(err.Error()), "authorization violation")
}

// reason says for people why there is no connection, and what to try.
func reason(head string, err error) string {
	var pin *pinError
	var dns *net.DNSError
	var timeout net.Error
	switch {
	case err == nil:
		return ""
	case errors.As(err, &pin):
		return err.Error() + "; boot an image of this head, or check muster.head and muster.pin"
	case refusesKey(err):
		return "the head refused this machine's key: it was rejected or removed, or another agent uses the same key"
	case errors.As(err, &dns):
		return fmt.Sprintf("the name of the head %s is not known here; give its address", head)
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, nats.ErrNoServers): // which is how nats.go says the same
		return fmt.Sprintf("%s refuses connections; is muster head running there?", head)
	case errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EHOSTUNREACH):
		return fmt.Sprintf("there is no way to %s (%v); check cable, address and muster.head", head, systemText(err))
	case errors.Is(err, nats.ErrNoInfoReceived), errors.Is(err, nats.ErrSecureConnWanted):
		return fmt.Sprintf("%s does not speak as a head does; check the port in muster.head", head)
	case errors.Is(err, nats.ErrStaleConnection), errors.Is(err, nats.ErrConnectionClosed), errors.Is(err, io.EOF):
		return fmt.Sprintf("%s ended the connection; it is tried again", head)
	case errors.Is(err, nats.ErrNoResponders):
		return fmt.Sprintf("%s does not answer requests to join yet; is muster head starting there?", head)
	case errors.As(err, &timeout) && timeout.Timeout(), errors.Is(err, nats.ErrTimeout):
		return fmt.Sprintf("%s does not answer; check muster.head and the firewall of the head", head)
	}
	return strings.TrimPrefix(err.Error(), "nats: ")
}

// systemText is what the operating system said of a network call.
func systemText(err error) error {
	var call *os.SyscallError
	if errors.As(err, &call) {
		return call.Err
	}
	return err
}

// worker is what runs while the machine is approved.
type worker struct {
	s      *session
	every  time.Duration
	cancel context.CancelFunc // nil: it does not run
	done   sync.WaitGroup
}

// start begins the work of a node, or begins it again for another interval.
func (w *worker) start(ctx context.Context, heartbeat time.Duration) error {
	if w.cancel != nil && w.every == heartbeat {
		return nil
	}
	w.stop()
	if err := w.s.takeRequests(); err != nil {
		return err
	}
	a := w.s.a
	w.every = heartbeat
	ctx, w.cancel = context.WithCancel(ctx)
	a.setLink(w.s.nc)
	w.done.Go(func() { w.s.heartbeats(ctx, heartbeat) })
	if a.cfg.KernelLog != nil {
		w.done.Go(func() { w.s.forwardLog(ctx) })
	}
	return nil
}

// stop ends what start began.
func (w *worker) stop() {
	if w.cancel == nil {
		return
	}
	w.cancel()
	w.cancel = nil
	w.s.a.setLink(nil)
	w.done.Wait()
}
