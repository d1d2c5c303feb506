package service

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"muster/api"
	"muster/internal/need"
)

// quick is a timing for tests.
func quick() timing {
	return timing{
		settle: 20 * time.Millisecond, firstCheck: 20 * time.Millisecond, backoffMin: 20 * time.Millisecond,
		backoffMax: 50 * time.Millisecond, stable: time.Minute,
	}
}

// lockedBuffer is a log that a test may read meanwhile.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// running is a runner of a test with what it said.
type running struct {
	t      *testing.T
	r      *Runner
	dir    string // of the test, named by $D in commands
	log    *lockedBuffer
	stages chan string // every stage that it went through
	stop   func()
}

// shell is a service for the shell.
func shell(name, command string) api.NodeService {
	return api.NodeService{Name: name, Command: []string{"/bin/sh", "-c", command}, Every: api.Duration(20 * time.Millisecond), Timeout: api.Duration(5 * time.Second), Restart: restartAlways, In: "initramfs"}
}

func checked(s api.NodeService, check string) api.NodeService {
	s.Check = []string{"/bin/sh", "-c", check}
	return s
}

func begin(t *testing.T, dir string, change func(*Config), services ...api.NodeService) *running {
	t.Helper()
	n := &running{t: t, dir: dir, log: &lockedBuffer{}, stages: make(chan string, 10000)}
	for i := range services {
		for _, argv := range [][]string{services[i].Command, services[i].Check} {
			for j := range argv {
				argv[j] = strings.ReplaceAll(argv[j], "$D", dir)
			}
		}
	}
	cfg := Config{
		Services: services, RunDir: filepath.Join(dir, "services"), Log: slog.New(slog.NewTextHandler(n.log, nil)), timing: quick(),
	}
	change(&cfg)
	var err error
	if n.r, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		n.r.Run(ctx, func() { n.stages <- n.r.Stage() })
	}()
	n.stop = func() { cancel(); <-done }
	t.Cleanup(n.stop)
	t.Cleanup(n.killAll)
	n.r.Start("")
	return n
}

func nothing(*Config) {}

// killAll ends the services, which outlive their runner: each leads a session of its own.
func (n *running) killAll() {
	for _, m := range regexp.MustCompile(`service started.* pid=(\d+)`).FindAllStringSubmatch(n.log.String(), -1) {
		if pid, err := strconv.Atoi(m[1]); err == nil {
			unix.Kill(-pid, unix.SIGKILL) //nolint:errcheck // it may have ended
		}
	}
}

// until waits for a stage that has text in it; "" waits for the node to be fit.
func (n *running) until(text string) {
	n.t.Helper()
	timeout := time.NewTimer(20 * time.Second)
	defer timeout.Stop()
	seen := ""
	for {
		select {
		case stage := <-n.stages:
			seen = stage
			if text == "" && stage == "" || text != "" && strings.Contains(stage, text) {
				return
			}
		case <-timeout.C:
			n.t.Fatalf("no stage %q; the last was %q, and the log is\n%s", text, seen, n.log)
		}
	}
}

// appears waits for a file of the test.
func (n *running) appears(name string) string {
	n.t.Helper()
	for range 1000 {
		if b, err := os.ReadFile(filepath.Join(n.dir, name)); err == nil && len(b) > 0 {
			return string(b)
		}
		pause(n.t.Context(), 20*time.Millisecond)
	}
	n.t.Fatalf("%s does not appear; the log is\n%s", name, n.log)
	return ""
}

func (n *running) logs(text string) {
	n.t.Helper()
	for range 1000 {
		if strings.Contains(n.log.String(), text) {
			return
		}
		pause(n.t.Context(), 20*time.Millisecond)
	}
	n.t.Fatalf("%q is not in the log:\n%s", text, n.log)
}

func TestStagesInOrder(t *testing.T) {
	n := begin(t, t.TempDir(), nothing,
		checked(shell("one", "echo begun; exec sleep 1000"), "test -e $D/go || { echo one line; echo 'not yet, friend'; exit 3; }"),
		shell("two", "test -e $D/go && echo yes >$D/two; exec sleep 1000"),
	)
	n.until("service one: check failed: exit status 3: not yet, friend")
	if _, err := os.Stat(filepath.Join(n.dir, "two")); err == nil {
		t.Error("two was started before the check of one had passed")
	}
	if err := os.WriteFile(filepath.Join(n.dir, "go"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	n.until("service two: starting")
	n.until("")
	n.logs(`msg="service said" service=one text=begun`)
	if got := n.appears("two"); got != "yes\n" {
		t.Errorf("two wrote %q", got)
	}
}

func TestServiceIsStartedAgain(t *testing.T) {
	n := begin(t, t.TempDir(), nothing, checked(shell("flaky", "echo x >>$D/starts; echo going down; test $(wc -l <$D/starts) -gt 2 || exit 7; exec sleep 1000"), "test $(wc -l <$D/starts) -gt 2"))
	n.until("service flaky: exit status 7: going down")
	n.until("")
	n.logs("again_in=40ms")
}

func TestOneShots(t *testing.T) {
	once := func(restart, command string) api.NodeService {
		s := shell("setup", command)
		s.Restart = restart
		return s
	}
	t.Run("tried again", func(t *testing.T) {
		n := begin(t, t.TempDir(), nothing, once("on-failure", "echo x >>$D/starts; test $(wc -l <$D/starts) -gt 2"))
		n.until("service setup: exit status 1")
		n.until("")
		n.stop()
		// The next agent does not do it once more.
		again := begin(t, n.dir, nothing, n.r.cfg.Services...)
		again.until("")
		if got := n.appears("starts"); got != "x\nx\nx\n" {
			t.Errorf("it was started for %q", got)
		}
	})
	t.Run("not tried again", func(t *testing.T) {
		n := begin(t, t.TempDir(), nothing, once("never", "echo no disk; exit 2"))
		n.until("service setup: exit status 2: no disk (restart: never)")
	})
	t.Run("takes its time", func(t *testing.T) {
		n := begin(t, t.TempDir(), nothing, once("never", "while ! test -e $D/go; do sleep 0.02; done"))
		n.until("service setup: working")
		if err := os.WriteFile(filepath.Join(n.dir, "go"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		n.until("")
	})
}

// A service that is not well later takes the node out only where it is required.
func TestRequired(t *testing.T) {
	for _, required := range []bool{true, false} {
		t.Run(fmt.Sprint(required), func(t *testing.T) {
			s := checked(shell("nfs", "exec sleep 1000"), "! test -e $D/broken")
			s.Required = required
			n := begin(t, t.TempDir(), nothing, s)
			n.until("")
			if err := os.WriteFile(filepath.Join(n.dir, "broken"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
			n.logs(`msg="service is not well" service=nfs err="check failed: exit status 1"`)
			if required {
				n.until("service nfs: check failed: exit status 1")
			} else if stage := n.r.Stage(); stage != "" {
				t.Errorf("Stage() = %q", stage)
			}
			if err := os.Remove(filepath.Join(n.dir, "broken")); err != nil {
				t.Fatal(err)
			}
			n.logs("service passes its check again")
			if required {
				n.until("")
			}
		})
	}
}

func TestWhatCannotRun(t *testing.T) {
	slow := checked(shell("slow", "exec sleep 1000"), "sleep 1000")
	slow.Timeout = api.Duration(100 * time.Millisecond)
	nowhere := shell("x", "")
	nowhere.Command = []string{"no-such-program"}
	userland := shell("x", "true")
	userland.In = inUserland
	killed := shell("x", "kill -9 $$")
	folder := shell("x", "")
	folder.Command = []string{"/etc"}
	for name, c := range map[string]struct {
		s    api.NodeService
		want string
	}{
		"check hangs": {slow, "service slow: check failed: no answer within 100ms"},
		"no program":  {nowhere, "service x: there is no program no-such-program in the initramfs"},
		"no userland": {userland, "service x: this node has no userland"},
		"killed":      {killed, "service x: killed by signal 9 (killed)"},
		"a folder":    {folder, "service x: starting /etc: permission denied"},
		"no check":    {checked(shell("x", "exec sleep 1000"), "exec /no/such/thing"), "service x: check failed: exit status 127"},
	} {
		t.Run(name, func(t *testing.T) {
			begin(t, t.TempDir(), nothing, c.s).until(c.want)
		})
	}
}

// A service that says more than the log has room for is not held up, and what is left out is said.
func TestOutputIsBounded(t *testing.T) {
	n := begin(t, t.TempDir(), nothing, shell("loud", "i=0; while test $i -lt 20000; do echo line $i of many; i=$((i+1)); done; printf 'a\\033[31mb\\n'; echo done >$D/done; sleep 0.2; echo last; exec sleep 1000"))
	if got := n.appears("done"); got != "done\n" {
		t.Error(got)
	}
	n.until("")
	if lines := strings.Count(n.log.String(), "service said\""); lines > 2*lineBurst {
		t.Errorf("%d lines are in the log", lines)
	}
}

func TestLimiter(t *testing.T) {
	at := time.Unix(1000, 0)
	l := limiter{left: lineBurst, at: at}
	passed := 0
	for range 3 * lineBurst {
		if _, ok := l.take(at); ok {
			passed++
		}
	}
	if passed != lineBurst {
		t.Errorf("%d lines passed at once", passed)
	}
	if dropped, ok := l.take(at.Add(time.Second)); !ok || dropped != 2*lineBurst {
		t.Errorf("take() = %d, %v, want %d, true", dropped, ok, 2*lineBurst)
	}
}

// The next agent goes on with what an earlier one has started, and hears what it says.
func TestNextAgentGoesOn(t *testing.T) {
	cgroups := cgroupRoot(t)
	with := func(c *Config) { c.CgroupRoot = cgroups }
	s := checked(shell("daemon", "echo $$ >>$D/pids; while :; do echo tick; sleep 0.1; done #"), "test -e $D/pids")
	n := begin(t, t.TempDir(), with, s)
	n.until("")
	n.stop()
	again := begin(t, n.dir, with, s)
	again.until("")
	again.logs("service still runs")
	again.logs("text=tick")
	first := n.appears("pids")
	if strings.Count(first, "\n") != 1 {
		t.Errorf("it was started with pids %q", first)
	}
	// It ends: the new agent notices, though it is not its child, and starts another.
	if err := exec.Command("kill", "-9", strings.TrimSpace(first)).Run(); err != nil {
		t.Fatal(err)
	}
	again.logs("service started")
}

// cgroupRoot is a cgroup of the test's own.
func cgroupRoot(t *testing.T) string {
	t.Helper()
	need.Root(t)
	root := ""
	for _, r := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		var st unix.Statfs_t
		if unix.Statfs(r, &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC {
			root = r
		}
	}
	if root == "" {
		need.Missing(t, "there is no cgroup v2; mount one: mount -t cgroup2 cgroup2 /sys/fs/cgroup")
	}
	dir, err := os.MkdirTemp(root, "muster-test-*")
	if err != nil {
		need.Missing(t, "no cgroup can be made: %v", err)
	}
	t.Cleanup(func() {
		group(dir).kill()
		for range 100 {
			out, err := exec.Command("find", dir, "-depth", "-type", "d", "-exec", "rmdir", "{}", ";").CombinedOutput()
			if err == nil && len(out) == 0 {
				return
			}
			pause(context.Background(), 20*time.Millisecond)
		}
	})
	return dir
}

// Services of the userland see that as their root, with room to write and the devices,
// processes and name servers of the node.
func TestServiceInUserland(t *testing.T) {
	need.Root(t)
	busybox := need.Program(t, "busybox", "busybox-static")
	dir := t.TempDir()
	userland := filepath.Join(dir, "userland")
	for _, d := range []string{"usr/bin", "etc", "dev", "proc", "sys", "run", "tmp"} {
		if err := os.MkdirAll(filepath.Join(userland, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := exec.Command("cp", busybox, filepath.Join(userland, "usr/bin/busybox")).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for name, target := range map[string]string{"bin": "usr/bin", "usr/bin/sh": "/etc/alternatives/sh", "etc/alternatives": "/usr/alt"} {
		if err := os.Symlink(target, filepath.Join(userland, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(userland, "usr/alt"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/usr/bin/busybox", filepath.Join(userland, "usr/alt/sh")); err != nil {
		t.Fatal(err)
	}
	resolv := filepath.Join(dir, "resolv.conf")
	if err := os.WriteFile(resolv, []byte("nameserver 192.0.2.1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	s := shell("inside", "")
	s.In, s.Restart = inUserland, "never"
	s.Command = []string{"sh", "-c", `cd /; echo written >/etc/here; echo run >/run/x
for f in usr/bin/busybox proc/1/comm dev/null sys/kernel; do busybox test -e $f || echo no $f; done
echo "$(busybox cat etc/resolv.conf), $(busybox cat etc/here), $MUSTER_SERVICE"`}
	root := filepath.Join(dir, "services/fs/root")
	t.Cleanup(func() {
		for _, m := range []string{"proc", "sys", "dev", ""} {
			unix.Unmount(filepath.Join(root, m), unix.MNT_DETACH) //nolint:errcheck // it may not be mounted
		}
		unix.Unmount(filepath.Dir(root), unix.MNT_DETACH) //nolint:errcheck
	})
	n := &running{t: t, dir: dir, log: &lockedBuffer{}, stages: make(chan string, 1000)}
	r, err := New(Config{Services: []api.NodeService{s}, RunDir: filepath.Join(dir, "services"), ResolvConf: resolv, Log: slog.New(slog.NewTextHandler(n.log, nil)), timing: quick()})
	if err != nil {
		t.Fatal(err)
	}
	n.r = r
	ctx, cancel := context.WithCancel(t.Context())
	var work sync.WaitGroup
	work.Go(func() { r.Run(ctx, func() { n.stages <- r.Stage() }) })
	defer work.Wait()
	defer cancel()
	r.Start(userland)
	n.until("")
	n.logs(`service said" service=inside text="nameserver 192.0.2.1, written, inside"`)
	if _, err := os.Stat(filepath.Join(userland, "etc/here")); err == nil {
		t.Error("the userland itself was written to")
	}
}
