package pxe

import (
	"bytes"
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"testing"
	"time"

	"muster/internal/need"
	"muster/internal/vm"
)

// events passes events to a test as they come.
type events chan Event

func (e events) Observe(x Event) { e <- x }

// next waits for an event of a stage. Emulated firmware on a busy computer
// takes its time.
func (e events) next(t *testing.T, stage Stage) Event {
	t.Helper()
	timeout := time.After(2 * time.Minute)
	for {
		select {
		case x := <-e:
			if x.Stage == stage {
				return x
			}
		case <-timeout:
			t.Fatalf("no event %s", stage)
		}
	}
}

// room is a bridge that a server serves in full mode.
func room(t *testing.T, ra bool, seen events) *vm.Port {
	t.Helper()
	if err := vm.Installed(vm.BIOS); err != nil {
		need.Missing(t, "%v", err)
	}
	prefix := netip.MustParsePrefix("10.77.0.1/24")
	n, err := vm.NewNetwork(vm.NetworkConfig{Bridge: "br0", Addrs: []netip.Prefix{prefix}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	port, err := n.NewPort("port0")
	if errors.Is(err, fs.ErrPermission) {
		need.Missing(t, "%v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	socks, err := Listen(t.Context(), ListenConfig{Interfaces: []string{"br0"}, DHCP: true, HTTP: ":80", NoRA: !ra})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { socks.Close() })
	s := serve(t, Config{
		Sockets: socks, Observer: seen, Loaders: testLoaders,
		Booter:     decider(func(Machine) (Boot, error) { return Boot{Wait: time.Minute}, nil }),
		Interfaces: []Interface{{Name: "br0", Mode: ModeFull, Subnet: Subnet{Network: Network{Prefix: prefix}}}},
	})
	tftpServer(t, s)
	return port
}

func boot(t *testing.T, nic vm.NIC) {
	t.Helper()
	m, err := vm.Start(vm.Config{
		Name: "m", Dir: t.TempDir(), Firmware: vm.BIOS, MemMiB: 128, NICs: []vm.NIC{nic},
		UUID: "11223344-5566-7788-99aa-bbccddeeff00",
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		m.Kill()
		if t.Failed() {
			raw, _ := os.ReadFile(m.ConsoleFile())
			t.Logf("console:\n%q", raw)
		}
	})
}

// TestIPXEConfigures measures the time from the OFFER to the script, which
// iPXE spends on configuring its card: without a router advertisement 16 s for
// the ROM of Debian 12, 5 s for that of Debian 13.
func TestIPXEConfigures(t *testing.T) {
	if testing.Short() {
		t.Skip("takes more than ten seconds")
	}
	took := map[bool]time.Duration{}
	for _, ra := range []bool{true, false} {
		t.Run(map[bool]string{true: "with advertisement", false: "without"}[ra], func(t *testing.T) {
			seen := make(events, 64)
			port := room(t, ra, seen)
			boot(t, vm.NIC{Port: port, MAC: testMAC})
			offer := seen.next(t, StageDHCP)
			script := seen.next(t, StageScript)
			took[ra] = script.Time.Sub(offer.Time)
			if offer.Client != ClientIPXE || offer.UUID != "11223344-5566-7788-99aa-bbccddeeff00" || script.Arch != "amd64" {
				t.Errorf("offer to %+v, script to %+v", offer, script)
			}
		})
	}
	t.Logf("with an advertisement %v, without %v", took[true], took[false])
	if took[true] > 2*time.Second || took[false] < took[true]+3*time.Second {
		t.Errorf("with an advertisement %v, want 0.5 s and less than 2; without %v, want 3 s more at least: 5 or 16 s by the ROM's age", took[true], took[false])
	}
}

// TestPlainROM sees a BIOS whose PXE ROM is no iPXE fetch its loader. The
// loader here is nothing that could run, so that is where it ends.
func TestPlainROM(t *testing.T) {
	if testing.Short() {
		t.Skip("takes more than ten seconds")
	}
	seen := make(events, 64)
	port := room(t, true, seen)
	boot(t, vm.NIC{Port: port, MAC: testMAC, Filter: new(vm.PlainROM).Filter})
	offer, loader := seen.next(t, StageDHCP), seen.next(t, StageLoader)
	t.Logf("%v from offer to loader", loader.Time.Sub(offer.Time))
	if offer.Client != ClientBIOS || loader.Detail != "undionly.kpxe" || !bytes.Equal(loader.MAC, testMAC) || loader.Client != ClientBIOS {
		t.Errorf("offer %+v, loader %+v", offer, loader)
	}
}
