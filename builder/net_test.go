package builder

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"muster/images"
	"muster/initramfs"
	"muster/internal/need"

	"github.com/klauspost/compress/zstd"
)

// bytesUntilJoined are the most bytes that a machine may fetch of each image.
var bytesUntilJoined = map[string]int64{"compute": 30e6, "compute-vm": 20e6, "mini": 30e6}

// TestRealArchive builds the shipped images from Debian's archive, twice, and
// starts them in QEMU, where an /init that stands for the agent does what
// docs/initramfs.md says and loads every module.
func TestRealArchive(t *testing.T) {
	if os.Getenv("MUSTER_NET") == "" {
		t.Skip("only in make test-net: needs Debian's archive")
	}
	cache := t.TempDir()
	if dir := os.Getenv("MUSTER_TEST_CACHE"); dir != "" {
		cache = dir
	}
	agent, err := os.ReadFile(compileBootcheck(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range images.Shipped() {
		t.Run(name, func(t *testing.T) {
			def, err := images.Load(name)
			if err != nil {
				t.Fatal(err)
			}
			cfg := Config{
				Definition: def, Out: filepath.Join(t.TempDir(), name), Cache: cache, Host: os.DirFS("/"),
				Agent: agent, Init: []byte("init"),
			}
			cfg.Busybox, cfg.BusyboxInfo = payloadBusybox(t)
			start, cpu := time.Now(), cpuTime()
			m, err := Build(t.Context(), cfg)
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("built in %v, %v CPU", time.Since(start).Round(time.Millisecond), cpuTime()-cpu)
			start = time.Now()
			again, err := Build(t.Context(), cfg)
			if err != nil {
				t.Fatal(err)
			}
			if d := time.Since(start); d > time.Second || again.ID != m.ID {
				t.Errorf("unchanged build took %v (want below 1 s), image ID %s, then %s", d, m.ID, again.ID)
			}
			bootImage(t, cfg.Out, m.ID)
			checkSize(t, cfg)
		})
	}
}

// TestRealUbuntu builds the example from Ubuntu's archive and starts it in QEMU.
func TestRealUbuntu(t *testing.T) {
	buildReal(t, "http://archive.ubuntu.com/ubuntu/dists/noble/InRelease", "../images/examples/ubuntu.yaml")
}

// TestRealSnapshot builds from a dated snapshot of Debian's archive.
func TestRealSnapshot(t *testing.T) {
	buildReal(t, "https://snapshot.debian.org/archive/debian/20260101T000000Z/dists/trixie/InRelease", "../images/examples/snapshot.yaml")
}

// buildReal builds a definition from the archive that it names, checks what was written and starts it.
// Where the archive, which has a file at url, cannot be reached, the test did not run and says so.
func buildReal(t *testing.T, url, file string) {
	t.Helper()
	if os.Getenv("MUSTER_NET") == "" {
		t.Skip("only in make test-net: needs the archives of distributions")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodHead, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Skipf("not run: the archive cannot be reached: %v", err)
	}
	resp.Body.Close()
	agent, err := os.ReadFile(compileBootcheck(t))
	if err != nil {
		t.Fatal(err)
	}
	def, err := images.Load(file)
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{
		Definition: def, Out: filepath.Join(t.TempDir(), def.Name), Cache: t.TempDir(), Host: os.DirFS("/"),
		Agent: agent, Init: []byte("init"),
	}
	cfg.Busybox, cfg.BusyboxInfo = payloadBusybox(t)
	m := mustBuild(t, cfg)
	if _, err := Verify(cfg.Out); err != nil {
		t.Error(err)
	}
	bootImage(t, cfg.Out, m.ID)
	readSBOM(t, cfg.Out)
}

func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// checkSize builds with the real programs, where make made them, and compares what
// a machine fetches with the limit.
func checkSize(t *testing.T, cfg Config) {
	t.Helper()
	for name, to := range map[string]*[]byte{"muster-agent": &cfg.Agent, "muster-init": &cfg.Init} {
		packed, err := os.ReadFile("../cmd/muster/payload/" + name + ".zst")
		if err != nil {
			need.Missing(t, "size not checked: %v; run make", err)
		}
		*to = unpackZstd(t, packed)
	}
	m, err := Build(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if size := wireBytes(m); size > bytesUntilJoined[cfg.Definition.Name] {
		t.Errorf("a machine fetches %d bytes, want at most %d", size, bytesUntilJoined[cfg.Definition.Name])
	} else {
		t.Logf("a machine fetches %.2f MB", float64(size)/1e6)
	}
}

func unpackZstd(t testing.TB, packed []byte) []byte {
	t.Helper()
	z, err := zstd.NewReader(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	data, err := z.DecodeAll(packed, nil)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// wireBytes is kernel, initramfs and the larger loader.
func wireBytes(m *images.Manifest) int64 {
	var sum, loader int64
	for _, a := range m.Artifacts {
		switch a.Kind {
		case images.KindLoader:
			loader = max(loader, a.Size)
		case images.KindKernel, images.KindInitramfs:
			sum += a.Size
		}
	}
	return sum + loader
}

// payloadBusybox returns the busybox that make built, or a stand-in.
func payloadBusybox(t testing.TB) ([]byte, *initramfs.Busybox) {
	t.Helper()
	dir := "../cmd/muster/payload"
	packed, err := os.ReadFile(filepath.Join(dir, "bb.zst"))
	if errors.Is(err, fs.ErrNotExist) {
		t.Log("there is no busybox in cmd/muster/payload; run make")
		return []byte("busybox"), &initramfs.Busybox{Commands: []string{"ls", "sh"}}
	}
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(dir, "bb.json"))
	if err != nil {
		t.Fatal(err)
	}
	info := &initramfs.Busybox{}
	if err := json.Unmarshal(text, info); err != nil {
		t.Fatal(err)
	}
	return unpackZstd(t, packed), info
}

func compileBootcheck(t *testing.T) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "bootcheck")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-ldflags=-s -w", "-o", bin, "./testdata/bootcheck")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("compiling bootcheck: %v\n%s", err, out)
	}
	return bin
}

func bootImage(t *testing.T, dir, id string) {
	t.Helper()
	qemu := need.Program(t, "qemu-system-x86_64", "qemu-system-x86")
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, qemu, "-accel", "tcg", "-m", "512", "-nographic", "-no-reboot", "-nic", "user,model=virtio-net-pci",
		"-kernel", filepath.Join(dir, "vmlinuz"), "-initrd", filepath.Join(dir, "initramfs.zst"),
		"-append", "console=ttyS0 loglevel=4 panic=-1")
	out, err := cmd.CombinedOutput()
	text := strings.ReplaceAll(string(out), "\r", "")
	if err != nil || !strings.Contains(text, "BOOTCHECK END") || strings.Contains(text, "BOOTCHECK FAIL") ||
		!strings.Contains(text, "image "+id) || !strings.Contains(text, "eth0") {
		t.Errorf("QEMU: %v; console:\n%s", err, text[max(0, len(text)-4000):])
	}
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "BOOTCHECK") {
			t.Log(strings.TrimSpace(line))
		}
	}
}
