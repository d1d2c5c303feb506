package pxe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"

	"golang.org/x/net/bpf"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

// Sockets are the open sockets of a boot server. Opening them takes root;
// using them does not, so a small privileged process can open them and pass
// them on: [Sockets.Files] there, [SocketsFrom] here. They stay open over the
// restart of a server, and machines' packets wait in them meanwhile.
type Sockets struct {
	Links []Link
	TFTP  net.PacketConn // port 69; nil: none
	HTTP  net.Listener   // scripts and loaders; nil: none
}

// Link is the sockets of one interface. All but DHCP may be nil: without
// Proxy port 4011 is not answered; without Raw machines without an address
// are answered by broadcast, and other servers are not looked for; without
// ICMP no router advertisement is sent.
//
// In a test DHCP and Proxy may be anything that carries packets: where they
// are no *net.UDPConn the interface need not exist, and every answer goes to
// the address that the question came from.
type Link struct {
	Name  string
	DHCP  net.PacketConn // port 67
	Proxy net.PacketConn // port 4011
	Raw   *os.File       // AF_PACKET: sends IPv4 to hardware addresses, receives UDP to port 68
	ICMP  net.PacketConn // ICMPv6: router solicitations and advertisements
}

// ListenConfig says which sockets to open.
type ListenConfig struct {
	Interfaces []string // required
	// HTTP and TFTP are addresses as ":80" and ":69"; "" opens none.
	HTTP, TFTP string
	// DHCP opens the sockets of interfaces; false is for --dhcp=off.
	DHCP bool
	// NoRA opens no ICMPv6 sockets: router solicitations stay unanswered.
	NoRA bool
}

// receiveBuffer holds the first messages of some thousand machines that are
// switched on at once (each takes about 1.3 kB of kernel memory).
const receiveBuffer = 8 << 20

// Listen opens the sockets. It needs the rights to bind low ports and to open
// raw sockets (CAP_NET_BIND_SERVICE, CAP_NET_RAW; CAP_NET_ADMIN for a large
// receive buffer).
func Listen(ctx context.Context, cfg ListenConfig) (_ *Sockets, err error) {
	s := &Sockets{}
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	if cfg.DHCP {
		for _, name := range cfg.Interfaces {
			l, err := listenLink(ctx, name, !cfg.NoRA)
			s.Links = append(s.Links, l)
			if err != nil {
				return nil, fmt.Errorf("opening sockets on %s: %w", name, err)
			}
		}
	}
	if cfg.TFTP != "" {
		lc := net.ListenConfig{Control: control(unixOpts{reuse: false, buffer: receiveBuffer})}
		if s.TFTP, err = lc.ListenPacket(ctx, "udp4", cfg.TFTP); err != nil {
			return nil, portError("TFTP", cfg.TFTP, err)
		}
	}
	if cfg.HTTP != "" {
		if s.HTTP, err = (&net.ListenConfig{}).Listen(ctx, "tcp", cfg.HTTP); err != nil {
			return nil, portError("HTTP", cfg.HTTP, err)
		}
	}
	return s, nil
}

// portError says what to do about a port that cannot be had.
func portError(what, addr string, err error) error {
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		_, port, _ := net.SplitHostPort(addr)
		return fmt.Errorf("port %s is taken, which %s needs: another program listens there; see which with: ss -lnptu | grep ':%s ' (%w)", port, what, port, unix.EADDRINUSE)
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return fmt.Errorf("listening on port %s for %s takes root (%w); run muster head with sudo", strings.TrimPrefix(addr, ":"), what, unix.EACCES)
	}
	return fmt.Errorf("listening on %s for %s: %w", addr, what, err)
}

func listenLink(ctx context.Context, name string, ra bool) (Link, error) {
	l := Link{Name: name}
	ifi, err := net.InterfaceByName(name)
	if err != nil {
		return l, err
	}
	opts := unixOpts{device: name, reuse: true, buffer: receiveBuffer}
	lc := net.ListenConfig{Control: control(opts)}
	if l.DHCP, err = lc.ListenPacket(ctx, "udp4", ":67"); err != nil {
		return l, portError("DHCP", ":67", err)
	}
	if l.Proxy, err = lc.ListenPacket(ctx, "udp4", ":4011"); err != nil {
		return l, portError("proxyDHCP", ":4011", err)
	}
	for _, c := range []net.PacketConn{l.DHCP, l.Proxy} {
		if err := ipv4.NewPacketConn(c).SetControlMessage(ipv4.FlagDst|ipv4.FlagInterface, true); err != nil {
			return l, fmt.Errorf("asking for packet information: %w", err)
		}
	}
	if l.Raw, err = openRaw(ifi); err != nil {
		return l, fmt.Errorf("opening a raw socket: %w", err)
	}
	if ra {
		// A machine without IPv6 needs no router advertisement either.
		l.ICMP, _ = openICMP(ctx, ifi)
	}
	return l, nil
}

// unixOpts are options that are set before bind.
type unixOpts struct {
	device string
	reuse  bool // beside another program's socket on the same port
	buffer int
}

func control(o unixOpts) func(network, address string, c syscall.RawConn) error {
	return func(_, _ string, c syscall.RawConn) error {
		var err error
		if cerr := c.Control(func(fd uintptr) { err = o.set(int(fd)) }); cerr != nil {
			return cerr
		}
		return err
	}
}

func (o unixOpts) set(fd int) error {
	if o.device != "" {
		if err := unix.BindToDevice(fd, o.device); err != nil {
			return fmt.Errorf("binding to %s: %w", o.device, err)
		}
	}
	if o.reuse {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
			return fmt.Errorf("sharing the port: %w", err)
		}
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, o.buffer); err != nil {
		// Without CAP_NET_ADMIN as much as net.core.rmem_max allows.
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, o.buffer)
	}
	return nil
}

// toClientPort lets UDP datagrams to port 68 through: answers of DHCP servers.
var toClientPort = []bpf.Instruction{
	bpf.LoadAbsolute{Off: 9, Size: 1}, // protocol
	bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.IPPROTO_UDP, SkipTrue: 6},
	bpf.LoadAbsolute{Off: 6, Size: 2}, // flags and fragment offset
	bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: 0x1fff, SkipTrue: 4},
	bpf.LoadMemShift{Off: 0}, // length of the IP header
	bpf.LoadIndirect{Off: 2, Size: 2},
	bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: portClient, SkipTrue: 1},
	bpf.RetConstant{Val: 1 << 16},
	bpf.RetConstant{Val: 0},
}

func openRaw(ifi *net.Interface) (*os.File, error) {
	// Protocol 0 receives nothing until the filter is set and bind names one.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "packet "+ifi.Name)
	raw, err := bpf.Assemble(toClientPort)
	if err == nil {
		filter := make([]unix.SockFilter, len(raw))
		for i, in := range raw {
			filter[i] = unix.SockFilter{Code: in.Op, Jt: in.Jt, Jf: in.Jf, K: in.K}
		}
		err = unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
			&unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]})
	}
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_IP), Ifindex: ifi.Index})
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

var allRouters = netip.MustParseAddr("ff02::2")

func openICMP(ctx context.Context, ifi *net.Interface) (net.PacketConn, error) {
	lc := net.ListenConfig{Control: control(unixOpts{device: ifi.Name, buffer: 1 << 18})}
	c, err := lc.ListenPacket(ctx, "ip6:ipv6-icmp", "::")
	if err != nil {
		return nil, err
	}
	p := ipv6.NewPacketConn(c)
	var f ipv6.ICMPFilter
	f.SetAll(true)
	f.Accept(ipv6.ICMPTypeRouterSolicitation)
	f.Accept(ipv6.ICMPTypeRouterAdvertisement)
	err = errors.Join(
		p.SetICMPFilter(&f),
		p.JoinGroup(ifi, &net.IPAddr{IP: allRouters.AsSlice()}),
		p.SetMulticastInterface(ifi),
		// RFC 4861 6.1.2: anything but 255 is dropped by the receiver.
		p.SetHopLimit(255), p.SetMulticastHopLimit(255),
		p.SetMulticastLoopback(false),
	)
	if err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// Socket names, as they are passed between processes.
const (
	nameDHCP, nameProxy, nameRaw, nameICMP = "dhcp", "proxy", "raw", "icmp6"
	nameTFTP, nameHTTP                     = "tftp", "http"
)

// Files duplicates the sockets as files, with the name that tells each to
// [SocketsFrom]: "dhcp:eth1", "http". The caller closes the files.
func (s *Sockets) Files() (names []string, files []*os.File, err error) {
	add := func(name string, c any) {
		f, ferr := fileOf(c)
		if ferr != nil {
			err = errors.Join(err, fmt.Errorf("duplicating socket %s: %w", name, ferr))
		}
		if f != nil && ferr == nil {
			names, files = append(names, name), append(files, f)
		}
	}
	for _, l := range s.Links {
		add(nameDHCP+":"+l.Name, l.DHCP)
		add(nameProxy+":"+l.Name, l.Proxy)
		add(nameRaw+":"+l.Name, l.Raw)
		add(nameICMP+":"+l.Name, l.ICMP)
	}
	add(nameTFTP, s.TFTP)
	add(nameHTTP, s.HTTP)
	if err != nil {
		for _, f := range files {
			f.Close()
		}
		return nil, nil, err
	}
	return names, files, nil
}

// fileOf duplicates a socket; nil for a nil one.
func fileOf(c any) (*os.File, error) {
	switch c := c.(type) {
	case nil:
		return nil, nil
	case *os.File:
		if c == nil {
			return nil, nil
		}
		return dupFile(c)
	case interface{ File() (*os.File, error) }:
		return c.File()
	default:
		return nil, fmt.Errorf("%T has no descriptor", c)
	}
}

func dupFile(f *os.File) (*os.File, error) {
	rc, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	var fd int
	if cerr := rc.Control(func(old uintptr) {
		fd, err = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0)
	}); cerr != nil {
		return nil, cerr
	}
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

// SocketsFrom makes Sockets of files that [Sockets.Files] gave, after they
// came into this process. It takes the files over, also when it fails.
func SocketsFrom(names []string, files []*os.File) (_ *Sockets, err error) {
	s := &Sockets{}
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	if len(names) != len(files) {
		return nil, fmt.Errorf("taking over sockets: %d names for %d files", len(names), len(files))
	}
	for i, name := range names {
		if err := s.takeOver(name, files[i]); err != nil {
			return nil, fmt.Errorf("taking over socket %s: %w", name, err)
		}
	}
	return s, nil
}

func (s *Sockets) takeOver(name string, f *os.File) (err error) {
	defer f.Close()
	kind, ifname, _ := strings.Cut(name, ":")
	if kind == nameRaw {
		// Passing it may have made it block; the runtime waits for it only
		// when it does not block at the time the file is made.
		if err := unix.SetNonblock(int(f.Fd()), true); err != nil {
			return err
		}
		s.link(ifname).Raw, err = dupFile(f)
		return err
	}
	switch kind {
	case nameDHCP:
		s.link(ifname).DHCP, err = net.FilePacketConn(f)
	case nameProxy:
		s.link(ifname).Proxy, err = net.FilePacketConn(f)
	case nameICMP:
		s.link(ifname).ICMP, err = net.FilePacketConn(f)
	case nameTFTP:
		s.TFTP, err = net.FilePacketConn(f)
	case nameHTTP:
		s.HTTP, err = net.FileListener(f)
	default:
		err = errors.New("unknown kind")
	}
	return err
}

// link is the entry for an interface, made when it is not there.
func (s *Sockets) link(name string) *Link {
	for i := range s.Links {
		if s.Links[i].Name == name {
			return &s.Links[i]
		}
	}
	s.Links = append(s.Links, Link{Name: name})
	return &s.Links[len(s.Links)-1]
}

// Close closes all sockets.
func (s *Sockets) Close() error {
	var errs []error
	for _, l := range s.Links {
		for _, c := range []net.PacketConn{l.DHCP, l.Proxy, l.ICMP} {
			if c != nil {
				errs = append(errs, c.Close())
			}
		}
		if l.Raw != nil {
			errs = append(errs, l.Raw.Close())
		}
	}
	if s.TFTP != nil {
		errs = append(errs, s.TFTP.Close())
	}
	if s.HTTP != nil {
		errs = append(errs, s.HTTP.Close())
	}
	return errors.Join(errs...)
}
