package store_test

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"muster/internal/powercut"
)

const (
	cutAfter = 200 // acknowledged batches before the power is cut
	perBatch = 5   // records of each, as testdata/powercut writes them
)

// TestVMPowerCut cuts the power of a machine that commits batches of records:
// those that were acknowledged are there afterwards, and each is whole or not
// there. The control is a store that does not wait for the disk.
func TestVMPowerCut(t *testing.T) {
	kernel := powercut.Kernel(t)
	initrd := powercut.System(t, map[string]string{"init": powercut.Build(t, "./testdata/powercut")})
	for _, tc := range []struct {
		name, args string
		loses      bool
	}{{"sync", "", false}, {"no sync", "nosync", true}} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			m := powercut.Machine{Kernel: kernel, Initrd: initrd, Disk: powercut.NewDisk(t)}
			before := m.Run(t, "first", tc.args, cutAfter)
			after := m.Run(t, "second", "", 0)
			records := map[string]int{} // of each batch
			for _, id := range after.Kept {
				records[id[:strings.LastIndexByte(id, '-')]]++
			}
			for batch, n := range records {
				if n != perBatch {
					t.Errorf("batch %s has %d of its %d records", batch, n, perBatch)
				}
			}
			lost := powercut.Lost(before.Acknowledged, slices.Collect(maps.Keys(records)))
			if tc.loses != (len(lost) > 0) {
				t.Errorf("%d of %d acknowledged batches were lost, want some: %v", len(lost), len(before.Acknowledged), tc.loses)
			}
		})
	}
}
