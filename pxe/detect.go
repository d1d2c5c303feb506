package pxe

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// Choice is what the administrator wants of DHCP.
type Choice string

// The choices. Auto looks whether another server answers.
const (
	ChooseAuto  Choice = "auto"
	ChooseFull  Choice = "full"
	ChooseProxy Choice = "proxy"
	ChooseOff   Choice = "off"
)

// DetectConfig is what [Detect] needs.
type DetectConfig struct {
	Sockets *Sockets     // required but for ChooseOff
	Choice  Choice       // "": auto
	Named   []string     // interfaces that the administrator named: only there addresses are given out
	Force   bool         // give out addresses beside another server
	Log     *slog.Logger // nil: no log
}

// Times of the search for other servers. Some ping an address for 3 s before
// they offer it.
const (
	probes     = 3
	probeEvery = 1200 * time.Millisecond
	probeLast  = 2400 * time.Millisecond
	lookEvery  = 5 * time.Minute
)

// ErrOtherServer is the error of Detect for full mode beside another server.
var ErrOtherServer = errors.New("another DHCP server answers here")

// Detect decides for each interface of the sockets what is done there, and
// why. For auto it sends three DISCOVER messages and waits 5 s at most: where
// a server answers, boot programs are named beside it; where none does,
// addresses are given out, but only on interfaces that were named. The order
// is that of cfg.Sockets.Links.
func Detect(ctx context.Context, cfg DetectConfig) ([]Interface, error) {
	if cfg.Choice == ChooseOff || cfg.Sockets == nil {
		return nil, nil
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	links := cfg.Sockets.Links
	out, errs := make([]Interface, len(links)), make([]error, len(links))
	var wg sync.WaitGroup
	for i, l := range links {
		wg.Go(func() { out[i], errs[i] = detectOne(ctx, cfg, l) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return out, ctx.Err()
}

func detectOne(ctx context.Context, cfg DetectConfig, l Link) (Interface, error) {
	in := Interface{Name: l.Name}
	prefix, err := prefixOf(l.Name)
	if err != nil {
		if slices.Contains(cfg.Named, l.Name) {
			return in, fmt.Errorf("looking at interface %s: %w", l.Name, err)
		}
		in.Mode, in.Reason = ModeOff, err.Error()
		return in, nil
	}
	in.Network.Prefix, in.Network.Server = prefix, prefix.Addr()
	var others []netip.Addr
	if cfg.Choice != ChooseProxy {
		if others, err = findServers(ctx, l, prefix.Addr()); err != nil {
			return in, fmt.Errorf("looking for DHCP servers on %s: %w", l.Name, err)
		}
	}
	in.Mode, in.Reason, err = choose(cfg.Choice, l.Name, slices.Contains(cfg.Named, l.Name), cfg.Force, others)
	cfg.Log.Info("interface looked at", "if", l.Name, "mode", in.Mode, "reason", in.Reason)
	return in, err
}

// choose is the decision of Detect. Pure.
func choose(c Choice, name string, named, force bool, others []netip.Addr) (Mode, string, error) {
	var list []string
	for _, a := range others {
		list = append(list, a.String())
	}
	who := strings.Join(list, ", ")
	switch {
	case c == ChooseProxy:
		return ModeProxy, "asked for by --dhcp=proxy", nil
	case c == ChooseFull && len(others) > 0 && !force:
		return ModeOff, "", fmt.Errorf("giving out addresses on %s: %w (%s); use --dhcp=proxy to boot machines beside it, or --dhcp-force if you know better", name, ErrOtherServer, who)
	case c == ChooseFull && !named:
		return ModeOff, "addresses are given out only on interfaces that are named: --interface " + name, nil
	case c == ChooseFull && len(others) > 0:
		return ModeFull, "asked for by --dhcp=full and --dhcp-force, though " + who + " answers here too", nil
	case c == ChooseFull:
		return ModeFull, "asked for by --dhcp=full", nil
	case len(others) > 0:
		return ModeProxy, "the DHCP server " + who + " answers here", nil
	case named:
		return ModeFull, "no DHCP server answers here", nil
	default:
		return ModeOff, "no DHCP server answers here; to give out addresses: --interface " + name, nil
	}
}

// prefixOf is the first IPv4 address of an interface.
func prefixOf(name string) (netip.Prefix, error) {
	ifi, err := net.InterfaceByName(name)
	if err != nil {
		return netip.Prefix{}, err
	}
	if ifi.Flags&net.FlagUp == 0 {
		return netip.Prefix{}, fmt.Errorf("it is down; set it up with: ip link set %s up", name)
	}
	addrs, err := ifi.Addrs()
	if err != nil {
		return netip.Prefix{}, err
	}
	for _, a := range addrs {
		n, ok := a.(*net.IPNet)
		if !ok || n.IP.To4() == nil || n.IP.IsLinkLocalUnicast() {
			continue
		}
		bits, _ := n.Mask.Size()
		return netip.PrefixFrom(netip.AddrFrom4([4]byte(n.IP.To4())), bits), nil
	}
	return netip.Prefix{}, fmt.Errorf("it has no IPv4 address; give it one, as in: ip addr add 10.77.0.1/24 dev %s", name)
}

// findServers asks for an address as a machine would, and lists who offers
// one. It ends with the first answer, or after 5 s without.
func findServers(ctx context.Context, l Link, me netip.Addr) ([]netip.Addr, error) {
	if l.Raw == nil {
		return nil, nil
	}
	raw, err := newRawSocket(l.Raw)
	if err != nil {
		return nil, err
	}
	ifi, err := net.InterfaceByName(l.Name)
	if err != nil {
		return nil, err
	}
	var xid dhcpv4.TransactionID
	rand.Read(xid[:])
	ask := &dhcpv4.DHCPv4{
		OpCode: dhcpv4.OpcodeBootRequest, HWType: 1, TransactionID: xid, Flags: 0x8000,
		ClientHWAddr: ifi.HardwareAddr, Options: dhcpv4.Options{},
	}
	ask.UpdateOption(dhcpv4.OptMessageType(dhcpv4.MessageTypeDiscover))
	ask.UpdateOption(dhcpv4.OptParameterRequestList(dhcpv4.OptionSubnetMask, dhcpv4.OptionRouter))
	from := netip.AddrPortFrom(netip.IPv4Unspecified(), portClient)
	to := netip.AddrPortFrom(limitedBroadcast, portServer)

	for i := range probes {
		if err := raw.send(ask.ToBytes(), from, to, MAC{255, 255, 255, 255, 255, 255}, ifi.Index); err != nil {
			return nil, fmt.Errorf("sending: %w", err)
		}
		wait := probeEvery
		if i == probes-1 {
			wait = probeLast
		}
		found, err := offers(ctx, raw, xid, me, wait)
		if err != nil || len(found) > 0 {
			return found, err
		}
	}
	return nil, nil
}

// offers waits for answers to xid; with the first, a moment more for others.
func offers(ctx context.Context, raw *rawSocket, xid dhcpv4.TransactionID, me netip.Addr, wait time.Duration) ([]netip.Addr, error) {
	raw.SetReadDeadline(time.Now().Add(wait))
	defer stopOnDone(ctx, raw)()
	var found []netip.Addr
	b := make([]byte, maxMessage)
	for {
		n, err := raw.recv(b)
		switch {
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case errors.Is(err, os.ErrDeadlineExceeded):
			return found, nil
		case err != nil:
			return nil, fmt.Errorf("receiving: %w", err)
		}
		ip, ok := offerOf(b[:n], xid)
		if !ok || ip == me || slices.Contains(found, ip) {
			continue
		}
		if found = append(found, ip); len(found) == 1 {
			raw.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
		}
	}
}

// offerOf is the server whose offer an IPv4 packet carries. Offers without an
// address are a proxy's, which is no server to stand back for.
func offerOf(packet []byte, xid dhcpv4.TransactionID) (netip.Addr, bool) {
	payload, from, to, ok := parseUDP(packet)
	if !ok || to.Port() != portClient {
		return netip.Addr{}, false
	}
	m, err := Parse(payload)
	if err != nil || m.OpCode != dhcpv4.OpcodeBootReply || m.TransactionID != xid ||
		m.MessageType() != dhcpv4.MessageTypeOffer || !addrOf(m.YourIPAddr).IsValid() {
		return netip.Addr{}, false
	}
	if id := addrOf(m.ServerIdentifier()); id.IsValid() {
		return id, true
	}
	return from.Addr(), true
}

// lookForOthers asks now and then whether another server came up, until ctx
// is done.
func (s *Server) lookForOthers(ctx context.Context, f *iface) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	l := Link{Name: f.Name, Raw: f.raw.f}
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		others, err := findServers(ctx, l, f.Network.Server)
		if err != nil && ctx.Err() == nil {
			s.log.Warn("looking for other DHCP servers", "if", f.Name, "err", err)
		}
		for _, ip := range others {
			s.foreignServer(f, ip)
		}
	}
}
