package headnode

import (
	"net"
	"testing"
)

func TestPeerHasItsShare(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := limit(inner, 4, 2)
	defer l.Close()
	accepted := make(chan net.Conn)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				close(accepted)
				return
			}
			accepted <- c
		}
	}()
	dial := func(from string) net.Conn {
		t.Helper()
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
		c, err := d.Dial("tcp", inner.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	dial("127.0.0.2")
	first := <-accepted
	dial("127.0.0.2")
	defer (<-accepted).Close()
	if n, err := dial("127.0.0.2").Read(make([]byte, 1)); err == nil {
		t.Errorf("a third connection of one peer gives %d bytes", n)
	}
	dial("127.0.0.3")
	defer (<-accepted).Close()
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	dial("127.0.0.2")
	defer (<-accepted).Close()
}
