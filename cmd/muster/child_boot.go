package main

import (
	"context"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"path"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"muster/api"
	"muster/pxe"
	"muster/pxe/tftp"
)

// runBoot is the process that answers machines which boot.
func runBoot(ctx context.Context, env childEnv) error {
	o := env.opts
	found, err := mdnsLinks(&env)
	if err != nil {
		return err
	}
	defer closeLinks(found)
	sockets, err := bootSockets(env)
	if err != nil {
		return err
	}
	defer sockets.Close()
	blobs, err := openBlobs(o)
	if err != nil {
		return err
	}
	defer blobs.Close()
	link := newCoreLink(o.internalSocket(), env.log)
	ifaces, err := pxe.Detect(ctx, pxe.DetectConfig{
		Sockets: sockets, Choice: pxe.Choice(o.DHCP), Named: o.Interfaces, Force: o.DHCPForce, Log: env.log,
	})
	if ctx.Err() != nil {
		return nil
	}
	if err != nil {
		return err
	}
	head, err := tellClasses(ctx, link, o, ifaces)
	if err != nil {
		return err
	}
	loaders := loaderFS{blobs}
	server, err := pxe.New(pxe.Config{
		Booter: coreBooter{link}, Sockets: sockets, Interfaces: ifaces, Observer: link, Log: env.log,
		Loaders: loaders, LeaseFile: filepath.Join(o.State, "leases.log"),
		HTTPPort: uint16(o.HTTPPort), FilesPort: uint16(o.FilesPort),
	})
	if err != nil {
		return err
	}
	if err := link.post(ctx, "/internal/boot/interfaces", bootInterfaces(ifaces), nil); err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return link.run(ctx) })
	g.Go(func() error { return server.Run(ctx) })
	g.Go(func() error { tellInterfaces(ctx, link, server); return nil })
	g.Go(func() error { return respondMDNS(ctx, head, o, found, env.log) })
	if sockets.TFTP != nil {
		ts, err := tftp.New(tftp.Config{
			Conn: sockets.TFTP, Source: tftp.FS(loaders), Log: env.log,
			Observe: func(t tftp.Transfer) { server.TFTPDone(t.Client, t.Name, t.Bytes, t.Dur, t.Err) },
		})
		if err != nil {
			return err
		}
		g.Go(func() error { return ts.Run(ctx) })
	}
	env.ready()
	return g.Wait()
}

// tellEvery is how often core hears what is done on each interface: another
// DHCP server may appear at any time, and core may have been restarted.
const tellEvery = 5 * time.Second

func tellInterfaces(ctx context.Context, link *coreLink, server *pxe.Server) {
	tick := time.NewTicker(tellEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if err := link.post(ctx, "/internal/boot/interfaces", bootInterfaces(server.Interfaces()), nil); err != nil && ctx.Err() == nil {
				link.log.Warn("core was not told of the interfaces", "err", err)
			}
		}
	}
}

// bootSockets takes the sockets that the keeper passed.
func bootSockets(env childEnv) (*pxe.Sockets, error) {
	names := slices.Sorted(maps.Keys(env.files))
	var files []*os.File
	for _, n := range names {
		f, err := env.file(n)
		if err != nil {
			return nil, err
		}
		files = append(files, f)
	}
	return pxe.SocketsFrom(names, files)
}

func openBlobs(o headOptions) (*os.Root, error) {
	if err := os.MkdirAll(o.blobs(), 0o755); err != nil {
		return nil, fmt.Errorf("making the image store: %w", err)
	}
	return os.OpenRoot(o.blobs())
}

func bootInterfaces(ifaces []pxe.Interface) []api.BootInterface {
	var out []api.BootInterface
	for _, i := range ifaces {
		out = append(out, api.BootInterface{
			Name: i.Name, Addr: i.Network.Prefix.String(), DHCP: string(i.Mode), Reason: i.Reason,
		})
	}
	return out
}

// loaderFS has the boot programs of all images as SHA256/NAME: a name for
// each content, so that machines of different images get their own.
type loaderFS struct{ blobs *os.Root }

func (l loaderFS) Open(name string) (fs.File, error) {
	sum, base := path.Split(name)
	// iPXE looks for an autoexec.ipxe beside itself, shim for several files:
	// they must not get the program under another name.
	program := path.Ext(base) == ".efi" || path.Ext(base) == ".kpxe"
	if len(sum) != 65 || !fs.ValidPath(name) || !program {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return l.blobs.Open(sum[:64])
}

// coreBooter asks core what a machine boots.
type coreBooter struct{ link *coreLink }

func (b coreBooter) Boot(ctx context.Context, m pxe.Machine) (pxe.Boot, error) {
	var d api.BootDecision
	err := b.link.post(ctx, "/internal/boot/decide", api.BootQuery{
		MAC: m.MAC.String(), UUID: m.UUID, Arch: m.Arch, Client: string(m.Client), OwnsLAN: m.OwnsLAN,
	}, &d)
	if err != nil {
		return pxe.Boot{}, err
	}
	return bootOf(d, m), nil
}

// bootOf is what m boots by a decision of core.
func bootOf(d api.BootDecision, m pxe.Machine) pxe.Boot {
	if !d.Answer {
		return pxe.Boot{Refused: d.Reason}
	}
	b := pxe.Boot{
		Kernel:    pxe.BlobPath(d.Kernel.SHA256, d.Kernel.Name),
		Initramfs: pxe.BlobPath(d.Initramfs.SHA256, d.Initramfs.Name),
		Cmdline:   d.Cmdline,
		HostName:  d.HostName,
	}
	if ip, err := netip.ParseAddr(d.FixedIP); err == nil {
		b.FixedIP = ip
	}
	for _, l := range d.Loaders {
		if m.Client == pxe.ClientHTTP && l.Client == string(pxe.ClientHTTP) && (l.Arch == m.Arch || m.Arch == "") {
			b.Program = pxe.BlobPath(l.SHA256, l.Name)
		}
	}
	kind := string(pxe.ClientUEFI)
	if m.Client == pxe.ClientBIOS {
		kind = string(pxe.ClientBIOS)
	}
	for _, l := range d.Loaders {
		if l.Client == kind && (l.Arch == m.Arch || m.Arch == "" || kind == string(pxe.ClientBIOS)) {
			b.Loader = l.SHA256 + "/" + path.Base(l.Name)
			break
		}
	}
	return b
}
