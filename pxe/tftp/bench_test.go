package tftp

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"muster/internal/netnstest"
)

// The benchmarks compare servers over a cable between two namespaces: this one,
// and what is installed of atftpd and tftpd-hpa. Compare rows of one run only.

// load is what clients do at once.
type load struct {
	name    string
	size    int
	atOnce  int
	options []string
}

var loads = []load{
	{"w1", 4 << 20, 16, []string{"blksize", "1400"}},
	{"w8", 4 << 20, 16, []string{"blksize", "1400", "windowsize", "8"}},
	{"w64", 4 << 20, 16, []string{"blksize", "1400", "windowsize", "64"}},
	{"edk2", 1 << 20, 200, []string{"tsize", "0", "blksize", "1468", "windowsize", "4"}},
	{"shim", 1 << 20, 16, []string{"blksize", "512", "windowsize", "4"}},
}

// peer is a server to compare with; it serves the folder on port 69.
type peer struct {
	name string
	args func(dir string) []string
}

var peers = []peer{
	{"atftpd", func(dir string) []string {
		return []string{"--daemon", "--no-fork", "--user", "root", "--group", "root", "--maxthread", "1000", "--bind-address", "192.0.2.1", dir}
	}},
	{"in.tftpd", func(dir string) []string { return []string{"-L", "-u", "root", "-s", "-a", "192.0.2.1:69", dir} }},
}

const serveVar = "MUSTER_TFTP_SERVE"

// TestServe is not a test of its own: it is the server of the benchmarks, in a
// process like its peers, which serves a folder until it is killed.
func TestServe(t *testing.T) {
	dir := os.Getenv(serveVar)
	if dir == "" {
		return
	}
	start(t, "192.0.2.1:69", Config{Source: FS(os.DirFS(dir)), Observe: func(Transfer) {}})
	<-t.Context().Done()
}

func BenchmarkServers(b *testing.B) {
	exe, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	muster := peer{"muster", func(string) []string { return []string{"-test.run=^TestServe$"} }}
	for _, l := range loads {
		for _, p := range append([]peer{muster}, peers...) {
			b.Run(l.name+"/"+p.name, func(b *testing.B) {
				program := exe
				if p.name != muster.name {
					program = findPeer(b, p.name)
				}
				dir := b.TempDir()
				if err := os.Chmod(dir, 0o755); err != nil {
					b.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(dir, "f"), content(l.size), 0o644); err != nil {
					b.Fatal(err)
				}
				client := cable(b)
				var ns *netnstest.NS
				cmd := ns.Command(b.Context(), b, func(c *exec.Cmd) {
					c.Stderr = os.Stderr
					c.Env = append(os.Environ(), serveVar+"="+dir)
				}, program, p.args(dir)...)
				awaitServer(b, client)
				measure(b, client, l, func() float64 { return groupSeconds(b, cmd.Process.Pid) })
			})
		}
	}
}

func cable(b *testing.B) *netnstest.NS {
	client := netnstest.New(b)
	netnstest.Veth(b, netnstest.End{Name: "bs0", Addrs: netnstest.Addr("192.0.2.1/24")}, netnstest.End{NS: client, Name: "bc0", Addrs: netnstest.Addr("192.0.2.2/24")})
	return client
}

// findPeer skips the benchmark when a peer is not installed; folders in
// MUSTER_PEERS are looked into first.
func findPeer(b *testing.B, name string) string {
	for _, dir := range append(filepath.SplitList(os.Getenv("MUSTER_PEERS")), "/usr/sbin") {
		if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
			return filepath.Join(dir, name)
		}
	}
	b.Skipf("only in make bench: %s is not installed; get it with: apt-get install atftpd tftpd-hpa", name)
	return ""
}

// measure lets all clients fetch the file once per iteration.
func measure(b *testing.B, client *netnstest.NS, l load, seconds func() float64) {
	b.SetBytes(int64(l.size) * int64(l.atOnce))
	before := seconds()
	for b.Loop() {
		var g errgroup.Group
		for range l.atOnce {
			g.Go(func() error { return fetch(b, client, l) })
		}
		if err := g.Wait(); err != nil {
			b.Fatal(err)
		}
	}
	gigabytes := float64(l.size) * float64(l.atOnce) * float64(b.N) / 1e9
	b.ReportMetric((seconds()-before)/gigabytes, "cpu-s/GB")
}

// fetch is a client that throws the content away.
func fetch(t testing.TB, ns *netnstest.NS, l load) error {
	var c net.PacketConn
	var err error
	ns.Do(t, func() { c, err = net.ListenPacket("udp4", "192.0.2.2:0") })
	if err != nil {
		return err
	}
	defer c.Close()
	udp := c.(*net.UDPConn)
	enlarge(udp)
	last, to := rrq(append([]string{"f", "octet"}, l.options...)...), netip.MustParseAddrPort("192.0.2.1:69")
	if _, err := udp.WriteToUDPAddrPort(last, to); err != nil {
		return err
	}
	buf := make([]byte, 2048)
	block, window, got, acked, inWindow := defaultBlock, 1, 0, uint16(0), 0
	ended := false
	for tries := 0; ; {
		if err := udp.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
			return err
		}
		n, from, err := udp.ReadFromUDPAddrPort(buf)
		if err != nil {
			if tries++; tries > 10 {
				return fmt.Errorf("%d of %d bytes came: %w", got, l.size, err)
			}
			inWindow = 0
		} else {
			switch {
			case n < 4:
				continue
			case buf[1] == opOack && got == 0:
				block, window = oackValues(buf[:n])
				to, last = from, ack(0)
			case buf[1] == opData && binary.BigEndian.Uint16(buf[2:]) == acked+1:
				tries = 0
				acked++
				got += n - 4
				inWindow++
				to, last = from, ack(int64(acked))
				if ended = n-4 < block; !ended && inWindow < window {
					continue
				}
				inWindow = 0
			case buf[1] == opError:
				return errors.New(string(buf[4:n]))
			default:
				continue
			}
		}
		if _, err := udp.WriteToUDPAddrPort(last, to); err != nil {
			return err
		}
		if ended {
			return nil
		}
	}
}

// enlarge makes room for a window; less is slower, not wrong.
func enlarge(c *net.UDPConn) {
	if raw, err := c.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 1<<20) })
	}
}

// awaitServer asks until a server answers.
func awaitServer(b *testing.B, client *netnstest.NS) {
	ctx, cancel := context.WithTimeout(b.Context(), 10*time.Second)
	defer cancel()
	for ctx.Err() == nil {
		if fetch(b, client, load{}) == nil {
			return
		}
	}
	b.Fatal("the server does not answer")
}

// groupSeconds is the processor time of a server: its process and its children,
// those that ended too.
func groupSeconds(b *testing.B, group int) float64 {
	b.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		b.Fatal(err)
	}
	ticks := 0
	for _, e := range entries {
		stat, err := os.ReadFile("/proc/" + e.Name() + "/stat")
		if err != nil {
			continue // no process, or it has ended
		}
		fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
		if fields[2] != strconv.Itoa(group) { // proc(5): pgrp
			continue
		}
		for _, f := range fields[11:15] { // utime, stime, cutime, cstime
			n, err := strconv.Atoi(f)
			if err != nil {
				b.Fatal(err)
			}
			ticks += n
		}
	}
	return float64(ticks) / 100
}
