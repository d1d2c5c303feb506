package boot

import (
	"testing"

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
	g.giveBack([]string{network})
	if got := g.take(); len(got) != 1 {
		t.Errorf("given back: %q", got)
	}
}
