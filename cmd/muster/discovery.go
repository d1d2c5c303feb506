package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"

	"muster/api"
	"muster/internal/mdns"
	"muster/pxe"
)

// How machines that were told no head find this one: a DHCP option where muster gives out the
// addresses, and multicast DNS on every interface that is served.

// mdnsSocket begins the names of sockets for multicast DNS; an interface follows.
const mdnsSocket = "mdns:"

// openMDNS adds the sockets for multicast DNS to files. Interfaces without multicast, and a
// port that another program does not share, are left out: machines that know their head need neither.
func openMDNS(ctx context.Context, interfaces []string, files map[string]*os.File) error {
	for _, name := range interfaces {
		if ifi, err := net.InterfaceByName(name); err != nil || ifi.Flags&net.FlagMulticast == 0 {
			continue
		}
		conn, err := mdns.Listen(ctx, name)
		if errors.Is(err, syscall.EADDRINUSE) {
			fmt.Fprintf(os.Stderr, "muster: port 5353 is taken by a program that does not share it (ss -lnup shows which): machines do not find this head by multicast DNS on %s\n", name)
			continue
		}
		if err != nil {
			return fmt.Errorf("%w; --mdns=off does without", err)
		}
		f, err := conn.File()
		conn.Close()
		if err != nil {
			return fmt.Errorf("passing the socket for multicast DNS on: %w", err)
		}
		files[mdnsSocket+name] = f
	}
	return nil
}

// mdnsLinks takes the sockets for multicast DNS out of env.
func mdnsLinks(env *childEnv) ([]mdns.Link, error) {
	var links []mdns.Link
	for socket := range env.files {
		name, ok := strings.CutPrefix(socket, mdnsSocket)
		if !ok {
			continue
		}
		f, err := env.file(socket)
		if err != nil {
			return links, err
		}
		delete(env.files, socket)
		c, err := net.FilePacketConn(f)
		f.Close()
		if err != nil {
			return links, fmt.Errorf("using the socket %s: %w", socket, err)
		}
		conn, ok := c.(*net.UDPConn)
		if !ok {
			return links, fmt.Errorf("using the socket %s: it is a %T", socket, c)
		}
		links = append(links, mdns.Link{Name: name, Conn: conn})
	}
	return links, nil
}

func closeLinks(links []mdns.Link) {
	for _, l := range links {
		l.Conn.Close()
	}
}

// tellClasses has the DHCP server tell agents of the head, on the interfaces where muster gives out the
// addresses, and returns what it asked core about the head.
func tellClasses(ctx context.Context, link *coreLink, o headOptions, ifaces []pxe.Interface) (api.HeadIdentity, error) {
	var head api.HeadIdentity
	if err := link.post(ctx, "/internal/boot/head", struct{}{}, &head); err != nil {
		return head, err
	}
	for i := range ifaces {
		if n := &ifaces[i].Network; ifaces[i].Mode == pxe.ModeFull {
			note, err := noteFor(n.Server, o.AgentsPort, head.Pin)
			if err != nil {
				return head, err
			}
			n.Classes = map[string][]byte{api.DHCPClass: note}
		}
	}
	return head, nil
}

func noteFor(server netip.Addr, port int, pin string) ([]byte, error) {
	return api.HeadNote{Addr: netip.AddrPortFrom(server, uint16(port)).String(), Pin: pin}.Encode()
}

// respondMDNS answers machines that look for a head until ctx is done.
func respondMDNS(ctx context.Context, head api.HeadIdentity, o headOptions, links []mdns.Link, log *slog.Logger) error {
	if len(links) == 0 {
		return nil
	}
	r, err := mdns.New(mdns.Config{Service: headService(head, o.AgentsPort), Links: links, Log: log})
	if err != nil {
		return err
	}
	return r.Run(ctx)
}

// headService is the head as multicast DNS names it. The fingerprint makes its names its own.
func headService(head api.HeadIdentity, port int) mdns.Service {
	return mdns.Service{
		Type: api.ServiceType, Instance: "muster " + head.Fingerprint, Host: "muster-" + strings.ToLower(head.Fingerprint), Port: uint16(port),
		Text: []string{"txtvers=1", api.ServicePin + "=" + head.Pin, "protocol=" + strconv.Itoa(api.Protocol)},
	}
}
