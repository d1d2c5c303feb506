package nodeagent

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"muster/api"
	"muster/internal/need"
	"muster/nodeagent/task"
)

// TestMain is also the program of shims, and an agent that can be killed.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == "shim" {
		shim := func() error { return task.Shim(os.Args[2]) }
		if strings.HasSuffix(os.Args[2], "/") {
			shim = task.WaitingShim
		}
		if err := shim(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if len(os.Args) == 7 && os.Args[1] == "agent" {
		if err := agentProcess(os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func agentProcess(args []string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	a, err := New(Config{
		Head: args[0], Pin: args[1], RunDir: args[2], Init: args[3], CgroupRoot: args[4],
		Facts: testFacts, Log: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	})
	if err != nil {
		return err
	}
	return a.Run(ctx)
}

func testFacts() api.JoinRequest {
	return api.JoinRequest{
		BootID: "boot-1", IP: "127.0.0.1",
		Hardware: api.Hardware{MACs: []string{"02:00:00:00:00:01"}, Cores: 2},
		Software: api.Software{Agent: "test", Kernel: "test"},
	}
}

// needRoot skips a test that cannot make namespaces.
func needRoot(t testing.TB) {
	t.Helper()
	need.Root(t)
}

// buildInit builds the in-namespace init.
func buildInit(t testing.TB) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "init")
	goBuild(t, out, "muster/cmd/muster-init")
	return out
}

// testCgroup makes a cgroup for a test, or returns "" where there is none.
func testCgroup(t testing.TB) string {
	t.Helper()
	for _, root := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		var st unix.Statfs_t
		if unix.Statfs(root, &st) != nil || st.Type != unix.CGROUP2_SUPER_MAGIC {
			continue
		}
		dir, err := os.MkdirTemp(root, "muster-test-")
		if err != nil {
			continue
		}
		t.Cleanup(func() {
			os.Remove(filepath.Join(dir, "muster-shims"))
			os.Remove(filepath.Join(dir, "muster-jobs"))
			if err := os.Remove(dir); err != nil {
				t.Errorf("cgroup of the test is not empty: %v", err)
			}
		})
		return dir
	}
	if need.All() {
		t.Fatal("there is no cgroup v2 that groups can be made in; mount one: mount -t cgroup2 cgroup2 /sys/fs/cgroup")
	}
	t.Log("no cgroup v2 here: tasks run without groups")
	return ""
}

// runDir is a directory that every user may pass through.
func runDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "muster-agent-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}
