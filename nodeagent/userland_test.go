package nodeagent

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"muster/api"
	"muster/internal/need"
	"muster/nodeagent/userland"
)

// smallUserland is a root of its own: busybox, and a file by which it can be told.
func smallUserland(t testing.TB) string {
	t.Helper()
	busybox := need.Program(t, "busybox", "busybox-static")
	root := runDir(t)
	for _, dir := range []string{"bin", "dev", "proc", "sys", "run", "tmp", "var/tmp", "etc"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := exec.Command("cp", busybox, filepath.Join(root, "bin/busybox")).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, name := range []string{"sh", "cat", "ls", "echo", "id", "mount", "umount", "chroot", "grep", "tty", "stty", "awk", "sleep", "cut"} {
		if err := os.Symlink("busybox", filepath.Join(root, "bin", name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(root, "etc/which"), []byte("userland\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	return root
}

// A task that has a root of its own sees that, read-only, and nothing of the
// node's, whoever it belongs to.
func TestTaskInUserland(t *testing.T) {
	root := smallUserland(t)
	before, err := filepath.Glob(filepath.Join(root, "*/*"))
	if err != nil {
		t.Fatal(err)
	}
	n := newNode(t, func(c *Config) { c.Root = root })
	run := n.agent.cfg.RunDir
	for i, c := range []struct{ name, script, want string }{
		{"the root", "cat /etc/which; cd /; echo *", "userland\nbin dev etc proc run sys tmp var\n"},
		{"where it is", "cd ..; cd ../../../../../../..; ls etc", "which\n"},
		{"the working directory", "echo x >f && cat f; cat $PWD/f", "x\nx\n"},
		{"its folders", "for f in /tmp/a /run/a /var/tmp/a /dev/shm/a /dev/null; do echo x >$f && echo yes; done", "yes\nyes\nyes\nyes\nyes\n"},
		{"its files", "echo x 2>/dev/null >/etc/which || echo no; echo x 2>/dev/null >/new || echo no", "no\nno\n"},
		{"the agent's key", "cat " + run + "/key 2>/dev/null || echo no", "no\n"},
		{"the node's mounts", "grep -e ' /etc ' -e ' /home ' -e ' /boot ' /proc/self/mounts || echo none", "none\n"},
		{"processes", "ls -d /proc/1; grep -l agent /proc/[0-9]*/comm || echo none", "/proc/1\nnone\n"},
		{"kernel settings", "ls -d /sys/kernel; echo x 2>/dev/null >/sys/kernel/x || echo no; echo /x 2>/dev/null >/proc/sys/kernel/core_pattern || echo no", "/sys/kernel\nno\nno\n"},
		{"out of it", "umount / 2>/dev/null || echo no; mount -o remount,rw / 2>/dev/null || echo no; chroot /tmp 2>/dev/null || echo no", "no\nno\nno\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			for j, owner := range []api.Owner{{User: "root"}, {User: "someone", UID: 4711, GID: 4712}} {
				start := shell(uint64(2*i+j+1), c.script)
				start.Owner = owner
				ref := n.begin(start)
				if diff := cmp.Diff(outcome{State: api.JobFinished, Stdout: c.want}, n.outcome(ref)); diff != "" {
					t.Errorf("%s of %s (-want +got):\n%s", c.script, owner.User, diff)
				}
				n.forget(ref)
			}
		})
	}
	after, err := filepath.Glob(filepath.Join(root, "*/*"))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("tasks changed the userland: %s", diff)
	}
}

func TestTaskWithoutItsUserland(t *testing.T) {
	n := newNode(t, func(c *Config) { c.Root = "/no/such/userland" })
	got := n.outcome(n.begin(command(1, "true")))
	if diff := cmp.Diff(outcome{State: api.JobFailed, Code: 126, Error: "entering /no/such/userland: mounting it: no such file or directory"}, got); diff != "" {
		t.Error(diff)
	}
}

// packedUserland is smallUserland with the init of tasks, as a node gets it: at a server, and as
// the image says what it is.
func packedUserland(t *testing.T) (content []byte, want api.Userland) {
	t.Helper()
	mksquashfs := need.Program(t, "mksquashfs", "squashfs-tools")
	root := smallUserland(t)
	if err := os.MkdirAll(filepath.Join(root, "usr/lib/muster"), 0o755); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "userland.sqfs")
	for _, argv := range [][]string{
		{"cp", buildInit(t), filepath.Join(root, "usr/lib/muster/init")},
		{mksquashfs, root, file, "-quiet", "-no-progress"},
	} {
		if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	sum := func(b []byte) string { s := sha256.Sum256(b); return hex.EncodeToString(s[:]) }
	want = api.Userland{SHA256: sum(content), Size: int64(len(content)), MemoryMiB: 64, Chunk: 256 << 10}
	for c := range slices.Chunk(content, int(want.Chunk)) {
		want.Chunks = append(want.Chunks, sum(c))
	}
	return content, want
}

// A node whose image has a userland takes no task before it is there, says how far it is, and
// then runs tasks in it. The next agent goes on with what is mounted.
func TestNodeFetchesItsUserland(t *testing.T) {
	content, want := packedUserland(t)
	hold, holding := make(chan struct{}), make(chan struct{})
	var requests atomic.Int64
	files := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if requests.Add(1) == 1 {
			close(holding)
		}
		<-hold
		if r.URL.Path != "/blobs/"+want.SHA256+"/userland.sqfs" {
			http.NotFound(w, r)
			return
		}
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content))
	}))
	defer files.Close()
	dir := runDir(t)
	t.Cleanup(func() {
		unix.Unmount(filepath.Join(dir, "userland"), unix.MNT_DETACH)
		unix.Unmount(filepath.Join(dir, "userland.store"), unix.MNT_DETACH)
	})
	newHolder := func() *userland.Holder {
		return userland.New(userland.Config{Want: want, RunDir: dir, MemTotalMiB: 64})
	}
	var cfg Config
	n := newNode(t, func(c *Config) { // approved, and the head does not say yet where files are
		c.RunDir, c.Init, c.Userland = dir, "", newHolder()
		cfg = *c
	})
	early := func(stage string) {
		t.Helper()
		ack := n.ask(n.key, api.VerbStart, command(1, "true"))
		if api.CodeOf(ack.Err) != api.CodeUnavailable || !strings.Contains(ack.Err.Error(), stage) {
			t.Errorf("a task that is too early: %v, want %q in it", ack.Err, stage)
		}
	}
	early("userland: waiting for the head")
	n.wait("what it waits for", func() bool {
		last := n.beats[len(n.beats)-1]
		return last.Stage == "userland: waiting for the head" && n.joins[0].Software.UserlandWanted == want.SHA256 && n.joins[0].Software.Userland == ""
	})
	n.mu.Lock()
	n.blobs = files.URL
	r := n.reply(n.key)
	r.Files = files.URL
	n.mu.Unlock()
	b, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	n.nc.Publish(api.InboxPrefix+n.key+".state", b)
	<-holding
	early("userland 0 %")
	close(hold)
	n.wait("a node with its userland", func() bool {
		return n.beats[len(n.beats)-1].Stage == "" && slices.ContainsFunc(n.beats, func(hb api.Heartbeat) bool {
			return hb.Software != nil && hb.Software.Userland == want.SHA256 && hb.Stage == ""
		})
	})
	n.mu.Lock()
	for _, hb := range n.beats {
		if hb.Software != nil && (hb.Software.Userland == "") != (hb.Stage != "") {
			t.Errorf("heartbeat %d has userland %q and stage %q", hb.Seq, hb.Software.Userland, hb.Stage)
		}
	}
	n.mu.Unlock()
	ask := func(job uint64) {
		t.Helper()
		if diff := cmp.Diff(outcome{State: api.JobFinished, Stdout: "userland\n"}, n.outcome(n.begin(shell(job, "cat /etc/which")))); diff != "" {
			t.Errorf("a task (-want +got):\n%s", diff)
		}
	}
	ask(2)

	n.stop()
	cfg.Userland = newHolder()
	second, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	n.mu.Lock()
	seen := len(n.beats)
	n.mu.Unlock()
	n.agent, n.stop = second, runAgent(t, second)
	n.wait("the next agent", func() bool { // a last one of the first may still come
		first := slices.IndexFunc(n.beats[seen:], func(hb api.Heartbeat) bool { return hb.Seq == 1 })
		return first >= 0 && n.beats[len(n.beats)-1].Stage == ""
	})
	ask(3)
	if got := requests.Load(); got != 1 {
		t.Errorf("the userland was asked for %d times", got)
	}
}
