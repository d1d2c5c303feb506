package pxe

import (
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// web serves h as a head does and gives its base URL.
func web(b *testing.B, h http.Handler) string {
	b.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := ServeHTTP(ctx, l, h); err != nil {
			b.Error(err)
		}
	})
	b.Cleanup(func() { cancel(); wg.Wait(); l.Close() })
	return "http://" + l.Addr().String()
}

func fetch(b *testing.B, c *http.Client, url string) {
	resp, err := c.Get(url)
	if err != nil {
		b.Error(err)
		return
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		b.Error(err)
	}
}

// BenchmarkScript is scripts for 100 machines at a time, which keep their
// connections.
func BenchmarkScript(b *testing.B) {
	s, err := New(Config{Booter: decider(bootAll), Sockets: &Sockets{}})
	if err != nil {
		b.Fatal(err)
	}
	url := web(b, s.Handler()) + "/boot.ipxe?mac=52-54-00-12-34-56"
	c := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 200}}
	b.SetParallelism(50)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			fetch(b, c, url)
		}
	})
}

// BenchmarkFiles is a blob of 64 MB for one machine after the other.
func BenchmarkFiles(b *testing.B) {
	dir, sum := b.TempDir(), strings.Repeat("ab", 32)
	const size = 64 << 20
	if err := os.WriteFile(filepath.Join(dir, sum), make([]byte, size), 0o644); err != nil {
		b.Fatal(err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		b.Fatal(err)
	}
	defer root.Close()
	url := web(b, FilesHandler(FilesConfig{Blobs: root})) + BlobPath(sum, "vmlinuz")
	b.SetBytes(size)
	for b.Loop() {
		fetch(b, http.DefaultClient, url)
	}
}
