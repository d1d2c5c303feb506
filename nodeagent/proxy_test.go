package nodeagent

import (
	"io"
	"net"
	"sync"
	"testing"
)

// proxy carries TCP connections to a server, and can cut them.
type proxy struct {
	l  net.Listener
	to string

	mu      sync.Mutex
	conns   map[net.Conn]bool
	carried int64
	cutAt   []int64 // cut all connections when so many bytes were carried
	cuts    int
	down    bool // connections are refused
	wg      sync.WaitGroup
}

func newProxy(t testing.TB, to string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{l: l, to: to, conns: map[net.Conn]bool{}}
	p.wg.Go(p.accept)
	t.Cleanup(func() {
		l.Close()
		p.cut()
		p.wg.Wait()
	})
	return p
}

func (p *proxy) addr() string { return p.l.Addr().String() }

func (p *proxy) accept() {
	for {
		in, err := p.l.Accept()
		if err != nil {
			return
		}
		out, err := net.Dial("tcp", p.to)
		p.mu.Lock()
		if err != nil || p.down {
			p.mu.Unlock()
			in.Close()
			if out != nil {
				out.Close()
			}
			continue
		}
		p.conns[in], p.conns[out] = true, true
		p.mu.Unlock()
		p.wg.Go(func() { p.carry(out, in) })
		p.wg.Go(func() { p.carry(in, out) })
	}
}

func (p *proxy) carry(to, from net.Conn) {
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		cutHere := p.count(n)
		if cutHere >= 0 {
			to.Write(buf[:cutHere]) // in the middle of what was read
			p.cut()
			return
		}
		if n > 0 {
			if _, werr := to.Write(buf[:n]); werr != nil {
				err = io.ErrClosedPipe
			}
		}
		if err != nil {
			to.Close()
			from.Close()
			return
		}
	}
}

// count adds n bytes. Where the next cut lies among them it returns how many
// of them are still carried, else -1.
func (p *proxy) count(n int) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	before := p.carried
	p.carried += int64(n)
	if len(p.cutAt) == 0 || p.carried < p.cutAt[0] {
		return -1
	}
	at := p.cutAt[0]
	p.cutAt = p.cutAt[1:]
	p.cuts++
	return int(max(at-before, 0))
}

// cut closes every connection.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		c.Close()
	}
	p.conns = map[net.Conn]bool{}
}
