package builder

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"muster/internal/need"
)

// TestDamagedCache flips a bit in every file of the cache: all are made again, and it
// is said.
func TestDamagedCache(t *testing.T) {
	cfg := testConfig(t, testArchive(t), testDefinition)
	mustBuild(t, cfg)
	want := contents(t, cfg.Out)
	blobs, err := filepath.Glob(filepath.Join(cfg.Cache, "blobs", "sha256", "*"))
	if err != nil || len(blobs) < 5 {
		t.Fatalf("the cache has %v, %v", blobs, err)
	}
	for _, b := range blobs {
		flipBit(t, b)
	}
	steps, _ := filepath.Glob(filepath.Join(cfg.Cache, "steps", "*"))
	for i, s := range steps { // of the results of steps, half are damaged and half cut off
		if i%2 == 0 {
			flipBit(t, s)
		} else if err := os.Truncate(s, 3); err != nil {
			t.Fatal(err)
		}
	}
	var said bytes.Buffer
	cfg.Log = slog.New(slog.NewTextHandler(&said, nil))
	lock := filepath.Join(cfg.Out, "lock.json")
	cfg.Out, cfg.LockFile = filepath.Join(t.TempDir(), "out"), lock
	mustBuild(t, cfg)
	got := contents(t, cfg.Out)
	delete(want, "lock.json")
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("from a damaged cache comes another image:\n%s", diff)
	}
	if !strings.Contains(said.String(), "damaged file in the cache removed") {
		t.Errorf("the damage was not said:\n%s", said.String())
	}
}

// TestDamagedResult changes the result of a step so that it can still be read: an image of it would have
// its modules where its kernel does not look.
func TestDamagedResult(t *testing.T) {
	cfg := testConfig(t, testArchive(t), testDefinition)
	mustBuild(t, cfg)
	steps, err := filepath.Glob(filepath.Join(cfg.Cache, "steps", "kernel-*"))
	if err != nil || len(steps) != 1 {
		t.Fatalf("results of the step kernel: %v, %v", steps, err)
	}
	edit(t, steps[0], newKernel, strings.Replace(newKernel, "10", "11", 1))
	var said bytes.Buffer
	cfg.Log = slog.New(slog.NewTextHandler(&said, nil))
	if m := mustBuild(t, cfg); m.Kernel != newKernel {
		t.Errorf("the image is of kernel %s, want %s", m.Kernel, newKernel)
	}
	if !strings.Contains(said.String(), "damaged result of a step in the cache is made again") {
		t.Errorf("the damage was not said:\n%s", said.String())
	}
}

// TestFullOutput builds into a disk that is too small: no half artifact has its final name.
func TestFullOutput(t *testing.T) {
	need.Root(t)
	small := t.TempDir()
	if err := syscall.Mount("tmpfs", small, "tmpfs", 0, "size=16k"); err != nil {
		t.Skipf("mounting a small tmpfs: %v", err)
	}
	t.Cleanup(func() { syscall.Unmount(small, 0) })
	cfg := testConfig(t, testArchive(t), testDefinition)
	whole := mustBuild(t, cfg)
	cfg.LockFile, cfg.Out = filepath.Join(cfg.Out, "lock.json"), filepath.Join(small, "out")
	if err := os.WriteFile(filepath.Join(small, "ballast"), make([]byte, 10<<10), 0o644); err != nil {
		t.Fatal(err)
	}
	_, err := Build(t.Context(), cfg)
	if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "make room for") {
		t.Fatalf("Build() = %v, want ENOSPC and where to make room", err)
	}
	entries, err := os.ReadDir(cfg.Out)
	if err != nil {
		t.Fatal(err)
	}
	sizes := make(map[string]int64)
	for _, a := range whole.Artifacts {
		sizes[a.Name] = a.Size
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		if size, ok := sizes[e.Name()]; !ok || info.Size() != size {
			t.Errorf("%s with %d bytes is left", e.Name(), info.Size())
		}
	}
	if err := os.Remove(filepath.Join(small, "ballast")); err != nil {
		t.Fatal(err)
	}
}

// TestTwoImagesInOneFolder: the folder holds one of the two as a whole.
func TestTwoImagesInOneFolder(t *testing.T) {
	a := testArchive(t)
	first := testConfig(t, a, testDefinition)
	mustBuild(t, first) // fills the cache, so that both write at the same time
	second := testConfig(t, a, strings.Replace(testDefinition, "[ls, sh]", "[sh]", 1))
	second.Cache, second.Out = first.Cache, first.Out
	second.LockFile = filepath.Join(first.Out, "lock.json")
	var wg sync.WaitGroup
	for range 3 {
		for _, cfg := range []Config{first, second} {
			wg.Go(func() {
				if _, err := Build(t.Context(), cfg); err != nil {
					t.Error(err)
				}
			})
		}
	}
	wg.Wait()
	c, err := ReadContents(first.Out)
	if err != nil {
		t.Fatal(err)
	}
	for _, artifact := range c.Manifest.Artifacts {
		if got, err := hashFile(filepath.Join(first.Out, artifact.Name)); err != nil || got.SHA256 != artifact.SHA256 {
			t.Errorf("%s: %v, hash %s, want %s", artifact.Name, err, got.SHA256, artifact.SHA256)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(first.Out, ".tmp-*")); len(left) > 0 {
		t.Errorf("%v is left", left)
	}
}
