package main

import (
	"regexp"
	"strings"
	"testing"

	"muster/api"
	"muster/internal/vm"
)

// bootPath is one way in which a machine comes to the image.
type bootPath struct {
	name     string
	firmware vm.Firmware
	boot     vm.Boot
	plainROM bool // the ROM's packets are made to look like those of a PXE ROM

	banner string // what the firmware or loader says on its console
	loader string // boot program that must have gone over the wire; "": none
	client string // kind of client that fetched it
}

var bootPaths = []bootPath{
	{name: "bios-ipxe", firmware: vm.BIOS, banner: `iPXE`},
	{name: "bios-chainload", firmware: vm.BIOS, plainROM: true, banner: `iPXE`, loader: "undionly.kpxe", client: "bios"},
	{name: "uefi-pxe", firmware: vm.UEFI, boot: vm.BootPXE, banner: `BdsDxe|PXE`, loader: "snponly.efi", client: "uefi"},
	{name: "uefi-http", firmware: vm.UEFI, boot: vm.BootHTTP, banner: `BdsDxe|HTTP`, loader: "snponly.efi", client: "http"},
}

// TestVMBoot boots a machine on each way, to the output of a job.
func TestVMBoot(t *testing.T) {
	c := startCluster(t, "--dhcp=full")
	for i := 0; i < len(bootPaths); i += 2 { // two emulated machines at a time
		guests := map[string]*guest{}
		roms := map[string]*vm.PlainROM{}
		for _, p := range bootPaths[i : i+2] {
			var filter func([]byte) []byte
			if p.plainROM {
				roms[p.name] = &vm.PlainROM{}
				filter = roms[p.name].Filter
			}
			guests[p.name] = c.boot(vm.Config{Name: p.name, Firmware: p.firmware, Boot: p.boot}, filter)
		}
		for _, p := range bootPaths[i : i+2] {
			t.Run(p.name, func(t *testing.T) { checkBoot(t, c, p, guests[p.name], roms[p.name]) })
			guests[p.name].Kill()
		}
	}
}

func checkBoot(t *testing.T, c *cluster, p bootPath, g *guest, rom *vm.PlainROM) {
	pending := c.waitState(g, api.NodePending)
	screen, err := g.WaitFor(t.Context(), regexp.MustCompile(`muster: fingerprint node \S+`))
	if err != nil {
		t.Fatal(err)
	}
	if want := "muster: fingerprint node " + pending.Fingerprint; !strings.Contains(screen, want) {
		t.Errorf("screen says %q, want %q as the head has it", screen, want)
	}
	node := c.ready(g)
	r := c.muster("", "run", "--on", node.Name, "hostname")
	if got, want := r.stdout, node.Name+"\n"; got != want || r.status != 0 {
		t.Errorf("muster run hostname = %q, status %d (%s), want %q", got, r.status, r.stderr, want)
	}
	if rom != nil && rom.Stripped() == 0 {
		t.Error("the ROM's packets were not changed: the way of a plain PXE ROM was not taken")
	}
	checkLoader(t, p, c.stages(g))
	if ok, err := regexp.MatchString(p.banner, g.ConsoleTail(10000)); err != nil || !ok {
		t.Errorf("the console does not show %q (%v)", p.banner, err)
	}
}

// checkLoader checks that the boot program of the way, and no other, went
// over the wire, and everything behind it.
func checkLoader(t *testing.T, p bootPath, events []api.BootEvent) {
	t.Helper()
	var loaders []string
	seen := map[api.BootStage]bool{}
	for _, e := range events {
		seen[e.Stage] = true
		if e.Stage == api.StageLoader {
			loaders = append(loaders, e.Client+" "+e.Detail)
		}
	}
	for _, want := range []api.BootStage{api.StageDHCP, api.StageScript, api.StageKernel, api.StageInitramfs, api.StageAgent, api.StagePending, api.StageReady} {
		if !seen[want] {
			t.Errorf("the timeline lacks the stage %s: %+v", want, events)
		}
	}
	switch {
	case p.loader == "" && len(loaders) > 0:
		t.Errorf("boot programs were sent, want none: %q", loaders)
	case p.loader != "" && len(loaders) == 0:
		t.Errorf("no boot program was sent, want %s", p.loader)
	}
	for _, l := range loaders {
		if !strings.HasPrefix(l, p.client+" ") || !strings.Contains(l, p.loader) {
			t.Errorf("boot program %q was sent, want %s to a client of kind %s", l, p.loader, p.client)
		}
	}
}
