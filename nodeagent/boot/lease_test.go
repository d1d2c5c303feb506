package boot

import (
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/rfc1035label"
)

// ack is a server's answer that gives 10.0.0.7, with more options.
func ack(t testing.TB, ip string, opts ...dhcpv4.Option) *dhcpv4.DHCPv4 {
	t.Helper()
	m, err := dhcpv4.New(
		dhcpv4.WithMessageType(dhcpv4.MessageTypeAck),
		dhcpv4.WithYourIP(net.ParseIP(ip)),
		dhcpv4.WithHwAddr(mac0))
	if err != nil {
		t.Fatal(err)
	}
	m.OpCode = dhcpv4.OpcodeBootReply
	for _, o := range opts {
		m.UpdateOption(o)
	}
	return m
}

func generic(code uint8, value ...byte) dhcpv4.Option {
	return dhcpv4.OptGeneric(dhcpv4.GenericOptionCode(code), value)
}

func TestLeaseFromAck(t *testing.T) {
	const (
		netmask, mtu, lease, t1, t2, domain = 1, 26, 51, 58, 59, 15 // RFC 2132
		classless                           = 121                   // RFC 3442
	)
	now := time.Unix(1000, 0)
	addr, prefix := netip.MustParseAddr, netip.MustParsePrefix
	defaultRoute := func(gw string) []Route { return []Route{{prefix("0.0.0.0/0"), addr(gw)}} }
	// What every lease below has where nothing else is said.
	base := Lease{
		Link: "eth0", MAC: mac0, Addr: prefix("10.0.0.7/8"), Start: now,
		Renew: 30 * time.Minute, Rebind: 52*time.Minute + 30*time.Second, Expires: time.Hour,
	}
	tests := map[string]struct {
		ip   string
		opts []dhcpv4.Option
		want func(*Lease)
	}{
		"next to nothing": {"10.0.0.7", nil, func(*Lease) {}},
		"the usual": {"10.0.0.7", []dhcpv4.Option{
			dhcpv4.OptSubnetMask(net.CIDRMask(24, 32)), dhcpv4.OptRouter(net.IPv4(10, 0, 0, 254)),
			dhcpv4.OptDNS(net.IPv4(10, 0, 0, 2), net.IPv4(10, 0, 0, 3)), dhcpv4.OptDomainName("cluster.example"),
			dhcpv4.OptServerIdentifier(net.IPv4(10, 0, 0, 1)), dhcpv4.OptIPAddressLeaseTime(2 * time.Hour),
		}, func(l *Lease) {
			l.Addr, l.Routes, l.Server = prefix("10.0.0.7/24"), defaultRoute("10.0.0.254"), addr("10.0.0.1")
			l.DNS, l.Domain = []netip.Addr{addr("10.0.0.2"), addr("10.0.0.3")}, "cluster.example"
			l.Renew, l.Rebind, l.Expires = time.Hour, 105*time.Minute, 2*time.Hour
		}},
		"T1 and T2 of the server": {"10.0.0.7", []dhcpv4.Option{
			generic(lease, 0, 0, 0, 100), generic(t1, 0, 0, 0, 40), generic(t2, 0, 0, 0, 90),
		}, func(l *Lease) {
			l.Renew, l.Rebind, l.Expires = 40*time.Second, 90*time.Second, 100*time.Second
		}},
		"T1 behind T2": {"10.0.0.7", []dhcpv4.Option{
			generic(lease, 0, 0, 0, 160), generic(t1, 0, 0, 0, 150), generic(t2, 0, 0, 0, 90),
		}, func(l *Lease) {
			l.Renew, l.Rebind, l.Expires = 80*time.Second, 140*time.Second, 160*time.Second
		}},
		"for ever":       {"10.0.0.7", []dhcpv4.Option{generic(lease, 255, 255, 255, 255)}, func(l *Lease) { l.Renew, l.Rebind, l.Expires = 0, 0, 0 }},
		"for an instant": {"10.0.0.7", []dhcpv4.Option{generic(lease, 0, 0, 0, 1)}, func(l *Lease) { l.Renew, l.Rebind, l.Expires = 10*time.Second, 17500*time.Millisecond, 20*time.Second }},
		"classless routes replace the router": {"10.0.0.7", []dhcpv4.Option{
			dhcpv4.OptRouter(net.IPv4(10, 0, 0, 254)),
			generic(classless, 24, 192, 168, 1, 10, 0, 0, 9, 0, 10, 0, 0, 8, 16, 172, 16, 0, 0, 0, 0),
		}, func(l *Lease) {
			l.Routes = []Route{{prefix("192.168.1.0/24"), addr("10.0.0.9")}, {prefix("0.0.0.0/0"), addr("10.0.0.8")}, {prefix("172.16.0.0/16"), netip.Addr{}}}
		}},
		"broken classless routes": {"10.0.0.7", []dhcpv4.Option{generic(classless, 24, 192)}, func(*Lease) {}},
		"MTU":                     {"10.0.0.7", []dhcpv4.Option{generic(mtu, 0x23, 0x28)}, func(l *Lease) { l.MTU = 9000 }},
		"MTU too small":           {"10.0.0.7", []dhcpv4.Option{generic(mtu, 0, 68)}, func(*Lease) {}},
		"MTU of one byte":         {"10.0.0.7", []dhcpv4.Option{generic(mtu, 1)}, func(*Lease) {}},
		"hole in the mask":        {"10.0.0.7", []dhcpv4.Option{generic(netmask, 255, 0, 255, 0)}, func(*Lease) {}},
		"domain that is none":     {"10.0.0.7", []dhcpv4.Option{generic(domain, []byte("a\nnameserver 6.6.6.6")...)}, func(*Lease) {}},
		"domain ended by NUL":     {"10.0.0.7", []dhcpv4.Option{generic(domain, []byte("lab\x00")...)}, func(l *Lease) { l.Domain = "lab" }},
		"search list": {"10.0.0.7", []dhcpv4.Option{
			dhcpv4.OptDomainName("other"), dhcpv4.OptDomainSearch(&rfc1035label.Labels{Labels: []string{"a.example", "b.example"}}),
		}, func(l *Lease) { l.Domain = "a.example" }},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got, ok := leaseFromAck("eth0", ack(t, tc.ip, tc.opts...), now)
			if !ok {
				t.Fatal("leaseFromAck() = false, want a lease")
			}
			got.ack = nil
			want := base
			tc.want(&want)
			if d := cmp.Diff(want, got, cmp.AllowUnexported(Lease{}), cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
				cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); d != "" {
				t.Errorf("leaseFromAck(), -want +got:\n%s", d)
			}
		})
	}
}

func TestLeaseFromAckWithoutAddress(t *testing.T) {
	for _, ip := range []string{"0.0.0.0", "127.0.0.1", "224.0.0.1"} {
		if l, ok := leaseFromAck("eth0", ack(t, ip), time.Unix(1000, 0)); ok {
			t.Errorf("leaseFromAck() of %s = %+v, want none", ip, l)
		}
	}
}

// A server is a stranger: whatever it sends must give a lease that the machine
// can use, or none.
func FuzzLeaseFromAck(f *testing.F) {
	f.Add(ack(f, "10.0.0.7", dhcpv4.OptDomainName("a.b"), generic(121, 24, 192, 168, 1, 10, 0, 0, 9), generic(119, 1, 'a', 0)).ToBytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := dhcpv4.FromBytes(b)
		if err != nil {
			return
		}
		l, ok := leaseFromAck("eth0", m, time.Unix(1000, 0))
		if !ok {
			return
		}
		if !l.Addr.IsValid() || l.Addr.Bits() == 0 {
			t.Errorf("address = %v", l.Addr)
		}
		if l.Expires != 0 && (l.Renew <= 0 || l.Rebind <= l.Renew || l.Expires <= l.Rebind) {
			t.Errorf("times = %v, %v, %v", l.Renew, l.Rebind, l.Expires)
		}
		for line := range strings.Lines(resolvConf(l)) {
			if f := strings.Fields(line); len(f) != 2 || f[0] != "search" && f[0] != "nameserver" {
				t.Errorf("resolv.conf has %q", line)
			}
		}
		for _, r := range l.Routes {
			if !r.Dst.IsValid() {
				t.Errorf("route = %v", r)
			}
		}
	})
}

func TestResolvConf(t *testing.T) {
	l := Lease{Domain: "cluster.example"}
	for _, s := range []string{"10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"} {
		l.DNS = append(l.DNS, netip.MustParseAddr(s))
	}
	want := "search cluster.example\nnameserver 10.0.0.1\nnameserver 10.0.0.2\nnameserver 10.0.0.3\n"
	if got := resolvConf(l); got != want {
		t.Errorf("resolvConf() = %q, want %q", got, want)
	}
}

func TestMachineID(t *testing.T) {
	want := []byte{0, 0x44, 0x45, 0x4c, 0x4c, 0x44, 0x00, 0x10, 0x33, 0x80, 0x59, 0xb1, 0xc0, 0x4f, 0x4b, 0x44, 0x32}
	if d := cmp.Diff(want, machineID("4c4c4544-0044-3310-8059-b1c04f4b4432")); d != "" {
		t.Errorf("machineID(), -want +got:\n%s", d)
	}
	for _, s := range []string{"", "4c4c4544", "nonsense"} {
		if got := machineID(s); got != nil {
			t.Errorf("machineID(%q) = %x, want none", s, got)
		}
	}
}
