package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"

	"muster/api"
	"muster/internal/need"
)

// TestBadInput gives a whole cluster what it should not get.
func TestBadInput(t *testing.T) {
	c := newAgentCluster(t)
	c.startHead("--dhcp=full")
	a := c.newAgent()
	a.start()
	node := a.ready()

	t.Run("two agents with one key", func(t *testing.T) {
		c.during(t)
		key, err := os.ReadFile(filepath.Join(a.dir, "key"))
		if err != nil {
			t.Fatal(err)
		}
		b := c.newAgent()
		if err := os.WriteFile(filepath.Join(b.dir, "key"), key, 0o600); err != nil {
			t.Fatal(err)
		}
		b.start()
		b.waitSaid("another agent uses the same key")
		warning := fmt.Sprintf("a second connection with its key came from %s and was refused; the first is from %s", b.addr, a.addr)
		if r := c.muster("", "status"); !strings.Contains(r.stdout+r.stderr, warning) {
			t.Errorf("muster status lacks %q:\n%s%s", warning, r.stdout, r.stderr)
		}
		if n, ok := b.state(t.Context()); ok {
			t.Errorf("the head lists the second agent as %+v", n)
		}
		if n, _ := a.state(t.Context()); n.State != api.NodeReady {
			t.Errorf("the first agent is %s, want ready", n.State)
		}
	})

	t.Run("wrong pin", func(t *testing.T) {
		c.during(t)
		s, err := c.client.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		b := c.newAgent()
		b.start("-pin", strings.Repeat("ab", 32))
		b.waitSaid("is not the pinned abababababababab...; boot an image of this head, or check muster.head and muster.pin")
		if n, ok := b.state(t.Context()); ok {
			t.Errorf("the head lists a machine that expects another head: %+v", n)
		}
		b.kill()
		b.start("-pin", s.Pin) // the control
		b.wait(api.NodePending)
	})

	t.Run("job on a rejected node", func(t *testing.T) {
		c.during(t)
		b := c.newAgent()
		b.start()
		n := b.wait(api.NodePending)
		if r := c.muster("", "node", "reject", n.Fingerprint); r.status != 0 {
			t.Fatalf("muster node reject %s ended with %d: %s", n.Fingerprint, r.status, r.stderr)
		}
		b.wait(api.NodeRejected)
		b.waitSaid("state=rejected")
		checkRefused(t, c.muster("", "run", "--on", n.Fingerprint, "true"), "is rejected and no node", "muster node approve")
		ready, err := c.client.Node(t.Context(), "n1")
		if err != nil {
			t.Fatal(err)
		}
		checkRefused(t, c.muster("", "run", "--on", ready.Fingerprint, "true"), "write --on n1")
	})

	t.Run("unknown node", func(t *testing.T) {
		c.during(t)
		checkRefused(t, c.muster("", "run", "--on", "n99", "true"), "n99", "muster node list")
	})

	t.Run("a line of 64 MB", func(t *testing.T) {
		c.during(t)
		const size = 64 << 20
		for _, flag := range []string{"--prefix=false", "--prefix"} {
			var errOut bytes.Buffer
			line := &lineCheck{}
			run := c.program(nil, line, &errOut, "run", flag, "sh", "-c", `head -c "$1" /dev/zero | tr '\0' x`, "sh", fmt.Sprint(size))
			run.wait(t, jobTime)
			if run.status != 0 || line.x != size {
				t.Errorf("muster run %s ended with %d (%s); %d bytes of the line arrived, want %d", flag, run.status, errOut.String(), line.x, size)
			}
		}
	})

	t.Run("binary input and output", func(t *testing.T) {
		c.during(t)
		raw := make([]byte, 1<<20)
		for i := range raw {
			raw[i] = byte(rand.Uint32())
		}
		var out, errOut bytes.Buffer
		run := c.program(bytes.NewReader(raw), &out, &errOut, "run", "cat")
		run.wait(t, jobTime)
		if run.status != 0 || !bytes.Equal(out.Bytes(), raw) {
			t.Errorf("muster run cat ended with %d (%s); %d bytes came back, want the %d that were sent", run.status, errOut.String(), out.Len(), len(raw))
		}
	})

	t.Run("endless input", func(t *testing.T) {
		c.during(t)
		zero, err := os.Open("/dev/zero")
		if err != nil {
			t.Fatal(err)
		}
		defer zero.Close()
		var out, errOut bytes.Buffer
		run := c.program(zero, &out, &errOut, "run", "head", "-c", "10")
		run.wait(t, jobTime)
		if run.status != 0 || out.String() != strings.Repeat("\x00", 10) {
			t.Errorf("muster run head -c 10 ended with %d (%s) and wrote %q, want ten zero bytes", run.status, errOut.String(), out.String())
		}
	})

	t.Run("noise on every port", func(t *testing.T) {
		c.during(t)
		before := c.children()
		if len(before) != 3 {
			t.Fatalf("the head's processes are %v, want three", before)
		}
		b := c.newAgent() // only for its network
		makeNoise(t, b)
		c.checkServes(t, b)
		if d := cmp.Diff(before, c.children()); d != "" {
			t.Errorf("processes of the head were started again (-before +after):\n%s", d)
		}
		if log, err := os.ReadFile(filepath.Join(c.dir, "head.log")); err != nil || bytes.Count(log, []byte("\n")) > 200 {
			t.Errorf("strangers made the head write a log of %d lines (%v)", bytes.Count(log, []byte("\n")), err)
		}
		if r := c.muster("", "run", "--on", node.Name, "true"); r.status != 0 {
			t.Errorf("muster run true ended with %d: %s", r.status, r.stderr)
		}
		// The control: a process that ended would have been noticed.
		if err := syscall.Kill(before["files"], syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		c.eventually(headTime, "the process files was started again", func(context.Context) (bool, error) {
			now := c.children()
			return len(now) == 3 && now["files"] != before["files"], nil
		})
	})
}

// lineCheck counts the x in a line.
type lineCheck struct{ x int }

// Write implements io.Writer.
func (l *lineCheck) Write(b []byte) (int, error) {
	l.x += bytes.Count(b, []byte("x"))
	return len(b), nil
}

// checkRefused checks that muster refused to run something and said why, and
// what to do.
func checkRefused(t *testing.T, r result, texts ...string) {
	t.Helper()
	if r.status != exitMuster {
		t.Errorf("muster run ended with %d, want %d", r.status, exitMuster)
	}
	for _, text := range texts {
		if !strings.Contains(r.stderr, text) {
			t.Errorf("muster run said %q, want %q in it", r.stderr, text)
		}
	}
}

// children lists the processes of the head by their names.
func (c *cluster) children() map[string]int {
	c.t.Helper()
	found := map[string]int{}
	for _, name := range []string{"core", "boot", "files"} {
		for _, pid := range processesWith("head-child\x00" + name + "\x00") {
			stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
			_, rest, _ := strings.Cut(string(stat), ") ") // the name before may hold anything
			var state string
			var parent int
			if err != nil {
				continue // it has just ended
			}
			if _, err := fmt.Sscan(rest, &state, &parent); err == nil && parent == c.head.Process.Pid {
				found[name] = pid
			}
		}
	}
	return found
}

// Noise that a machine makes: so many datagrams and connections a port.
const (
	noiseDatagrams   = 3000
	noiseConnections = 1000
)

// beginnings are how messages of each port start: what begins well gets
// further than what is random from the first byte on.
var beginnings = map[int][][]byte{
	67:   {append([]byte{1, 1, 6, 0}, make([]byte, 232)...), append(append([]byte{1, 1, 6, 0}, make([]byte, 232)...), 99, 130, 83, 99, 53, 1, 1)},
	4011: {append(append([]byte{1, 1, 6, 0}, make([]byte, 232)...), 99, 130, 83, 99, 53, 1, 3, 60, 9, 'P', 'X', 'E')},
	69:   {{0, 1}, []byte("\x00\x01undionly.kpxe\x00octet\x00blksize\x00"), {0, 3}, {0, 4}, {0, 5}},
	80:   {[]byte("GET /"), []byte("GET /boot HTTP/1.1\r\nHost: x\r\n"), []byte("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n")},
	7480: {[]byte("GET /"), []byte("GET / HTTP/1.1\r\nRange: bytes="), {0x16, 3, 1}},
	7421: {[]byte("CONNECT {"), []byte("PUB x 9999999\r\n"), {0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3}},
}

// noise is a message: mostly random, often with a good beginning.
func noise(r *rand.Rand, port int) []byte {
	b := make([]byte, r.IntN(1400))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	if starts := beginnings[port]; r.IntN(3) > 0 {
		b = append(append([]byte{}, starts[r.IntN(len(starts))]...), b...)
	}
	return b
}

// makeNoise sends random bytes to every port on which strangers are heard.
func makeNoise(t *testing.T, a *agent) {
	t.Helper()
	seed := rand.Uint64()
	t.Logf("noise with seed %d", seed)
	dial := func(network string, port int) (conn net.Conn, err error) {
		a.ns.Do(t, func() {
			d := net.Dialer{Timeout: 10 * time.Second}
			conn, err = d.DialContext(t.Context(), network, fmt.Sprintf("%s:%d", headAddr, port))
		})
		return conn, err
	}
	var g errgroup.Group
	for _, port := range []int{67, 69, 4011} {
		conn, err := dial("udp4", port)
		if err != nil {
			t.Fatal(err)
		}
		g.Go(func() error {
			defer conn.Close()
			r := rand.New(rand.NewPCG(seed, uint64(port)))
			for range noiseDatagrams {
				_, _ = conn.Write(noise(r, port)) // an answer that nobody took is reported here
			}
			return nil
		})
	}
	for _, port := range []int{80, 7480, 7421} {
		g.Go(func() error {
			r := rand.New(rand.NewPCG(seed, uint64(port)))
			for i := range noiseConnections {
				conn, err := dial("tcp4", port)
				if err != nil {
					return fmt.Errorf("connection %d to port %d: %w", i, port, err)
				}
				_, _ = conn.Write(noise(r, port)) // the head may hang up in the middle
				if r.IntN(2) == 0 {
					// Everything was sent: the head answers or hangs up.
					_ = conn.(*net.TCPConn).CloseWrite()
					_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
					if _, err := io.Copy(io.Discard, conn); os.IsTimeout(err) {
						conn.Close()
						return fmt.Errorf("connection %d to port %d: the head neither answers nor hangs up", i, port)
					}
				}
				conn.Close()
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
}

// checkServes checks that the head serves a new machine on every port.
func (c *cluster) checkServes(t *testing.T, b *agent) {
	t.Helper()
	udhcpc := need.Program(t, "busybox", "busybox-static")
	out, err := b.ns.Output(t.Context(), t, udhcpc, "udhcpc", "-i", b.link, "-n", "-q", "-f", "-t", "5", "-T", "1", "-s", "/bin/true")
	if err != nil || !strings.Contains(out, "obtained") {
		t.Errorf("DHCP after the noise: %v\n%s", err, out)
	}
	curl := need.Program(t, "curl", "curl")
	want, err := os.ReadFile(filepath.Join(c.image, "snponly.efi"))
	if err != nil {
		t.Fatal(err)
	}
	for _, scheme := range []string{"tftp", "http"} {
		url := fmt.Sprintf("%s://%s/%x/snponly.efi", scheme, headAddr, sha256.Sum256(want))
		got := filepath.Join(t.TempDir(), "loader")
		out, err := b.ns.Output(t.Context(), t, curl, "-sS", "--fail", "--max-time", "20", "-o", got, url)
		if err != nil {
			t.Errorf("fetching %s after the noise: %v\n%s", url, err, out)
			continue
		}
		if have, err := os.ReadFile(got); err != nil || !bytes.Equal(want, have) {
			t.Errorf("%s is not what it was after the noise (%v): %d bytes, want %d", url, err, len(have), len(want))
		}
	}
	resp, err := http.Get("http://" + headAddr + ":7480/")
	if err != nil {
		t.Errorf("port 7480 after the noise: %v", err)
	} else {
		resp.Body.Close()
	}
	b.start()
	b.wait(api.NodePending)
}
