package builder

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"muster/builder/deb"
)

func testCache(t *testing.T, dir string) *cache {
	t.Helper()
	c, err := openCache(dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func hashOfText(text string) deb.FileHash {
	return deb.FileHash{Size: int64(len(text)), SHA256: hashBytes([]byte(text))}
}

// fillWith appends what is missing of text and counts the calls.
func fillWith(text string, calls *atomic.Int32) func(*os.File, int64) error {
	return func(f *os.File, have int64) error {
		calls.Add(1)
		_, err := io.WriteString(f, text[have:])
		return err
	}
}

func readFile(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestCacheFetchesOnce(t *testing.T) {
	dir := t.TempDir()
	var calls atomic.Int32
	var wg sync.WaitGroup
	for range 8 { // as if by eight processes, each with a cache of its own
		c := testCache(t, dir)
		wg.Go(func() {
			name, err := c.Fetch(t.Context(), hashOfText("content"), fillWith("content", &calls))
			if err != nil {
				t.Error(err)
				return
			}
			if got, err := os.ReadFile(name); string(got) != "content" || err != nil {
				t.Errorf("blob is %q, %v", got, err)
			}
		})
	}
	wg.Wait()
	if n := calls.Load(); n != 1 {
		t.Errorf("it was fetched %d times, want once", n)
	}
}

func TestCacheResumes(t *testing.T) {
	c := testCache(t, t.TempDir())
	want := hashOfText("content")
	broken := errors.New("broken")
	_, err := c.Fetch(t.Context(), want, func(f *os.File, have int64) error {
		_, err := io.WriteString(f, "cont")
		return errors.Join(err, broken)
	})
	if !errors.Is(err, broken) {
		t.Fatalf("Fetch() = %v, want the error of fill", err)
	}
	name, err := c.Fetch(t.Context(), want, func(f *os.File, have int64) error {
		if have != 4 {
			t.Errorf("have = %d, want 4", have)
		}
		_, err := io.WriteString(f, "ent")
		return err
	})
	if err != nil || readFile(t, name) != "content" {
		t.Errorf("Fetch() = %s, %v", name, err)
	}
}

func TestCacheRefusesOtherContent(t *testing.T) {
	c := testCache(t, t.TempDir())
	var calls atomic.Int32
	if _, err := c.Fetch(t.Context(), hashOfText("content"), fillWith("CONTENT", &calls)); !errors.Is(err, deb.ErrHash) {
		t.Fatalf("Fetch() = %v, want ErrHash", err)
	}
	// What was wrong does not stand in the way of what is right.
	if _, err := c.Fetch(t.Context(), hashOfText("content"), fillWith("content", &calls)); err != nil {
		t.Error(err)
	}
}

func TestCacheHealsAFlippedBit(t *testing.T) {
	dir := t.TempDir()
	var calls atomic.Int32
	want := hashOfText("content")
	name, err := testCache(t, dir).Fetch(t.Context(), want, fillWith("content", &calls))
	if err != nil {
		t.Fatal(err)
	}
	flipBit(t, name)
	again, err := testCache(t, dir).Fetch(t.Context(), want, fillWith("content", &calls))
	if err != nil || readFile(t, again) != "content" || calls.Load() != 2 {
		t.Errorf("after a flipped bit: %v, content %q, fetched %d times", err, readFile(t, again), calls.Load())
	}
}

func flipBit(t *testing.T, name string) {
	t.Helper()
	data := []byte(readFile(t, name))
	if len(data) == 0 {
		return
	}
	data[len(data)/2] ^= 1
	if err := os.WriteFile(name, data, 0o644); err != nil {
		t.Fatal(err)
	}
}

type textResult struct{ Blob deb.FileHash }

func (r textResult) blobs() []deb.FileHash { return []deb.FileHash{r.Blob} }

func TestStepsRunOnce(t *testing.T) {
	dir := t.TempDir()
	var runs atomic.Int32
	step := func(c *cache, input string) (textResult, bool) {
		t.Helper()
		r, cached, err := runStep(t.Context(), c, "test", input, func() (textResult, error) {
			runs.Add(1)
			blob, err := c.putBytes([]byte("made of " + input))
			return textResult{blob}, err
		})
		if err != nil {
			t.Fatal(err)
		}
		return r, cached
	}
	first, cached := step(testCache(t, dir), "a")
	if cached {
		t.Error("the first run came from the cache")
	}
	second, cached := step(testCache(t, dir), "a")
	if !cached || second != first {
		t.Errorf("the second run gave %+v, cached %v", second, cached)
	}
	if other, _ := step(testCache(t, dir), "b"); other == first {
		t.Error("other inputs gave the same result")
	}
	flipBit(t, testCache(t, dir).blob(first.Blob.SHA256))
	if healed, cached := step(testCache(t, dir), "a"); cached || healed != first {
		t.Errorf("after damage: %+v, cached %v", healed, cached)
	}
	if n := runs.Load(); n != 3 {
		t.Errorf("the step ran %d times, want 3", n)
	}
}

func TestStepErrorIsNotKept(t *testing.T) {
	c := testCache(t, t.TempDir())
	for i := range 2 {
		_, _, err := runStep(t.Context(), c, "test", "x", func() (textResult, error) { return textResult{}, fmt.Errorf("run %d", i) })
		if want := fmt.Sprintf("run %d", i); err == nil || err.Error() != want {
			t.Errorf("runStep() = %v, want %s", err, want)
		}
	}
}

func TestWaitingForALockEndsWithTheContext(t *testing.T) {
	name := filepath.Join(t.TempDir(), "lock")
	held, err := openLocked(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if f, err := openLocked(ctx, name); !errors.Is(err, context.Canceled) {
		t.Errorf("openLocked() = %v, %v; want the context's error", f, err)
	}
}

func TestCacheLeavesNoTemporaryFiles(t *testing.T) {
	dir := t.TempDir()
	c := testCache(t, dir)
	if _, err := c.put(func(f *os.File) error { return errors.New("no") }); err == nil {
		t.Error("put() kept a file that was not written")
	}
	if _, err := c.putBytes([]byte("x")); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(filepath.Join(dir, "tmp"))
	if err != nil || len(entries) != 0 {
		t.Errorf("tmp holds %v, %v", entries, err)
	}
}
