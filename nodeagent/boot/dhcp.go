package boot

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"

	"muster/api"
)

const (
	// discoverFirst is short, since the first packet is often lost:
	// the link has just come up and a switch still learns.
	discoverFirst = time.Second
	discoverMax   = 8 * time.Second
	requestTries  = 4
	extendTries   = 3
	// infiniteTimeout switches off the library's own repetitions.
	infiniteTimeout = 1000 * time.Hour
)

// errNak says that a server refuses the address.
var errNak = errors.New("the DHCP server refuses the address")

// identity is what the machine says of itself to DHCP servers.
type identity struct {
	uuid     string
	hostName func() string
}

// modifiers are the options of every message of ours. There is no client
// identifier: firmware, boot loader and system send different ones, and
// the servers that tell machines by it would give each another address.
func (id identity) modifiers() []dhcpv4.Modifier {
	m := []dhcpv4.Modifier{
		dhcpv4.WithOption(dhcpv4.OptClassIdentifier(api.DHCPClass)),
		dhcpv4.WithOption(dhcpv4.OptMaxMessageSize(nclient4.MaxMessageSize)),
		dhcpv4.WithRequestedOptions(
			dhcpv4.OptionSubnetMask, dhcpv4.OptionRouter, dhcpv4.OptionDomainNameServer,
			dhcpv4.OptionDomainName, dhcpv4.OptionDNSDomainSearchList, dhcpv4.OptionInterfaceMTU,
			dhcpv4.OptionClasslessStaticRoute, dhcpv4.OptionIPAddressLeaseTime,
			dhcpv4.OptionRenewTimeValue, dhcpv4.OptionRebindingTimeValue,
			dhcpv4.OptionVendorSpecificInformation,
		),
	}
	if id.hostName != nil {
		if name := id.hostName(); name != "" {
			m = append(m, dhcpv4.WithOption(dhcpv4.OptHostName(name)))
		}
	}
	if guid := machineID(id.uuid); guid != nil {
		m = append(m, dhcpv4.WithOption(dhcpv4.OptGeneric(dhcpv4.OptionClientMachineIdentifier, guid)))
	}
	return m
}

// dhcpClient speaks DHCP on real links. Its sockets are open only during an
// exchange: a packet socket would otherwise be given all that arrives.
type dhcpClient struct{ id identity }

// acquire gets an address on a link: it asks until an offer comes or ctx is
// done, has the offer confirmed, and starts again when that fails. choose is
// called with each offer and says whether to take it; it may wait.
func (d dhcpClient) acquire(ctx context.Context, l link, choose func(context.Context) bool) (Lease, error) {
	c, err := nclient4.New(l.Name, nclient4.WithTimeout(infiniteTimeout), nclient4.WithHWAddr(l.MAC))
	if err != nil {
		return Lease{}, fmt.Errorf("opening a DHCP socket on %s: %w", l.Name, err)
	}
	defer c.Close()
	for {
		offer, err := d.discover(ctx, c, l)
		if err != nil {
			return Lease{}, err
		}
		if !choose(ctx) {
			return Lease{}, context.Canceled
		}
		req, err := dhcpv4.NewRequestFromOffer(offer, d.id.modifiers()...)
		if err != nil {
			return Lease{}, fmt.Errorf("making a DHCP request: %w", err)
		}
		// To the broadcast address; only the server named inside answers.
		ack, err := exchange(ctx, c, nclient4.DefaultServers, req, requestTries, nclient4.IsAll(
			nclient4.IsCorrectServer(offer.ServerIdentifier()),
			nclient4.IsMessageType(dhcpv4.MessageTypeAck, dhcpv4.MessageTypeNak)))
		if ctx.Err() != nil {
			return Lease{}, ctx.Err()
		}
		if err == nil && ack.MessageType() == dhcpv4.MessageTypeAck {
			if lease, ok := leaseFromAck(l.Name, ack, time.Now()); ok {
				return lease, nil
			}
		}
		if !wait(ctx, jitter(discoverFirst)) {
			return Lease{}, ctx.Err()
		}
	}
}

// discover asks for offers at growing intervals and returns the first.
func (d dhcpClient) discover(ctx context.Context, c *nclient4.Client, l link) (*dhcpv4.DHCPv4, error) {
	msg, err := dhcpv4.NewDiscovery(l.MAC, d.id.modifiers()...)
	if err != nil {
		return nil, fmt.Errorf("making a DHCP discovery: %w", err)
	}
	return exchange(ctx, c, nclient4.DefaultServers, msg, 0, nclient4.IsMessageType(dhcpv4.MessageTypeOffer))
}

// extend asks for more time for a lease: its own server, or any server by
// broadcast. An error that is not errNak means that nobody answered.
func (d dhcpClient) extend(ctx context.Context, l Lease, broadcast bool) (Lease, error) {
	msg, err := dhcpv4.NewRenewFromAck(l.ack, d.id.modifiers()...)
	if err != nil {
		return Lease{}, fmt.Errorf("making a DHCP renewal: %w", err)
	}
	opts := []nclient4.ClientOpt{nclient4.WithTimeout(infiniteTimeout), nclient4.WithHWAddr(l.MAC)}
	dest := nclient4.DefaultServers
	if !broadcast {
		own := &net.UDPAddr{IP: l.Addr.Addr().AsSlice(), Port: nclient4.ClientPort}
		opts = append(opts, nclient4.WithUnicast(own))
		dest = &net.UDPAddr{IP: l.Server.AsSlice(), Port: nclient4.ServerPort}
	}
	c, err := nclient4.New(l.Link, opts...)
	if err != nil {
		return Lease{}, fmt.Errorf("opening a DHCP socket on %s: %w", l.Link, err)
	}
	defer c.Close()
	ack, err := exchange(ctx, c, dest, msg, extendTries,
		nclient4.IsMessageType(dhcpv4.MessageTypeAck, dhcpv4.MessageTypeNak))
	if err != nil {
		return Lease{}, err
	}
	if ack.MessageType() == dhcpv4.MessageTypeNak {
		return Lease{}, errNak
	}
	next, ok := leaseFromAck(l.Link, ack, time.Now())
	if !ok {
		return Lease{}, fmt.Errorf("%s: its answer holds no address", l.Server)
	}
	return next, nil
}

// exchange sends msg, again at growing intervals, until an answer matches or
// tries are used up; 0 tries: until ctx is done.
func exchange(ctx context.Context, c *nclient4.Client, dest *net.UDPAddr, msg *dhcpv4.DHCPv4, tries int, match nclient4.Matcher) (*dhcpv4.DHCPv4, error) {
	begin := time.Now()
	patience := discoverFirst
	for i := 0; tries == 0 || i < tries; i++ {
		msg.NumSeconds = uint16(min(time.Since(begin)/time.Second, 0xffff))
		try, cancel := context.WithTimeout(ctx, jitter(patience))
		answer, err := c.SendAndRead(try, dest, msg, match)
		cancel()
		if err == nil {
			return answer, nil
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if !errors.Is(err, context.DeadlineExceeded) {
			// The link may be down for a moment.
			if !wait(ctx, jitter(patience)) {
				return nil, ctx.Err()
			}
		}
		patience = min(2*patience, discoverMax)
	}
	return nil, fmt.Errorf("no answer from a DHCP server after %s", time.Since(begin).Round(time.Second))
}

// jitter spreads d by a quarter to both sides: machines that were switched
// on together must not ask together for ever.
func jitter(d time.Duration) time.Duration {
	return d*3/4 + rand.N(d/2)
}
