package tftp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"
)

// Config is what a [Server] needs. The caller opens and closes the socket.
type Config struct {
	// Conn receives requests, normally on port 69. With a *net.UDPConn
	// answers come from the address that was asked, and requests to a
	// broadcast address are dropped. Required.
	Conn net.PacketConn

	// Source decides what a request gets. Required.
	Source Source

	// MTU limits the block size. 0: that of the interface by which
	// the request came, or 1500 where that is not known.
	MTU int

	// MaxTransfers is how many transfers run at once; further requests are
	// dropped, and the clients repeat them. 0: 4000.
	MaxTransfers int

	// Log gets a line per transfer that failed, and at debug level one for
	// every other and for each dropped datagram. nil: no log.
	Log *slog.Logger

	// Observe is told of every transfer when it has ended; it must not
	// block. nil: nobody is told.
	Observe func(Transfer)

	// dial makes the socket of a transfer; tests replace it.
	dial func(local, remote netip.AddrPort) (conn, error)
}

const (
	defaultMTU       = 1500
	defaultTransfers = 4000
	maxRequest       = 2048 // longer requests are cut, which loses options at most
)

// Server is a TFTP server. Make it with [New].
type Server struct {
	cfg     Config
	in      *receiver // used by Run alone
	scratch sync.Pool // *[scratchSize]byte, for the time of a send

	mu   sync.Mutex
	live map[netip.AddrPort]*session
	busy int // transfers, those too that were replaced and are about to end
}

// session is the place of a live transfer, by which a repeated request is known.
type session struct {
	request []byte
	began   time.Time
	cancel  context.CancelCauseFunc
}

// New checks cfg and returns a server that is not yet running.
func New(cfg Config) (*Server, error) {
	if cfg.Conn == nil || cfg.Source == nil {
		return nil, errors.New("a TFTP server needs a socket and a source of files")
	}
	if cfg.MTU != 0 && cfg.MTU < headers6+minBlock {
		return nil, fmt.Errorf("an MTU of %d has no room for a TFTP block", cfg.MTU)
	}
	if cfg.MaxTransfers <= 0 {
		cfg.MaxTransfers = defaultTransfers
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Observe == nil {
		cfg.Observe = func(Transfer) {}
	}
	if cfg.dial == nil {
		cfg.dial = newDialer()
	}
	in, err := newReceiver(cfg.Conn, cfg.MTU)
	if err != nil {
		return nil, fmt.Errorf("preparing the TFTP socket: %w", err)
	}
	s := &Server{cfg: cfg, in: in, live: map[netip.AddrPort]*session{}}
	s.scratch.New = func() any { return new([scratchSize]byte) }
	return s, nil
}

// Run answers until ctx is done, then it returns nil, or until the socket
// fails. All its goroutines have ended when it returns. It may be called once.
func (s *Server) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel(errors.New("the server ended"))

	stop := context.AfterFunc(ctx, func() { _ = s.cfg.Conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	buf := make([]byte, maxRequest)
	for {
		a, err := s.in.read(buf)
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, errNotRequest) {
			s.cfg.Log.Debug("datagram dropped", "part", "tftp", "ip", a.client, "err", err)
			continue
		}
		if err != nil {
			return fmt.Errorf("receiving TFTP requests: %w", err)
		}
		s.accept(ctx, &running, a)
	}
}

// arrival is a datagram that came on the server's socket.
type arrival struct {
	packet []byte // valid until the next read
	client netip.AddrPort
	local  netip.Addr
	mtu    int
}

// errAgain ends a transfer whose client began anew from the same port.
var errAgain = errors.New("the client began another transfer from the same port")

// accept starts the transfer for a datagram, unless it is no request, repeats
// one that is being answered, or the server is full.
func (s *Server) accept(ctx context.Context, running *sync.WaitGroup, a arrival) {
	drop := func(why string) {
		s.cfg.Log.Debug("request dropped", "part", "tftp", "ip", a.client, "err", why)
	}
	req, err := parseRequest(a.packet)
	if errors.Is(err, errNotRequest) {
		drop(err.Error())
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := s.live[a.client]; old != nil {
		// The same again is a repeated packet for as long as a client waits at
		// least. Anything else is a client that is done with the old one, even
		// if that is not known here yet: EDK2 aborts after it learned the
		// size and asks for the content in the same moment.
		if bytes.Equal(old.request, a.packet) && time.Since(old.began) < repeatTime {
			drop("repeated while it is being answered")
			return
		}
		old.cancel(errAgain)
		delete(s.live, a.client)
	}
	if s.busy >= s.cfg.MaxTransfers {
		drop("too many transfers")
		return
	}
	ctx, cancel := context.WithCancelCause(ctx)
	me := &session{request: bytes.Clone(a.packet), began: time.Now(), cancel: cancel}
	s.live[a.client] = me
	s.busy++
	a.packet = nil
	running.Go(func() {
		defer cancel(nil)
		report := s.serve(ctx, a, req, err)
		s.mu.Lock()
		s.busy--
		if s.live[a.client] == me {
			delete(s.live, a.client)
		}
		s.mu.Unlock()
		s.tell(report)
	})
}

// repeatTime is how long the same request from the same port counts as repeated.
// Clients repeat after 1 s and later; a machine that was reset needs longer to
// ask again.
const repeatTime = 5 * time.Second

// serve runs one transfer to its end. reqErr is what parsing said.
func (s *Server) serve(ctx context.Context, a arrival, req request, reqErr error) (report Transfer) {
	report = Transfer{Client: a.client, Local: a.local, Name: req.name, Start: time.Now()}
	defer func() { report.Dur = time.Since(report.Start) }()
	fail := func(o Outcome, err error) Transfer {
		report.Outcome, report.Err = o, err
		return report
	}
	c, err := s.cfg.dial(netip.AddrPortFrom(a.local, 0), a.client)
	if err != nil {
		return fail(Failed, fmt.Errorf("opening a socket for the transfer: %w", err))
	}
	defer c.Close()

	file, err := s.open(ctx, a, &report, reqErr)
	if err != nil {
		r := refusalOf(report.Name, err)
		if _, err := c.Write(errorPacket(r.code, r.text)); err != nil {
			s.cfg.Log.Debug("error not sent", "part", "tftp", "ip", a.client, "err", err)
		}
		if r.code == codeOther {
			return fail(Failed, err)
		}
		return fail(Refused, err)
	}
	defer file.Close()
	report.Size = file.Size()
	set := negotiate(req.options, report.Size, maxBlockFor(a))
	report.Block, report.Window = set.block, set.window

	scratch := s.scratch.Get().(*[scratchSize]byte)
	defer s.scratch.Put(scratch)
	t := transfer{report: report, conn: c, file: file, set: set, win: newWindow(set, report.Size), buf: scratch[:]}
	t.run(ctx)
	return t.report
}

// open finds the file of a request and puts its clean name into the report.
func (s *Server) open(ctx context.Context, a arrival, report *Transfer, reqErr error) (File, error) {
	if reqErr != nil {
		return nil, reqErr
	}
	name, err := cleanName(report.Name)
	if err != nil {
		return nil, err
	}
	report.Name = name
	file, err := s.cfg.Source.Open(ctx, Request{Client: a.client, Local: a.local, Name: name})
	if err == nil && file == nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return file, err
}

// maxBlockFor is the largest block that goes to a client in one frame.
func maxBlockFor(a arrival) int {
	if a.client.Addr().Unmap().Is6() {
		return a.mtu - headers6
	}
	return a.mtu - headers4
}

// tell logs and reports a transfer that has ended.
func (s *Server) tell(t Transfer) {
	level, msg := slog.LevelDebug, "transfer ended"
	if t.Outcome == Failed || t.Outcome == TimedOut {
		level, msg = slog.LevelWarn, "transfer failed"
	}
	attrs := []any{"part", "tftp", "ip", t.Client, "file", t.Name, "bytes", t.Bytes, "size", t.Size, "dur", t.Dur, "outcome", t.Outcome}
	if t.Err != nil {
		attrs = append(attrs, "err", t.Err)
	}
	s.cfg.Log.Log(context.Background(), level, msg, attrs...)
	s.cfg.Observe(t)
}
