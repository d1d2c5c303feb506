package builder

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"muster/images"
	"muster/initramfs"
)

// TestRealArchive builds the shipped images from Debian's archive.
func TestRealArchive(t *testing.T) {
	if os.Getenv("MUSTER_NET") == "" {
		t.Skip("MUSTER_NET is not set: needs Debian's archive")
	}
	cache := os.Getenv("MUSTER_TEST_CACHE")
	if cache == "" {
		cache = t.TempDir()
	}
	for _, name := range images.Shipped() {
		t.Run(name, func(t *testing.T) {
			def, err := images.Load(name)
			if err != nil {
				t.Fatal(err)
			}
			out := filepath.Join(t.TempDir(), name)
			if dir := os.Getenv("MUSTER_TEST_OUT"); dir != "" {
				out = filepath.Join(dir, name)
			}
			cfg := Config{
				Definition: def, Out: out, Cache: cache, Host: os.DirFS("/"),
				Agent: []byte("#!/bin/sh\n"), Init: []byte("init"), Busybox: []byte("bb"),
				BusyboxInfo: &initramfs.Busybox{Commands: []string{"ls", "sh"}},
				Release:     os.Getenv("MUSTER_TEST_RELEASE") != "",
				Progress: func(e Event) {
					if e.Total == 0 || e.Done == e.Total {
						t.Logf("%+v", e)
					}
				},
			}
			if a, err := os.ReadFile(os.Getenv("MUSTER_TEST_AGENT")); err == nil {
				cfg.Agent = a
			}
			start := time.Now()
			m, err := Build(t.Context(), cfg)
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%v %+v", time.Since(start), m)
			start = time.Now()
			if _, err := Build(t.Context(), cfg); err != nil {
				t.Fatal(err)
			}
			t.Logf("second build %v", time.Since(start))
			if d := time.Since(start); d > time.Second {
				t.Errorf("unchanged build took %v, want below 1 s", d)
			}
		})
	}
}
