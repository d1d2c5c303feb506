package boot

import (
	"bytes"
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cavaliergopher/cpio"

	"muster/internal/need"
	"muster/internal/netnstest"
	"muster/internal/vm"
)

// These tests boot a machine from an image: the folder of MUSTER_IMAGE, with
// vmlinuz and initramfs.zst as `muster build` writes them.

var vmMAC = net.HardwareAddr{0x52, 0x54, 0, 0x12, 0x34, 0x01}

// vmPatience is for a whole boot of an emulated machine on a busy computer.
const vmPatience = 3 * time.Minute

// imageFiles returns kernel and initramfs.
func imageFiles(t testing.TB) (kernel, initramfs string) {
	t.Helper()
	if testing.Short() {
		t.Skip("boots a machine")
	}
	dir := os.Getenv("MUSTER_IMAGE")
	if dir == "" {
		need.Missing(t, "MUSTER_IMAGE names no folder with an image; run: make test-vm")
	}
	return need.File(t, filepath.Join(dir, "vmlinuz"), "run: make images"),
		need.File(t, filepath.Join(dir, "initramfs.zst"), "run: make images")
}

// segment writes a further archive of an initramfs with the files, executable,
// behind the one in base, and returns the whole.
func segment(t testing.TB, base string, files map[string][]byte) string {
	t.Helper()
	b, err := os.ReadFile(base)
	if err != nil {
		t.Fatal(err)
	}
	// Misaligned, it would not be unpacked.
	b = append(b, make([]byte, -len(b)&3)...)
	var buf bytes.Buffer
	w := cpio.NewWriter(&buf)
	for name, data := range files {
		if err := w.WriteHeader(&cpio.Header{Name: name, Mode: 0o755 | cpio.TypeReg, Size: int64(len(data))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return writeTemp(t, append(b, buf.Bytes()...))
}

func writeTemp(t testing.TB, b []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "initramfs")
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// guest is a machine whose console is kept line by line.
type guest struct {
	*vm.Machine
	begin time.Time

	mu    sync.Mutex
	lines []string
}

// dhcpNetwork makes a network whose address, 10.77.0.1, gives out 10.77.0.50.
func dhcpNetwork(t testing.TB) *vm.Port {
	t.Helper()
	if err := vm.Installed(vm.BIOS); err != nil {
		need.Missing(t, "%v", err)
	}
	n, err := vm.NewNetwork(vm.NetworkConfig{Bridge: "br0", Addrs: []netip.Prefix{netip.MustParsePrefix("10.77.0.1/24")}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Errorf("closing the network: %v", err)
		}
	})
	port, err := n.NewPort("port0")
	if err != nil {
		t.Fatal(err)
	}
	(*netnstest.NS)(nil).Command(t.Context(), t, nil,
		need.Program(t, "dnsmasq", "dnsmasq-base"),
		"--no-daemon", "--conf-file=/dev/null", "--port=0", "--interface=br0", "--bind-interfaces", "--user=root", "--no-ping",
		"--dhcp-leasefile="+filepath.Join(t.TempDir(), "leases"), "--dhcp-range=10.77.0.50,10.77.0.50,255.255.255.0,5m")
	return port
}

// startGuest boots a machine whose only link leads to port.
func startGuest(t testing.TB, port *vm.Port, cfg vm.Config) *guest {
	t.Helper()
	g := &guest{begin: time.Now()}
	cfg.Name, cfg.Dir, cfg.Firmware, cfg.NoReboot = "guest", t.TempDir(), vm.BIOS, true
	cfg.NICs = []vm.NIC{{Port: port, MAC: vmMAC}}
	cfg.Append += " console=ttyS0 loglevel=4 panic=10 no_timer_check"
	cfg.Line = func(line string) {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.lines = append(g.lines, line)
	}
	var err error
	g.Machine, err = vm.Start(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		g.Kill()
		if t.Failed() {
			t.Logf("console:\n%s", strings.Join(g.said(), "\n"))
		}
	})
	return g
}

func (g *guest) said() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.lines)
}

// expect waits for a line and returns how long after the start it came.
func (g *guest) expect(t testing.TB, pattern string) time.Duration {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), vmPatience)
	defer cancel()
	if _, err := g.WaitFor(ctx, regexp.MustCompile(pattern)); err != nil {
		t.Fatalf("waiting for %q on the console: %v", pattern, err)
	}
	return time.Since(g.begin)
}

// with returns the lines that have text in them.
func (g *guest) with(text string) []string {
	return slices.DeleteFunc(g.said(), func(l string) bool { return !strings.Contains(l, text) })
}

// The agent of an image gets an address and goes to its head.
func TestVMAgentReachesTheHead(t *testing.T) {
	kernel, initramfs := imageFiles(t)
	g := startGuest(t, dhcpNetwork(t), vm.Config{Kernel: kernel, Initrd: initramfs, Append: "muster.head=10.77.0.1 BOOTIF=01-52-54-00-12-34-01"})
	head, err := net.Listen("tcp", "10.77.0.1:7421")
	if err != nil {
		t.Fatal(err)
	}
	defer head.Close()
	came := make(chan string, 1)
	go func() {
		if conn, err := head.Accept(); err == nil {
			came <- conn.RemoteAddr().(*net.TCPAddr).IP.String()
			conn.Close()
		}
	}()
	g.expect(t, `^muster: state booting`)
	g.expect(t, `^muster: fingerprint node [a-z2-7]{4}(-[a-z2-7]{4}){3}`)
	g.expect(t, `^muster: state connecting`)
	g.expect(t, `^muster: address 10\.77\.0\.50/24 on eth0`)
	t.Logf("address on the console after %s", time.Since(g.begin).Round(10*time.Millisecond))
	select {
	case ip := <-came:
		if ip != "10.77.0.50" {
			t.Errorf("%s came to the head, want 10.77.0.50", ip)
		}
	case <-time.After(vmPatience):
		t.Error("nobody came to the head")
	}
	g.expect(t, `^muster: why .`)
	if got := g.with("muster: problem"); len(got) > 0 {
		t.Errorf("problems on the console: %q", got)
	}
}

// What PID 1 has made of the machine, looked at from the inside, and the
// machine's orderly end.
func TestVMFromInside(t *testing.T) {
	kernel, initramfs := imageFiles(t)
	probe := filepath.Join(t.TempDir(), "probe")
	build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-o", probe, "./testdata/probe")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the probe: %v\n%s", err, out)
	}
	program, err := os.ReadFile(probe)
	if err != nil {
		t.Fatal(err)
	}
	// It runs as PID 1; the agent stays, since /sbin/modprobe is the agent.
	g := startGuest(t, dhcpNetwork(t), vm.Config{
		Kernel: kernel, Initrd: segment(t, initramfs, map[string][]byte{"probe": program}),
		Append: "rdinit=/probe", Args: []string{"-device", "i6300esb"},
	})
	g.expect(t, `^probe: done`)
	if bad := append(g.with("probe: FAIL"), g.with("probe: problem")...); len(bad) > 0 {
		t.Errorf("found wrong: %q", bad)
	}
	if n := len(g.with("probe: ok")); n < 10 {
		t.Errorf("%d things were looked at, want at least 10", n)
	}
	t.Log(strings.Join(append(g.with("probe: rss"), g.with("probe: available")...), ", "))
	// It asked for a reboot, which ends the emulator.
	g.expect(t, `muster: state stopping`)
	select {
	case <-g.Done():
	case <-time.After(vmPatience):
		t.Error("the machine did not start again")
	}
}

// A machine whose initramfs arrived in part comes up and says so.
func TestVMDamagedInitramfs(t *testing.T) {
	kernel, initramfs := imageFiles(t)
	whole, err := os.ReadFile(initramfs)
	if err != nil {
		t.Fatal(err)
	}
	damaged := append(slices.Clip(whole), make([]byte, -len(whole)&3)...)
	damaged = append(damaged, "this is no archive and no padding"...)
	g := startGuest(t, dhcpNetwork(t), vm.Config{Kernel: kernel, Initrd: writeTemp(t, damaged), Append: "muster.head=10.77.0.1"})
	g.expect(t, `^muster: problem kernel: Initramfs unpacking failed`)
	g.expect(t, `^muster: state connecting`)
}

// emptyInit is a program that writes EMPTY-INIT to its console and switches the
// machine off: the least that a kernel can start.
func emptyInit() []byte {
	code := []byte{
		0x48, 0x8d, 0x35, 0x29, 0x00, 0x00, 0x00, // lea msg(%rip),%rsi
		0xb8, 0x01, 0x00, 0x00, 0x00, // mov $1,%eax: write
		0xbf, 0x01, 0x00, 0x00, 0x00, // mov $1,%edi
		0xba, 0x0c, 0x00, 0x00, 0x00, // mov $12,%edx
		0x0f, 0x05, // syscall
		0xb8, 0xa9, 0x00, 0x00, 0x00, // mov $169,%eax: reboot
		0xbf, 0xad, 0xde, 0xe1, 0xfe, // mov $0xfee1dead,%edi
		0xbe, 0x69, 0x19, 0x12, 0x28, // mov $672274793,%esi
		0xba, 0xdc, 0xfe, 0x21, 0x43, // mov $0x4321fedc,%edx: power off
		0x0f, 0x05, // syscall
		0xeb, 0xfe, // jmp .
	}
	code = append(code, "EMPTY-INIT\r\n"...)
	const base, headers = 0x400000, 64 + 56
	size := uint64(headers + len(code))
	var b bytes.Buffer
	le := func(values ...any) {
		for _, v := range values {
			binary.Write(&b, binary.LittleEndian, v) //nolint:errcheck // to memory
		}
	}
	b.WriteString("\x7fELF\x02\x01\x01" + strings.Repeat("\x00", 9))
	le(uint16(2), uint16(62), uint32(1), uint64(base+headers), uint64(64), uint64(0), uint32(0)) // executable, x86-64, entry, program headers
	le(uint16(64), uint16(56), uint16(1), uint16(0), uint16(0), uint16(0))                       // sizes and counts
	le(uint32(1), uint32(5), uint64(0), uint64(base), uint64(base), size, size, uint64(0x1000))  // one segment, readable and executable
	b.Write(code)
	return b.Bytes()
}

// BenchmarkVMBoot compares the time from the start of the kernel until the
// machine is pending with the time until the same kernel has started the program
// of an empty initramfs. The two are booted in turn.
func BenchmarkVMBoot(b *testing.B) {
	if runtime.GOARCH != "amd64" {
		b.Skip("the empty initramfs is for amd64")
	}
	kernel, initramfs := imageFiles(b)
	empty := filepath.Join(b.TempDir(), "none")
	if err := os.WriteFile(empty, nil, 0o644); err != nil {
		b.Fatal(err)
	}
	least := segment(b, empty, map[string][]byte{"init": emptyInit()})
	port := dhcpNetwork(b)
	startVMHead(b, "10.77.0.1", 0)
	var emptyTime, pendingTime time.Duration
	for b.Loop() {
		emptyTime += timeBoot(b, port, kernel, least, `EMPTY-INIT`)
		pendingTime += timeBoot(b, port, kernel, initramfs, `^muster: state pending`)
	}
	b.ReportMetric(emptyTime.Seconds()/float64(b.N), "s/empty")
	b.ReportMetric(pendingTime.Seconds()/float64(b.N), "s/pending")
	b.ReportMetric(pendingTime.Seconds()/emptyTime.Seconds(), "ratio")
}

// timeBoot boots a machine and returns how long after the firmware had handed
// over to the kernel it says what is waited for.
func timeBoot(b *testing.B, port *vm.Port, kernel, initramfs, until string) time.Duration {
	b.Helper()
	g := startGuest(b, port, vm.Config{Kernel: kernel, Initrd: initramfs, Append: "muster.head=10.77.0.1 BOOTIF=01-52-54-00-12-34-01"})
	defer g.Kill()
	begin := g.expect(b, `^Booting from ROM`)
	return g.expect(b, until) - begin
}
