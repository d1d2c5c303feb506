package pxe

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	"golang.org/x/net/ipv6"

	"muster/internal/need"
	"muster/internal/netnstest"
	"muster/pxe/pxetest"
	"muster/pxe/tftp"
)

func TestMain(m *testing.M) { netnstest.Main(m) }

// lan is a server's interface s0 with 10.77.0.1 and, in a namespace of its
// own, a machine's c0 without address.
type lan struct {
	machines *netnstest.NS
	sockets  *Sockets
}

func newLAN(t testing.TB, addrs []netip.Prefix) *lan {
	t.Helper()
	l := &lan{machines: netnstest.New(t)}
	netnstest.Veth(t, netnstest.End{Name: "s0", Addrs: addrs}, netnstest.End{NS: l.machines, Name: "c0"})
	// What is sent in the moment between carrier and this is dropped silently.
	waitFor(t, "the cable", func() bool { return running("s0") })
	waitFor(t, "the cable", func() (ok bool) {
		l.machines.Do(t, func() { ok = running("c0") })
		return ok
	})
	return l
}

func running(name string) bool {
	ifi, err := net.InterfaceByName(name)
	return err == nil && ifi.Flags&net.FlagRunning != 0
}

// listen opens the sockets of s0, and passes them through files as a keeper
// does.
func (l *lan) listen(t testing.TB) *Sockets {
	t.Helper()
	first, err := Listen(t.Context(), ListenConfig{Interfaces: []string{"s0"}, DHCP: true, HTTP: ":80"})
	if err != nil {
		t.Fatal(err)
	}
	names, files, err := first.Files()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		f.Fd() // passing a file to a process makes it block
	}
	first.Close()
	l.sockets, err = SocketsFrom(names, files)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.sockets.Close() })
	return l.sockets
}

// serve runs a server until the test ends.
func serve(t testing.TB, cfg Config) *Server {
	t.Helper()
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.Run(ctx); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
	return s
}

// full serves s0 of l in full mode with the usual answers.
func (l *lan) full(t testing.TB, change func(*Config)) *Server {
	t.Helper()
	return l.serve(t, ModeFull, change)
}

func (l *lan) serve(t testing.TB, mode Mode, change func(*Config)) *Server {
	t.Helper()
	cfg := Config{
		Sockets: l.listen(t), Loaders: testLoaders, Booter: decider(bootAll),
		Interfaces: []Interface{{Name: "s0", Mode: mode, Subnet: Subnet{Network: Network{Prefix: netip.MustParsePrefix("10.77.0.1/16")}}}},
		Log:        slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	if change != nil {
		change(&cfg)
	}
	return serve(t, cfg)
}

func bootAll(Machine) (Boot, error) {
	return Boot{Kernel: "/k", Initramfs: "/i", HostName: "n1"}, nil
}

// raw is a connection on the machine's side that sees all answers.
func (l *lan) raw(t testing.TB) net.PacketConn {
	t.Helper()
	var c net.PacketConn
	var err error
	l.machines.Do(t, func() { c, err = pxetest.Listen("c0") })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// web is an HTTP client in the machine's namespace, at an address.
func (l *lan) web(t testing.TB, prefix string) *http.Client {
	t.Helper()
	l.run(t, "ip", "addr", "add", prefix, "dev", "c0")
	return &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: l.dial(t)}}
}

// dial connects from the machine's namespace.
func (l *lan) dial(t testing.TB) func(ctx context.Context, network, addr string) (net.Conn, error) {
	return func(ctx context.Context, network, addr string) (c net.Conn, err error) {
		l.machines.Do(t, func() { c, err = (&net.Dialer{}).DialContext(ctx, network, addr) })
		return c, err
	}
}

func (l *lan) run(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := l.machines.Output(t.Context(), t, name, args...)
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return out
}

var serverNet = []netip.Prefix{netip.MustParsePrefix("10.77.0.1/16")}

// TestProgramForHTTPBoot gives HTTP boot a program of its own and others their loader.
func TestProgramForHTTPBoot(t *testing.T) {
	at := Network{Server: addr("10.77.0.1")}
	s := &Server{cfg: Config{Loaders: testLoaders, HTTPPort: 80, FilesPort: 7480}}
	for name, c := range map[string]struct {
		client  Client
		program string
		want    string
	}{
		"UKI":       {ClientHTTP, "/blobs/ab/x.efi", "http://10.77.0.1:7480/blobs/ab/x.efi?mac=" + hexhyp(MAC(testMAC)) + "&stage=loader"},
		"elsewhere": {ClientHTTP, "http://192.0.2.7/x.efi", "http://192.0.2.7/x.efi"},
		"none":      {ClientHTTP, "", "http://10.77.0.1/snponly.efi"},
		"PXE":       {ClientUEFI, "/blobs/ab/x.efi", "snponly.efi"},
	} {
		q := query{Request: &Request{Machine: Machine{MAC: testMAC, Arch: "amd64", Client: c.client}}}
		if got, ok := s.bootFile(q, Boot{Program: c.program}, at); got != c.want || !ok {
			t.Errorf("%s: bootFile() = %q, %v, want %q", name, got, ok, c.want)
		}
	}
}

func TestFirmwareBoots(t *testing.T) {
	l := newLAN(t, serverNet)
	var seen lockedRecorder
	s := l.full(t, func(c *Config) {
		c.Observer = &seen
		c.Booter = decider(func(m Machine) (Boot, error) {
			if !m.OwnsLAN {
				t.Errorf("%+v: the LAN is not owned", m)
			}
			return Boot{Kernel: "http://10.77.0.1/snponly.efi", Initramfs: "http://10.77.0.1//undionly.kpxe", Cmdline: "x"}, nil
		})
	})
	web := l.web(t, "10.77.0.2/16")
	tftpServer(t, s)
	fetch := func(ctx context.Context, server netip.Addr, name string) (b []byte, err error) {
		l.machines.Do(t, func() { b, err = pxetest.TFTP(ctx, server, name) })
		return b, err
	}
	for i, kind := range []pxetest.Kind{pxetest.BIOS, pxetest.UEFI, pxetest.HTTP, pxetest.IPXE} {
		f := &pxetest.Firmware{Kind: kind, MAC: pxetest.MAC(i + 1), Conn: l.raw(t), HTTP: web, Files: fetch}
		b, err := f.Boot(t.Context())
		if err != nil {
			t.Fatalf("%s: %v", kind, err)
		}
		if len(b.Addresses) == 2 && b.Addresses[0] != b.Addresses[1] {
			t.Errorf("%s: iPXE has %v, the firmware had %v", kind, b.Addresses[1], b.Addresses[0])
		}
		wantLoader := map[pxetest.Kind]string{pxetest.BIOS: "undionly.kpxe", pxetest.UEFI: "snponly.efi", pxetest.HTTP: "http://10.77.0.1/snponly.efi"}[kind]
		if b.Loader != wantLoader || b.KernelLen != 8 || b.InitrdLen != 8 {
			t.Errorf("%s: loader %q, kernel of %d, initramfs of %d bytes, want %q, 8, 8", kind, b.Loader, b.KernelLen, b.InitrdLen, wantLoader)
		}
		if !strings.Contains(b.ScriptURL, "/boot.ipxe?mac="+hexhyp(MAC(f.MAC))+"&arch=amd64&uuid=") {
			t.Errorf("%s: script at %q", kind, b.ScriptURL)
		}
		if kind != pxetest.IPXE && b.LoaderLen != 8 {
			t.Errorf("%s: a loader of %d bytes, want 8", kind, b.LoaderLen)
		}
	}
	// Here all machines fetch from one address, so a loader may be booked to
	// another one of them.
	for _, stage := range []Stage{StageDHCP, StageLoader, StageScript} {
		if !strings.Contains(seen.stages(), string(stage)) {
			t.Errorf("no event %s in: %s", stage, seen.stages())
		}
	}
	if got := s.Timeline(pxetest.MAC(1)); len(got) < 2 {
		t.Errorf("timeline of the first machine: %v", got)
	}
}

// tftpServer serves loaders by TFTP and tells s of it.
func tftpServer(t *testing.T, s *Server) {
	t.Helper()
	c, err := net.ListenPacket("udp4", ":69")
	if err != nil {
		t.Fatal(err)
	}
	ts, err := tftp.New(tftp.Config{Conn: c, Source: tftp.FS(testLoaders), Observe: func(x tftp.Transfer) {
		s.TFTPDone(x.Client, x.Name, x.Bytes, x.Dur, x.Err)
	}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := ts.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { cancel(); wg.Wait(); c.Close() })
}

// TestWithoutNetwork is how other packages can test: no namespace, no rights,
// nothing but loopback.
func TestWithoutNetwork(t *testing.T) {
	listen := func() net.PacketConn {
		c, err := net.ListenPacket("udp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	web, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer web.Close()
	dhcp := listen()
	port := uint16(web.Addr().(*net.TCPAddr).Port)
	cfg := Config{
		Sockets:  &Sockets{Links: []Link{{Name: "room", DHCP: struct{ net.PacketConn }{dhcp}}}, HTTP: web},
		HTTPPort: port, FilesPort: port, Loaders: testLoaders,
		Booter:     decider(func(Machine) (Boot, error) { return Boot{Kernel: "/snponly.efi", Initramfs: "/undionly.kpxe"}, nil }),
		Interfaces: []Interface{{Name: "room", Mode: ModeFull, Subnet: Subnet{Network: Network{Prefix: netip.MustParsePrefix("127.0.0.1/8")}}}},
	}
	for range 2 { // a server that is started again takes the same sockets
		ctx, cancel := context.WithCancel(t.Context())
		s, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- s.Run(ctx) }()
		f := &pxetest.Firmware{Kind: pxetest.HTTP, MAC: pxetest.MAC(1), Conn: listen(), Server: dhcp.LocalAddr()}
		b, err := f.Boot(t.Context())
		if err != nil || b.KernelLen != 8 || b.InitrdLen != 8 {
			t.Errorf("Boot() = %+v, %v", b, err)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	}
}

func TestProxyAnswersBesideOthers(t *testing.T) {
	l := newLAN(t, serverNet)
	l.serve(t, ModeProxy, nil)
	conn := l.raw(t)
	f := &pxetest.Firmware{Kind: pxetest.UEFI, MAC: pxetest.MAC(1), Conn: conn}
	offer := exchange(t, conn, f.Discover(false))
	if offer == nil || addrOf(offer.YourIPAddr).IsValid() || string(offer.Options.Get(dhcpv4.OptionClassIdentifier)) != "PXEClient" {
		t.Fatalf("offer of a proxy: %v", offer)
	}
	// An operating system is none of its business, nor is the REQUEST.
	silence(t, conn, ask(discover))
	silence(t, conn, f.Request(false, offer))
}

// exchange sends m and gives the answer, nil when none comes.
func exchange(t testing.TB, c net.PacketConn, m *dhcpv4.DHCPv4) *dhcpv4.DHCPv4 {
	t.Helper()
	return exchangeAt(t, c, m, &net.UDPAddr{IP: net.IPv4bcast, Port: portServer}, 5*time.Second)
}

// silence fails the test when m is answered within a moment.
func silence(t testing.TB, c net.PacketConn, m *dhcpv4.DHCPv4) {
	t.Helper()
	if a := exchangeAt(t, c, m, &net.UDPAddr{IP: net.IPv4bcast, Port: portServer}, 300*time.Millisecond); a != nil {
		t.Errorf("it was answered: %v", a.Summary())
	}
}

func exchangeAt(t testing.TB, c net.PacketConn, m *dhcpv4.DHCPv4, to net.Addr, wait time.Duration) *dhcpv4.DHCPv4 {
	t.Helper()
	if _, err := c.WriteTo(m.ToBytes(), to); err != nil {
		t.Fatal(err)
	}
	c.SetReadDeadline(time.Now().Add(wait))
	b := make([]byte, 2048)
	for {
		n, _, err := c.ReadFrom(b)
		if err != nil {
			return nil
		}
		a, err := dhcpv4.FromBytes(b[:n])
		if err != nil {
			t.Fatalf("the answer cannot be read: %v", err)
		}
		if a.TransactionID == m.TransactionID && a.OpCode == dhcpv4.OpcodeBootReply {
			return a
		}
	}
}

func TestPort4011(t *testing.T) {
	l := newLAN(t, serverNet)
	l.serve(t, ModeProxy, nil)
	l.run(t, "ip", "addr", "add", "10.77.0.9/16", "dev", "c0")
	for _, port := range []int{4011, 68} { // OVMF asks from 4011, iPXE from 68
		var c net.PacketConn
		var err error
		l.machines.Do(t, func() {
			c, err = net.ListenUDP("udp4", &net.UDPAddr{IP: net.IP{10, 77, 0, 9}, Port: port})
		})
		if err != nil {
			t.Fatal(err)
		}
		f := &pxetest.Firmware{Kind: pxetest.UEFI, MAC: pxetest.MAC(1)}
		m := f.Discover(false)
		m.UpdateOption(dhcpv4.OptMessageType(dhcpv4.MessageTypeRequest))
		m.ClientIPAddr = net.IP{10, 77, 0, 9}
		ack := exchangeAt(t, c, m, &net.UDPAddr{IP: net.IP{10, 77, 0, 1}, Port: portProxy}, 5*time.Second)
		c.Close()
		if ack == nil || ack.MessageType() != dhcpv4.MessageTypeAck || ack.BootFileName != "snponly.efi" || ack.YourIPAddr != nil && !ack.YourIPAddr.IsUnspecified() {
			t.Errorf("from port %d: %v", port, ack)
		}
	}
}

func TestRefusedMachines(t *testing.T) {
	l := newLAN(t, serverNet)
	var seen lockedRecorder
	l.full(t, func(c *Config) {
		c.Observer = &seen
		c.Booter = decider(func(Machine) (Boot, error) { return Boot{Refused: "enrollment is closed"}, nil })
	})
	conn := l.raw(t)
	for range 3 {
		f := &pxetest.Firmware{Kind: pxetest.BIOS, MAC: pxetest.MAC(1)}
		silence(t, conn, f.Discover(false))
	}
	if m := exchange(t, conn, ask(discover)); m == nil {
		t.Error("an operating system got no address")
	}
	if got := seen.stages(); got != "refused" {
		t.Errorf("events %q, want one of a refusal", got)
	}
}

func TestLeaseOfAnOperatingSystem(t *testing.T) {
	l := newLAN(t, serverNet)
	s := l.full(t, func(c *Config) { c.LeaseFile = filepath.Join(t.TempDir(), "leases") })
	conn := l.raw(t)
	request := func(opts ...dhcpv4.Option) *dhcpv4.DHCPv4 { return ask(dhcpv4.MessageTypeRequest, opts...) }
	offer := exchange(t, conn, ask(discover))
	if offer == nil {
		t.Fatal("no offer")
	}
	ip := addrOf(offer.YourIPAddr)
	wanted := func(a netip.Addr) dhcpv4.Option { return dhcpv4.OptRequestedIPAddress(a.AsSlice()) }
	using := func(m *dhcpv4.DHCPv4, a netip.Addr) *dhcpv4.DHCPv4 { m.ClientIPAddr = a.AsSlice(); return m }
	server := func(a string) dhcpv4.Option { return dhcpv4.OptServerIdentifier(addr(a).AsSlice()) }
	const none, ack, nak = dhcpv4.MessageTypeNone, dhcpv4.MessageTypeAck, dhcpv4.MessageTypeNak
	l.run(t, "ip", "addr", "add", ip.String()+"/16", "dev", "c0") // it answers ARP from now on
	steps := []struct {
		name string
		ask  *dhcpv4.DHCPv4
		want dhcpv4.MessageType
	}{
		{"takes the offer", request(wanted(ip), server("10.77.0.1")), ack},
		{"renews", using(request(), ip), ack},
		{"was started again", request(wanted(ip)), ack},
		{"was started again elsewhere", request(wanted(addr("192.168.1.7"))), nak},
		{"renews an address of elsewhere", using(request(), addr("192.168.1.7")), nak},
		{"asks for facts", using(ask(dhcpv4.MessageTypeInform), ip), ack},
		{"took the offer of another server", request(wanted(addr("10.77.0.99")), server("10.77.0.5")), none},
		{"still has its lease", using(request(), ip), ack},
		{"found it in use", ask(dhcpv4.MessageTypeDecline, wanted(ip), server("10.77.0.1")), none},
		{"wants it again", request(wanted(ip)), nak},
	}
	for _, st := range steps {
		if st.want == none {
			silence(t, conn, st.ask)
			continue
		}
		m := exchange(t, conn, st.ask)
		got := none
		if m != nil {
			got = m.MessageType()
		}
		if got != st.want {
			t.Fatalf("%s: answer %v, want %v", st.name, got, st.want)
		}
		if st.ask.MessageType() == dhcpv4.MessageTypeInform && (addrOf(m.YourIPAddr).IsValid() || m.Options.Get(dhcpv4.OptionIPAddressLeaseTime) != nil) {
			t.Errorf("INFORM was answered with an address: %v", m.Summary())
		}
	}
	if in := s.Interfaces()[0]; !strings.Contains(in.Reason, "10.77.0.5") {
		t.Errorf("the other server is not told: %q", in.Reason)
	}
}

// TestReservation gives a machine the address that is reserved for it while it
// boots, and its operating system the same.
func TestReservation(t *testing.T) {
	l := newLAN(t, serverNet)
	fixed := addr("10.77.0.7") // outside the pool
	l.full(t, func(c *Config) {
		c.Booter = decider(func(Machine) (Boot, error) { return Boot{Kernel: "/k", FixedIP: fixed}, nil })
	})
	conn := l.raw(t)
	f := &pxetest.Firmware{Kind: pxetest.UEFI, MAC: testMAC, Conn: conn}
	if lease, err := f.DHCP(t.Context(), false, nil); err != nil || lease.IP != fixed {
		t.Fatalf("firmware: %v, %v", lease.IP, err)
	}
	offer := exchange(t, conn, ask(discover))
	if offer == nil || addrOf(offer.YourIPAddr) != fixed {
		t.Fatalf("operating system: offer %v", offer)
	}
	m := ask(dhcpv4.MessageTypeRequest, dhcpv4.OptRequestedIPAddress(fixed.AsSlice()))
	if ack := exchange(t, conn, m); ack == nil || ack.MessageType() != dhcpv4.MessageTypeAck {
		t.Errorf("operating system: %v", ack)
	}
}

func TestRelayedNetwork(t *testing.T) {
	l := newLAN(t, serverNet)
	l.full(t, func(c *Config) {
		c.Relayed = []Subnet{{Network: Network{Prefix: netip.MustParsePrefix("10.88.0.1/24"), Router: addr("10.88.0.1")}}}
	})
	l.run(t, "ip", "addr", "add", "10.77.0.2/16", "dev", "c0")
	l.run(t, "ip", "addr", "add", "10.88.0.1/32", "dev", "c0")
	netnstest.DefaultRoute(t, nil, addr("10.77.0.2"))
	var relay net.PacketConn
	var err error
	l.machines.Do(t, func() { relay, err = net.ListenPacket("udp4", ":67") })
	if err != nil {
		t.Fatal(err)
	}
	defer relay.Close()
	f := &pxetest.Firmware{Kind: pxetest.UEFI, MAC: pxetest.MAC(1), Relay: addr("10.88.0.1")}
	m := f.Discover(false)
	m.UpdateOption(raw(82, 1, 3, 'g', 'e', '7'))
	to := &net.UDPAddr{IP: net.IP{10, 77, 0, 1}, Port: portServer}
	offer := exchangeAt(t, relay, m, to, 5*time.Second)
	if offer == nil {
		t.Fatal("no offer")
	}
	if ip := addrOf(offer.YourIPAddr); !netip.MustParsePrefix("10.88.0.0/24").Contains(ip) {
		t.Errorf("address %v is not of the relay's network", ip)
	}
	if string(offer.Options.Get(dhcpv4.OptionRelayAgentInformation)) != "\x01\x03ge7" || !offer.IsBroadcast() {
		t.Errorf("option 82 or the flags did not come back: %v", offer.Summary())
	}
	if ack := exchangeAt(t, relay, f.Request(false, offer), to, 5*time.Second); ack == nil || ack.MessageType() != dhcpv4.MessageTypeAck {
		t.Errorf("REQUEST: %v", ack)
	}
	m.GatewayIPAddr = net.IP{10, 99, 0, 1}
	if m := exchangeAt(t, relay, m, to, 300*time.Millisecond); m != nil {
		t.Errorf("a relay of an unknown network was answered: %v", m.Summary())
	}
}

func TestUdhcpc(t *testing.T) {
	need.Program(t, "busybox", "busybox-static")
	l := newLAN(t, serverNet)
	l.full(t, nil)
	out := l.run(t, "busybox", "udhcpc", "-i", "c0", "-f", "-q", "-n", "-s", "/bin/true")
	if !strings.Contains(out, "obtained from 10.77.0.1, lease time 43200") {
		t.Errorf("udhcpc said:\n%s", out)
	}
}

func TestNclient4(t *testing.T) {
	l := newLAN(t, serverNet)
	l.full(t, func(c *Config) { c.Interfaces[0].Router = addr("10.77.0.1") })
	var c *nclient4.Client
	var err error
	l.machines.Do(t, func() { c, err = nclient4.New("c0", nclient4.WithTimeout(3*time.Second)) })
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	lease, err := c.Request(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if lease.ACK.Router() == nil || lease.ACK.IPAddressRenewalTime(0) != DefaultLease/2 {
		t.Errorf("the lease: %v", lease.ACK.Summary())
	}
	l.run(t, "ip", "addr", "add", lease.ACK.YourIPAddr.String()+"/16", "dev", "c0")
	again, err := c.Renew(t.Context(), lease)
	if err != nil || !again.ACK.YourIPAddr.Equal(lease.ACK.YourIPAddr) {
		t.Errorf("Renew() = %v, %v", again, err)
	}
	if err := c.Release(lease); err != nil {
		t.Error(err)
	}
}

// dnsmasq runs another DHCP server in the machines' namespace.
func (l *lan) dnsmasq(t testing.TB, args ...string) {
	t.Helper()
	program := need.Program(t, "dnsmasq", "dnsmasq-base")
	l.run(t, "ip", "addr", "add", "10.77.0.5/16", "dev", "c0")
	args = append([]string{
		"--no-daemon", "--conf-file=/dev/null", "--port=0", "--interface=c0", "--bind-interfaces",
		"--dhcp-range=10.77.1.1,10.77.1.99,1h", "--dhcp-leasefile=" + filepath.Join(t.TempDir(), "leases"), "--pid-file=",
	}, args...)
	l.machines.Command(t.Context(), t, nil, program, args...)
	waitFor(t, "dnsmasq's socket", func() bool {
		out, _ := l.machines.Output(t.Context(), t, "cat", "/proc/net/udp")
		return strings.Contains(out, ":0043 ")
	})
}

// waitFor polls for what a foreign program does.
func waitFor(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	timeout := time.After(10 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-timeout:
			t.Fatalf("waited 10 s for %s", what)
		}
	}
}

func TestDetectNobody(t *testing.T) {
	l := newLAN(t, serverNet)
	socks := l.listen(t)
	start := time.Now()
	ifs, err := Detect(t.Context(), DetectConfig{Sockets: socks, Named: []string{"s0"}})
	if err != nil || len(ifs) != 1 || ifs[0].Mode != ModeFull || ifs[0].Network.Server != addr("10.77.0.1") {
		t.Errorf("Detect() = %+v, %v, want full", ifs, err)
	}
	if d := time.Since(start); d > 6*time.Second {
		t.Errorf("Detect() took %v", d)
	}
}

func TestDetectDnsmasq(t *testing.T) {
	l := newLAN(t, serverNet)
	l.dnsmasq(t) // it pings for 3 s before it offers
	socks := l.listen(t)
	ifs, err := Detect(t.Context(), DetectConfig{Sockets: socks, Named: []string{"s0"}})
	if err != nil || len(ifs) != 1 || ifs[0].Mode != ModeProxy || !strings.Contains(ifs[0].Reason, "10.77.0.5") {
		t.Errorf("Detect() = %+v, %v, want proxy because of 10.77.0.5", ifs, err)
	}
}

// TestRouterSolicitation asks as iPXE does, and sees that Linux does not
// change its mind about routes because of the answer.
func TestRouterSolicitation(t *testing.T) {
	l := newLAN(t, serverNet)
	l.full(t, nil)
	var c net.PacketConn
	var err error
	l.machines.Do(t, func() { c, err = net.ListenPacket("ip6:ipv6-icmp", "::") })
	if err != nil {
		t.Skipf("no IPv6 here: %v", err)
	}
	defer c.Close()
	p := ipv6.NewPacketConn(c)
	if err := errors.Join(p.SetMulticastHopLimit(255), p.SetHopLimit(255)); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "an IPv6 address", func() bool { // duplicate address detection takes a second
		out := l.run(t, "ip", "-6", "addr", "show", "dev", "c0")
		return strings.Contains(out, "fe80::") && !strings.Contains(out, "tentative")
	})
	if _, err := c.WriteTo([]byte{133, 0, 0, 0, 0, 0, 0, 0}, &net.IPAddr{IP: net.ParseIP("ff02::2"), Zone: "c0"}); err != nil {
		t.Fatal(err)
	}
	c.SetReadDeadline(time.Now().Add(5 * time.Second))
	b := make([]byte, 1500)
	for b[0] != 134 {
		if _, _, err := c.ReadFrom(b); err != nil {
			t.Fatalf("no advertisement: %v", err)
		}
	}
	if out := l.run(t, "ip", "-6", "route"); strings.Contains(out, "default") {
		t.Errorf("it made a route:\n%s", out)
	}
}

// TestProxyBesideDnsmasq has three on one switch: a machine gets its address
// from dnsmasq and its boot program from this server.
func TestProxyBesideDnsmasq(t *testing.T) {
	machines, office := netnstest.New(t), netnstest.New(t)
	netnstest.Bridge(t, netnstest.End{Name: "s0", Addrs: serverNet})
	netnstest.Veth(t, netnstest.End{Name: "m0", Bridge: "s0"}, netnstest.End{NS: machines, Name: "c0", Addrs: netnstest.Addr("10.77.0.2/16")})
	netnstest.Veth(t, netnstest.End{Name: "o0", Bridge: "s0"}, netnstest.End{NS: office, Name: "c0"})
	waitFor(t, "the switch", func() bool { return running("s0") && running("m0") && running("o0") })
	(&lan{machines: office}).dnsmasq(t, "--no-ping")
	l := &lan{machines: machines}
	ifs, err := Detect(t.Context(), DetectConfig{Sockets: l.listen(t), Named: []string{"s0"}})
	if err != nil || ifs[0].Mode != ModeProxy {
		t.Fatalf("Detect() = %+v, %v", ifs, err)
	}
	s := serve(t, Config{
		Sockets: l.sockets, Interfaces: ifs, Loaders: testLoaders,
		Booter: decider(func(m Machine) (Boot, error) {
			if m.OwnsLAN {
				t.Errorf("%+v: this server owns no LAN", m)
			}
			return Boot{Kernel: "http://10.77.0.1/snponly.efi", Initramfs: "http://10.77.0.1/undionly.kpxe"}, nil
		}),
	})
	web := &http.Client{Transport: &http.Transport{DialContext: l.dial(t)}}
	for i, kind := range []pxetest.Kind{pxetest.BIOS, pxetest.UEFI, pxetest.HTTP, pxetest.IPXE} {
		f := &pxetest.Firmware{Kind: kind, MAC: pxetest.MAC(i + 1), Conn: l.raw(t), HTTP: web}
		b, err := f.Boot(t.Context())
		if err != nil || b.KernelLen != 8 {
			t.Fatalf("%s: %+v, %v", kind, b, err)
		}
		if !netip.MustParsePrefix("10.77.1.0/24").Contains(b.IP) {
			t.Errorf("%s: address %v is not dnsmasq's", kind, b.IP)
		}
		// It was overheard which address dnsmasq gave.
		if mac, ok := s.holder(b.IP); !ok || mac != MAC(f.MAC) {
			t.Errorf("%s: %v belongs to %v, %v", kind, b.IP, mac, ok)
		}
	}
}

func TestListenErrors(t *testing.T) {
	_, err := Listen(t.Context(), ListenConfig{Interfaces: []string{"nosuch0"}, DHCP: true})
	if err == nil || !strings.Contains(err.Error(), "nosuch0") {
		t.Errorf("Listen() on an interface that is not there: %v", err)
	}
	first, err := Listen(t.Context(), ListenConfig{HTTP: "127.0.0.1:8099"})
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	_, err = Listen(t.Context(), ListenConfig{HTTP: "127.0.0.1:8099"})
	if err == nil || !strings.Contains(err.Error(), "another program listens there") {
		t.Errorf("Listen() on a port that is taken: %v", err)
	}
}

// TestThousandAtOnce is a rack that is switched on: none may stay without an
// address, and none may have to ask twice.
func TestThousandAtOnce(t *testing.T) {
	r := thousand(t, pxetest.UEFI, 1000, 0)
	if r.Without > 0 || r.Resent > 0 || len(r.Addresses) != 1000 {
		t.Errorf("%d without an address, %d messages sent again, %d addresses", r.Without, r.Resent, len(r.Addresses))
	}
	t.Logf("the last of 1000 had its address after %v", r.Slowest)
}

func thousand(t testing.TB, kind pxetest.Kind, n, window int) pxetest.CrowdReport {
	t.Helper()
	l := newLAN(t, serverNet)
	l.full(t, func(c *Config) {
		c.LeaseFile = filepath.Join(t.TempDir(), "leases")
		c.Log = slog.New(slog.DiscardHandler)
	})
	var all []*pxetest.Firmware
	for i := range n {
		all = append(all, &pxetest.Firmware{Kind: kind, MAC: pxetest.MAC(i + 1)})
	}
	to := &net.UDPAddr{IP: net.IPv4bcast, Port: portServer}
	r, err := pxetest.Crowd(t.Context(), l.raw(t), to, all, window, 2*time.Second, 4)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func BenchmarkDORA(b *testing.B) {
	for _, window := range []int{1, 64} {
		b.Run(fmt.Sprintf("%d at a time", window), func(b *testing.B) {
			start := time.Now()
			r := thousand(b, pxetest.UEFI, b.N, window)
			b.ReportMetric(float64(b.N)/time.Since(start).Seconds(), "DORA/s")
			b.ReportMetric(float64(r.Resent), "resent")
		})
	}
}
