package main

import (
	"context"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"muster/api"
	"muster/internal/mdns"
	"muster/internal/need"
)

func TestHeadService(t *testing.T) {
	head := api.HeadIdentity{Fingerprint: "k7qx-3fza-mm2d-5yth", Pin: strings.Repeat("ab", 32)}
	if _, err := mdns.New(mdns.Config{Service: headService(head, 7421)}); err != nil {
		t.Error(err)
	}
	b, err := noteFor(netip.MustParseAddr("10.77.0.1"), 7421, head.Pin)
	if err != nil {
		t.Fatal(err)
	}
	want := api.HeadNote{Addr: "10.77.0.1:7421", Pin: head.Pin}
	if got, err := api.ParseHeadNote(b); err != nil || got != want {
		t.Errorf("ParseHeadNote = %+v, %v, want %+v", got, err, want)
	}
}

// TestAgentFindsHead starts agents that know no head, or not where it is: they join it, do not choose
// between two, and find it again where it has moved.
func TestAgentFindsHead(t *testing.T) {
	c := newAgentCluster(t)
	c.startHead("--dhcp=full")
	status, err := c.client.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	found, told := c.newAgent(), c.newAgent()
	found.start("-head", "")
	told.start("-pin", status.Pin)
	names := []string{found.ready().Name, told.ready().Name}
	found.waitSaid("head_fingerprint=" + status.Fingerprint)

	t.Run("not one of two", func(t *testing.T) {
		c.during(t)
		stop := c.secondHead()
		lost := c.newAgent()
		lost.start("-head", "")
		lost.waitSaid("2 heads answer here and nothing says which to join: 10.77.0.1:7421 " + status.Fingerprint)
		stop()
		lost.wait(api.NodePending)
	})

	t.Run("moved", func(t *testing.T) {
		c.during(t)
		c.stopHead(os.Interrupt)
		ip := need.Program(t, "ip", "iproute2")
		for _, args := range [][]string{{"addr", "del", headAddr + "/24", "dev", c.bridge}, {"addr", "add", "10.77.0.77/24", "dev", c.bridge}} {
			if out, err := exec.Command(ip, args...).CombinedOutput(); err != nil {
				t.Fatalf("ip %v: %v: %s", args, err, out)
			}
		}
		c.startHead("--dhcp=full")
		for i, a := range []*agent{found, told} {
			if n := a.wait(api.NodeReady); n.Name != names[i] {
				t.Errorf("%s came back as %s, want %s", a.addr, n.Name, names[i])
			}
			a.waitSaid("head=10.77.0.77:7421")
		}
	})
}

// secondHead is another head on the network, as far as multicast DNS tells.
func (c *cluster) secondHead() (stop func()) {
	c.t.Helper()
	conn, err := mdns.Listen(c.t.Context(), c.bridge)
	if err != nil {
		c.t.Fatal(err)
	}
	r, err := mdns.New(mdns.Config{
		Service: headService(api.HeadIdentity{Fingerprint: "zzzz-zzzz-zzzz-zzzz", Pin: strings.Repeat("cd", 32)}, 7421),
		Links:   []mdns.Link{{Name: c.bridge, Conn: conn}},
	})
	if err != nil {
		c.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(c.t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	return func() {
		cancel()
		if err := <-done; err != nil {
			c.t.Error(err)
		}
		conn.Close()
	}
}

// pythonBrowser asks for heads as a plain DNS client does, and reads the answer with its own few lines.
const pythonBrowser = `
import socket, struct, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 255)
s.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(sys.argv[1]))
s.settimeout(5)
q = struct.pack(">HHHHHH", 4711, 0, 1, 0, 0, 0) + b"\x07_muster\x04_tcp\x05local\0" + struct.pack(">HH", 12, 1)
s.sendto(q, ("224.0.0.251", 5353))
m, peer = s.recvfrom(9000)
def name(i):
    words = []
    while m[i]:
        if m[i] & 0xc0:
            rest, _ = name(struct.unpack(">H", m[i:i+2])[0] & 0x3fff)
            return ".".join(words + [rest]), i + 2
        words.append(m[i+1:i+1+m[i]].decode()); i += m[i] + 1
    return ".".join(words), i + 1
ident, flags, qd, an, ns, ar = struct.unpack(">HHHHHH", m[:12])
print("from", peer[1], "id", ident, "flags", hex(flags))
i = 12
for _ in range(qd):
    n, i = name(i); i += 4
for _ in range(an + ns + ar):
    n, i = name(i)
    typ, cls, ttl, size = struct.unpack(">HHIH", m[i:i+10]); i += 10
    if typ == 12: print("PTR", n, name(i)[0], ttl)
    if typ == 33: print("SRV", struct.unpack(">H", m[i+4:i+6])[0], name(i+6)[0], ttl)
    if typ == 1: print("A", n, socket.inet_ntoa(m[i:i+4]))
    if typ == 16: print("TXT", m[i:i+size].decode(errors="replace"))
    i += size
`

// TestIndependentBrowser has a program that shares no code with ours find the head.
func TestIndependentBrowser(t *testing.T) {
	python := need.Program(t, "python3", "python3")
	c := newAgentCluster(t)
	c.startHead("--dhcp=full")
	status, err := c.client.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	a := c.newAgent() // for its place on the network
	out, err := a.ns.Output(t.Context(), t, python, "-c", pythonBrowser, a.addr)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{
		`from 5353 id 4711 flags 0x8400\n`,
		`PTR _muster._tcp.local muster ` + status.Fingerprint + `._muster._tcp.local 10\n`,
		`SRV 7421 muster-` + status.Fingerprint + `.local 10\n`,
		`A muster-` + status.Fingerprint + `.local 10\.77\.0\.1\n`,
		`pin=` + status.Pin,
	} {
		if !regexp.MustCompile(want).MatchString(out) {
			t.Errorf("%q does not match %s", out, want)
		}
	}
}
