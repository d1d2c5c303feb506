package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"muster/initramfs"
	"muster/internal/need"
	"muster/internal/vm"
)

// cutAfter is how many jobs are acknowledged before the power is cut.
const cutAfter = 200

// TestVMPowerCut pulls the plug of a head that takes jobs: those that it
// acknowledged are there when it runs again. The control is a head that does
// not wait for its disk: it loses some.
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
			acknowledged, _ := headWithDisk(t, "first", kernel, initrd, tc.append, disk, cutAfter)
			_, kept := headWithDisk(t, "second", kernel, initrd, "", disk, 0)
			var lost []string
			for _, j := range acknowledged {
				if !slices.Contains(kept, j) {
					lost = append(lost, j)
				}
			}
			t.Logf("%d jobs were acknowledged before the power cut, %d are there after it, %d are lost", len(acknowledged), len(kept), len(lost))
			if tc.loses != (len(lost) > 0) {
				t.Errorf("jobs that were lost: %d, want some: %v; %v", len(lost), tc.loses, lost)
			}
		})
	}
}

// powerCutSystem writes an initramfs with a head and the program that uses it.
func powerCutSystem(t *testing.T) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "powercut")
	build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-ldflags=-s -w", "-o", program, "./testdata/powercut")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the program of the machine: %v\n%s", err, out)
	}
	muster := need.File(t, os.Getenv("MUSTER_BIN"), "run the tests with make, which builds bin/muster")
	tree := initramfs.NewTree(time.Unix(0, 0))
	const source = "the test"
	for _, dir := range []string{"dev", "proc", "sys", "tmp", "disk"} {
		if err := tree.AddDir(dir, 0o755, source); err != nil {
			t.Fatal(err)
		}
	}
	for path, file := range map[string]string{"init": program, "muster": muster} {
		if err := tree.AddFile(path, 0o755, file, source); err != nil {
			t.Fatal(err)
		}
	}
	for path, text := range map[string]string{"etc/passwd": "root:x:0:0:root:/:/bin/sh\n", "etc/group": "root:x:0:\n"} {
		if err := tree.AddBytes(path, 0o644, []byte(text), source); err != nil {
			t.Fatal(err)
		}
	}
	out, err := os.Create(filepath.Join(t.TempDir(), "initramfs"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	if err := initramfs.WriteCPIO(out, tree, initramfs.CPIOOptions{}); err != nil {
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
	listedLine = regexp.MustCompile(`^powercut: (listed \d+|error: .*)`)
	jobLine    = regexp.MustCompile(`^powercut: (acknowledged|kept) (\d+ \w+)$`)
)

// headWithDisk boots a machine that is a head and pulls its plug: when it has
// acknowledged some more jobs. It returns the jobs that it acknowledged and
// those that it had at the start.
func headWithDisk(t *testing.T, name, kernel, initrd, args, disk string, more int) (acknowledged, kept []string) {
	t.Helper()
	var mu sync.Mutex
	enough := make(chan struct{})
	m, err := vm.Start(vm.Config{
		Name: name, Dir: t.ArtifactDir(), Firmware: vm.BIOS, MemMiB: 640, NoReboot: true,
		Kernel: kernel, Initrd: initrd, Append: "console=ttyS0 loglevel=4 panic=-1 " + args,
		// What the guest has not sent to the disk is lost with the guest's
		// memory. The cloud kernel has this disk's driver built in.
		Args: []string{"-drive", "if=none,id=state,format=raw,cache=writeback,file=" + disk, "-device", "nvme,drive=state,serial=state"},
		Line: func(line string) {
			f := jobLine.FindStringSubmatch(line)
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
			t.Fatalf("the machine %s did not acknowledge %d jobs in time", name, more)
		}
	}
	m.Kill() // and with it every caller of Line
	mu.Lock()
	defer mu.Unlock()
	return acknowledged, kept
}
