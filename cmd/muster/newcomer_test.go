package main

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"muster/api/client"
	"muster/internal/need"
)

// TestUserNamespaceError reads what forbids user namespaces from the settings
// of the systems that do.
func TestUserNamespaceError(t *testing.T) {
	cases := map[string]struct {
		files map[string]string
		want  string
	}{
		"Ubuntu 24.04":  {map[string]string{"/proc/sys/kernel/apparmor_restrict_unprivileged_userns": "1\n"}, "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"},
		"Debian's knob": {map[string]string{"/proc/sys/kernel/unprivileged_userns_clone": "0\n"}, "sudo sysctl -w kernel.unprivileged_userns_clone=1"},
		"limit":         {map[string]string{"/proc/sys/user/max_user_namespaces": "0\n"}, "sudo sysctl -w user.max_user_namespaces=1000"},
		"other": {map[string]string{
			"/proc/sys/kernel/apparmor_restrict_unprivileged_userns": "0\n", "/proc/sys/kernel/unprivileged_userns_clone": "1\n",
			"/proc/sys/user/max_user_namespaces": "9000\n",
		}, "operation not permitted"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			err := userNamespaceError(func(path string) ([]byte, error) {
				if text, ok := c.files[path]; ok {
					return []byte(text), nil
				}
				return nil, fs.ErrNotExist
			}, unix.EPERM)
			if !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "as root") {
				t.Errorf("userNamespaceError() = %v, want %q and root as the way out", err, c.want)
			}
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("userNamespaceError() = %q, want one line", err)
			}
		})
	}
}

// TestHeadBelowClosedHome starts a head as root with the program in a folder
// that it may enter by its capabilities alone, as another user's home is in
// Debian 12 and later.
func TestHeadBelowClosedHome(t *testing.T) {
	need.Root(t)
	bin := need.File(t, os.Getenv("MUSTER_BIN"), "run the tests with make, which builds bin/muster")
	home := filepath.Join(t.TempDir(), "home")
	if err := os.Mkdir(home, 0o700); err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(bin)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(home, "muster"), program, 0o700); err != nil {
		t.Fatal(err)
	}
	// Closed to their owner, they are open to capabilities alone; a user
	// namespace, in which tests may run, has no other user to give them to.
	for path, mode := range map[string]os.FileMode{filepath.Join(home, "muster"): 0o011, home: 0} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if err := os.Chmod(home, 0o700); err != nil {
			t.Error(err)
		}
	})
	state := filepath.Join(t.TempDir(), "state")
	var log strings.Builder
	ctx, cancel := context.WithTimeout(t.Context(), headTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(home, "muster"), "head", "--state", state, "--no-sync",
		"--files-port", "17480", "--agents-port", "17421", "--api-port", "0")
	cmd.Stdout, cmd.Stderr = &log, &log
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	c, err := client.New(filepath.Join(state, "run", "head.sock"))
	if err != nil {
		t.Fatal(err)
	}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		if s, err := c.Status(ctx); err == nil && s.Fingerprint != "" {
			break
		}
		select {
		case err := <-ended:
			t.Fatalf("the head ended: %v\n%s", err, log.String())
		case <-tick.C:
		}
	}
	cancel()
	if err := <-ended; err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("the head ended with %v\n%s", err, log.String())
	}
}
