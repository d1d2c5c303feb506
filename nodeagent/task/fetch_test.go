package task

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"muster/api"
)

// fakeStore takes files as a head does; it forgets what it has once after each number of bytes of
// loses.
type fakeStore struct {
	have  map[string][]byte
	loses []int
	asked []int64
}

func (s *fakeStore) put(_ context.Context, p api.FilePut) (api.Ack, error) {
	s.asked = append(s.asked, p.Offset)
	b := s.have[p.SHA256]
	if p.Offset == int64(len(b)) {
		b = append(b, p.Data...)
	}
	if len(s.loses) > 0 && len(b) >= s.loses[0] {
		b, s.loses = b[:0], s.loses[1:]
	}
	s.have[p.SHA256] = b
	return api.Ack{Offset: int64(len(b))}, nil
}

func TestFetchAll(t *testing.T) {
	dir := t.TempDir()
	work := filepath.Join(dir, "work")
	big := bytes.Repeat([]byte("0123456789abcdef"), 20000)
	write := func(name string, data []byte, mode os.FileMode) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(filepath.Join(work, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(work, name), data, mode); err != nil {
			t.Fatal(err)
		}
	}
	write("big", big, 0o644)
	write("empty", nil, 0o600)
	write("sub/tool", []byte("x"), 0o755)
	write("../secret", []byte("secret"), 0o644)
	for link, to := range map[string]string{"inside": "sub/tool", "up": "../secret", "away": filepath.Join(dir, "secret"), "subout": ".."} {
		if err := os.Symlink(to, filepath.Join(work, link)); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mkfifo(filepath.Join(work, "pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	want := map[string]struct {
		size  int64
		mode  uint32
		error string
	}{
		"big":           {int64(len(big)), 0o644, ""},
		"empty":         {0, 0o600, ""},
		"sub/tool":      {1, 0o755, ""},
		"inside":        {1, 0o755, ""},
		"up":            {0, 0, "link out of the working directory"},
		"away":          {0, 0, "link out of the working directory"},
		"subout/secret": {0, 0, "link out of the working directory"},
		"sub":           {0, 0, "it is a folder"},
		"pipe":          {0, 0, "no regular file"},
		"nothing":       {0, 0, "left no such file"},
	}
	start := api.TaskStart{TaskRef: api.TaskRef{Job: 1, Index: 3}}
	for name := range want {
		start.Fetch = append(start.Fetch, name)
	}
	store := &fakeStore{have: map[string][]byte{}, loses: []int{100, 200000}}
	for i, got := range fetchAll(t.Context(), work, start, store.put) {
		w := want[start.Fetch[i]]
		if got.Path != start.Fetch[i] || got.Task != 3 || got.File != i {
			t.Errorf("entry %d is %+v", i, got)
		}
		if w.error != "" {
			if !strings.Contains(got.Error, w.error) || got.SHA256 != "" {
				t.Errorf("%s: %+v, want the error %q", got.Path, got, w.error)
			}
			continue
		}
		sum := sha256.Sum256(store.have[got.SHA256])
		if got.Error != "" || got.Size != w.size || got.Mode != w.mode || hex.EncodeToString(sum[:]) != got.SHA256 {
			t.Errorf("%s: %+v with %d bytes at the head, want %d bytes of mode %o", got.Path, got, len(store.have[got.SHA256]), w.size, w.mode)
		}
	}
	if len(store.loses) > 0 {
		t.Errorf("the head never lost what it had: asked %d", store.asked)
	}
}

// A head that never has what it was sent is given up.
func TestFetchGivesUp(t *testing.T) {
	work := t.TempDir()
	if err := os.WriteFile(filepath.Join(work, "f"), []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	calls := 0
	got := fetchAll(t.Context(), work, api.TaskStart{Fetch: []string{"f"}}, func(context.Context, api.FilePut) (api.Ack, error) {
		calls++
		return api.Ack{}, nil
	})
	if len(got) != 1 || !strings.Contains(got[0].Error, "does not take it") || calls > 2*maxRewinds {
		t.Errorf("%+v after %d calls", got, calls)
	}
}

func TestCheckFetch(t *testing.T) {
	for path, ok := range map[string]bool{
		"out.dat": true, "a/b": true, "": false, ".": false, "..": false, "../x": false, "/etc/passwd": false, "a/../b": false, "a//b": false,
		api.EncodeText("\xff"): true,
	} {
		if err := checkFetch([]string{path}); (err == nil) != ok {
			t.Errorf("%q: %v", path, err)
		}
	}
}
