package vm

import (
	"bufio"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"muster/internal/need"
)

const helperVar = "MUSTER_VM_HELPER"

// TestHelper is not a test of its own: it is the process that
// TestDiesWithItsParent kills.
func TestHelper(t *testing.T) {
	dir := os.Getenv(helperVar)
	if dir == "" {
		return
	}
	m, err := Start(Config{Name: "orphan", Dir: dir, Firmware: BIOS, MemMiB: 64, Args: []string{"-pidfile", filepath.Join(dir, "pid")}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.WaitFor(patience(t), anything); err != nil {
		t.Fatal(err)
	}
	os.Stdout.WriteString("up\n")
	<-m.Done()
}

func installed(t *testing.T, f Firmware) {
	t.Helper()
	if err := Installed(f); err != nil {
		need.Missing(t, "%v", err)
	}
}

func TestDiesWithItsParent(t *testing.T) {
	installed(t, BIOS)
	dir := t.TempDir()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	helper := exec.Command(exe, "-test.run=^TestHelper$")
	helper.Env = append(os.Environ(), helperVar+"="+dir)
	out, err := helper.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := helper.Start(); err != nil {
		t.Fatal(err)
	}
	stop := time.AfterFunc(2*time.Minute, func() { _ = helper.Process.Kill() })
	defer stop.Stop()
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || line != "up\n" {
		_ = helper.Process.Kill()
		t.Fatalf("the helper said %q, %v", line, err)
	}
	text, err := os.ReadFile(filepath.Join(dir, "pid"))
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	qemu, err := os.FindProcess(pid) // a pidfd, so the number cannot be another's
	if err != nil || qemu.Signal(syscall.Signal(0)) != nil {
		t.Fatalf("QEMU %d is not running: %v", pid, err)
	}
	if err := helper.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = helper.Wait() // killed
	deadline := time.Now().Add(30 * time.Second)
	for qemu.Signal(syscall.Signal(0)) == nil {
		// A zombie that the init of this machine is slow to reap is dead too.
		stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
		if err != nil || strings.Contains(string(stat), ") Z ") {
			break
		}
		if time.Now().After(deadline) {
			_ = qemu.Kill()
			t.Fatalf("QEMU %d runs 30 s after its parent was killed", pid)
		}
		<-time.After(10 * time.Millisecond)
	}
}

func TestPauseAndKill(t *testing.T) {
	m := boot(t, Config{Name: "m", Firmware: BIOS, MemMiB: 64})
	mustSee(t, m, "SeaBIOS")
	for name, f := range map[string]func() error{"Pause": m.Pause, "PowerButton": m.PowerButton} {
		if err := f(); err != nil {
			t.Errorf("%s() = %v", name, err)
		}
	}
	if err := m.Resume(); err != nil {
		t.Errorf("Resume() = %v", err)
	}
	m.Kill()
	m.Kill()
	if err := m.Wait(); err == nil {
		t.Error("Wait() after Kill = nil, want an error")
	}
	if err := m.Reset(); err == nil {
		t.Error("Reset() after the end = nil, want an error")
	}
	select {
	case <-m.Done():
	default:
		t.Error("Done is open after Wait")
	}
	raw, err := os.ReadFile(m.ConsoleFile())
	if err != nil || !strings.Contains(string(raw), "SeaBIOS") {
		t.Errorf("the console file = %q, %v, want what was on the console", raw, err)
	}
}

func TestQEMUSaysWhy(t *testing.T) {
	installed(t, BIOS)
	m, err := Start(Config{Name: "m", Dir: t.TempDir(), Firmware: BIOS, Args: []string{"-nonsense"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Wait(); err == nil || !strings.Contains(err.Error(), "nonsense: invalid option") {
		t.Errorf("Wait() = %v, want what QEMU said", err)
	}
	if _, err := m.WaitFor(t.Context(), anything); err == nil || !strings.Contains(err.Error(), "ended without") {
		t.Errorf("WaitFor() = %v, want that it ended", err)
	}
}

// TestProbeGuest runs the probe guest emulated, since it is the guest that is
// tested, and gives it no time.
func TestProbeGuest(t *testing.T) {
	installed(t, BIOS)
	qemu, err := findQEMU()
	if err != nil {
		t.Fatal(err)
	}
	if err := probeGuest(patience(t), qemu, "tcg"); err != nil {
		t.Errorf("probeGuest() = %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := probeGuest(ctx, qemu, "tcg"); err == nil {
		t.Error("probeGuest() without time = nil, want an error")
	}
	if err := probeGuest(t.Context(), qemu, "none-such"); err == nil || !strings.Contains(err.Error(), "did not run") {
		t.Errorf("probeGuest(none-such) = %v, want an error", err)
	}
	if a := DetectAccel(t.Context()); a.Reason == "" {
		t.Errorf("DetectAccel() = %+v, want a reason", a)
	}
}

func TestNetworkErrors(t *testing.T) {
	if _, err := NewNetwork(NetworkConfig{Bridge: "a-name-that-is-too-long"}); err == nil || !strings.Contains(err.Error(), "a-name-that-is-too-long") {
		t.Errorf("NewNetwork() with a long name = %v, want an error that names it", err)
	}
	port := network(t)
	if err := port.SetUp(false); err != nil {
		t.Error(err)
	}
	if err := port.SetUp(true); err != nil {
		t.Error(err)
	}
	if _, err := NewNetwork(NetworkConfig{Bridge: "br0"}); !errors.Is(err, os.ErrExist) {
		t.Errorf("NewNetwork() twice = %v, want that it exists", err)
	}
}

// TestIsolate starts a program in a namespace of its own, which sees no links
// but lo.
func TestIsolate(t *testing.T) {
	network(t)
	cmd := exec.Command(need.Program(t, "cat", "coreutils"), "/proc/self/net/dev")
	Isolate(cmd)
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "lo:") || strings.Contains(string(out), "br0") {
		t.Errorf("links = %s, %v, want lo alone", out, err)
	}
}
