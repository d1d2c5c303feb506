package pxe

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"
)

// maxConnections bounds the connections of one HTTP server. Further ones wait
// in the kernel until one is closed.
const maxConnections = 8192

// ServeHTTP serves h on l until ctx is done: with the timeouts that firmware
// takes, and with a bound on connections. Transfers that run when ctx is done
// are cut off; firmware and iPXE ask again. l stays open: it belongs to the
// caller. It returns nil when ctx is done, else why it cannot go on.
func ServeHTTP(ctx context.Context, l net.Listener, h http.Handler) error {
	hs := NewHTTPServer(h)
	hs.BaseContext = func(net.Listener) context.Context { return ctx }
	limited := newLimitedListener(l, maxConnections)
	stop := context.AfterFunc(ctx, func() { hs.Close() })
	defer stop()
	if err := hs.Serve(limited); ctx.Err() == nil {
		hs.Close()
		return fmt.Errorf("serving HTTP on %v: %w", l.Addr(), err)
	}
	return nil
}

// NewHTTPServer wraps h with the timeouts that serving firmware takes.
func NewHTTPServer(h http.Handler) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
	}
}

// limitedListener accepts a bounded number of connections, and is closed
// without closing the listener that it was made of.
type limitedListener struct {
	net.Listener
	slots  chan struct{}
	closed chan struct{}
	once   sync.Once
}

func newLimitedListener(l net.Listener, n int) *limitedListener {
	setAcceptDeadline(l, time.Time{}) // a run before this one may have set it
	return &limitedListener{Listener: l, slots: make(chan struct{}, n), closed: make(chan struct{})}
}

func setAcceptDeadline(l net.Listener, t time.Time) {
	if d, ok := l.(interface{ SetDeadline(time.Time) error }); ok {
		_ = d.SetDeadline(t) // fails on a closed one, which Accept says
	}
}

func (l *limitedListener) Accept() (net.Conn, error) {
	select {
	case l.slots <- struct{}{}:
	case <-l.closed:
		return nil, net.ErrClosed
	}
	c, err := l.Listener.Accept()
	if err != nil {
		<-l.slots
		return nil, err
	}
	release := sync.OnceFunc(func() { <-l.slots })
	if tcp, ok := c.(*net.TCPConn); ok {
		return &limitedTCP{tcp, release}, nil
	}
	return &limitedConn{c, release}, nil
}

func (l *limitedListener) Close() error {
	l.once.Do(func() {
		close(l.closed)
		setAcceptDeadline(l.Listener, time.Unix(1, 0))
	})
	return nil
}

// limitedTCP keeps the methods of a TCP connection: with ReadFrom package http
// sends files by sendfile.
type limitedTCP struct {
	*net.TCPConn
	release func()
}

func (c *limitedTCP) Close() error {
	c.release()
	return c.TCPConn.Close()
}

type limitedConn struct {
	net.Conn
	release func()
}

func (c *limitedConn) Close() error {
	c.release()
	return c.Conn.Close()
}
