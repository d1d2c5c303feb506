package pxe

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// Bounds of the server. Messages beyond them are dropped; whoever sent them
// asks again.
const (
	readers      = 2               // goroutines for each socket
	workers      = 32              // decisions asked for at the same time
	waiting      = 4096            // messages that wait for a worker
	decisionTime = 2 * time.Second // firmware asks again after 1 to 4 s
	refusedWait  = 30 * time.Second
)

// Mode is what the server does on an interface.
type Mode string

// The modes: it gives out the addresses; it names boot programs beside
// another DHCP server; nothing.
const (
	ModeFull  Mode = "full"
	ModeProxy Mode = "proxy"
	ModeOff   Mode = "off"
)

// Subnet is a network and the addresses to give out there.
type Subnet struct {
	Network
	Pool Pool // zero: PoolOf the network's prefix
}

// Interface is what the server does on one interface. [Detect] makes them.
type Interface struct {
	Name   string
	Mode   Mode
	Reason string // why this mode: for people
	Subnet
}

// Config is what a [Server] needs.
type Config struct {
	Booter     Booter       // required
	Sockets    *Sockets     // required; the caller closes them after Run
	Interfaces []Interface  // of those whose Mode is not off the socket must be there
	Observer   Observer     // nil: nobody is told
	Log        *slog.Logger // nil: no log

	// Relayed are networks whose machines ask through a relay agent: the one
	// that contains the relay's address is used. Full mode only.
	Relayed []Subnet

	// Loaders has the boot programs by name, served by HTTP and, by package
	// tftp, by TFTP. Nil: machines that need one are refused.
	Loaders fs.FS

	// LeaseFile keeps the leases over a restart; "" keeps them in memory.
	LeaseFile string

	// HTTPPort is that of Sockets.HTTP as machines reach it, 0 for 80;
	// FilesPort is that of the process that serves bulk files, 0 for 7480.
	HTTPPort, FilesPort uint16

	// NoVendor lists the architectures whose firmware gets no option 43.
	NoVendor []string
}

// Default ports.
const (
	DefaultHTTPPort  = 80
	DefaultFilesPort = 7480
)

// Server answers machines that boot from the network.
type Server struct {
	cfg   Config
	log   *slog.Logger
	watch *watch
	book  *Book
	limit *limiter
	// limitAny is for messages that anybody may have sent in the name of a machine.
	limitAny *limiter
	warn     *throttle
	people   *people
	ifaces   []*iface
	work     chan query
	now      func() time.Time
}

// iface is an interface that is served.
type iface struct {
	Interface
	index int
	dhcp  *port
	proxy *port // nil: none
	raw   *rawSocket
	ra    *advertiser

	mu      sync.Mutex
	foreign map[netip.Addr]time.Time // other DHCP servers, and when each was reported
}

// New checks cfg, reads the leases and returns a server that is not running
// yet.
func New(cfg Config) (*Server, error) {
	if cfg.Booter == nil || cfg.Sockets == nil {
		return nil, errors.New("pxe: Config needs a Booter and Sockets")
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.HTTPPort == 0 {
		cfg.HTTPPort = DefaultHTTPPort
	}
	if cfg.FilesPort == 0 {
		cfg.FilesPort = DefaultFilesPort
	}
	s := &Server{
		cfg: cfg, log: cfg.Log, now: time.Now,
		watch:    newWatch(cfg.Observer, time.Now),
		limit:    newLimiter(time.Now),
		limitAny: newLimiter(time.Now),
		warn:     newThrottle(time.Now),
		people:   newPeople(),
		work:     make(chan query, waiting),
	}
	longest := DefaultLease
	for _, in := range cfg.Interfaces {
		if in.Mode == ModeOff || in.Mode == "" {
			continue
		}
		f, err := newIface(in, cfg.Sockets, cfg.Log)
		if err != nil {
			return nil, fmt.Errorf("serving interface %s: %w", in.Name, err)
		}
		s.ifaces = append(s.ifaces, f)
		longest = max(longest, f.Lease)
	}
	for i := range s.cfg.Relayed {
		if err := s.cfg.Relayed[i].complete(); err != nil {
			return nil, fmt.Errorf("relayed network %v: %w", s.cfg.Relayed[i].Prefix, err)
		}
		longest = max(longest, s.cfg.Relayed[i].Lease)
	}
	var err error
	s.book, err = OpenBook(cfg.LeaseFile, longest, cfg.Log)
	return s, err
}

// complete fills what is not set and checks the rest.
func (n *Subnet) complete() error {
	if !n.Prefix.IsValid() || !n.Prefix.Addr().Is4() {
		return errors.New("it has no IPv4 address; give it one, as in: ip addr add 10.77.0.1/24 dev IFACE")
	}
	if !n.Server.IsValid() {
		n.Server = n.Prefix.Addr()
	}
	if n.Pool == (Pool{}) {
		n.Pool = PoolOf(n.Prefix)
	}
	n.Pool.Net = netip.PrefixFrom(n.Server, n.Prefix.Bits())
	if !n.Prefix.Contains(n.Server) {
		n.Pool.Net = n.Prefix
	}
	if n.Pool.Last.Less(n.Pool.First) || !n.Prefix.Contains(n.Pool.First) || !n.Prefix.Contains(n.Pool.Last) {
		return fmt.Errorf("the pool %v to %v does not lie in %v", n.Pool.First, n.Pool.Last, n.Prefix.Masked())
	}
	return nil
}

func newIface(in Interface, socks *Sockets, log *slog.Logger) (*iface, error) {
	f := &iface{Interface: in, foreign: map[netip.Addr]time.Time{}}
	if err := f.complete(); err != nil {
		return nil, err
	}
	for _, l := range socks.Links {
		if l.Name != in.Name || l.DHCP == nil {
			continue
		}
		f.dhcp = newPort(l.DHCP, portServer)
		if l.Proxy != nil {
			f.proxy = newPort(l.Proxy, portProxy)
		}
		if l.ICMP != nil {
			f.ra = &advertiser{name: in.Name, conn: l.ICMP, log: log, now: time.Now}
		}
		if l.Raw != nil {
			var err error
			if f.raw, err = newRawSocket(l.Raw); err != nil {
				return nil, fmt.Errorf("taking its raw socket: %w", err)
			}
		}
		if f.dhcp.udp != nil {
			ifi, err := net.InterfaceByName(in.Name)
			if err != nil {
				return nil, err
			}
			f.index = ifi.Index
		}
		return f, nil
	}
	return nil, errors.New("its sockets are not open")
}

// Run answers until ctx is done or a socket fails. All its goroutines have
// ended when it returns, and leases that machines were told of are on disk.
func (s *Server) Run(ctx context.Context) error {
	bookCtx, stopBook := context.WithCancel(context.WithoutCancel(ctx))
	var booked sync.WaitGroup
	booked.Go(func() { s.book.Run(bookCtx) })
	defer func() {
		stopBook()
		booked.Wait()
		if err := s.book.Close(); err != nil {
			s.log.Error("closing the lease file", "err", err)
		}
	}()

	g, ctx := errgroup.WithContext(ctx)
	for _, f := range s.ifaces {
		for _, p := range []*port{f.dhcp, f.proxy} {
			if p != nil {
				s.readFrom(ctx, g, f, p)
			}
		}
		if f.ra != nil {
			g.Go(func() error { f.ra.run(ctx); return nil })
		}
		if f.Mode == ModeFull && f.raw != nil {
			g.Go(func() error { s.lookForOthers(ctx, f); return nil })
		}
		s.log.Info("serving", "if", f.Name, "mode", f.Mode, "ip", f.Network.Server, "reason", f.Reason)
	}
	for range workers {
		g.Go(func() error { s.workLoop(ctx); return nil })
	}
	if s.cfg.Sockets.HTTP != nil {
		g.Go(func() error { return ServeHTTP(ctx, s.cfg.Sockets.HTTP, s.Handler()) })
	}
	return g.Wait()
}

// readFrom starts the readers of one socket.
func (s *Server) readFrom(ctx context.Context, g *errgroup.Group, f *iface, p *port) {
	p.conn.SetReadDeadline(time.Time{}) // a run before this one may have set it
	n := readers
	if p.udp == nil {
		n = 1
	}
	g.Go(func() error {
		defer stopOnDone(ctx, p.conn)()
		inner, ctx := errgroup.WithContext(ctx)
		for range n {
			inner.Go(func() error {
				return p.loop(ctx, func(d datagram) { s.receive(f, p, d) })
			})
		}
		return inner.Wait()
	})
}

// Timeline is what a machine did, oldest first; nil for one not heard of.
func (s *Server) Timeline(mac net.HardwareAddr) []Event { return s.watch.timeline(mac) }

// Interfaces tells what the server does on each interface of its Config, with
// other DHCP servers that were heard since in the reason.
func (s *Server) Interfaces() []Interface {
	out := make([]Interface, 0, len(s.cfg.Interfaces))
	for _, in := range s.cfg.Interfaces {
		for _, f := range s.ifaces {
			if f.Name == in.Name {
				in = f.status()
			}
		}
		out = append(out, in)
	}
	return out
}

// event begins an event about m.
func event(m Machine, stage Stage, detail string) Event {
	return Event{Time: time.Now(), MAC: m.MAC, IP: m.IP, UUID: m.UUID, Arch: m.Arch, Client: m.Client, Stage: stage, Detail: detail}
}
