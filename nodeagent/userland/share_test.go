package userland

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"muster/api"
)

// fakeShares keeps in folders what the kernel would mount from a server.
type fakeShares struct {
	mounts *fakeMounts
	mu     sync.Mutex
	loaded []string
	has    []string // modules that are there before
	enters int
	refuse error             // of enter
	files  map[string]string // that the server has
	broken error             // of attach
	wrong  bool              // a block was changed
	away   chan struct{}     // the server does not answer until it is closed; nil: it does
}

func (f *fakeShares) load(path string, data func() ([]byte, error)) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if slices.Contains(f.has, path) {
		return nil
	}
	b, err := data()
	if err == nil {
		f.loaded = append(f.loaded, path+" "+string(b))
	}
	return err
}

func (f *fakeShares) enter(_ context.Context, s api.UserlandSource, dir string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.enters++
	if f.refuse != nil {
		return f.refuse
	}
	f.mounts.mu.Lock()
	f.mounts.on[dir] = mounted{fstype: "nfs4", source: from(s)}
	f.mounts.mu.Unlock()
	for name, content := range f.files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			return err
		}
	}
	return nil
}

func (f *fakeShares) attach(file, dir string, want api.Userland) error {
	f.mu.Lock()
	broken := f.broken
	f.mu.Unlock()
	if broken != nil {
		return broken
	}
	if err := f.mounts.attach(file, dir); err != nil {
		return err
	}
	f.mounts.mu.Lock()
	defer f.mounts.mu.Unlock()
	f.mounts.on[dir] = mounted{fstype: "squashfs", uuid: verityUUID(want)}
	return nil
}

func (f *fakeShares) intact() (bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return !f.wrong, nil
}

func (f *fakeShares) alive(string) {
	f.mu.Lock()
	away := f.away
	f.mu.Unlock()
	if away != nil {
		<-away
	}
}

func (f *fakeShares) change(do func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	do()
}

var theShare = &api.UserlandSource{Server: "10.0.0.9", Export: "/x", File: "u.sqfs"}

// newShareHolder is a holder on a machine that is too small for its userland, and the server that has it. The head has
// two modules that reading takes.
func newShareHolder(t *testing.T, head *testHead, adjust func(*Config, *fakeShares)) (*testHolder, *fakeShares) {
	s := &fakeShares{files: map[string]string{"u.sqfs": string(head.content)}}
	h := newTestHolder(t, head, t.TempDir(), func(c *Config) {
		c.MemTotalMiB = 150
		c.Want.In, c.Want.VerityRoot, c.Want.VerityBlocks = api.UserlandAuto, strings.Repeat("ab", 32), 1
		module := func(from, to int) api.UserlandModule {
			return api.UserlandModule{Path: fmt.Sprintf("kernel/m%d.ko.xz", from), Offset: int64(from), Size: int64(to - from), SHA256: hash(head.content[from:to])}
		}
		c.Want.Modules = &api.UserlandModules{SHA256: head.want.SHA256, Size: head.want.Size, Pieces: []api.UserlandModule{module(3, 5), module(10, 12)}}
		s.mounts = c.mounts.(*fakeMounts)
		c.shares = s
		if adjust != nil {
			adjust(c, s)
		}
	})
	return h, s
}

// read fails the test unless the userland is there.
func (h *testHolder) read(t *testing.T, in api.UserlandIn, place string, bytes int64) {
	t.Helper()
	gotIn, gotPlace, gotBytes, stalled := h.Where()
	if gotIn != in || gotPlace != place || gotBytes != bytes || stalled != "" {
		t.Errorf("it is in %q of %q, %d bytes, %q; want %q of %q, %d bytes (stage %q)", gotIn, gotPlace, gotBytes, stalled, in, place, bytes, h.Stage())
	}
}

func TestHolderShare(t *testing.T) {
	bubble(t, 3, func(t *testing.T, head *testHead) {
		h, s := newShareHolder(t, head, nil)
		h.begin(t)
		synctest.Wait()
		if got := h.Stage(); got != "userland: waiting for the head" {
			t.Errorf("before the head has said anything: %q", got)
		}
		h.From("http://head")
		h.Offer(nil)
		synctest.Wait()
		if got := h.Stage(); !strings.HasPrefix(got, "userland: needs a machine with 256 MiB, this one has 192 MiB, or a read-only share") {
			t.Errorf("without a share: %q", got)
		}
		h.Offer(theShare)
		synctest.Wait()
		h.read(t, api.UserlandShare, "10.0.0.9:/x", 0)
		if root, err := h.Root(); err != nil || root != h.dir || h.Held() != head.want.SHA256 {
			t.Errorf("root %q, %v, held %q", root, err, h.Held())
		}
		if diff := cmp.Diff([]string{"kernel/m3.ko.xz " + string(head.content[3:5]), "kernel/m10.ko.xz " + string(head.content[10:12])}, s.loaded); diff != "" {
			t.Errorf("modules (-want +got):\n%s", diff)
		}
		if h.mounts.memories != 0 {
			t.Error("memory was taken for it")
		}

		// A server that does not answer is told, and does not take the node from its tasks.
		away := make(chan struct{})
		s.change(func() { s.away = away })
		time.Sleep(time.Minute)
		if _, _, _, why := h.Where(); why != "10.0.0.9:/x does not answer; what reads its programs waits until it does" || h.Stage() != "" {
			t.Errorf("while the server is away: %q, stage %q", why, h.Stage())
		}
		s.change(func() { s.away = nil })
		close(away)
		time.Sleep(lookEvery)
		synctest.Wait()
		h.read(t, api.UserlandShare, "10.0.0.9:/x", 0)

		// The next agent finds it.
		h.stop()
		<-h.ended
		second := newTestHolder(t, head, h.cfg.RunDir, func(c *Config) { *c = h.cfg })
		second.begin(t)
		synctest.Wait()
		second.read(t, api.UserlandShare, "10.0.0.9:/x", 0)
		if s.enters != 1 {
			t.Errorf("the share was mounted %d times", s.enters)
		}

		// A block that was changed is told, and no task comes any more.
		s.change(func() { s.wrong = true })
		time.Sleep(lookEvery)
		synctest.Wait()
		if got, want := second.Stage(), "userland: a block of it at 10.0.0.9:/x is not what the image says: copy the file there again, then: muster node reboot NODE"; got != want {
			t.Errorf("after a change: %q, want %q", got, want)
		}
		if _, err := second.Root(); err == nil || second.Held() != "" {
			t.Errorf("tasks get it nevertheless: %v", err)
		}
	})
}

// What may be wrong with a share, what is said, and that it works as soon as it is right.
func TestHolderShareTrouble(t *testing.T) {
	for name, tc := range map[string]struct {
		wrong func(s *fakeShares, head *testHead)
		want  string
	}{
		"refused": {func(s *fakeShares, _ *testHead) {
			s.refuse = errors.New("10.0.0.9 runs no NFS server, or one on another port")
		}, "10.0.0.9 runs no NFS server"},
		"no file": {func(s *fakeShares, _ *testHead) { s.files = nil }, "10.0.0.9:/x has no file u.sqfs; the head says what to copy there: muster image show IMAGE"},
		"another size": {
			func(s *fakeShares, _ *testHead) { s.files = map[string]string{"u.sqfs": "x"} },
			"the file u.sqfs at 10.0.0.9:/x has 1 bytes, the image says 3500; copy it there again",
		},
		"nonsense": {func(s *fakeShares, _ *testHead) { s.broken = errors.New("it is not the userland of the image") }, "reading u.sqfs at 10.0.0.9:/x: it is not the userland of the image"},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, 3, func(t *testing.T, head *testHead) {
				h, s := newShareHolder(t, head, func(_ *Config, s *fakeShares) { tc.wrong(s, head) })
				h.From("http://head")
				h.Offer(theShare)
				h.begin(t)
				synctest.Wait()
				if got := h.Stage(); got != "userland: "+tc.want && !strings.HasPrefix(got, "userland: "+tc.want) {
					t.Errorf("it says %q, want %q", got, tc.want)
				}
				s.change(func() { s.refuse, s.broken, s.files = nil, nil, map[string]string{"u.sqfs": string(head.content)} })
				time.Sleep(time.Minute)
				synctest.Wait()
				h.read(t, api.UserlandShare, "10.0.0.9:/x", 0)
			})
		})
	}
}

// A machine that has the room for its userland takes it from the head where the share does not work; what an image wants
// on a share stays there.
func TestHolderShareInstead(t *testing.T) {
	content, _ := testUserland(17 << 10) // more than a quarter of the least machine
	for in, want := range map[api.UserlandIn]api.UserlandIn{api.UserlandAuto: api.UserlandMemory, api.UserlandShare: ""} {
		synctest.Test(t, func(t *testing.T) {
			head := serveTestHead(t, content, describeFile(content, 1<<20))
			h, s := newShareHolder(t, head, func(c *Config, s *fakeShares) {
				c.Want.In, c.Want.MemoryMiB, c.MemTotalMiB, s.refuse = in, 64, 1, errors.New("no")
			})
			h.From("http://head")
			h.Offer(theShare)
			h.begin(t)
			time.Sleep(time.Hour)
			synctest.Wait()
			if place, _, _, _ := h.Where(); place != want || s.enters < shareTries {
				t.Errorf("%s: it is in %q after %d tries, stage %q; want %q", in, place, s.enters, h.Stage(), want)
			}
		})
	}
}

// What an initramfs says of reading a userland from a share.
func TestParseShared(t *testing.T) {
	sum := strings.Repeat("0a", 32)
	whole := fmt.Sprintf(`{"sha256": %[1]q, "size": 12288, "chunk": 12288, "chunks": [%[1]q], "in": "share", "verity_root": %[1]q, "verity_blocks": 1,
		"modules": {"sha256": %[1]q, "size": 10, "pieces": [{"path": "kernel/x.ko", "offset": 2, "size": 8, "sha256": %[1]q}]}}`, sum)
	if u, err := parse([]byte(whole)); err != nil || u.In != api.UserlandShare || u.VerityBlocks != 1 || u.Modules.Pieces[0].Offset != 2 {
		t.Fatalf("%+v, %v", u, err)
	}
	for name, c := range map[string]struct{ old, now, want string }{
		"another place":  {`"share"`, `"disk"`, `in is "disk", want memory, share or auto`},
		"no root":        {`"verity_root": "0a`, `"verity_root": "0A`, "is no hash tree in 12288 bytes"},
		"words for root": {`"verity_root": "0a`, `"verity_root": "0 `, "is no hash tree in 12288 bytes"},
		"many blocks":    {`"verity_blocks": 1`, `"verity_blocks": 3`, "with 3 blocks is no hash tree in 12288 bytes"},
		"no blocks":      {`"verity_blocks": 1`, `"verity_blocks": 0`, "with 0 blocks is no hash tree"},
		"beyond the end": {`"offset": 2`, `"offset": 3`, `module "kernel/x.ko" is no piece of a file with 10 bytes`},
		"overflow":       {`"offset": 2`, `"offset": 9223372036854775807`, `module "kernel/x.ko" is no piece`},
		"no path":        {`"kernel/x.ko"`, `""`, `module "" is no piece`},
	} {
		if _, err := parse([]byte(strings.Replace(whole, c.old, c.now, 1))); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

// A head cannot name a file elsewhere.
func TestHolderShareStrangeFile(t *testing.T) {
	for _, s := range []api.UserlandSource{{Server: "h", Export: "/x", File: "../y"}, {Server: "h", Export: "/x", File: ".."}, {Server: "h", Export: "/x"}, {Server: "h", Export: "x", File: "f"}} {
		bubble(t, 3, func(t *testing.T, head *testHead) {
			h, f := newShareHolder(t, head, nil)
			h.From("http://head")
			h.Offer(&s)
			h.begin(t)
			synctest.Wait()
			if got := h.Stage(); !strings.Contains(got, "is no file that a userland can be") || f.enters > 0 {
				t.Errorf("%+v: %q", s, got)
			}
		})
	}
}
