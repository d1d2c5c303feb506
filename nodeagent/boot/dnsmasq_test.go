package boot

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"muster/api"
	"muster/internal/need"
	"muster/internal/netnstest"
)

func TestMain(m *testing.M) { netnstest.Main(m) }

// Network against a DHCP server that others wrote, over a cable.

const testUUID = "4c4c4544-0044-3310-8059-b1c04f4b4432"

// dnsmasqServer is a dnsmasq at the other end of a cable.
type dnsmasqServer struct {
	ns  *netnstest.NS
	log string
	cmd *exec.Cmd
}

// startDnsmasq starts one at the far end of a new cable named link.
func startDnsmasq(t *testing.T, link string, mac net.HardwareAddr, ranges string, args ...string) *dnsmasqServer {
	t.Helper()
	need.Program(t, "dnsmasq", "dnsmasq-base")
	s := &dnsmasqServer{ns: netnstest.New(t), log: filepath.Join(t.TempDir(), "log")}
	netnstest.Veth(t,
		netnstest.End{Name: link, MAC: mac},
		netnstest.End{NS: s.ns, Name: "srv", Addrs: netnstest.Addr("10.77.0.1/24")})
	s.start(t, ranges, args...)
	return s
}

func (s *dnsmasqServer) start(t *testing.T, ranges string, args ...string) {
	t.Helper()
	out, err := os.OpenFile(s.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	s.cmd = s.ns.Command(t.Context(), t, func(c *exec.Cmd) { c.Stderr = out },
		need.Program(t, "dnsmasq", "dnsmasq-base"), append(args,
			"--no-daemon", "--conf-file=/dev/null", "--port=0", "--interface=srv", "--bind-interfaces",
			"--user=root", "--no-ping", "--log-dhcp", "--dhcp-authoritative",
			"--dhcp-leasefile="+filepath.Join(t.TempDir(), "leases"),
			"--dhcp-range="+ranges,
			"--dhcp-option=option:router,10.77.0.254", "--dhcp-option=option:dns-server,10.77.0.3,10.77.0.4",
			"--dhcp-option=option:domain-name,cluster.example", "--dhcp-option=option:mtu,1400")...)
}

func (s *dnsmasqServer) stop() {
	s.cmd.Process.Kill() //nolint:errcheck // it may have ended
	s.cmd.Wait()         //nolint:errcheck // killed
}

// said returns what dnsmasq has logged.
func (s *dnsmasqServer) said(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile(s.log)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// leased is a Network that runs, and its news.
type leased struct {
	leases     chan *Lease
	resolvConf string
}

func runRealNetwork(t *testing.T, prefer net.HardwareAddr) leased {
	t.Helper()
	l := leased{leases: make(chan *Lease, 16), resolvConf: filepath.Join(t.TempDir(), "resolv.conf")}
	nw, err := NewNetwork(NetworkConfig{
		BootMAC:    prefer,
		UUID:       testUUID,
		HostName:   func() string { return "machine-1" },
		ResolvConf: l.resolvConf,
		Changed:    func(x *Lease) { l.leases <- x },
		links:      kernelLinks{kinds: []string{"veth"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- nw.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run() = %v, want nil", err)
		}
	})
	return l
}

// next waits for news.
func (l leased) next(t *testing.T) *Lease {
	t.Helper()
	select {
	case x := <-l.leases:
		return x
	case <-time.After(30 * time.Second):
		t.Fatal("no news of an address within 30 s")
		return nil
	}
}

func TestDnsmasqLease(t *testing.T) {
	s := startDnsmasq(t, "eth0", mac0, "10.77.0.50,10.77.0.50,255.255.255.0,5m")
	l := runRealNetwork(t, nil)
	lease := l.next(t)
	if lease == nil {
		t.Fatal("the address was lost")
	}
	if got, want := lease.Addr.String(), "10.77.0.50/24"; got != want {
		t.Errorf("address = %s, want %s", got, want)
	}
	if lease.Server != netip.MustParseAddr("10.77.0.1") || lease.Expires != 5*time.Minute || lease.Renew != 150*time.Second {
		t.Errorf("lease = %+v, want one of 10.77.0.1 for 5m", lease)
	}

	dev, err := netlink.LinkByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	if mtu := dev.Attrs().MTU; mtu != 1400 {
		t.Errorf("MTU = %d, want 1400", mtu)
	}
	list, err := netlink.AddrList(dev, netlink.FAMILY_V4)
	if err != nil || len(list) != 1 || list[0].IPNet.String() != "10.77.0.50/24" {
		t.Fatalf("addresses = %v, %v, want 10.77.0.50/24", list, err)
	}
	if v := list[0].ValidLft; v < 290 || v > 300 {
		t.Errorf("the kernel keeps the address for %d s, want 300", v)
	}
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Protocol: unix.RTPROT_DHCP}, netlink.RT_FILTER_PROTOCOL)
	if err != nil || len(routes) != 1 || routes[0].Gw.String() != "10.77.0.254" {
		t.Errorf("routes = %v, %v, want the default one through 10.77.0.254", routes, err)
	}
	conf, err := os.ReadFile(l.resolvConf)
	if want := "search cluster.example\nnameserver 10.77.0.3\nnameserver 10.77.0.4\n"; err != nil || string(conf) != want {
		t.Errorf("resolv.conf = %q, %v, want %q", conf, err, want)
	}
	log := s.said(t)
	for _, want := range []string{"vendor class: muster", "client provides name: machine-1"} {
		if !strings.Contains(log, want) {
			t.Errorf("dnsmasq was not told %q:\n%s", want, log)
		}
	}
}

func TestDnsmasqExtend(t *testing.T) {
	s := startDnsmasq(t, "eth0", mac0, "10.77.0.50,10.77.0.50,255.255.255.0,5m")
	l := runRealNetwork(t, nil)
	lease := l.next(t)
	if lease == nil {
		t.Fatal("the address was lost")
	}
	client := dhcpClient{identity{uuid: testUUID}}
	for _, broadcast := range []bool{false, true} {
		next, err := client.extend(t.Context(), *lease, broadcast)
		if err != nil {
			t.Fatalf("extend(broadcast: %v) = %v\n%s", broadcast, err, s.said(t))
		}
		if next.Addr != lease.Addr || next.Server != lease.Server {
			t.Errorf("extended lease = %+v, want that of %s", next, lease.Addr)
		}
		lease = &next
	}

	// Another server, that knows nothing of the lease, refuses it.
	s.stop()
	s.start(t, "10.77.0.60,10.77.0.60,255.255.255.0,5m")
	if _, err := client.extend(t.Context(), *lease, true); !errors.Is(err, errNak) {
		t.Errorf("extend() = %v, want %v\n%s", err, errNak, s.said(t))
	}
}

// A cable that was out is asked about: here it leads to another network then.
func TestDnsmasqCableToAnotherNetwork(t *testing.T) {
	s := startDnsmasq(t, "eth0", mac0, "10.77.0.50,10.77.0.50,255.255.255.0,5m")
	l := runRealNetwork(t, nil)
	if lease := l.next(t); lease == nil {
		t.Fatal("the address was lost")
	}
	netnstest.SetUp(t, s.ns, "srv", false)
	s.stop()
	netnstest.SetUp(t, s.ns, "srv", true)
	s.start(t, "10.77.0.60,10.77.0.60,255.255.255.0,5m")
	if lease := l.next(t); lease != nil {
		t.Fatalf("lease = %+v, want it lost", lease)
	}
	lease := l.next(t)
	if lease == nil || lease.Addr.String() != "10.77.0.60/24" {
		t.Fatalf("lease = %+v, want 10.77.0.60\n%s", lease, s.said(t))
	}
	dev, err := netlink.LinkByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	list, err := netlink.AddrList(dev, netlink.FAMILY_V4)
	if err != nil || len(list) != 1 || list[0].IPNet.String() != "10.77.0.60/24" {
		t.Errorf("addresses = %v, %v, want 10.77.0.60/24 alone", list, err)
	}
}

func TestDnsmasqOfTwoLinksTheBootLink(t *testing.T) {
	startDnsmasq(t, "eth0", mac0, "10.77.0.50,10.77.0.50,255.255.255.0,5m")
	startDnsmasq(t, "eth1", mac1, "10.77.0.60,10.77.0.60,255.255.255.0,5m")
	for i, want := range []string{"10.77.0.50/24 eth0", "10.77.0.60/24 eth1"} {
		t.Run(want, func(t *testing.T) {
			lease := runRealNetwork(t, []net.HardwareAddr{mac0, mac1}[i]).next(t)
			if got := fmt.Sprint(lease.Addr, " ", lease.Link); got != want {
				t.Errorf("lease = %s, want %s", got, want)
			}
			if err := (kernelLinks{}).remove(*lease); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestKernelLinksList(t *testing.T) {
	ns := netnstest.New(t)
	netnstest.Veth(t, netnstest.End{Name: "eth0", MAC: mac0}, netnstest.End{NS: ns, Name: "far"})
	netnstest.Bridge(t, netnstest.End{Name: "br0"})
	netnstest.Veth(t, netnstest.End{Name: "port0", Bridge: "br0"}, netnstest.End{NS: ns, Name: "far2"})
	got, err := kernelLinks{kinds: []string{"veth"}}.list()
	if err != nil {
		t.Fatal(err)
	}
	for i := range got {
		got[i].Index, got[i].Changes = 0, 0
	}
	want := []link{{Name: "eth0", MAC: mac0, Up: true, Carrier: true}}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("list(), -want +got:\n%s", d)
	}
}

// A DHCP server that others wrote can name the head for agents.
func TestDnsmasqNamesHead(t *testing.T) {
	pin := strings.Repeat("ab", 32)
	s := startDnsmasq(t, "eth0", mac0, "10.77.0.50,10.77.0.50,255.255.255.0,5m",
		"--dhcp-option=vendor:muster,201,10.77.0.9:7421", "--dhcp-option=vendor:muster,202,"+pin)
	lease := runRealNetwork(t, nil).next(t)
	if lease == nil {
		t.Fatal("the address was lost")
	}
	if want := (api.HeadNote{Addr: "10.77.0.9:7421", Pin: pin}); lease.Head != want {
		t.Errorf("head = %+v, want %+v; dnsmasq:\n%s", lease.Head, want, s.said(t))
	}
}
