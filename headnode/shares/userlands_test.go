package shares

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"muster/api"
)

// storeBlob puts a file into the image store of a state folder.
func storeBlob(t *testing.T, state, text string) (sum string) {
	t.Helper()
	sum = fmt.Sprintf("%x", sha256.Sum256([]byte(text)))
	dir := filepath.Join(state, "images", "blobs")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, sum), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return sum
}

// TestUserlands has the real nfs-ganesha serve userlands, and nothing else of the head's state.
func TestUserlands(t *testing.T) {
	top := shareFolder(t, "top")
	state := filepath.Join(top, "state")
	a, b := storeBlob(t, state, "userland a"), storeBlob(t, state, "userland b")
	other := storeBlob(t, state, "a kernel")
	s := startGanesha(t, state)
	f, err := s.Look(t.Context(), Userlands, api.ShareGanesha)
	if err != nil || f.Dir != state+"-userlands" || f.Driver != api.ShareGanesha {
		t.Fatalf("Look: %+v, %v", f, err)
	}
	serve := func(sums ...string) {
		t.Helper()
		w := Wanted{}
		if len(sums) > 0 {
			w = Wanted{api.ShareGanesha, []Export{{ID: UserlandsID, Dir: f.Dir, Mount: f.Mount, ReadOnly: true, Clients: clients("127.0.0.2"), Userlands: sums}}}
		}
		if st, err := s.Serve(t.Context(), w); err != nil || len(st.Failed) > 0 {
			t.Fatalf("Serve: %+v, %v", st, err)
		}
	}
	export := strings.TrimPrefix(ExportPath(api.ShareGanesha, UserlandsID, f.Dir), "/")
	read := func(from, name string) string {
		t.Helper()
		got, err := readNFS(t, from, testPort, export, name)
		var status nfsError
		if err != nil && !errors.As(err, &status) {
			t.Errorf("%s reads %s: %v", from, name, err)
		}
		return got
	}
	serve(a)
	if got := read("127.0.0.2", a) + read("127.0.0.2", b) + read("127.0.0.2", other) + read("127.0.0.3", a); got != "userland a" {
		t.Errorf("read is %q", got)
	}
	// Root of a node is nobody there too, and so is everybody else: the folder beside it has the head's key.
	secret := filepath.Join(f.Dir, "secret")
	if err := os.WriteFile(secret, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := read("127.0.0.2", "secret"); got != "" {
		t.Errorf("root of a node reads %q", got)
	}
	// An image that was removed while it is read stays, and an update comes beside it.
	if err := os.Remove(filepath.Join(state, "images", "blobs", a)); err != nil {
		t.Fatal(err)
	}
	serve(a, b)
	if got := read("127.0.0.2", a) + read("127.0.0.2", b); got != "userland auserland b" {
		t.Errorf("read is %q", got)
	}
	serve(b)
	if got := read("127.0.0.2", a); got != "" {
		t.Errorf("what nobody needs any more is %q", got)
	}
	serve()
	if _, err := os.Stat(f.Dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the folder is there still: %v", err)
	}
	// A file that is missing, or a link in its place, is not served.
	if err := os.Symlink("/etc/shadow", filepath.Join(state, "images", "blobs", a)); err != nil {
		t.Fatal(err)
	}
	st, err := s.Serve(t.Context(), Wanted{api.ShareGanesha, []Export{{ID: UserlandsID, Dir: f.Dir, ReadOnly: true, Userlands: []string{a}}}})
	if err != nil && len(st.Failed) == 0 || !strings.Contains(st.Failed[UserlandsID], "is no file") {
		t.Errorf("a link: %+v, %v", st, err)
	}
}

// TestCheckUserlands asks for what the keeper must not do.
func TestCheckUserlands(t *testing.T) {
	sum := strings.Repeat("ab", 32)
	good := Export{ID: UserlandsID, Dir: "/s-userlands", ReadOnly: true, Userlands: []string{sum}}
	for name, change := range map[string]func(*Export){
		"a number of a share":    func(e *Export) { e.ID = 7 },
		"none":                   func(e *Export) { e.Userlands = nil },
		"for writing":            func(e *Export) { e.ReadOnly = false },
		"with root":              func(e *Export) { e.NoRootSquash = true },
		"a path":                 func(e *Export) { e.Userlands = []string{"../../identity/key"} },
		"capitals":               func(e *Export) { e.Userlands = []string{strings.ToUpper(sum)} },
		"more than there can be": func(e *Export) { e.Userlands = make([]string, maxUserlands+1) },
	} {
		e := good
		change(&e)
		if err := (Wanted{api.ShareKernel, []Export{e}}).check(); err == nil {
			t.Errorf("%s: it is taken", name)
		}
	}
	if err := (Wanted{api.ShareKernel, []Export{good}}).check(); err != nil {
		t.Error(err)
	}
	s, err := NewServer(Config{State: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	if got := s.ready(good); !strings.Contains(got, "userlands are in "+s.userlands()) {
		t.Errorf("another folder: %q", got)
	}
	if got := good.kernelOptions(); !strings.HasPrefix(got, "ro,") || !strings.Contains(got, ",all_squash,") {
		t.Errorf("options are %s", got)
	}
}
