package powercut

import (
	"context"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cavaliergopher/cpio"

	"muster/internal/need"
	"muster/internal/vm"
)

// bootTime bounds a boot and the work after it, on a busy computer.
const bootTime = 4 * time.Minute

// timerTrust keeps the kernel from checking its timer against a loop of its
// own: where the computer is busy, the emulated timer is late and the kernel
// panics with "IO-APIC + timer does not work".
const timerTrust = "no_timer_check"

// Machine is a machine to cut the power of. It may be run again and again.
type Machine struct {
	Kernel string // with drivers for ext4 and NVMe built in
	Initrd string // of [System]
	Disk   *vm.VolatileDisk
	MemMiB int
}

// Kernel returns the kernel of the image that the tests use, or ends the test
// when that or QEMU is missing.
func Kernel(t testing.TB) string {
	t.Helper()
	if testing.Short() {
		t.Skip("boots a machine")
	}
	if err := vm.Installed(vm.BIOS); err != nil {
		need.Missing(t, "%v", err)
	}
	return need.File(t, filepath.Join(os.Getenv("MUSTER_IMAGE"), "vmlinuz"), "run the tests with make, which builds the image")
}

// Build builds the program in a folder, static.
func Build(t testing.TB, folder string) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "program")
	build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-ldflags=-s -w", "-o", program, folder)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building %s: %v\n%s", folder, err, out)
	}
	return program
}

// System writes an initramfs with copies of files, by their paths in it. All
// of them are executable, and "init" is what runs.
func System(t testing.TB, files map[string]string) string {
	t.Helper()
	out, err := os.Create(filepath.Join(t.TempDir(), "initramfs"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	w := cpio.NewWriter(out)
	write := func(name string, mode cpio.FileMode, data []byte) {
		err := w.WriteHeader(&cpio.Header{Name: name, Mode: mode, Size: int64(len(data))})
		if err == nil {
			_, err = w.Write(data)
		}
		if err != nil {
			t.Fatalf("writing %s: %v", name, err)
		}
	}
	dirs := map[string]bool{"dev": true, "proc": true, "sys": true, "tmp": true, "etc": true, "disk": true}
	for name := range files {
		for dir := filepath.Dir(name); dir != "."; dir = filepath.Dir(dir) {
			dirs[dir] = true
		}
	}
	for _, dir := range slices.Sorted(maps.Keys(dirs)) {
		write(dir, 0o755|cpio.TypeDir, nil)
	}
	for name, from := range files {
		data, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		write(name, 0o755|cpio.TypeReg, data)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Name()
}

// NewDisk makes a disk with an empty file system.
func NewDisk(t testing.TB) *vm.VolatileDisk {
	t.Helper()
	return NewDiskOf(t, "256M")
}

// NewDiskOf makes a disk of a size, as mke2fs(8) takes it.
func NewDiskOf(t testing.TB, size string) *vm.VolatileDisk {
	t.Helper()
	// Paths of sockets are short, so this is not t.TempDir.
	dir, err := os.MkdirTemp("", "muster-disk-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	image := filepath.Join(dir, "image")
	mkfs := exec.CommandContext(t.Context(), need.Program(t, "mke2fs", "e2fsprogs"), "-q", "-t", "ext4", image, size)
	if out, err := mkfs.CombinedOutput(); err != nil {
		t.Fatalf("making a file system: %v\n%s", err, out)
	}
	d, err := vm.NewVolatileDisk(image, filepath.Join(dir, "socket"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Errorf("closing the disk: %v", err)
		}
	})
	return d
}

// Result is what a machine said before its power was cut.
type Result struct {
	Kept         []string // it had at its start
	Acknowledged []string // it did since
}

var (
	startedLine = regexp.MustCompile(`^guest: (started|error: .*)`)
	saidLine    = regexp.MustCompile(`^guest: (acknowledged|kept) (\S+)$`)
)

// Run boots the machine and cuts its power when it has acknowledged at least
// so many things. Args are added to the kernel's command line, and name
// tells the consoles of a test apart.
func (m *Machine) Run(t testing.TB, name, args string, enough int) Result {
	t.Helper()
	var mu sync.Mutex
	var r Result
	done := make(chan struct{})
	if enough == 0 {
		close(done)
	}
	machine, err := vm.Start(vm.Config{
		Name: name, Dir: t.ArtifactDir(), Firmware: vm.BIOS, MemMiB: m.MemMiB, NoReboot: true,
		Kernel: m.Kernel, Initrd: m.Initrd, Append: "console=ttyS0 loglevel=4 panic=-1 " + timerTrust + " " + args,
		Args: []string{"-drive", m.Disk.Drive("state"), "-device", "nvme,drive=state,serial=state"},
		Line: func(line string) {
			f := saidLine.FindStringSubmatch(line)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case f == nil:
			case f[1] == "kept":
				r.Kept = append(r.Kept, f[2])
			default:
				r.Acknowledged = append(r.Acknowledged, f[2])
				if len(r.Acknowledged) == enough {
					close(done)
				}
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		machine.Kill()
		if t.Failed() {
			t.Logf("the console of the machine %s:\n%s", name, machine.ConsoleTail(30))
		}
	}()
	ctx, cancel := context.WithTimeout(t.Context(), bootTime)
	defer cancel()
	line, err := machine.WaitFor(ctx, startedLine)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(line, "error: ") {
		t.Fatalf("the machine %s says: %s", name, line)
	}
	select {
	case <-done:
	case <-machine.Done():
		t.Fatalf("the machine %s ended by itself: %v", name, machine.Wait())
	case <-ctx.Done():
		t.Fatalf("the machine %s did not acknowledge %d things in time", name, enough)
	}
	machine.Kill() // Line is not called any more
	flushes, past := m.Disk.Counts()
	lost := m.Disk.CutPower(func() bool { return rand.IntN(2) == 0 })
	t.Logf("machine %s: %d kept, %d acknowledged, %d flushes and %d writes past the cache so far, %d blocks lost with the disk's cache", name, len(r.Kept), len(r.Acknowledged), flushes, past, lost)
	return r
}

// Lost lists what was acknowledged and is not in kept.
func Lost(acknowledged, kept []string) []string {
	have := map[string]bool{}
	for _, k := range kept {
		have[k] = true
	}
	return slices.DeleteFunc(slices.Clone(acknowledged), func(a string) bool { return have[a] })
}
