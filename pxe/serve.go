package pxe

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// query is a message on its way through the server.
type query struct {
	*Request
	in   *iface
	port *port
	from netip.AddrPort
	to   netip.Addr
	peer net.Addr // set where the socket is no UDP socket of the kernel
}

// receive takes a datagram in: what an operating system asks is answered at
// once, what needs a decision goes to the workers. It never waits for one.
func (s *Server) receive(f *iface, p *port, d datagram) {
	m, err := Parse(d.b)
	var r *Request
	if err == nil {
		r, err = Classify(m)
	}
	if err != nil {
		s.log.Debug("message dropped", "if", f.Name, "from", d.from, "err", err)
		return
	}
	// What anybody may have sent takes nothing from the machine that it names: no address, and no
	// room among its messages.
	system, limit := fromSystem(p, d), s.limit
	switch {
	case !system && p.num != portProxy:
		s.log.Debug("message dropped: it comes from a port that any program may use", "if", f.Name, "from", d.from, "mac", r.Key())
		return
	case !system:
		limit = s.limitAny
	}
	if !limit.allow(r.Key()) {
		s.log.Debug("message dropped: too many of this machine", "if", f.Name, "mac", r.Key())
		return
	}
	r.OwnsLAN = f.Mode == ModeFull
	if system {
		s.notice(f, r)
	}
	q := query{Request: r, in: f, port: p, from: d.from, to: d.to, peer: d.peer}
	if !r.Boots() || r.Type == dhcpv4.MessageTypeRelease || r.Type == dhcpv4.MessageTypeDecline {
		s.serve(q, Boot{})
		return
	}
	select {
	case s.work <- q:
	default:
		s.log.Debug("message dropped: too many machines wait for a decision", "mac", r.Key())
	}
}

// fromSystem tells whether what runs a machine or a relay has sent a datagram, and not a program of
// a user there, who could name any machine in it. DHCP clients ask from port 68 and relays from 67
// (RFC 2131 4.1; relays that choose another by RFC 8357 are not served), and below 1024 only root of a computer sends.
// At port 4011 OVMF asks from 4011 and iPXE from 68.
func fromSystem(p *port, d datagram) bool {
	return p.udp == nil || d.from.Port() < firstUserPort
}

// notice remembers what a message says in passing.
func (s *Server) notice(f *iface, r *Request) {
	if r.Boots() {
		s.people.meet(r.Machine)
	}
	if r.Type != dhcpv4.MessageTypeRequest {
		return
	}
	s.learn(r.Wanted, r.Key())
	if f.Mode == ModeFull && r.ServerID.IsValid() && !s.isMe(r.ServerID) && !r.Relayed() {
		s.foreignServer(f, r.ServerID)
	}
}

// isMe tells whether a is an address of this server.
func (s *Server) isMe(a netip.Addr) bool {
	return slices.ContainsFunc(s.ifaces, func(f *iface) bool { return f.Network.Server == a })
}

// workLoop asks for decisions and answers, until ctx is done.
func (s *Server) workLoop(ctx context.Context) {
	for {
		select {
		case q := <-s.work:
			s.decide(ctx, q)
		case <-ctx.Done():
			return
		}
	}
}

// decide asks what a boot program's machine boots.
func (s *Server) decide(ctx context.Context, q query) {
	ctx, cancel := context.WithTimeout(ctx, decisionTime)
	defer cancel()
	b, err := s.cfg.Booter.Boot(ctx, q.Machine)
	switch {
	case err != nil:
		s.warn.Warn(s.log, "no decision what a machine boots", "mac", q.Key(), "err", err)
	case b.Refused != "":
		s.watch.Observe(event(q.Machine, StageRefused, b.Refused))
	default:
		s.serve(q, b)
	}
}

// serve answers q, to which b was decided, if there is anything to answer.
func (s *Server) serve(q query, b Boot) {
	switch {
	case q.port.num == portProxy || q.in.Mode == ModeProxy:
		s.serveProxy(q, b)
	default:
		s.serveFull(q, b)
	}
}

// serveProxy names a boot program beside another server, which gives the
// address.
func (s *Server) serveProxy(q query, b Boot) {
	if !q.Boots() {
		return
	}
	reply := Reply{Type: dhcpv4.MessageTypeOffer}
	switch {
	case q.port.num == portProxy &&
		(q.Type == dhcpv4.MessageTypeRequest || q.Type == dhcpv4.MessageTypeInform):
		// PXE 2.1 2.2.5: asked at its own port, a boot server acknowledges.
		reply.Type = dhcpv4.MessageTypeAck
	case q.Type != dhcpv4.MessageTypeDiscover:
		return
	}
	n := q.in.Network
	var ok bool
	if reply.File, ok = s.bootFile(q, b, n); ok {
		s.reply(q, n, reply)
	}
}

// serveFull gives addresses, and boot programs to those that ask for one.
func (s *Server) serveFull(q query, b Boot) {
	n, ok := s.subnet(q)
	if !ok {
		s.log.Debug("message dropped: no network for this relay", "mac", q.Key(), "relay", q.Gateway())
		return
	}
	if !q.Boots() {
		b.FixedIP = s.book.Fixed(n.Pool, q.Key())
	}
	mine := !q.ServerID.IsValid() || q.ServerID == n.Server || s.isMe(q.ServerID)
	switch q.Type {
	case dhcpv4.MessageTypeDiscover:
		s.offer(q, b, n)
	case dhcpv4.MessageTypeRequest:
		if !mine { // RFC 2131 3.1, 4: it declined our offer
			s.book.Forget(n.Pool, q.Key())
			return
		}
		s.confirm(q, b, n)
	case dhcpv4.MessageTypeDecline:
		if mine && s.book.Decline(n.Pool, q.Key(), q.Wanted) {
			s.log.Warn("address is in use by a machine that did not ask for it; it is not given for 10 minutes", "ip", q.Wanted, "mac", q.Key(), "if", q.in.Name)
		}
	case dhcpv4.MessageTypeRelease:
		if mine {
			s.book.Release(q.Key(), q.IP)
		}
	case dhcpv4.MessageTypeInform:
		s.inform(q, b, n)
	}
}

// subnet is the network that the sender is in.
func (s *Server) subnet(q query) (Subnet, bool) {
	if !q.Relayed() {
		return q.in.Subnet, true
	}
	gw := q.Gateway()
	for _, n := range s.cfg.Relayed {
		if n.Prefix.Contains(gw) {
			n.Server = q.in.Network.Server // the address that the relay speaks to
			return n, true
		}
	}
	return q.in.Subnet, q.in.Network.Prefix.Contains(gw)
}

func (s *Server) offer(q query, b Boot, n Subnet) {
	file, ok := s.bootFile(q, b, n.Network)
	if !ok {
		return
	}
	ip, err := s.book.Offer(n.Pool, q.Key(), q.Wanted, b.FixedIP)
	if err != nil {
		s.warn.Warn(s.log, "no address is left", "if", q.in.Name, "first", n.Pool.First, "last", n.Pool.Last, "mac", q.Key())
		s.watch.Observe(event(q.Machine, StageRefused, fmt.Sprintf("no address is left in %v to %v on %s", n.Pool.First, n.Pool.Last, q.in.Name)))
		return
	}
	s.reply(q, n.Network, Reply{Type: dhcpv4.MessageTypeOffer, IP: ip, File: file, HostName: b.HostName})
}

func (s *Server) confirm(q query, b Boot, n Subnet) {
	file, ok := s.bootFile(q, b, n.Network)
	if !ok {
		return
	}
	ack := Reply{Type: dhcpv4.MessageTypeAck, IP: q.Wanted, File: file, HostName: b.HostName}
	err := s.book.Confirm(n.Pool, q.Key(), q.Wanted, b.FixedIP, n.leaseFor(q.Request), func(err error) {
		if err == nil { // else it asks again; the book has logged it
			s.reply(q, n.Network, ack)
		}
	})
	if err != nil {
		s.log.Debug("request refused", "mac", q.Key(), "ip", q.Wanted, "err", err)
		s.reply(q, n.Network, Reply{Type: dhcpv4.MessageTypeNak, Message: err.Error()})
	}
}

func (s *Server) inform(q query, b Boot, n Subnet) {
	file, ok := s.bootFile(q, b, n.Network)
	if ok && q.IP.IsValid() {
		s.reply(q, n.Network, Reply{Type: dhcpv4.MessageTypeAck, File: file, HostName: b.HostName})
	}
}

// bootFile is the name or URL of the program that q's sender fetches next;
// "" for an operating system. It is false, and told to the observer, when
// there is none.
func (s *Server) bootFile(q query, b Boot, n Network) (string, bool) {
	at := newSite(n.Server, s.cfg.HTTPPort, s.cfg.FilesPort)
	switch q.Machine.Client {
	case ClientOS:
		return "", true
	case ClientIPXE:
		return at.scriptURL(q.Machine), true
	}
	if q.Machine.Client == ClientHTTP && b.Program != "" {
		return at.fileURL(b.Program, MAC(q.Machine.MAC), StageLoader), true
	}
	name := b.Loader
	if name == "" {
		name = defaultLoader(q.Machine)
	}
	if err := hasLoader(s.cfg.Loaders, name); err != nil {
		s.watch.Observe(event(q.Machine, StageRefused, fmt.Sprintf("no boot program for %s on %s: %v", q.Machine.Client, orElse(q.Arch, "an unknown architecture"), err)))
		return "", false
	}
	if q.Machine.Client == ClientHTTP {
		return at.http + "/" + name, true
	}
	return name, true
}

// defaultLoader is iPXE for the firmware that asks; "" for unknown ones.
func defaultLoader(m Machine) string {
	switch {
	case m.Client == ClientBIOS:
		return "undionly.kpxe"
	case m.Arch == "amd64":
		return "snponly.efi" // it uses the firmware's driver, so it needs none
	case m.Arch == "arm64":
		return "snponly-arm64.efi"
	}
	return ""
}

func hasLoader(fsys fs.FS, name string) error {
	if name == "" {
		return errors.New("none is known for it")
	}
	if fsys == nil {
		return fmt.Errorf("open %s: %w", name, fs.ErrNotExist)
	}
	_, err := fs.Stat(fsys, name)
	return err
}

// reply sends an answer where RFC 2131 4.1 wants it, and tells of offers.
func (s *Server) reply(q query, n Network, p Reply) {
	p.NoVendor = slices.Contains(s.cfg.NoVendor, q.Arch)
	m := Answer(q.Request, n, p)
	if err := s.send(q, n, m); err != nil {
		s.warn.Warn(s.log, "sending an answer", "mac", q.Key(), "if", q.in.Name, "err", err)
		return
	}
	s.log.Debug("answered", "type", p.Type, "mac", q.Key(), "ip", p.IP, "file", p.File)
	if p.Type == dhcpv4.MessageTypeOffer && q.Boots() {
		e := event(q.Machine, StageDHCP, p.File)
		e.IP = p.IP
		s.watch.Observe(e)
	}
}

// send chooses the way to the client.
func (s *Server) send(q query, n Network, m *dhcpv4.DHCPv4) error {
	b := m.ToBytes()
	to, raw := destination(q, m)
	source := n.Server
	if q.to.Is4() && s.isMe(q.to) {
		source = q.to
	}
	if q.peer != nil {
		_, err := q.port.conn.WriteTo(b, q.peer)
		return err
	}
	if raw {
		if q.in.raw != nil {
			return q.in.raw.send(b, netip.AddrPortFrom(source, uint16(q.port.num)), to, q.Key(), q.in.index)
		}
		to = netip.AddrPortFrom(limitedBroadcast, portClient)
	}
	return q.port.write(b, to, source, q.in.index)
}

var limitedBroadcast = netip.AddrFrom4([4]byte{255, 255, 255, 255})

// destination is where the answer m goes; raw is set for a machine that has
// the address but does not use it yet, so that it is reached by its hardware
// address only. Pure.
func destination(q query, m *dhcpv4.DHCPv4) (to netip.AddrPort, raw bool) {
	broadcast := netip.AddrPortFrom(limitedBroadcast, portClient)
	switch {
	case q.Relayed():
		return netip.AddrPortFrom(q.Gateway(), portServer), false
	case q.port.num == portProxy && q.from.Addr().Is4() && !q.from.Addr().IsUnspecified():
		return q.from, false // OVMF asks from port 4011, iPXE from 68
	case m.MessageType() == dhcpv4.MessageTypeNak:
		return broadcast, false
	case q.IP.IsValid():
		return netip.AddrPortFrom(q.IP, portClient), false
	case m.IsBroadcast(), m.YourIPAddr == nil:
		return broadcast, false
	}
	return netip.AddrPortFrom(addrOf(m.YourIPAddr), portClient), true
}

// ownsLAN tells whether this server gives out the addresses where ip is.
func (s *Server) ownsLAN(ip netip.Addr) bool {
	for _, f := range s.ifaces {
		if f.Mode == ModeFull && f.Network.Prefix.Contains(ip) {
			return true
		}
	}
	for _, n := range s.cfg.Relayed {
		if n.Prefix.Contains(ip) {
			return true
		}
	}
	return false
}

// foreignAgain is how often a server that goes on answering is reported.
const foreignAgain = 10 * time.Minute

// foreignServer reports another DHCP server on an interface where this one
// gives out the addresses. It is not fought.
func (s *Server) foreignServer(f *iface, ip netip.Addr) {
	f.mu.Lock()
	last, known := f.foreign[ip]
	now := s.now()
	again := known && now.Sub(last) < foreignAgain
	if !again && len(f.foreign) < 64 {
		f.foreign[ip] = now
	}
	f.mu.Unlock()
	if !again {
		s.log.Warn("another DHCP server answers here; machines take the address of either", "if", f.Name, "ip", ip)
	}
}

// status is the interface with what was noticed since the start.
func (f *iface) status() Interface {
	f.mu.Lock()
	defer f.mu.Unlock()
	in := f.Interface
	for ip := range f.foreign {
		in.Reason += fmt.Sprintf("; another DHCP server answers here: %v", ip)
	}
	return in
}
