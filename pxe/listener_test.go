package pxe

import (
	"errors"
	"io"
	"net"
	"testing"
)

// Without it package http does not send files by sendfile.
var _ io.ReaderFrom = (*limitedTCP)(nil)

func TestLimitedListener(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer inner.Close()
	dial := func() net.Conn {
		c, err := net.Dial("tcp", inner.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	l := newLimitedListener(inner, 1)
	dial()
	dial()
	first, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	accepted := make(chan error, 2)
	go func() {
		for range 2 {
			_, err := l.Accept()
			accepted <- err
		}
	}()
	select {
	case <-accepted:
		t.Fatal("a second connection was accepted")
	default:
	}
	first.Close()
	first.Close() // once more does not free a second place
	if err := <-accepted; err != nil {
		t.Fatal(err)
	}
	l.Close()
	if err := <-accepted; !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept() after Close() = %v, want net.ErrClosed", err)
	}
	again := newLimitedListener(inner, 1) // the listener itself is still open
	dial()
	if _, err := again.Accept(); err != nil {
		t.Errorf("Accept() by the next server: %v", err)
	}
}
