package tftp

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"

	"muster/internal/need"
	"muster/internal/netnstest"
)

func TestMain(m *testing.M) { netnstest.Main(m) }

// content returns n bytes that differ from place to place.
func content(n int) []byte {
	r := rand.New(rand.NewPCG(uint64(n), 7))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// reports collects what a server tells.
type reports struct {
	mu  sync.Mutex
	all []Transfer
	c   chan Transfer
}

func newReports() *reports { return &reports{c: make(chan Transfer, 10000)} }

func (r *reports) observe(t Transfer) {
	r.mu.Lock()
	r.all = append(r.all, t)
	r.mu.Unlock()
	r.c <- t
}

// next waits for the report of a transfer.
func (r *reports) next(t testing.TB) Transfer {
	t.Helper()
	select {
	case got := <-r.c:
		return got
	case <-time.After(30 * time.Second):
		t.Fatal("no transfer was reported within 30 s")
		return Transfer{}
	}
}

// start runs a server on the address until the test ends.
func start(t testing.TB, address string, cfg Config) *reports {
	t.Helper()
	c, err := net.ListenPacket("udp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	r := newReports()
	cfg.Conn, cfg.Observe = c, r.observe
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run() = %v", err)
		}
	})
	return r
}

func mapFS(files map[string][]byte) fs.FS {
	m := fstest.MapFS{}
	for name, data := range files {
		m[name] = &fstest.MapFile{Data: data}
	}
	return m
}

// TestRealClients fetches files with the TFTP clients that people have.
func TestRealClients(t *testing.T) {
	client := netnstest.New(t)
	netnstest.Veth(t, netnstest.End{Name: "tf0", Addrs: append(netnstest.Addr("192.0.2.1/24"), netnstest.Addr("192.0.2.9/24")...)},
		netnstest.End{NS: client, Name: "tf1", Addrs: netnstest.Addr("192.0.2.2/24")})
	files := map[string][]byte{
		"small":        content(100),
		"whole-blocks": content(4 * 1468),
		"empty":        {},
		"dir/big":      content(40_000_000), // wraps the block number at 512 bytes
	}
	got := start(t, ":69", Config{Source: FS(mapFS(files))})

	clients := map[string]struct {
		program, pkg string
		args         func(file, to string) []string
		wantBlock    int
		wantWindow   int
	}{
		"atftp": {"atftp", "atftp", func(file, to string) []string {
			return []string{"--get", "-r", file, "-l", to, "192.0.2.9", "69"}
		}, 512, 1},
		"atftp with options": {"atftp", "atftp", func(file, to string) []string {
			return []string{"--option", "blksize 1468", "--option", "windowsize 16", "--option", "tsize 0", "--get", "-r", "/" + file, "-l", to, "192.0.2.9", "69"}
		}, 1468, 16},
		"busybox": {"busybox", "busybox-static", func(file, to string) []string {
			return []string{"tftp", "-g", "-b", "1400", "-r", `\` + strings.ReplaceAll(file, "/", `\`), "-l", to, "192.0.2.9"}
		}, 1400, 1},
		"curl": {"curl", "curl", func(file, to string) []string {
			return []string{"-sS", "--tftp-blksize", "65464", "-o", to, "tftp://192.0.2.9/" + file}
		}, 1468, 1},
	}
	for name, c := range clients {
		for file, want := range files {
			if c.program == "curl" && file == "empty" {
				continue // curl 7.88 fails on an empty file, from dnsmasq too
			}
			t.Run(name+"/"+filepath.Base(file), func(t *testing.T) {
				program := need.Program(t, c.program, c.pkg)
				to := filepath.Join(t.TempDir(), "got")
				out, err := client.Output(t.Context(), t, program, c.args(file, to)...)
				if err != nil {
					t.Fatalf("%s: %v\n%s", c.program, err, out)
				}
				fetched, err := os.ReadFile(to)
				if err != nil || !bytes.Equal(fetched, want) {
					t.Errorf("%s got %d bytes (%v), want the %d of %s", c.program, len(fetched), err, len(want), file)
				}
				r := got.next(t)
				report := Transfer{Client: netip.AddrPortFrom(r.Client.Addr(), 0), Local: r.Local, Name: r.Name, Size: r.Size, Bytes: r.Bytes, Block: r.Block, Window: r.Window, Outcome: r.Outcome, Err: r.Err}
				wantReport := Transfer{
					Client: netip.MustParseAddrPort("192.0.2.2:0"), Local: netip.MustParseAddr("192.0.2.9"), Name: file,
					Size: int64(len(want)), Bytes: int64(len(want)), Block: c.wantBlock, Window: c.wantWindow, Outcome: Done,
				}
				if diff := cmp.Diff(wantReport, report, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b }), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
					t.Errorf("report (-want +got):\n%s", diff)
				}
			})
		}
	}

	t.Run("missing file", func(t *testing.T) {
		program := need.Program(t, "curl", "curl")
		out, err := client.Output(t.Context(), t, program, "-sS", "tftp://192.0.2.1/no/such")
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 68 { // CURLE_TFTP_NOTFOUND
			t.Errorf("curl of a missing file: %v, want exit status 68\n%s", err, out)
		}
		if r := got.next(t); r.Outcome != Refused || r.Name != "no/such" {
			t.Errorf("report = %+v, want refused", r)
		}
	})
}

// TestEarlyRequest sends a request before the server asks the kernel for addresses.
func TestEarlyRequest(t *testing.T) {
	c, err := net.ListenPacket("udp4", "127.0.0.1:6970")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	client, err := net.Dial("udp4", "127.0.0.1:6970")
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if _, err := client.Write(rrq("no", "octet")); err != nil {
		t.Fatal(err)
	}
	r := newReports()
	s, err := New(Config{Conn: c, Source: FS(mapFS(nil)), Observe: r.observe})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	if got := r.next(t); got.Outcome != Refused || got.Name != "no" {
		t.Errorf("report = %+v, want refused", got)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("Run() = %v", err)
	}
}

// TestWithoutOffload sends the same file with and without segmentation
// offload, and looks whether the offload is really used.
func TestWithoutOffload(t *testing.T) {
	want := content(1_000_000)
	for name, plain := range map[string]bool{"offload": false, "single sends": true} {
		t.Run(name, func(t *testing.T) {
			var flag *atomic.Bool
			dial := newDialer()
			cfg := Config{Source: FS(mapFS(map[string][]byte{"f": want})), dial: func(l, r netip.AddrPort) (conn, error) {
				c, err := dial(l, r)
				if err == nil {
					flag = c.(*udpConn).plain
					if plain {
						flag.Store(true)
					}
				}
				return c, err
			}}
			reports := start(t, "127.0.0.1:6969", cfg)
			to := filepath.Join(t.TempDir(), "got")
			var ns *netnstest.NS
			out, err := ns.Output(t.Context(), t, need.Program(t, "atftp", "atftp"), "--option", "blksize 1428", "--option", "windowsize 64", "--get", "-r", "f", "-l", to, "127.0.0.1", "6969")
			if err != nil {
				t.Fatalf("atftp: %v\n%s", err, out)
			}
			fetched, err := os.ReadFile(to)
			if err != nil || !bytes.Equal(fetched, want) {
				t.Errorf("got %d bytes, %v, want %d", len(fetched), err, len(want))
			}
			if r := reports.next(t); r.Outcome != Done {
				t.Errorf("report = %+v, want done", r)
			}
			if flag.Load() != plain {
				t.Errorf("single sends = %v at the end, want %v", flag.Load(), plain)
			}
		})
	}
}

// TestAnswersFromTheAddressAsked asks each address of a machine, and its network.
func TestAnswersFromTheAddressAsked(t *testing.T) {
	client := netnstest.New(t)
	netnstest.Veth(t, netnstest.End{Name: "ta0", Addrs: append(append(netnstest.Addr("192.0.2.1/24"), netnstest.Addr("192.0.2.9/24")...), netnstest.Addr("fd00::1/64")...)},
		netnstest.End{NS: client, Name: "ta1", Addrs: append(netnstest.Addr("192.0.2.2/24"), netnstest.Addr("fd00::2/64")...)})
	reports := start(t, ":69", Config{Source: FS(mapFS(map[string][]byte{"f": content(3000)}))})

	open := func(network string) *net.UDPConn {
		var c net.PacketConn
		var err error
		client.Do(t, func() { c, err = net.ListenPacket(network, ":0") })
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c.(*net.UDPConn)
	}
	ask := func(c *net.UDPConn, to string) {
		if _, err := c.WriteToUDPAddrPort(rrq("f", "octet"), netip.MustParseAddrPort(to)); err != nil {
			t.Fatalf("asking %s: %v", to, err)
		}
	}
	broadcast := open("udp4")
	netnstest.AllowBroadcast(t, broadcast)
	ask(broadcast, "192.0.2.255:69")
	for to, network := range map[string]string{"192.0.2.1:69": "udp4", "192.0.2.9:69": "udp4", "[fd00::1]:69": "udp6"} {
		c := open(network)
		ask(c, to)
		if err := c.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
			t.Fatal(err)
		}
		var buf [600]byte
		n, from, err := c.ReadFromUDPAddrPort(buf[:])
		want := netip.MustParseAddrPort(to)
		if err != nil || from.Addr() != want.Addr() || from.Port() == want.Port() {
			t.Errorf("asked %s, answer of %d bytes from %s, %v; want the same address and another port", to, n, from, err)
			continue
		}
		if _, err := c.WriteToUDPAddrPort(errorPacket(0, "enough"), from); err != nil {
			t.Fatal(err)
		}
		if r := reports.next(t); r.Outcome != Aborted || r.Local != want.Addr() {
			t.Errorf("report = %+v, want aborted at %s", r, want.Addr())
		}
	}
	// The server takes requests one after the other: by now it has seen the first.
	if err := broadcast.SetReadDeadline(time.Now().Add(10 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if n, from, err := broadcast.ReadFromUDPAddrPort(make([]byte, 600)); err == nil {
		t.Errorf("a request to the broadcast address was answered by %s with %d bytes", from, n)
	}
}
