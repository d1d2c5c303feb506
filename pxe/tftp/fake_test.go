package tftp

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// A network of channels: the server's socket, a socket for each transfer, and
// clients. A wire between them can lose, repeat and reorder. All time
// is that of testing/synctest.

// wire decides what becomes of a datagram: how many copies arrive, and after
// which times.
type wire func(p []byte) []time.Duration

func perfect([]byte) []time.Duration { return []time.Duration{0} }

// mailbox is where datagrams arrive; a full one loses them.
type mailbox struct {
	c        chan datagram
	closed   chan struct{}
	once     sync.Once
	mu       sync.Mutex
	deadline chan struct{} // closed when the read deadline has passed
	changed  chan struct{} // closed when there is another deadline
	timer    *time.Timer
}

type datagram struct {
	p    []byte
	from *net.UDPAddr
}

func newMailbox() *mailbox {
	return &mailbox{c: make(chan datagram, 4096), closed: make(chan struct{}), deadline: make(chan struct{}), changed: make(chan struct{})}
}

func (m *mailbox) put(p []byte, from *net.UDPAddr, w wire) {
	for _, after := range w(p) {
		d := datagram{bytes.Clone(p), from}
		deliver := func() {
			select {
			case m.c <- d:
			case <-m.closed:
			default:
			}
		}
		if after == 0 {
			deliver()
		} else {
			time.AfterFunc(after, deliver)
		}
	}
}

func (m *mailbox) SetReadDeadline(t time.Time) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.timer != nil {
		m.timer.Stop()
	}
	c := make(chan struct{})
	m.deadline = c
	close(m.changed)
	m.changed = make(chan struct{})
	if left := time.Until(t); left <= 0 {
		close(c)
	} else {
		m.timer = time.AfterFunc(left, func() { close(c) })
	}
	return nil
}

func (m *mailbox) get(p []byte) (int, *net.UDPAddr, error) {
	for {
		m.mu.Lock()
		deadline, changed := m.deadline, m.changed
		m.mu.Unlock()
		select {
		case <-m.closed:
			return 0, nil, net.ErrClosed
		case <-changed:
		case <-deadline:
			return 0, nil, os.ErrDeadlineExceeded
		case d := <-m.c:
			return copy(p, d.p), d.from, nil
		}
	}
}

func (m *mailbox) Close() error {
	m.once.Do(func() { close(m.closed) })
	return nil
}

// lab is a server with clients around it.
type lab struct {
	t       *testing.T
	server  *mailbox
	up      wire // client to server
	down    wire
	reports *reports
	stop    func() // ends the server, as the end of the test does

	mu      sync.Mutex
	clients map[netip.AddrPort]*labClient
	nextTID uint16
	sends   int // datagrams from the server
}

// newLab starts a server; the test has to be in a synctest bubble.
func newLab(t *testing.T, cfg Config, up, down wire) *lab {
	l := &lab{t: t, server: newMailbox(), up: up, down: down, reports: newReports(), clients: map[netip.AddrPort]*labClient{}, nextTID: 20000}
	cfg.Conn, cfg.Observe, cfg.dial = labServer{l.server}, l.reports.observe, l.dial
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	l.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run() = %v", err)
		}
		if n := len(s.live); n != 0 || s.busy != 0 {
			t.Errorf("%d transfers are live and %d busy after Run", n, s.busy)
		}
	})
	t.Cleanup(l.stop)
	return l
}

// labServer is the server's socket as a net.PacketConn.
type labServer struct{ *mailbox }

func (s labServer) ReadFrom(p []byte) (int, net.Addr, error) {
	n, from, err := s.get(p)
	return n, from, err
}
func (labServer) WriteTo([]byte, net.Addr) (int, error) { return 0, errors.New("not used") }
func (labServer) LocalAddr() net.Addr                   { return &net.UDPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 69} }
func (s labServer) SetDeadline(t time.Time) error       { return s.SetReadDeadline(t) }
func (labServer) SetWriteDeadline(time.Time) error      { return nil }

// labConn is the server's socket of a transfer.
type labConn struct {
	*mailbox
	lab    *lab
	addr   *net.UDPAddr
	client *labClient
}

func (l *lab) dial(local, remote netip.AddrPort) (conn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	client := l.clients[remote]
	if client == nil {
		return nil, fmt.Errorf("no client at %s", remote)
	}
	l.nextTID++
	c := &labConn{mailbox: newMailbox(), lab: l, addr: &net.UDPAddr{IP: local.Addr().AsSlice(), Port: int(l.nextTID)}, client: client}
	client.mu.Lock()
	client.peers[c.addr.Port] = c
	client.mu.Unlock()
	return c, nil
}

func (c *labConn) Read(p []byte) (int, error) {
	n, _, err := c.get(p)
	return n, err
}

func (c *labConn) Write(p []byte) (int, error) {
	c.lab.mu.Lock()
	c.lab.sends++
	c.lab.mu.Unlock()
	c.client.box.put(p, c.addr, c.lab.down)
	return len(p), nil
}

func (c *labConn) WriteSegments(p []byte, size int) error {
	for part := range slices.Chunk(p, size) {
		_, _ = c.Write(part)
	}
	return nil
}

// labClient is a client at one address and port.
type labClient struct {
	lab  *lab
	addr *net.UDPAddr
	box  *mailbox

	mu    sync.Mutex
	peers map[int]*labConn // by the server's port
}

func (l *lab) client(port int) *labClient {
	c := &labClient{lab: l, addr: &net.UDPAddr{IP: net.IPv4(192, 0, 2, 2).To4(), Port: port}, box: newMailbox(), peers: map[int]*labConn{}}
	l.mu.Lock()
	l.clients[c.addr.AddrPort()] = c
	l.mu.Unlock()
	return c
}

// ask sends a datagram to the server's port.
func (c *labClient) ask(p []byte) { c.lab.server.put(p, c.addr, c.lab.up) }

// reply sends a datagram to the socket of a transfer.
func (c *labClient) reply(port int, p []byte) {
	c.mu.Lock()
	to := c.peers[port]
	c.mu.Unlock()
	if to != nil {
		to.put(p, c.addr, c.lab.up)
	}
}

// receive waits for a datagram; nil after the time.
func (c *labClient) receive(wait time.Duration) (p []byte, port int) {
	if err := c.box.SetReadDeadline(time.Now().Add(wait)); err != nil {
		c.lab.t.Fatal(err)
	}
	buf := make([]byte, 70_000)
	n, from, err := c.box.get(buf)
	if err != nil {
		return nil, 0
	}
	return buf[:n], from.Port
}

// get fetches a file as RFC 1350, 2347, 2348 and 7440 say, as good firmware does:
// it repeats what is not answered, confirms the last block in order at a
// gap, and takes the transfer's port from the first answer.
func (c *labClient) get(name string, options ...string) ([]byte, error) {
	request := rrq(append([]string{name, "octet"}, options...)...)
	block, window := defaultBlock, 1
	var content []byte
	var acked int64
	port, last, inWindow := 0, request, 0
	c.ask(request)
	for tries := 0; tries < 10; {
		p, from := c.receive(1500 * time.Millisecond)
		if p == nil {
			tries++
			if port == 0 {
				c.ask(last)
			} else {
				c.reply(port, last)
				inWindow = 0
			}
			continue
		}
		if port != 0 && from != port {
			continue
		}
		switch {
		case p[1] == opError:
			return content, errors.New(string(p[4:]))
		case p[1] == opOack && acked == 0 && port == 0:
			block, window = oackValues(p)
			port, last = from, ack(0)
			c.reply(port, last)
		case p[1] == opData:
			port = from
			n := int64(binary.BigEndian.Uint16(p[2:]))
			if n != (acked+1)&0xffff {
				// A gap, or old: say what was the last, once per window.
				if inWindow++; inWindow == window {
					c.reply(port, last)
					inWindow = 0
				}
				continue
			}
			tries = 0
			acked++
			content = append(content, p[4:]...)
			last = ack(acked)
			inWindow++
			if len(p)-4 < block {
				c.reply(port, last)
				return content, nil
			}
			if inWindow >= window {
				c.reply(port, last)
				inWindow = 0
			}
		}
	}
	return content, io.ErrUnexpectedEOF
}

// linger repeats the last ACK for DATA that comes again, as RFC 1350 6 asks.
func (c *labClient) linger(d time.Duration) {
	for end := time.Now().Add(d); time.Now().Before(end); {
		p, from := c.receive(time.Until(end))
		if p != nil && p[1] == opData {
			c.reply(from, append([]byte{0, opAck}, p[2:4]...))
		}
	}
}

func oackValues(p []byte) (block, window int) {
	block, window = defaultBlock, 1
	fields := strings.Split(string(p[2:]), "\x00")
	for i := 0; i+1 < len(fields); i += 2 {
		n, _ := strconv.Atoi(fields[i+1])
		switch fields[i] {
		case "blksize":
			block = n
		case "windowsize":
			window = n
		}
	}
	return block, window
}

// Wires of a bad network, the same for every run.

func lossy(seed uint64, percent int) wire {
	r := rand.New(rand.NewPCG(seed, 1))
	var mu sync.Mutex
	return func([]byte) []time.Duration {
		mu.Lock()
		defer mu.Unlock()
		if r.IntN(100) < percent {
			return nil
		}
		return []time.Duration{0}
	}
}

func twice([]byte) []time.Duration { return []time.Duration{0, 0} }

func late(seed uint64) wire {
	r := rand.New(rand.NewPCG(seed, 2))
	var mu sync.Mutex
	return func([]byte) []time.Duration {
		mu.Lock()
		defer mu.Unlock()
		return []time.Duration{time.Duration(r.IntN(5000)) * time.Microsecond}
	}
}
