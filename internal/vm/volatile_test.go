package vm

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

func newTestDisk(t *testing.T) *VolatileDisk {
	t.Helper()
	dir := t.TempDir()
	image := filepath.Join(dir, "image")
	if err := os.WriteFile(image, make([]byte, 4*diskBlock), 0o600); err != nil {
		t.Fatal(err)
	}
	d, err := NewVolatileDisk(image, filepath.Join(dir, "socket"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

func TestVolatileDisk(t *testing.T) {
	text := bytes.Repeat([]byte("written"), 1000) // over three blocks
	const at = diskBlock - 10
	yes := func() bool { return true }
	tests := map[string]struct {
		steps func(d *VolatileDisk)
		there bool // after all steps
	}{
		"written":                {func(d *VolatileDisk) { d.write(text, at, false) }, true},
		"written and cut":        {func(d *VolatileDisk) { d.write(text, at, false); d.CutPower(nil) }, false},
		"flushed and cut":        {func(d *VolatileDisk) { d.write(text, at, false); d.flush(); d.CutPower(nil) }, true},
		"flushed before, cut":    {func(d *VolatileDisk) { d.flush(); d.write(text, at, false); d.CutPower(nil) }, false},
		"past the cache and cut": {func(d *VolatileDisk) { d.write(text, at, true); d.CutPower(nil) }, true},
		"past, over the cache": {func(d *VolatileDisk) {
			d.write(make([]byte, len(text)), at, false)
			d.write(text, at, true)
			d.CutPower(nil)
		}, true},
		"survived by chance": {func(d *VolatileDisk) { d.write(text, at, false); d.CutPower(yes) }, true},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			d := newTestDisk(t)
			tc.steps(d)
			got := make([]byte, len(text))
			if !d.read(got, at) {
				t.Fatal("read says that this is behind the end of the disk")
			}
			if there := bytes.Equal(got, text); there != tc.there {
				t.Errorf("the text is there: %v, want %v", there, tc.there)
			}
		})
	}
}

func TestVolatileDiskEnd(t *testing.T) {
	d := newTestDisk(t)
	for _, tc := range []struct {
		off  int64
		n    int
		want bool
	}{{0, 4 * diskBlock, true}, {1, 4 * diskBlock, false}, {4 * diskBlock, 0, true}, {4 * diskBlock, 1, false}, {-1, 1, false}, {1 << 62, 1, false}} {
		b := make([]byte, tc.n)
		if r, w := d.read(b, tc.off), d.write(b, tc.off, false); r != tc.want || w != tc.want {
			t.Errorf("%d bytes at %d: read %v, write %v, want %v", tc.n, tc.off, r, w, tc.want)
		}
	}
}
