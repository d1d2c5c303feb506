package store_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cavaliergopher/cpio"

	"muster/internal/need"
	"muster/internal/vm"
)

const (
	cutAfter = 200 // acknowledged batches before the power is cut
	perBatch = 5   // records of each, as testdata/powercut writes them
	bootTime = 4 * time.Minute
)

// TestVMPowerCut pulls the plug of a machine that commits batches of records:
// those that were acknowledged are there afterwards, and each is whole or not
// there. The control is a store that does not wait for the disk.
func TestVMPowerCut(t *testing.T) {
	if testing.Short() {
		t.Skip("boots a machine")
	}
	if err := vm.Installed(vm.BIOS); err != nil {
		need.Missing(t, "%v", err)
	}
	kernel := need.File(t, filepath.Join(os.Getenv("MUSTER_IMAGE"), "vmlinuz"), "run the tests with make, which builds the image")
	initrd := powerCutSystem(t)
	for _, tc := range []struct {
		name, append string
		loses        bool
	}{{"sync", "", false}, {"no sync", "powercut.nosync", true}} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			disk := emptyDisk(t)
			acknowledged, _ := storeWithDisk(t, "first", kernel, initrd, tc.append, disk, cutAfter)
			_, kept := storeWithDisk(t, "second", kernel, initrd, "", disk, 0)
			records := map[string]int{} // of each batch
			for _, id := range kept {
				records[id[:strings.LastIndexByte(id, '-')]]++
			}
			lost := 0
			for _, batch := range acknowledged {
				if records[batch] == 0 {
					lost++
				}
			}
			for batch, n := range records {
				if n != perBatch {
					t.Errorf("batch %s has %d of its %d records", batch, n, perBatch)
				}
			}
			t.Logf("%d batches were acknowledged before the power cut, %d are there after it, %d are lost", len(acknowledged), len(records), lost)
			if tc.loses != (lost > 0) {
				t.Errorf("%d acknowledged batches were lost, want some: %v", lost, tc.loses)
			}
		})
	}
}

// powerCutSystem writes an initramfs whose one program is testdata/powercut.
func powerCutSystem(t *testing.T) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "powercut")
	build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-ldflags=-s -w", "-o", program, "./testdata/powercut")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the program of the machine: %v\n%s", err, out)
	}
	data, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	out, err := os.Create(filepath.Join(t.TempDir(), "initramfs"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	w := cpio.NewWriter(out)
	for _, dir := range []string{"dev", "proc", "disk"} {
		if err := w.WriteHeader(&cpio.Header{Name: dir, Mode: 0o755 | cpio.TypeDir}); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.WriteHeader(&cpio.Header{Name: "init", Mode: 0o755 | cpio.TypeReg, Size: int64(len(data))}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Name()
}

// emptyDisk makes a disk with an empty file system.
func emptyDisk(t *testing.T) string {
	t.Helper()
	disk := filepath.Join(t.TempDir(), "disk")
	mkfs := exec.CommandContext(t.Context(), need.Program(t, "mke2fs", "e2fsprogs"), "-q", "-t", "ext4", disk, "256M")
	if out, err := mkfs.CombinedOutput(); err != nil {
		t.Fatalf("making a file system: %v\n%s", err, out)
	}
	return disk
}

var (
	listedLine = regexp.MustCompile(`^powercut: (listed|error: .*)`)
	recordLine = regexp.MustCompile(`^powercut: (acknowledged|kept) (\S+)$`)
)

// storeWithDisk boots a machine with a store and pulls its plug: when it has
// acknowledged some more batches. It returns the batches that it acknowledged
// and the records that it had at the start.
func storeWithDisk(t *testing.T, name, kernel, initrd, args, disk string, more int) (acknowledged, kept []string) {
	t.Helper()
	var mu sync.Mutex
	enough := make(chan struct{})
	m, err := vm.Start(vm.Config{
		Name: name, Dir: t.ArtifactDir(), Firmware: vm.BIOS, NoReboot: true,
		Kernel: kernel, Initrd: initrd, Append: "console=ttyS0 loglevel=4 panic=-1 " + args,
		// What the guest has not sent to the disk is lost with the guest's
		// memory. The cloud kernel has this disk's driver built in.
		Args: []string{"-drive", "if=none,id=state,format=raw,cache=writeback,file=" + disk, "-device", "nvme,drive=state,serial=state"},
		Line: func(line string) {
			f := recordLine.FindStringSubmatch(line)
			if f == nil {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			if f[1] == "kept" {
				kept = append(kept, f[2])
				return
			}
			if acknowledged = append(acknowledged, f[2]); len(acknowledged) == more {
				close(enough)
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		m.Kill()
		if t.Failed() {
			t.Logf("the console of the machine %s:\n%s", name, m.ConsoleTail(30))
		}
	}()
	ctx, cancel := context.WithTimeout(t.Context(), bootTime)
	defer cancel()
	line, err := m.WaitFor(ctx, listedLine)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(line, "error: ") {
		t.Fatalf("the machine %s says: %s", name, line)
	}
	if more > 0 {
		select {
		case <-enough:
		case <-m.Done():
			t.Fatalf("the machine %s ended by itself: %v", name, m.Wait())
		case <-ctx.Done():
			t.Fatalf("the machine %s did not acknowledge %d batches in time", name, more)
		}
	}
	m.Kill() // and with it every caller of Line
	mu.Lock()
	defer mu.Unlock()
	return acknowledged, kept
}
