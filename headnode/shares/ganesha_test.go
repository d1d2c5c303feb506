package shares

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"muster/api"
	"muster/internal/need"
	"muster/internal/netnstest"
)

// inVM is set where a test runs in a machine of its own.
const inVM = "MUSTER_KERNEL_VM"

func TestMain(m *testing.M) {
	if os.Getenv(inVM) != "" {
		os.Exit(m.Run())
	}
	netnstest.Main(m)
}

const testPort = 20490

// startGanesha runs a server with the real nfs-ganesha.
func startGanesha(t *testing.T, state string) *Server {
	t.Helper()
	need.Root(t)
	if _, err := exec.LookPath("ganesha.nfsd"); err != nil {
		t.Skip("only in make test-vm after: apt install nfs-ganesha nfs-ganesha-vfs")
	}
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	s, err := NewServer(Config{State: state, Port: testPort, Log: log, Threads: filepath.Join(t.TempDir(), "threads")})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := s.Run(ctx); err != nil {
			t.Error(err)
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
	return s
}

func clients(addrs ...string) []Client {
	var list []Client
	for i, a := range addrs {
		list = append(list, Client{fmt.Sprint("n", i), netip.MustParseAddr(a)})
	}
	return list
}

// shareFolder makes a folder with a file on a disk.
func shareFolder(t *testing.T, name string) string {
	t.Helper()
	top, err := os.MkdirTemp("/srv", "muster-shares-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(top) })
	dir := filepath.Join(top, name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("of "+name), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

// eventually waits for what another process does.
func eventually(t *testing.T, most time.Duration, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	late := time.After(most)
	for !ok() {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("it is not so after %v that %s", most, what)
		}
	}
}

// TestGanesha has the real server serve, change, die and come back.
func TestGanesha(t *testing.T) {
	state := t.TempDir()
	s := startGanesha(t, state)
	a, b := shareFolder(t, "a"), shareFolder(t, `b c#%d'$HOME {;} ü`)
	ea := Export{ID: 1, Dir: a, Clients: clients("127.0.0.2", "fd00::2")}
	eb := Export{ID: 7, Dir: b, ReadOnly: true, Clients: clients("127.0.0.2", "127.0.0.3")}
	serve := func(list ...Export) {
		t.Helper()
		st, err := s.Serve(t.Context(), Wanted{Driver: api.ShareGanesha, Exports: list})
		if err != nil || len(st.Failed) > 0 {
			t.Fatalf("Serve: %+v, %v", st, err)
		}
	}
	reads := func(from, export, want string) {
		t.Helper()
		got, err := readNFS(t, from, testPort, export, "file")
		if err != nil || got != want {
			t.Errorf("%s reads %q of %s, %v; want %q", from, got, export, err, want)
		}
	}
	refused := func(from, export string) {
		t.Helper()
		got, err := readNFS(t, from, testPort, export, "file")
		var status nfsError
		if !errors.As(err, &status) || status != nfsNoEnt && status != nfsAccess {
			t.Errorf("%s reads %q of %s, %v; want it refused", from, got, export, err)
		}
	}
	serve(ea)
	reads("127.0.0.2", "share-1", "of a")
	refused("127.0.0.3", "share-1")
	refused("127.0.0.1", "share-1")

	// A client of an unprivileged port is a program of a user: it could say that it is anybody.
	plain, err := dialNFS("127.0.0.2", testPort, true)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := plain.read("share-1", "file"); err == nil {
		t.Errorf("a client without a privileged port reads %q", got)
	}
	plain.conn.Close()

	// One session goes on while shares come, change and go.
	held, err := dialNFS("127.0.0.2", testPort, false)
	if err != nil {
		t.Fatal(err)
	}
	defer held.conn.Close()
	goesOn := func(when string) {
		t.Helper()
		if got, err := held.read("share-1", "file"); err != nil || got != "of a" {
			t.Errorf("%s: a client of the first share reads %q, %v", when, got, err)
		}
	}
	goesOn("at the start")
	serve(ea, eb)
	goesOn("a second share was added")
	reads("127.0.0.3", "share-7", strings.Replace("of X", "X", filepath.Base(b), 1))
	eb.Clients = clients("127.0.0.2")
	begin := time.Now()
	serve(ea, eb)
	refused("127.0.0.3", "share-7")
	t.Logf("an address lost its access within %v", time.Since(begin).Round(time.Millisecond))
	goesOn("a client of the second share was removed")
	serve(ea)
	refused("127.0.0.2", "share-7")
	goesOn("the second share was removed")

	// What the head writes is there at once.
	for i := range 50 {
		want := fmt.Sprint("turn ", i)
		if err := os.WriteFile(filepath.Join(a, "turn"), []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		if got, err := held.read("share-1", "turn"); err != nil || got != want {
			t.Fatalf("read %q, %v; want %q", got, err, want)
		}
	}

	// A folder that is gone takes no other with it, and comes back with it.
	gone := shareFolder(t, "gone")
	aside := gone + ".aside"
	if err := os.Rename(gone, aside); err != nil {
		t.Fatal(err)
	}
	list := Wanted{Driver: api.ShareGanesha, Exports: []Export{ea, {ID: 9, Dir: gone, Clients: clients("127.0.0.2")}}}
	st, err := s.Serve(t.Context(), list)
	if err != nil || !strings.Contains(st.Failed[9], "there is no folder "+gone) || len(st.Failed) != 1 {
		t.Errorf("a folder is gone: %+v, %v", st, err)
	}
	goesOn("another folder is gone")
	if err := os.Rename(aside, gone); err != nil {
		t.Fatal(err)
	}
	serve(list.Exports...)
	reads("127.0.0.2", "share-9", "of gone")

	// Killed, it comes back by itself, with what it had.
	first := s.ganesha.pid()
	if err := syscall.Kill(first, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	begin = time.Now()
	eventually(t, 15*time.Second, "it serves again", func() bool {
		got, err := readNFS(t, "127.0.0.2", testPort, "share-1", "file")
		return err == nil && got == "of a"
	})
	t.Logf("killed, it served again after %v", time.Since(begin).Round(time.Millisecond))
	if now := s.ganesha.pid(); now == first || now == 0 {
		t.Errorf("its process was %d and is %d", first, now)
	}
	serve(list.Exports...)

	// A file that it cannot read is put back before anybody loses anything: here somebody else writes it.
	if err := os.WriteFile(s.ganesha.config(), []byte("EXPORT { Export_Id = "), 0o600); err != nil {
		t.Fatal(err)
	}
	s.ganesha.mu.Lock()
	proc := s.ganesha.proc
	s.ganesha.mu.Unlock()
	if _, err := s.ganesha.reload(t.Context(), proc); err == nil {
		t.Error("a broken file was taken without a word")
	}
	ea.Clients = clients("127.0.0.2", "127.0.0.4")
	serve(ea)
	reads("127.0.0.4", "share-1", "of a")

	// With its last share it ends.
	if _, err := s.Serve(t.Context(), Wanted{}); err != nil {
		t.Fatal(err)
	}
	if pid := s.ganesha.pid(); pid != 0 {
		t.Errorf("process %d still runs", pid)
	}
	if _, err := dialNFS("127.0.0.2", testPort, false); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a server without shares: %v", err)
	}
}

// TestGaneshaUsers: files are open to whom they are open to on the head, with all groups that the head knows
// of a user; root of a node is nobody but where it may be root.
func TestGaneshaUsers(t *testing.T) {
	const user, firstGroup, groups = 54321, 54400, 20
	s := startGanesha(t, t.TempDir())
	// The tests have mounts of their own, so these are seen by them and the server only.
	for name, more := range map[string]string{"/etc/passwd": fmt.Sprintf("mustert:x:%d:%d::/:/bin/sh\n", user, user), "/etc/group": func() string {
		var b strings.Builder
		for i := range groups {
			fmt.Fprintf(&b, "mustert%d:x:%d:mustert\n", i, firstGroup+i)
		}
		return b.String()
	}()} {
		raw, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		own := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(own, append(raw, more...), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount(own, name, "", unix.MS_BIND, ""); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Unmount(name, unix.MNT_DETACH) })
	}
	dir := shareFolder(t, "x")
	for name, owner := range map[string][2]int{"users": {user, 0}, "last": {0, firstGroup + groups - 1}, "roots": {0, 0}, "others": {user + 1, user + 1}} {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(name), 0o440); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(file, owner[0], owner[1]); err != nil {
			t.Fatal(err)
		}
	}
	root := shareFolder(t, "y")
	if err := os.WriteFile(filepath.Join(root, "roots"), []byte("roots"), 0o400); err != nil {
		t.Fatal(err)
	}
	st, err := s.Serve(t.Context(), Wanted{Driver: api.ShareGanesha, Exports: []Export{
		{ID: 1, Dir: dir, Clients: clients("127.0.0.2")}, {ID: 2, Dir: root, NoRootSquash: true, Clients: clients("127.0.0.2")},
	}})
	if err != nil || len(st.Failed) > 0 {
		t.Fatalf("%+v, %v", st, err)
	}
	for _, c := range []struct {
		uid          uint32
		export, name string
		may          bool
	}{
		{user, "share-1", "users", true},
		{user, "share-1", "last", true},
		{user, "share-1", "roots", false},
		{user, "share-1", "others", false},
		{0, "share-1", "roots", false},
		{0, "share-1", "users", false},
		{0, "share-2", "roots", true},
	} {
		client, err := dialNFS("127.0.0.2", testPort, false)
		if err != nil {
			t.Fatal(err)
		}
		client.uid = c.uid
		got, err := client.read(c.export, c.name)
		client.conn.Close()
		var status nfsError
		if c.may && (err != nil || got != c.name) || !c.may && (!errors.As(err, &status) || status != nfsAccess) {
			t.Errorf("user %d reads %q of %s/%s, %v; may: %v", c.uid, got, c.export, c.name, err, c.may)
		}
	}
	// The server knows every word that it is told: one that it does not know is passed over.
	log, err := os.ReadFile(s.ganesha.logName())
	if err != nil || strings.Contains(string(log), "Unknown") || !strings.Contains(string(log), "NFS SERVER INITIALIZED") {
		t.Errorf("its log: %v\n%s", err, log)
	}
}

// TestGaneshaAfterRestart: a keeper that starts serves what was served, before anybody asks.
func TestGaneshaAfterRestart(t *testing.T) {
	state, dir := t.TempDir(), ""
	t.Run("first", func(t *testing.T) {
		s := startGanesha(t, state)
		dir = shareFolder(t, "kept")
		w := Wanted{Driver: api.ShareGanesha, Exports: []Export{{ID: 3, Dir: dir, Clients: clients("127.0.0.2")}}}
		if st, err := s.Serve(t.Context(), w); err != nil || len(st.Failed) > 0 {
			t.Fatalf("%+v, %v", st, err)
		}
		raw, err := os.ReadFile(s.saved())
		if err != nil || os.WriteFile(filepath.Join(state, "copy"), raw, 0o600) != nil {
			t.Fatal(err)
		}
	})
	if dir == "" {
		t.Skip("only in make test-vm after: apt install nfs-ganesha nfs-ganesha-vfs")
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(filepath.Dir(dir)) })
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("of kept"), 0o644); err != nil {
		t.Fatal(err)
	}
	startGanesha(t, state)
	eventually(t, 15*time.Second, "the share is served again", func() bool {
		got, err := readNFS(t, "127.0.0.2", testPort, "share-3", "file")
		return err == nil && got == "of kept"
	})
}

// TestGaneshaPortTaken: who has the port is said, and it is served once that one is gone.
func TestGaneshaPortTaken(t *testing.T) {
	s := startGanesha(t, t.TempDir())
	other := exec.Command("python3", "-c", fmt.Sprintf(`import socket, sys
s = socket.create_server(("0.0.0.0", %d)); print("x", flush=True); sys.stdin.read()`, testPort))
	in, err := other.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := other.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Start(); err != nil {
		need.Missing(t, "python3: %v", err)
	}
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	dir := shareFolder(t, "x")
	if _, err := s.Look(t.Context(), dir, ""); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("port %d is taken by python3", testPort)) {
		t.Errorf("Look: %v", err)
	}
	w := Wanted{Driver: api.ShareGanesha, Exports: []Export{{ID: 3, Dir: dir, Clients: clients("127.0.0.2")}}}
	if st, err := s.Serve(t.Context(), w); err != nil || !strings.Contains(st.Failed[3], "is taken by python3") {
		t.Errorf("Serve: %+v, %v", st, err)
	}
	in.Close()
	_ = other.Wait()
	if f, err := s.Look(t.Context(), dir, ""); err != nil || f.Driver != api.ShareGanesha || f.Dir != dir {
		t.Errorf("Look: %+v, %v", f, err)
	}
	if st, err := s.Serve(t.Context(), w); err != nil || len(st.Failed) > 0 {
		t.Errorf("Serve: %+v, %v", st, err)
	}
}
