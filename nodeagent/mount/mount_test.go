package mount

import (
	"context"
	"errors"
	"path/filepath"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"muster/api"
)

// rig is a mounter whose mount(2) waits for the test.
type rig struct {
	*Mounter
	changed chan struct{}

	mu    sync.Mutex
	end   map[string]chan error // of mounts, by server
	loads int
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{changed: make(chan struct{}, 1), end: map[string]chan error{}}
	m, err := New(Config{
		Dir:      filepath.Join(t.TempDir(), "shares"),
		Modprobe: func(string) error { r.mu.Lock(); defer r.mu.Unlock(); r.loads++; return nil },
		mount:    func(_ context.Context, n api.NodeMount, _ string) error { return <-r.mountOf(n.Server) },
		unmount:  func(string) error { return nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	r.Mounter = m
	m.Tell(func() {
		select {
		case r.changed <- struct{}{}:
		default:
		}
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = m.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return r
}

func (r *rig) mountOf(server string) chan error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.end[server] == nil {
		r.end[server] = make(chan error)
	}
	return r.end[server]
}

// until waits for states by path.
func (r *rig) until(t *testing.T, want map[string]string) {
	t.Helper()
	for {
		got := map[string]string{}
		for _, s := range r.Status() {
			got[s.Path] = s.State
		}
		if cmp.Equal(want, got) {
			return
		}
		select {
		case <-r.changed:
		case <-t.Context().Done():
			t.Fatalf("states %v, want %v", got, want)
		}
	}
}

func share(id uint16, path, server string) api.NodeMount {
	return api.NodeMount{ID: id, Path: path, Server: server, Export: path}
}

// TestMounts: a server that hangs keeps no other share waiting; what failed keeps no node from tasks, until something
// changes that lets it be tried anew.
func TestMounts(t *testing.T) {
	r := newRig(t)
	r.Preload()
	r.Set([]api.NodeMount{share(1, "/a", "hangs"), share(2, "/b", "works"), share(3, "/c", "fails")})
	if w := r.Waiting(); w != "share /a" {
		t.Errorf("Waiting() = %q before anything was mounted", w)
	}
	r.mountOf("works") <- nil
	r.mountOf("fails") <- unix.ECONNREFUSED
	r.until(t, map[string]string{"/a": Mounting, "/b": Mounted, "/c": Failed})
	if w := r.Waiting(); w != "share /a" {
		t.Errorf("Waiting() = %q while one is being mounted", w)
	}
	if got := r.Shares(); len(got) != 1 || got[0].To != "/b" {
		t.Errorf("Shares() = %v, want /b alone", got)
	}
	r.mountOf("hangs") <- errors.New("it gave up")
	r.until(t, map[string]string{"/a": Failed, "/b": Mounted, "/c": Failed})
	if w := r.Waiting(); w != "" {
		t.Errorf("Waiting() = %q, what failed is not waited for", w)
	}
	r.Retry()
	if w := r.Waiting(); w == "" {
		t.Error("what is tried anew is not waited for")
	}
	r.mountOf("hangs") <- nil
	r.mountOf("fails") <- nil
	r.until(t, map[string]string{"/a": Mounted, "/b": Mounted, "/c": Mounted})
	r.Set([]api.NodeMount{share(2, "/b", "works")})
	r.until(t, map[string]string{"/b": Mounted})
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.loads < 10 {
		t.Errorf("the NFS client was loaded %d times, want two modules once ahead, and before each mount", r.loads)
	}
}
