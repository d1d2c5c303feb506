package main

import (
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"muster/builder/deb/debtest"
	"muster/internal/need"
)

// TestInterruptedBuild presses Ctrl-C while a package arrives: nothing half-done is left
// and the next build goes on where the transfer stopped.
func TestInterruptedBuild(t *testing.T) {
	if _, err := payload("bb"); err != nil {
		need.Missing(t, "the programs of an image are not there: %v", err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	archive := siteArchive(t)
	archive.Publish(t, debtest.Suite{Name: "trixie-updates"})
	stuck := make(chan struct{})
	var mu sync.Mutex
	stall := true
	var ranges []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.Contains(r.URL.Path, "/linux-image-6.12.10") {
			archive.ServeHTTP(w, r)
			return
		}
		mu.Lock()
		ranges = append(ranges, r.Header.Get("Range"))
		first := stall
		stall = false
		mu.Unlock()
		if !first {
			archive.ServeHTTP(w, r)
			return
		}
		data := archive.File(strings.TrimPrefix(r.URL.Path, "/"))
		w.Header().Set("Content-Length", "1000000")
		w.Write(data[:100])
		w.(http.Flusher).Flush()
		close(stuck)
		<-r.Context().Done()
	}))
	t.Cleanup(server.Close)
	dir := t.TempDir()
	for name, text := range map[string]string{
		"site.yaml":   strings.Replace(siteDefinition, "MIRROR", server.URL, 1),
		"archive.gpg": string(archive.Key.Keyring(t)),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	build := func() (*exec.Cmd, *bytes.Buffer) {
		cmd := exec.CommandContext(t.Context(), self, "build", "./site.yaml", "--cache", "cache", "--output", "image")
		cmd.Dir, cmd.Env = dir, append(os.Environ(), "MUSTER_TEST_AS_PROGRAM=1")
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return cmd, &out
	}
	cmd, out := build()
	select {
	case <-stuck:
	case <-time.After(time.Minute):
		cmd.Process.Kill()
		cmd.Wait()
		t.Fatalf("the kernel was not asked for; the build said:\n%s", out)
	}
	waitForPartial(t, filepath.Join(dir, "cache", "partial"), 100)
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
	status := cmd.ProcessState.Sys().(syscall.WaitStatus)
	if status.ExitStatus() != exitFailed || !strings.Contains(out.String(), "muster: error: building site: ") || !strings.Contains(out.String(), "interrupt") {
		t.Errorf("status %d, said\n%s", status.ExitStatus(), out)
	}
	left, err := filepath.Glob(filepath.Join(dir, "image", "*"))
	if err != nil || len(left) != 1 || filepath.Base(left[0]) != "lock.json" {
		t.Errorf("the build left %v, %v; want the lock alone", left, err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "cache", "tmp", "*")); len(left) > 0 {
		t.Errorf("the build left %v", left)
	}
	cmd, out = build()
	if err := cmd.Wait(); err != nil {
		t.Errorf("the next build: %v\n%s", err, out)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(ranges) != 2 || ranges[1] != "bytes=100-" {
		t.Errorf("the package was asked for with ranges %q, want all and then from byte 100", ranges)
	}
}

// waitForPartial waits until n bytes of a file have arrived in the cache.
func waitForPartial(t *testing.T, dir string, n int64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), jobTime)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		files, err := filepath.Glob(filepath.Join(dir, "*"))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			if st, err := os.Stat(f); err == nil && st.Size() == n {
				return
			}
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%d bytes of a file never came into %s", n, dir)
		case <-tick.C:
		}
	}
}
