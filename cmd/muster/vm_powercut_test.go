package main

import (
	"os"
	"path/filepath"
	"testing"

	"muster/internal/need"
	"muster/internal/powercut"
)

// TestVMPowerCut cuts the power of a head that takes jobs: those that it
// acknowledged are there when it runs again. The control is a head that does
// not wait for its disk.
func TestVMPowerCut(t *testing.T) {
	kernel := powercut.Kernel(t)
	users := filepath.Join(t.TempDir(), "passwd")
	if err := os.WriteFile(users, []byte("root:x:0:0:root:/:/bin/sh\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	initrd := powercut.System(t, map[string]string{
		"init":       powercut.Build(t, "./testdata/powercut"),
		"muster":     need.File(t, os.Getenv("MUSTER_BIN"), "run the tests with make, which builds bin/muster"),
		"etc/passwd": users,
	})
	for _, tc := range []struct {
		name, args string
		loses      bool
	}{{"sync", "", false}, {"no sync", "nosync", true}} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			m := powercut.Machine{Kernel: kernel, Initrd: initrd, Disk: powercut.NewDisk(t), MemMiB: 640}
			before := m.Run(t, "first", tc.args, 200)
			after := m.Run(t, "second", "", 0)
			lost := powercut.Lost(before.Acknowledged, after.Kept)
			if tc.loses != (len(lost) > 0) {
				t.Errorf("%d of %d acknowledged jobs were lost, want some: %v", len(lost), len(before.Acknowledged), tc.loses)
			}
		})
	}
}
