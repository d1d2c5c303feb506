package vm

import (
	"context"
	"net"
	"net/netip"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"muster/internal/netnstest"
)

func TestMain(m *testing.M) { netnstest.Main(m) }

// network makes a network with one port.
func network(t *testing.T) *Port {
	t.Helper()
	n, err := NewNetwork(NetworkConfig{Bridge: "br0", Addrs: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24")}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Errorf("Close() = %v", err)
		}
		for _, name := range []string{"br0", "port0"} {
			if _, err := netlink.LinkByName(name); err == nil {
				t.Errorf("%s is there after Close", name)
			}
		}
	})
	p, err := n.NewPort("port0")
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func mac(text string) net.HardwareAddr {
	m, err := net.ParseMAC(text)
	if err != nil {
		panic(err)
	}
	return m
}

// boot starts a machine that is killed at the end of the test.
func boot(t *testing.T, cfg Config) *Machine {
	t.Helper()
	installed(t, cfg.Firmware)
	cfg.Dir = t.TempDir()
	m, err := Start(cfg)
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
	return m
}

// anything matches every line.
var anything = regexp.MustCompile(".")

// patience is for one step of an emulated machine on a busy computer.
func patience(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func mustSee(t *testing.T, m *Machine, pattern string) string {
	t.Helper()
	line, err := m.WaitFor(patience(t), regexp.MustCompile(pattern))
	if err != nil {
		t.Fatal(err)
	}
	return line
}

func TestBIOS(t *testing.T) {
	var lines []string
	told := make(chan string, 1000)
	m := boot(t, Config{
		Name: "bios", Firmware: BIOS, MemMiB: 128, Line: func(l string) { told <- l },
		NICs: []NIC{{Port: network(t), MAC: mac("52:54:00:00:00:01")}},
	})
	mustSee(t, m, `SeaBIOS`)
	mustSee(t, m, `iPXE 1\..* -- Open Source Network Boot Firmware`)
	mustSee(t, m, `^net0: 52:54:00:00:00:01 using`)
	if err := m.Reset(); err != nil {
		t.Errorf("Reset() = %v", err)
	}
	if err := m.Quit(); err != nil {
		t.Errorf("Quit() = %v", err)
	}
	close(told)
	for l := range told {
		lines = append(lines, l)
	}
	if !strings.Contains(strings.Join(lines, "\n"), "SeaBIOS") {
		t.Errorf("lines told = %q, want SeaBIOS among them", lines)
	}
}

func TestUEFI(t *testing.T) {
	for kind, want := range map[Boot]string{BootPXE: `Start PXE over IPv4`, BootHTTP: `Start HTTP Boot over IPv4`} {
		t.Run(string(kind), func(t *testing.T) {
			m := boot(t, Config{
				Name: "uefi", Firmware: UEFI, Boot: kind, MemMiB: 256,
				NICs: []NIC{{Port: network(t), MAC: mac("52:54:00:00:00:02")}},
			})
			mustSee(t, m, want)
		})
	}
}
