package userland

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"muster/api"
)

const testChunk = 1000

// testUserland is a userland of n whole pieces and a half.
func testUserland(n int) ([]byte, api.Userland) {
	b := make([]byte, n*testChunk+testChunk/2)
	r := rand.New(rand.NewPCG(1, 2))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b, describeFile(b, testChunk)
}

func describeFile(b []byte, chunk int) api.Userland {
	u := api.Userland{SHA256: hash(b), Size: int64(len(b)), Chunk: int64(chunk), MemoryMiB: 256}
	for c := range slices.Chunk(b, chunk) {
		u.Chunks = append(u.Chunks, hash(c))
	}
	return u
}

func hash(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// testHead serves a userland at http://head over pipes, so that it works in time that
// passes by itself. How it answers can be changed request by request.
type testHead struct {
	content []byte
	want    api.Userland
	// strange is called before each answer and tells whether it gave one.
	strange func(n int, w http.ResponseWriter, r *http.Request) bool

	answers sync.WaitGroup // that are being given

	mu     sync.Mutex
	ranges []string // that were asked for
	conns  chan net.Conn
	closed chan struct{}
}

func newTestHead(t *testing.T, pieces int) *testHead {
	content, want := testUserland(pieces)
	return serveTestHead(t, content, want)
}

func serveTestHead(t *testing.T, content []byte, want api.Userland) *testHead {
	h := &testHead{content: content, want: want, conns: make(chan net.Conn), closed: make(chan struct{})}
	srv := &http.Server{Handler: h}
	var served sync.WaitGroup
	served.Go(func() { srv.Serve(h) })
	t.Cleanup(func() { srv.Close(); served.Wait(); h.answers.Wait() })
	return h
}

func (h *testHead) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.answers.Add(1)
	defer h.answers.Done()
	h.mu.Lock()
	h.ranges = append(h.ranges, r.Header.Get("Range"))
	n := len(h.ranges)
	strange := h.strange
	h.mu.Unlock()
	if strange != nil && strange(n, w, r) {
		return
	}
	if r.URL.Path != "/blobs/"+h.want.SHA256+"/userland.sqfs" && r.URL.Path != "/blobs/"+h.want.SHA256+"/modules.tar" {
		http.NotFound(w, r)
		return
	}
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(h.content))
}

func (h *testHead) asked() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]string(nil), h.ranges...)
}

// Accept, Close and Addr make it a net.Listener.
func (h *testHead) Accept() (net.Conn, error) {
	select {
	case c := <-h.conns:
		return c, nil
	case <-h.closed:
		return nil, net.ErrClosed
	}
}

func (h *testHead) Close() error {
	select {
	case <-h.closed:
	default:
		close(h.closed)
	}
	return nil
}

func (h *testHead) Addr() net.Addr { return &net.UnixAddr{Name: "head"} }

func (h *testHead) dial(ctx context.Context, _, addr string) (net.Conn, error) {
	if addr != "head:80" {
		return nil, fmt.Errorf("dialing %s: nobody is there", addr)
	}
	ours, theirs := net.Pipe()
	select {
	case h.conns <- theirs:
		return ours, nil
	case <-h.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// fakeMounts keeps in folders what the kernel would mount.
type fakeMounts struct {
	mu       sync.Mutex
	on       map[string]mounted
	memories int
	attached int
	noInit   bool // what is mounted lacks the init of tasks
	fail     int  // attempts to attach that fail
}

func (f *fakeMounts) memory(dir string, size int64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.memories++
	f.on[dir] = mounted{fstype: "tmpfs"}
	return nil
}

func (f *fakeMounts) attach(file, dir string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fail > 0 {
		f.fail--
		return fmt.Errorf("attaching %s: no loop device", filepath.Base(file))
	}
	f.attached++
	f.on[dir] = mounted{fstype: "squashfs", file: file}
	init := filepath.Join(dir, taskInit)
	if err := os.MkdirAll(filepath.Dir(init), 0o755); err != nil || f.noInit {
		return err
	}
	return os.WriteFile(init, nil, 0o755)
}

func (f *fakeMounts) detach(dir string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.on, dir)
	return nil
}

func (f *fakeMounts) what(dir string) (mounted, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.on[dir], nil
}
