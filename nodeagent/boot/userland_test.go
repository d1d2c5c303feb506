package boot

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestGatherer(t *testing.T) {
	const (
		network = "pci:v00008086d000010D3sv00008086sd0000A01Fbc02sc00i00"
		display = "pci:v00001002d000067DFsv00001DA2sd0000E353bc03sc00i00"
		sound   = "pci:v00008086d0000A170sv00001043sd00008698bc04sc03i00"
		usb     = "usb:v0BDAp8153d3000dcbc03sc00dp00ic02isc06ip00in00"
	)
	g := gatherer{seen: make(map[string]struct{}), fresh: make(map[string]struct{})}
	for _, a := range []string{usb, network, display, sound, network, ""} {
		g.add(a)
	}
	if diff := cmp.Diff([]string{network, usb}, g.take()); diff != "" {
		t.Error(diff)
	}
	g.add(network)
	if got := g.take(); len(got) != 0 {
		t.Errorf("again: %q", got)
	}
}

// What cannot be got is tried again ever more rarely, and does not hold up what comes later.
func TestFeedAliases(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		found, rescan := make(chan string), make(chan struct{})
		begin := time.Now()
		var loads []string
		there := false
		load := func(_ context.Context, aliases []string) (again []string) {
			loads = append(loads, fmt.Sprintf("%v %s", time.Since(begin), strings.Join(aliases, " ")))
			for _, a := range aliases {
				if a == "far" && !there {
					again = append(again, a)
				}
			}
			return again
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			feedAliases(ctx, found, rescan, func(add func(string)) { add("b"); add("far"); add("a") }, load)
		}()
		rescan <- struct{}{}
		found <- "b"
		time.Sleep(10 * time.Second)
		found <- "new"
		found <- "a"
		time.Sleep(100 * time.Second) // far is tried at 30.3 s and 90.3 s
		there = true
		time.Sleep(24 * time.Hour)
		cancel()
		<-done
		want := []string{"300ms a b far", "10.3s new", "30.3s far", "1m30.3s far", "3m30.3s far"}
		if diff := cmp.Diff(want, loads); diff != "" {
			t.Errorf("loads (-want +got):\n%s", diff)
		}
	})
}

// Graphics and sound get no driver by themselves, on whatever bus; all else does.
func TestLeftAlone(t *testing.T) {
	for name, tc := range map[string]struct {
		alias string
		want  bool
	}{
		"PCI graphics":            {"pci:v00001002d000067DFsv00001DA2sd0000E353bc03sc00i00", true},
		"PCI 3D card":             {"pci:v000010DEd000020B0sv000010DEsd00001450bc03sc02i00", true},
		"PCI sound":               {"pci:v00008086d0000A170sv00001043sd00008698bc04sc03i00", true},
		"PCI network":             {"pci:v00008086d000010D3sv00008086sd0000A01Fbc02sc00i00", false},
		"PCI disk":                {"pci:v00008086d00002922sv00001AF4sd00001100bc01sc06i01", false},
		"PCI accelerator":         {"pci:v00001DA3d00001020sv00001DA3sd00000000bc12sc00i00", false},
		"USB sound":               {"usb:v046Dp0A44d0100dc00dsc00dp00ic01isc02ip00in01", true},
		"USB network":             {"usb:v0BDAp8153d3000dcbc03sc00dp00ic02isc06ip00in00", false},
		"virtio GPU":              {"virtio:d00000010v00001AF4", true},
		"virtio sound":            {"virtio:d00000019v00001AF4", true},
		"virtio network":          {"virtio:d00000001v00001AF4", false},
		"virtio disk":             {"virtio:d00000002v00001AF4", false},
		"virtio file system":      {"virtio:d0000001Av00001AF4", false},
		"Hyper-V video":           {"vmbus:02780ada77e3ac4a8e770558eb1073f8", true},
		"Hyper-V disk":            {"vmbus:d96361baa104294db60572e2ffb1dc7f", false},
		"ACPI, with a PCI's name": {"acpi:bc03sc:", false},
		"no bus":                  {"bc03sc", false},
	} {
		if got := leftAlone(tc.alias); got != tc.want {
			t.Errorf("%s: leftAlone(%q) = %v, want %v", name, tc.alias, got, tc.want)
		}
	}
}
