package userland

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"muster/api"
)

// testHolder is a holder and what it said.
type testHolder struct {
	*Holder
	mu     sync.Mutex
	stages []string // each once in a row
	mounts *fakeMounts
	ended  chan struct{}
	stop   context.CancelFunc
}

func newTestHolder(t *testing.T, h *testHead, runDir string, adjust func(*Config)) *testHolder {
	m := &fakeMounts{on: map[string]mounted{}}
	cfg := Config{Want: h.want, RunDir: runDir, mounts: m, dial: h.dial}
	if adjust != nil {
		adjust(&cfg)
		m = cfg.mounts.(*fakeMounts)
	}
	return &testHolder{Holder: New(cfg), mounts: m, ended: make(chan struct{})}
}

func (h *testHolder) begin(t *testing.T) {
	ctx, stop := context.WithCancel(context.Background())
	h.stop = stop
	go func() {
		defer close(h.ended)
		h.Run(ctx, func() {
			h.mu.Lock()
			defer h.mu.Unlock()
			if s := h.Stage(); len(h.stages) == 0 || h.stages[len(h.stages)-1] != s {
				h.stages = append(h.stages, s)
			}
		})
	}()
	t.Cleanup(func() { stop(); <-h.ended })
}

func (h *testHolder) said() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.stages)
}

// whole fails the test unless the userland is held, in one file that is right.
func (h *testHolder) whole(t *testing.T, head *testHead) {
	t.Helper()
	root, err := h.Root()
	if err != nil || root != h.dir || h.Held() != head.want.SHA256 || h.Stage() != "" {
		t.Fatalf("root %q, %v, held %q, stage %q", root, err, h.Held(), h.Stage())
	}
	b, err := os.ReadFile(h.storeFile())
	if err != nil || hash(b) != head.want.SHA256 {
		t.Errorf("the file is not what it should be: %d bytes, %v", len(b), err)
	}
	if h.mounts.attached != 1 {
		t.Errorf("mounted %d times", h.mounts.attached)
	}
}

// bubble runs a test in time that passes by itself.
func bubble(t *testing.T, pieces int, f func(t *testing.T, head *testHead)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { f(t, newTestHead(t, pieces)) })
}

func TestHolder(t *testing.T) {
	bubble(t, 3, func(t *testing.T, head *testHead) {
		var mountedOn string
		h := newTestHolder(t, head, t.TempDir(), func(c *Config) { c.Mounted = func(root string) { mountedOn = root } })
		if _, err := h.Root(); api.CodeOf(err) != api.CodeUnavailable || !strings.Contains(err.Error(), "userland: waiting for the head") {
			t.Errorf("before: %v", err)
		}
		h.begin(t)
		synctest.Wait()
		if got := h.Stage(); got != "userland: waiting for the head" {
			t.Errorf("without a head: %q", got)
		}
		h.From("http://head")
		<-h.ended
		h.whole(t, head)
		if diff := cmp.Diff([]string{"bytes=0-3499"}, head.asked()); diff != "" {
			t.Errorf("asked for (-want +got):\n%s", diff)
		}
		if mountedOn != h.dir || h.mounts.memories != 1 {
			t.Errorf("told of %q, memory mounted %d times", mountedOn, h.mounts.memories)
		}
	})
}

// What a head may do wrong, what is asked for then, and what is said meanwhile.
func TestHolderStrangeHead(t *testing.T) {
	whole := "bytes=0-3499"
	send := func(w http.ResponseWriter, from, to int, b []byte) {
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/3500", from, to))
		w.Header().Set("Content-Length", fmt.Sprint(to-from+1))
		w.WriteHeader(http.StatusPartialContent)
		w.Write(b)
	}
	once := func(f func(h *testHead, w http.ResponseWriter)) func(*testHead, int, http.ResponseWriter) bool {
		return func(h *testHead, n int, w http.ResponseWriter) bool {
			if n == 1 {
				f(h, w)
			}
			return n == 1
		}
	}
	for name, tc := range map[string]struct {
		strange func(h *testHead, n int, w http.ResponseWriter) bool
		asked   []string
		said    string // one of the stages
	}{
		"a flipped bit": {once(func(h *testHead, w http.ResponseWriter) {
			b := slices.Clone(h.content)
			b[1500] ^= 1
			send(w, 0, 3499, b)
		}), []string{whole, "bytes=1000-3499"}, ""},
		"a flipped bit, always": {func(h *testHead, n int, w http.ResponseWriter) bool {
			if n > 3 {
				return false
			}
			b := slices.Clone(h.content)
			b[3499] ^= 1
			if n == 1 {
				send(w, 0, 3499, b)
			} else {
				send(w, 3000, 3499, b[3000:])
			}
			return true
		}, []string{whole, "bytes=3000-3499", "bytes=3000-3499", "bytes=3000-3499"}, "userland: piece 4 of 4 from head:80 is wrong, 3 times in a row"},
		"a cut": {once(func(h *testHead, w http.ResponseWriter) {
			send(w, 0, 3499, h.content[:2500])
			panic(http.ErrAbortHandler)
		}), []string{whole, "bytes=2000-3499"}, "userland: the head's file service ended the connection: head:80: unexpected EOF"},
		"another length": {once(func(h *testHead, w http.ResponseWriter) {
			send(w, 0, 99, h.content[:100])
		}), []string{whole, whole}, "userland: head:80: sends 100 bytes instead of 3500"},
		"another part": {once(func(h *testHead, w http.ResponseWriter) {
			w.Header().Set("Content-Range", "bytes 1-3500/3501")
			w.Header().Set("Content-Length", "3500")
			w.WriteHeader(http.StatusPartialContent)
		}), []string{whole, whole}, `userland: head:80: sends "bytes 1-3500/3501" instead of bytes 0-3499/3500`},
		"no end": {once(func(h *testHead, w http.ResponseWriter) {
			w.WriteHeader(http.StatusOK)
			w.(http.Flusher).Flush() // chunked
			for range 100 {
				w.Write(h.content)
			}
		}), []string{whole, whole}, `userland: head:80: sends the content as "chunked", which was not asked for`},
		"not there": {once(func(h *testHead, w http.ResponseWriter) {
			w.WriteHeader(http.StatusNotFound)
		}), []string{whole, whole}, "userland: the head does not have it (%.12s…); on the head: muster image publish DIR"},
		"elsewhere": {once(func(h *testHead, w http.ResponseWriter) {
			w.Header().Set("Location", "http://evil/")
			w.WriteHeader(http.StatusFound)
		}), []string{whole, whole}, `userland: head:80: sends elsewhere (status 302, "http://evil/"), which is not followed`},
		"busy": {once(func(h *testHead, w http.ResponseWriter) {
			w.WriteHeader(http.StatusServiceUnavailable)
		}), []string{whole, whole}, "userland: head:80: answers with status 503"},
		"all of it, without a part": {once(func(h *testHead, w http.ResponseWriter) {
			w.Header().Set("Content-Length", "3500")
			w.Write(h.content)
		}), []string{whole}, ""},
		"silence": {once(func(h *testHead, w http.ResponseWriter) {
			time.Sleep(time.Minute)
		}), []string{whole, whole}, "userland: the head's file service does not answer: head:80: read pipe: i/o timeout"},
		"a byte a second": {once(func(h *testHead, w http.ResponseWriter) {
			send(w, 0, 3499, h.content[:1])
			for i := range 3499 {
				w.(http.Flusher).Flush()
				time.Sleep(time.Second)
				if _, err := w.Write(h.content[i+1 : i+2]); err != nil {
					return
				}
			}
		}), []string{whole, whole}, "userland: the head's file service does not answer: head:80: read pipe: i/o timeout"},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, 3, func(t *testing.T, head *testHead) {
				head.strange = func(n int, w http.ResponseWriter, r *http.Request) bool { return tc.strange(head, n, w) }
				h := newTestHolder(t, head, t.TempDir(), nil)
				h.From("http://head")
				h.begin(t)
				<-h.ended
				h.whole(t, head)
				if diff := cmp.Diff(tc.asked, head.asked()); diff != "" {
					t.Errorf("asked for (-want +got):\n%s", diff)
				}
				said := tc.said
				if strings.Contains(said, "%") {
					said = fmt.Sprintf(said, head.want.SHA256)
				}
				if said != "" && !slices.Contains(h.said(), said) {
					t.Errorf("said %q, want %q among them", h.said(), said)
				}
			})
		})
	}
}

// An agent that starts again keeps what is right, asks for the rest, and does not
// mount twice.
func TestHolderAgain(t *testing.T) {
	bubble(t, 3, func(t *testing.T, head *testHead) {
		stopAfter := make(chan struct{})
		head.strange = func(n int, w http.ResponseWriter, r *http.Request) bool {
			if n > 1 {
				return false
			}
			w.Header().Set("Content-Range", "bytes 0-3499/3500")
			w.Header().Set("Content-Length", "3500")
			w.WriteHeader(http.StatusPartialContent)
			w.Write(head.content[:2000])
			w.(http.Flusher).Flush()
			<-stopAfter
			return true
		}
		dir := t.TempDir()
		first := newTestHolder(t, head, dir, nil)
		first.From("http://head")
		first.begin(t)
		synctest.Wait()
		if got := first.Stage(); got != "userland 50 %" {
			t.Errorf("half way: %q", got)
		}
		first.stop()
		<-first.ended
		close(stopAfter)
		// Somebody has touched the first piece meanwhile.
		f, err := os.OpenFile(first.storeFile(), os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		f.WriteAt([]byte("x"), 7)
		f.Close()

		second := newTestHolder(t, head, dir, func(c *Config) { c.mounts = first.mounts })
		second.From("http://head")
		second.begin(t)
		<-second.ended
		second.whole(t, head)
		if diff := cmp.Diff([]string{"bytes=0-3499", "bytes=0-999", "bytes=2000-3499"}, head.asked()); diff != "" {
			t.Errorf("asked for (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff([]string{"userland: checking", "userland: mounting", ""}, second.said()); diff != "" {
			t.Errorf("said (-want +got):\n%s", diff)
		}

		third := newTestHolder(t, head, dir, func(c *Config) { c.mounts, c.MemTotalMiB = first.mounts, 1 })
		third.begin(t)
		<-third.ended
		third.whole(t, head)
		if first.mounts.memories != 1 {
			t.Errorf("memory was mounted %d times", first.mounts.memories)
		}
	})
}

// A head that has moved is asked at its new place, even while it is waited for at the old one.
func TestHolderMovedHead(t *testing.T) {
	bubble(t, 1, func(t *testing.T, head *testHead) {
		gone := make(chan struct{})
		defer close(gone)
		head.strange = func(n int, w http.ResponseWriter, r *http.Request) bool {
			if strings.HasPrefix(r.URL.Path, "/new/") {
				r.URL.Path = strings.TrimPrefix(r.URL.Path, "/new")
				return false
			}
			<-gone
			return true
		}
		h := newTestHolder(t, head, t.TempDir(), nil)
		h.From("http://head")
		h.begin(t)
		synctest.Wait()
		begin := time.Now()
		h.From("http://head/new/")
		<-h.ended
		h.whole(t, head)
		if d := time.Since(begin); d > 0 {
			t.Errorf("it took %v to turn to the new place", d)
		}
	})
}

func TestHolderGivesUp(t *testing.T) {
	for name, tc := range map[string]struct {
		adjust func(*Config)
		want   string
	}{
		"too small": {func(c *Config) { c.MemTotalMiB = 150 }, "userland: needs a machine with 256 MiB, this one has 192 MiB, or an image with userland: auto and a read-only share"},
		"not known": {func(c *Config) { c.Want, c.Problem = api.Userland{}, errors.New("reading it: nonsense") }, "userland: reading it: nonsense"},
		"no init": {
			func(c *Config) { c.mounts = &fakeMounts{on: map[string]mounted{}, noInit: true} },
			"userland: it has no program /usr/lib/muster/init (stat …: no such file or directory); build the image with a muster as new as its agent",
		},
		"something else is there": {func(c *Config) {
			c.mounts = &fakeMounts{on: map[string]mounted{c.RunDir + "/userland": {fstype: "ext4"}}}
		}, "userland: on …: ext4 of no file"},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, 1, func(t *testing.T, head *testHead) {
				h := newTestHolder(t, head, t.TempDir(), tc.adjust)
				h.From("http://head")
				h.begin(t)
				<-h.ended
				before, after, _ := strings.Cut(tc.want, "…")
				if got := h.Stage(); !strings.HasPrefix(got, before) || !strings.HasSuffix(got, after) {
					t.Errorf("stage %q, want %q", got, tc.want)
				}
				if _, err := h.Root(); err == nil || h.Held() != "" {
					t.Errorf("it has a root nevertheless: %v, %q", err, h.Held())
				}
				if left := h.mounts.on[h.dir].fstype; left == "squashfs" {
					t.Error("what was mounted stays")
				}
			})
		})
	}
}

func TestHolderMountsLater(t *testing.T) {
	bubble(t, 1, func(t *testing.T, head *testHead) {
		h := newTestHolder(t, head, t.TempDir(), func(c *Config) { c.mounts = &fakeMounts{on: map[string]mounted{}, fail: 3} })
		h.From("http://head")
		h.begin(t)
		<-h.ended
		h.whole(t, head)
		if n := len(head.asked()); n != 1 {
			t.Errorf("fetched %d times", n)
		}
	})
}

// A head that is away for long is not asked more often than every few seconds, and found
// again within 25.
func TestHolderPauses(t *testing.T) {
	bubble(t, 1, func(t *testing.T, head *testHead) {
		var mu sync.Mutex
		tries, there := 0, false
		h := newTestHolder(t, head, t.TempDir(), func(c *Config) {
			c.dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
				mu.Lock()
				defer mu.Unlock()
				tries++
				if !there {
					return nil, &net.OpError{Op: "dial", Err: errors.New("no way")}
				}
				return head.dial(ctx, network, addr)
			}
		})
		h.From("http://head")
		h.begin(t)
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		mu.Lock()
		if tries < 600/23 || tries > 600/15+5 {
			t.Errorf("%d tries in 10 minutes", tries)
		}
		there = true
		mu.Unlock()
		begin := time.Now()
		<-h.ended
		h.whole(t, head)
		if d := time.Since(begin); d > 25*time.Second {
			t.Errorf("found again after %v", d)
		}
	})
}
