package netnstest

import (
	"context"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"

	"muster/internal/need"
)

func TestMain(m *testing.M) { Main(m) }

// names lists the links of a namespace.
func names(t *testing.T, ns *NS) []string {
	t.Helper()
	var got []string
	ns.Do(t, func() {
		links, err := netlink.LinkList()
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range links {
			if l.Type() == "device" || l.Type() == "veth" || l.Type() == "bridge" || l.Type() == "tuntap" {
				got = append(got, l.Attrs().Name)
			}
		}
	})
	return got
}

func TestOnlyLoopbackAtStart(t *testing.T) {
	if diff := cmp.Diff([]string{"lo"}, names(t, nil)); diff != "" {
		t.Errorf("links at the start (-want +got):\n%s", diff)
	}
	if here, err := os.Readlink(ownNamespace); err != nil || here == os.Getenv(outsideVar) {
		t.Errorf("the tests run in namespace %s (%v), started from %s", here, err, os.Getenv(outsideVar))
	}
}

func TestPrivilegedPort(t *testing.T) {
	conn, err := net.ListenPacket("udp4", ":67")
	if err != nil {
		t.Fatalf("binding port 67: %v", err)
	}
	conn.Close()
}

func TestVethBetweenNamespaces(t *testing.T) {
	other := New(t)
	Veth(t, End{Name: "a0", Addrs: Addr("192.0.2.1/24")},
		End{NS: other, Name: "b0", Addrs: append(Addr("192.0.2.2/24"), netip.MustParsePrefix("fd00::2/64")), MAC: net.HardwareAddr{2, 0, 0, 0, 0, 7}})

	var server net.PacketConn
	var err error
	other.Do(t, func() { server, err = net.ListenPacket("udp4", "192.0.2.2:69") })
	if err != nil {
		t.Fatalf("listening in the other namespace: %v", err)
	}
	defer server.Close()
	client, err := net.Dial("udp4", "192.0.2.2:69")
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if _, err := client.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 16)
	if err := server.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	n, from, err := server.ReadFrom(buf)
	if err != nil || string(buf[:n]) != "hello" || !strings.HasPrefix(from.String(), "192.0.2.1:") {
		t.Errorf("ReadFrom() = %q from %v, %v; want hello from 192.0.2.1", buf[:n], from, err)
	}
	if diff := cmp.Diff([]string{"lo", "b0"}, names(t, other)); diff != "" {
		t.Errorf("links of the other namespace (-want +got):\n%s", diff)
	}
}

func TestLinksAreRemoved(t *testing.T) {
	t.Run("make", func(t *testing.T) {
		Bridge(t, End{Name: "br0", Addrs: Addr("198.51.100.1/24")})
		Veth(t, End{Name: "p0", Bridge: "br0"}, End{Name: "q0"})
		if diff := cmp.Diff(4, len(names(t, nil))); diff != "" {
			t.Errorf("number of links (-want +got):\n%s", diff)
		}
		SetUp(t, nil, "p0", false)
	})
	if diff := cmp.Diff([]string{"lo"}, names(t, nil)); diff != "" {
		t.Errorf("links after the test (-want +got):\n%s", diff)
	}
}

func TestProgramRunsInside(t *testing.T) {
	cat := need.Program(t, "cat", "coreutils")
	other := New(t)
	Veth(t, End{Name: "a1"}, End{NS: other, Name: "inside1"})
	out, err := other.Output(context.Background(), t, cat, "/proc/self/net/dev")
	if err != nil || !strings.Contains(out, "inside1") || strings.Contains(out, "a1:") {
		t.Errorf("interfaces seen by a program inside = %q, %v; want inside1 and not a1", out, err)
	}
}
