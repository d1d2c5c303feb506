package headnode

import (
	"net"
	"net/netip"
	"strconv"
	"sync"
)

// limitedListener accepts a connection only while fewer than its capacity are
// open. One more of a peer (an address, or a user of this machine) that has its
// share of them is closed at once, so that nobody shuts all others out.
type limitedListener struct {
	net.Listener
	share int
	slots chan struct{}
	done  chan struct{}
	once  sync.Once

	mu    sync.Mutex
	peers map[string]int // open connections
}

// limit bounds the connections of ln, which may be nil, and those of each peer.
func limit(ln net.Listener, total, share int) net.Listener {
	if ln == nil {
		return nil
	}
	return &limitedListener{
		Listener: ln, share: share, slots: make(chan struct{}, total), done: make(chan struct{}), peers: map[string]int{},
	}
}

// Accept waits for a free slot, then for a connection.
func (l *limitedListener) Accept() (net.Conn, error) {
	select {
	case l.slots <- struct{}{}:
	case <-l.done:
		return nil, net.ErrClosed
	}
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			<-l.slots
			return nil, err
		}
		peer := peerName(c)
		if l.admit(peer) {
			return &limitedConn{Conn: c, release: func() { l.release(peer) }}, nil
		}
		c.Close()
	}
}

// peerName tells whose connection it is.
func peerName(c net.Conn) string {
	switch c := c.(type) {
	case *net.UnixConn:
		return "uid " + strconv.FormatUint(uint64(peerOf(c).uid), 10)
	case *net.TCPConn:
		if a, ok := c.RemoteAddr().(*net.TCPAddr); ok {
			ip, _ := netip.AddrFromSlice(a.IP)
			return ip.Unmap().String()
		}
	}
	return ""
}

func (l *limitedListener) admit(peer string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.peers[peer] >= l.share {
		return false
	}
	l.peers[peer]++
	return true
}

func (l *limitedListener) release(peer string) {
	l.mu.Lock()
	if l.peers[peer]--; l.peers[peer] <= 0 {
		delete(l.peers, peer)
	}
	l.mu.Unlock()
	<-l.slots
}

// Close ends Accept.
func (l *limitedListener) Close() error {
	l.once.Do(func() { close(l.done) })
	return l.Listener.Close()
}

// limitedConn gives its slot back when it is closed.
type limitedConn struct {
	net.Conn
	once    sync.Once
	release func()
}

// Close closes the connection.
func (c *limitedConn) Close() error {
	err := c.Conn.Close()
	c.once.Do(c.release)
	return err
}
