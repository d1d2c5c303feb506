package builder

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"muster/internal/need"
)

// TestInterruptedEverywhere ends builds at every point of which they tell: nothing half-done has a
// final name, nothing temporary is left, and the next build gives the same bytes.
func TestInterruptedEverywhere(t *testing.T) {
	a := userlandArchive(t, append(mediumPackages(), stubPackage())...)
	whole := testConfig(t, a, sameDefinition)
	var events atomic.Int32
	whole.Progress = func(Event) { events.Add(1) }
	want := mustBuild(t, whole)
	if events.Load() < 10 {
		t.Fatalf("a build tells of %d points", events.Load())
	}
	cfg := testConfig(t, a, sameDefinition)
	for n := int32(1); n <= events.Load(); n += 1 + events.Load()/16 {
		ctx, cancel := context.WithCancel(t.Context())
		var seen atomic.Int32
		cfg.Progress = func(e Event) {
			if seen.Add(1) == n {
				cancel()
			}
		}
		// A new folder each time; the cache is what earlier builds made of it.
		cfg.Out = filepath.Join(t.TempDir(), "out")
		_, err := Build(ctx, cfg)
		cancel()
		if err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("ended at point %d: %v", n, err)
		}
		if err != nil {
			checkNothingHalf(t, cfg, fmt.Sprintf("ended at point %d", n))
		}
	}
	cfg.Progress, cfg.Out = nil, filepath.Join(t.TempDir(), "out")
	if m := mustBuild(t, cfg); m.ID != want.ID {
		t.Errorf("after builds that were ended the image is %s, want %s", m.ID, want.ID)
	}
	for _, d := range differences(t, whole.Out, cfg.Out) {
		t.Error(d)
	}
}

// checkNothingHalf checks what a build that failed left behind.
func checkNothingHalf(t *testing.T, cfg Config, when string) {
	t.Helper()
	if left, err := os.ReadDir(filepath.Join(cfg.Cache, "tmp")); err != nil && !errors.Is(err, os.ErrNotExist) || len(left) > 0 {
		t.Errorf("%s: in the cache's folder for temporary files: %v, %v", when, left, err)
	}
	for _, dir := range []string{cfg.Out, filepath.Join(cfg.Cache, "steps"), filepath.Join(cfg.Cache, "packed")} {
		if left, _ := filepath.Glob(filepath.Join(dir, ".tmp-*")); len(left) > 0 {
			t.Errorf("%s: left are %v", when, left)
		}
	}
	if _, err := os.Stat(filepath.Join(cfg.Out, manifestName)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s: the manifest is there: %v", when, err)
	}
	blobs, _ := filepath.Glob(filepath.Join(cfg.Cache, "blobs", "sha256", "*"))
	for _, name := range blobs {
		if got, err := hashFile(name); err != nil || got.SHA256 != filepath.Base(name) {
			t.Errorf("%s: %s is not what its name says: %v", when, name, err)
		}
	}
}

// TestFullDiskEverywhere builds on disks that are full sooner or later.
func TestFullDiskEverywhere(t *testing.T) {
	need.Root(t)
	a := userlandArchive(t, append(mediumPackages(), stubPackage())...)
	full := 0
	for size := 64; ; size *= 2 {
		small := t.TempDir()
		if err := syscall.Mount("tmpfs", small, "tmpfs", 0, fmt.Sprintf("size=%dk", size)); err != nil {
			need.Missing(t, "mounting a small tmpfs: %v", err)
		}
		t.Cleanup(func() { syscall.Unmount(small, 0) })
		cfg := testConfig(t, a, sameDefinition)
		cfg.Cache, cfg.Out = filepath.Join(small, "cache"), filepath.Join(small, "out")
		_, err := Build(t.Context(), cfg)
		if err == nil {
			break
		}
		full++
		if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "make room for") {
			t.Errorf("with %d KiB: %v, want ENOSPC and where to make room", size, err)
		}
		checkNothingHalf(t, cfg, fmt.Sprintf("with %d KiB", size))
		if size > 1<<20 {
			t.Fatal("a build needs a gigabyte")
		}
	}
	if full < 3 {
		t.Errorf("only %d disks were too small", full)
	}
}

// TestNamesOfFolders builds where folders have names that need care.
func TestNamesOfFolders(t *testing.T) {
	a := userlandArchive(t, append(mediumPackages(), stubPackage())...)
	plain := testConfig(t, a, sameDefinition)
	mustBuild(t, plain)
	for _, name := range []string{"with space", "with\nnewline", "not\xff\xfeutf8", "-dash", "%s $x `y` 'z'", strings.Repeat("l", 200)} {
		cfg := testConfig(t, a, sameDefinition)
		dir := filepath.Join(t.TempDir(), name)
		cfg.Out, cfg.Cache = filepath.Join(dir, "out"), filepath.Join(dir, "cache")
		if _, err := Build(t.Context(), cfg); err != nil {
			t.Errorf("%q: %v", name, err)
			continue
		}
		for _, d := range differences(t, plain.Out, cfg.Out) {
			t.Errorf("%q: %s", name, d)
		}
		if _, err := Verify(cfg.Out); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
}
