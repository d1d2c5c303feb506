package mdns

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"muster/internal/netnstest"
)

func TestMain(m *testing.M) { netnstest.Main(m) }

// far is the namespace of a responder at the other end of a cable, with the address 192.0.2.1.
func far(t *testing.T) *netnstest.NS {
	t.Helper()
	ns := netnstest.New(t)
	netnstest.Veth(t,
		netnstest.End{NS: ns, Name: "m0", Addrs: netnstest.Addr("192.0.2.1/24")},
		netnstest.End{Name: "m1", Addrs: netnstest.Addr("192.0.2.2/24")})
	return ns
}

// respond runs a responder there until the returned function is called.
func respond(t *testing.T, ns *netnstest.NS, s Service) (stop func()) {
	t.Helper()
	var conn *net.UDPConn
	ns.Do(t, func() {
		var err error
		if conn, err = Listen(t.Context(), "m0"); err != nil {
			t.Fatal(err)
		}
	})
	t.Cleanup(func() { conn.Close() })
	r, err := New(Config{
		Service: s, Links: []Link{{Name: "m0", Conn: conn}},
		own: func(string) []netip.Prefix { return netnstest.Addr("192.0.2.1/24") },
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

// TestBrowse finds a service over a cable, beside another program that has the port.
func TestBrowse(t *testing.T) {
	ns := far(t)
	// As avahi has it: the port on every address, shared.
	ns.Do(t, func() {
		lc := net.ListenConfig{Control: onSocket(func(fd int) error {
			return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
		})}
		other, err := lc.ListenPacket(t.Context(), "udp4", ":5353")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { other.Close() })
	})
	s := testService()
	stop := respond(t, ns, s)
	browse := func() []Found {
		t.Helper()
		list, err := Browse(t.Context(), s.Type, 1500*time.Millisecond)
		if err != nil {
			t.Fatal(err)
		}
		return list
	}
	want := []Found{{Instance: s.Instance, Addr: netip.MustParseAddrPort("192.0.2.1:7421"), Text: s.Text}}
	same := cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })
	if d := cmp.Diff(want, browse(), same); d != "" {
		t.Errorf("Browse: %s", d)
	}
	stop()
	if got := browse(); len(got) != 0 {
		t.Errorf("Browse = %v after the responder ended, want nothing", got)
	}
}

// TestMulticastAnswer listens to the group as a cache does.
func TestMulticastAnswer(t *testing.T) {
	ns := far(t)
	conn, err := Listen(t.Context(), "m1")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	s := testService()
	stop := respond(t, ns, s)
	next := func(what string) []byte {
		t.Helper()
		buf := make([]byte, maxMessage)
		conn.SetReadDeadline(time.Now().Add(5 * time.Second))
		for {
			n, from, err := conn.ReadFromUDPAddrPort(buf)
			if err != nil {
				t.Fatalf("waiting for %s: %v", what, err)
			}
			if from.Addr().Unmap() == netip.MustParseAddr("192.0.2.1") {
				return buf[:n]
			}
		}
	}
	found := func(msg []byte) int {
		list, err := parseAnswer(msg, s.Type, netip.MustParseAddr("192.0.2.1"))
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	for _, what := range []string{"the announcement", "its repetition"} {
		if found(next(what)) != 1 {
			t.Errorf("%s does not name the service", what)
		}
	}
	q, err := question(s.Type)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.WriteTo(q, group()); err != nil {
		t.Fatal(err)
	}
	if found(next("an answer to all")) != 1 {
		t.Error("the answer does not name the service")
	}
	stop()
	if found(next("the goodbye")) != 0 {
		t.Error("the goodbye still names the service")
	}
}

// TestStrangerIsNotAnswered asks from an address that is not on the link.
func TestStrangerIsNotAnswered(t *testing.T) {
	own := []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24")}
	if _, ok := neighbor(own, netip.MustParseAddr("198.51.100.7")); ok {
		t.Error("an address elsewhere is taken for a neighbor's")
	}
	if got, ok := neighbor(own, netip.MustParseAddr("192.0.2.9")); !ok || got != own[0].Addr() {
		t.Errorf("neighbor = %v, %v", got, ok)
	}
}
