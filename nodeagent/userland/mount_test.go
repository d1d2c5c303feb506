package userland

import (
	"fmt"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"muster/internal/need"
)

// ownMounts gives the rest of a test mounts of its own. The thread that has them ends with the
// test: nothing of it is left in others.
func ownMounts(t *testing.T) {
	t.Helper()
	need.Root(t)
	runtime.LockOSThread()
	// Threads share their view of the file system until it is unshared; the
	// goroutine keeps the thread, and so no other gets it.
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
		need.Missing(t, "a mount namespace cannot be made: %v", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		t.Fatalf("making mounts private: %v", err)
	}
}

// squashfs packs a folder with the init of tasks and a few random megabytes.
func squashfs(t *testing.T) []byte {
	t.Helper()
	mksquashfs := need.Program(t, "mksquashfs", "squashfs-tools")
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "root/usr/lib/muster"), 0o755); err != nil {
		t.Fatal(err)
	}
	content, _ := testUserland(5000) // 5 MB that cannot be packed
	for name, b := range map[string][]byte{taskInit: []byte("init"), "big": content} {
		if err := os.WriteFile(filepath.Join(dir, "root", name), b, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(dir, "userland.sqfs")
	if out, err := exec.Command(mksquashfs, filepath.Join(dir, "root"), file, "-quiet", "-no-progress").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The kernel's own mounts: held once in memory that has room for it and no more,
// read-only, and not mounted again by the next agent.
func TestHolderMounts(t *testing.T) {
	ownMounts(t)
	content := squashfs(t)
	head := &testHead{content: content, want: describeFile(content, 1<<20)}
	srv := httptest.NewServer(head)
	defer srv.Close()
	dir := t.TempDir()
	cfg := Config{Want: head.want, RunDir: dir, mounts: selfMounts{}}
	// Run works where it is called: the mounts are this thread's.
	first := New(cfg)
	first.From(srv.URL)
	first.Run(t.Context(), func() {})
	root, err := first.Root()
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(filepath.Join(dir, "userland.store"), unix.MNT_DETACH)
	defer unix.Unmount(root, unix.MNT_DETACH)
	if b, err := os.ReadFile(filepath.Join(root, taskInit)); err != nil || string(b) != "init" {
		t.Errorf("the init of tasks is %q, %v", b, err)
	}
	if err := os.WriteFile(filepath.Join(root, "new"), nil, 0o644); err == nil {
		t.Error("it can be written to")
	}
	var store unix.Statfs_t
	if err := unix.Statfs(filepath.Dir(first.storeFile()), &store); err != nil {
		t.Fatal(err)
	}
	if size := int64(store.Blocks) * store.Bsize; store.Type != unix.TMPFS_MAGIC || size < head.want.Size || size > head.want.Size+int64(os.Getpagesize()) {
		t.Errorf("memory for %d bytes has file system %x with %d bytes", head.want.Size, store.Type, size)
	}
	if err := os.WriteFile(filepath.Join(filepath.Dir(first.storeFile()), "other"), make([]byte, 64<<10), 0o600); err == nil {
		t.Error("there is room for more")
	}

	second := New(cfg)
	second.Run(t.Context(), func() {})
	if again, err := second.Root(); err != nil || again != root || second.Held() != head.want.SHA256 {
		t.Errorf("the next agent has %q, %v", again, err)
	}
	if n := len(head.asked()); n != 1 {
		t.Errorf("fetched %d times", n)
	}
	if err := unix.Unmount(root, 0); err != nil {
		t.Fatal(err)
	}
	if m, err := (selfMounts{}).what(root); err != nil || m.fstype != "" {
		t.Errorf("it was mounted twice: below is %+v, %v", m, err)
	}
	other := cfg
	other.Want = describeFile([]byte("another userland"), 4)
	if err := unix.Mount(filepath.Join(dir, "userland.store"), root, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	third := New(other)
	third.From(srv.URL)
	third.Run(t.Context(), func() {})
	if want := fmt.Sprintf("userland: on %s is something else: tmpfs of no file", root); third.Stage() != want || third.Held() != "" {
		t.Errorf("where something else is: %q, want %q", third.Stage(), want)
	}
}

// What is no squashfs is an error that stays until it goes away, and leaves no loop device.
func TestAttachNonsense(t *testing.T) {
	ownMounts(t)
	file := filepath.Join(t.TempDir(), "nonsense")
	if err := os.WriteFile(file, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := (kernelMounts{}).attach(file, filepath.Join(t.TempDir(), "on")); err == nil {
		t.Fatal("it was mounted")
	}
	devices, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range devices {
		if b, err := os.ReadFile(d); err == nil && string(b) == file+"\n" {
			t.Errorf("%s is left", d)
		}
	}
}

// selfMounts are the kernel's, as the calling thread sees them: /proc/self is that of the
// process's first thread.
type selfMounts struct{ kernelMounts }

func (selfMounts) what(dir string) (mounted, error) {
	return whatIn("/proc/thread-self/mountinfo", dir)
}
