package shares

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"muster/api"
	"muster/internal/need"
)

// TestFolder looks at folders of this system, and at some that are made for it.
func TestFolder(t *testing.T) {
	need.Root(t)
	top := shareFolder(t, "top")
	state := filepath.Join(top, "state")
	for _, dir := range []string{state, filepath.Join(top, "mnt"), filepath.Join(top, "data", "below"), filepath.Join(top, "up"), filepath.Join(top, "work"), filepath.Join(top, "merged"), filepath.Join(top, "line\nbreak")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	mount := func(source, at, kind, options string) {
		t.Helper()
		if err := unix.Mount(source, filepath.Join(top, at), kind, 0, options); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Unmount(filepath.Join(top, at), unix.MNT_DETACH) })
	}
	mount("none", "mnt", "tmpfs", "")
	mount("none", "data/below", "tmpfs", "")
	mount("none", "merged", "overlay", "lowerdir="+top+"/data,upperdir="+top+"/up,workdir="+top+"/work")
	if err := os.Symlink("data", filepath.Join(top, "link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("loop", filepath.Join(top, "loop")); err != nil {
		t.Fatal(err)
	}
	s, err := NewServer(Config{State: state})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"nothere": "there is no folder", "file": "is no folder", "mnt": "is on tmpfs, which is in memory", "merged": "is on overlay, which is layered",
		"state": "the head's own state and keys", "state/nfs": "the head's own state and keys", ".": "the head's own state and keys",
		"loop": "too many links", "line\nbreak": "line break", "data/below/..": "", "link": "", "data": "",
	} {
		f, err := s.folder(top + "/" + name)
		if want == "" {
			if err != nil || f.Dir != top+"/data" || len(f.Below) != 1 || f.Below[0] != top+"/data/below" || f.Type == "" {
				t.Errorf("%s: %+v, %v", name, f, err)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), want) || api.CodeOf(err) != api.CodeInvalid {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
	}
	for dir, want := range map[string]string{"/": "the head's own state", "relative": "not a path from /", "/proc": "belongs to this head's kernel", "/a\x00b": "not a path"} {
		if _, err := s.folder(dir); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", dir, err, want)
		}
	}
	// A disk that is not mounted now is not taken for an empty share.
	e := Export{ID: 1, Dir: top + "/data", Mount: top + "/data"}
	if got := s.ready(e); !strings.Contains(got, "is not mounted at") {
		t.Errorf("a missing disk: %q", got)
	}
	f, err := s.folder(e.Dir)
	if err != nil {
		t.Fatal(err)
	}
	if e.Mount = f.Mount; s.ready(e) != "" {
		t.Errorf("as it was: %q", s.ready(e))
	}
	if got := s.ready(Export{ID: 1, Dir: top + "/link"}); !strings.Contains(got, "leads to") {
		t.Errorf("a folder that became a link: %q", got)
	}
}

// TestRemote asks a server in another process, here the same one, by its socket.
func TestRemote(t *testing.T) {
	need.Root(t)
	dir := t.TempDir()
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	s, err := NewServer(Config{State: dir, Listener: l, Exportfs: "/none", Ganesha: "/none"})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Run(t.Context()) }()
	t.Cleanup(func() {
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	r := Dial(filepath.Join(dir, "s"))
	if _, err := r.Look(t.Context(), "/srv", ""); api.CodeOf(err) != api.CodeUnavailable || !strings.Contains(err.Error(), "apt install nfs-") {
		t.Errorf("no engine: %v", err)
	}
	if st, err := r.Status(t.Context()); err != nil || len(st.Wanted.Exports) != 0 {
		t.Errorf("Status: %+v, %v", st, err)
	}
	if _, err := r.Serve(t.Context(), Wanted{Exports: []Export{{ID: 1, Dir: "/x"}}}); api.CodeOf(err) != api.CodeInvalid {
		t.Errorf("Serve without an engine's name: %v", err)
	}
	st, err := r.Serve(t.Context(), Wanted{Driver: api.ShareKernel, Exports: []Export{{ID: 1, Dir: "/nothere", Clients: clients("10.1.0.1", "fd00::1")}}})
	if err != nil || !strings.Contains(st.Failed[1], "no folder") || st.Wanted.Exports[0].Clients[1].Addr.String() != "fd00::1" {
		t.Errorf("Serve: %+v, %v", st, err)
	}
	if _, err := Dial(filepath.Join(dir, "nobody")).Status(t.Context()); api.CodeOf(err) != api.CodeUnavailable {
		t.Errorf("nobody answers: %v", err)
	}
}

// TestOwnFolder: the folder of the engines lies in one that others may write to.
func TestOwnFolder(t *testing.T) {
	need.Root(t)
	for name, prepare := range map[string]func(dir string) error{
		"a link":         func(dir string) error { return os.Symlink(t.TempDir(), dir) },
		"somebody's":     func(dir string) error { return os.Mkdir(dir, 0o755) },
		"a file":         func(dir string) error { return os.WriteFile(dir, nil, 0o600) },
		"our own folder": nil,
	} {
		dir := filepath.Join(t.TempDir(), "nfs")
		if prepare != nil {
			if err := prepare(dir); err != nil {
				t.Fatal(err)
			}
			if err := os.Lchown(dir, 1234, 1234); err != nil {
				t.Fatal(err)
			}
		}
		if err := ownFolder(dir); (err == nil) != (prepare == nil) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// What cannot be read is not served, and keeps nobody from starting.
	state := t.TempDir()
	if err := os.Mkdir(filepath.Join(state, "nfs"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(state, "nfs", "exports.json"), []byte(`{"driver":"ganesha","exports":[{"id":1,"dir":"/a\"b"}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := NewServer(Config{State: state})
	if err != nil || len(s.now.Wanted.Exports) != 0 {
		t.Errorf("%+v, %v", s, err)
	}
}
