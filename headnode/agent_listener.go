package headnode

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"reflect"
	"sync"
	"unsafe"

	"github.com/nats-io/nats-server/v2/server"
)

// agentListener accepts the connections of agents. It lets no address
// have more than perIP connections, and all together not more than total,
// that have not proved a key yet; one more is closed at once. Those that every program of an
// address may have opened are counted apart, so that a task does not keep its node's agent out. Nothing is accepted
// before open is called.
type agentListener struct {
	net.Listener
	perIP, total int
	ready        chan struct{} // closed by open
	done         chan struct{} // closed by Close
	openOnce     sync.Once
	closeOnce    sync.Once

	mu       sync.Mutex
	unproved map[origin]int
	count    int
	conns    map[string]*agentConn // by remote address
}

func newAgentListener(l net.Listener, perIP, total int) *agentListener {
	return &agentListener{
		Listener: l, perIP: perIP, total: total,
		ready: make(chan struct{}), done: make(chan struct{}),
		unproved: map[origin]int{}, conns: map[string]*agentConn{},
	}
}

// open lets Accept begin.
func (l *agentListener) open() { l.openOnce.Do(func() { close(l.ready) }) }

// Close ends Accept.
func (l *agentListener) Close() error {
	l.closeOnce.Do(func() { close(l.done) })
	return l.Listener.Close()
}

// Accept waits for a connection within the limits.
func (l *agentListener) Accept() (net.Conn, error) {
	select {
	case <-l.ready:
	case <-l.done:
		return nil, net.ErrClosed
	}
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if ac := l.admit(c); ac != nil {
			return ac, nil
		}
		c.Close()
	}
}

func (l *agentListener) admit(c net.Conn) *agentConn {
	remote, err := netip.ParseAddrPort(c.RemoteAddr().String())
	if err != nil {
		return nil
	}
	from := origin{remote.Addr().Unmap().WithZone(""), anyonesPort(remote.Port())}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.unproved[from] >= l.perIP || l.count >= l.total {
		return nil
	}
	ac := &agentConn{Conn: c, listener: l, from: from, counted: true}
	l.unproved[from]++
	l.count++
	l.conns[c.RemoteAddr().String()] = ac
	return ac
}

// proved tells that the connection from a remote address has proved a key.
func (l *agentListener) proved(remote string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if ac := l.conns[remote]; ac != nil {
		l.uncount(ac)
	}
}

// local is the address of this host that the connection from a remote address
// came to, "" for one that is not there any more.
func (l *agentListener) local(remote string) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	ac := l.conns[remote]
	if ac == nil {
		return ""
	}
	local, err := netip.ParseAddrPort(ac.LocalAddr().String())
	if err != nil {
		return ""
	}
	// A zone names an interface of this host and says nothing elsewhere.
	return local.Addr().Unmap().WithZone("").String()
}

// uncount takes a connection out of the limits; l.mu is held.
func (l *agentListener) uncount(ac *agentConn) {
	if !ac.counted {
		return
	}
	ac.counted = false
	l.count--
	if l.unproved[ac.from]--; l.unproved[ac.from] <= 0 {
		delete(l.unproved, ac.from)
	}
}

// origin is who opens connections: an address, and whether it may be any of its programs.
type origin struct {
	ip     netip.Addr
	anyone bool
}

// agentConn tells its listener when it is closed.
type agentConn struct {
	net.Conn
	listener *agentListener
	from     origin
	counted  bool // guarded by the listener's mu
}

// Close closes the connection.
func (c *agentConn) Close() error {
	l := c.listener
	l.mu.Lock()
	l.uncount(c)
	if remote := c.RemoteAddr().String(); l.conns[remote] == c {
		delete(l.conns, remote)
	}
	l.mu.Unlock()
	return c.Conn.Close()
}

// useListener makes srv accept from l instead of opening a port itself. The
// server knows that case (getServerListener) and offers no way to ask for
// it, so its field is set; TestUseListener fails when a newer server has none.
func useListener(srv *server.Server, l net.Listener) error {
	f := reflect.ValueOf(srv).Elem().FieldByName("listener")
	if !f.IsValid() || f.Type() != reflect.TypeFor[net.Listener]() {
		return errors.New("this version of nats-server takes no listener")
	}
	if _, ok := l.Addr().(*net.TCPAddr); !ok {
		return fmt.Errorf("the socket for agents is a %s, want TCP", l.Addr().Network())
	}
	*(*net.Listener)(unsafe.Pointer(f.UnsafeAddr())) = l
	return nil
}
