package boot

import (
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// virtioUevent is what kernel 6.12 sends for a virtio network device.
const virtioUevent = "add@/devices/pci0000:00/0000:00:02.0/virtio0\x00ACTION=add\x00" +
	"DEVPATH=/devices/pci0000:00/0000:00:02.0/virtio0\x00SUBSYSTEM=virtio\x00MODALIAS=virtio:d00000001v00001AF4\x00SEQNUM=1205\x00"

func TestParseUevent(t *testing.T) {
	tests := map[string]struct {
		text string
		want uevent
		err  error
	}{
		"virtio device": {virtioUevent, uevent{
			Action: "add", DevPath: "/devices/pci0000:00/0000:00:02.0/virtio0",
			Subsystem: "virtio", Modalias: "virtio:d00000001v00001AF4",
		}, nil},
		"with a device file": {
			"add@/devices/virtual/misc/watchdog\x00ACTION=add\x00DEVPATH=/devices/virtual/misc/watchdog\x00SUBSYSTEM=misc\x00DEVNAME=watchdog\x00",
			uevent{Action: "add", DevPath: "/devices/virtual/misc/watchdog", Subsystem: "misc", DevName: "watchdog"},
			nil,
		},
		"of udev":           {"libudev\x00\xfe\xed\xca\xfe", uevent{}, errNotUevent},
		"no action":         {"add@/x\x00DEVPATH=/x\x00", uevent{}, errNotUevent},
		"nothing":           {"", uevent{}, errNotUevent},
		"without its end":   {"add@/devices/x", uevent{}, errNotUevent},
		"key without value": {"add@/x\x00ACTION=add\x00DEVPATH=/x\x00MODALIAS\x00", uevent{Action: "add", DevPath: "/x"}, nil},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := parseUevent([]byte(tc.text))
			if !errors.Is(err, tc.err) {
				t.Fatalf("parseUevent() error = %v, want %v", err, tc.err)
			}
			if d := cmp.Diff(tc.want, got); d != "" {
				t.Errorf("parseUevent(), -want +got:\n%s", d)
			}
		})
	}
}

func FuzzParseUevent(f *testing.F) {
	f.Add([]byte(virtioUevent))
	f.Add([]byte("change@\x00ACTION=\x00DEVPATH\x00=\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := parseUevent(b)
		if err == nil && (e.Action == "" || e.DevPath == "") {
			t.Errorf("parseUevent(%q) = %+v without error", b, e)
		}
	})
}

func TestDeviceAliases(t *testing.T) {
	root := fakeRoot(t, map[string]string{
		"sys/bus/pci/devices/0000:00:01.0/modalias": "pci:v1\n",
		"sys/bus/pci/devices/0000:00:02.0/modalias": "pci:v2\n",
		"sys/bus/acpi/devices/PNP0C0C:00/modalias":  "acpi:PNP0C0C:\n",
		"sys/bus/virtio/devices/virtio0/modalias":   "virtio:d1\n",
		"sys/bus/cpu/devices/cpu0/uevent":           "",
	})
	var got []string
	deviceAliases(filepath.Join(root, "sys"), func(a string) { got = append(got, a) })
	want := []string{"virtio:d1", "pci:v1", "pci:v2", "acpi:PNP0C0C:"}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("deviceAliases(), -want +got:\n%s", d)
	}
}

func TestPluggerOrder(t *testing.T) {
	p := newPlugger(func(string) error { return nil }, slog.New(slog.DiscardHandler))
	for _, a := range []string{
		"acpi:PNP0C0C:", "pci:v00008086d00001E31sv0sd0bc0Csc03i30", "acpi:PNP0C0D:", "pci:v00001AF4d00001000sv0sd0bc02sc00i00",
		"acpi:PNP0C0C:", "", "virtio:d00000001v00001AF4", "usb:v1D6Bp0002",
	} {
		p.add(a)
	}
	var got []string
	for a, done := p.next(); done != nil; a, done = p.next() {
		done()
		got = append(got, a)
	}
	want := []string{
		"pci:v00001AF4d00001000sv0sd0bc02sc00i00", "virtio:d00000001v00001AF4",
		"pci:v00008086d00001E31sv0sd0bc0Csc03i30", "usb:v1D6Bp0002",
		"acpi:PNP0C0C:", "acpi:PNP0C0D:",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("order of loading, -want +got:\n%s", d)
	}
}

func TestPluggerLoadsEachOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var loaded []string
		var p *plugger
		p = newPlugger(func(alias string) error {
			mu.Lock()
			loaded = append(loaded, alias)
			mu.Unlock()
			if alias == "bus:b" {
				p.add("bus:c") // a driver's device appears
			}
			return fs.ErrNotExist // is logged, no more
		}, slog.New(slog.DiscardHandler))
		done := make(chan struct{})
		ctx, cancel := contextOf(t)
		go func() { p.run(ctx); close(done) }()
		for range 3 {
			for _, a := range []string{"bus:a", "bus:b"} {
				p.add(a)
			}
		}
		synctest.Wait()
		cancel()
		<-done
		slices.Sort(loaded)
		if got, want := strings.Join(loaded, " "), "bus:a bus:b bus:c"; got != want {
			t.Errorf("loaded %q, want %q", got, want)
		}
	})
}

// A network driver holds back the others, but one that hangs not for ever.
func TestPluggerHoldsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const network, other = "virtio:d00000001v00001AF4", "acpi:PNP0C0C:"
		begin := time.Now()
		hang := make(chan struct{})
		loaded := make(chan string, 2)
		p := newPlugger(func(alias string) error {
			if alias == network {
				<-hang
			}
			loaded <- alias + " " + time.Since(begin).String()
			return nil
		}, slog.New(slog.DiscardHandler))
		p.add(network)
		p.add(other)
		ctx, cancel := contextOf(t)
		done := make(chan struct{})
		go func() { p.run(ctx); close(done) }()
		if got, want := <-loaded, other+" 2s"; got != want {
			t.Errorf("loaded %q first, want %q", got, want)
		}
		close(hang)
		if got, want := <-loaded, network+" 2s"; got != want {
			t.Errorf("then loaded %q, want %q", got, want)
		}
		cancel()
		<-done
	})
}

func TestPluggerIsBounded(t *testing.T) {
	p := newPlugger(nil, slog.New(slog.DiscardHandler))
	for i := range maxAliases + 100 {
		p.add(strings.Repeat("x", 1+i%7) + string(rune('a'+i%26)) + os.DevNull + string(rune(0x4e00+i)))
	}
	if len(p.seen) != maxAliases || len(p.queue) != maxAliases {
		t.Errorf("%d aliases remembered, %d queued, want %d", len(p.seen), len(p.queue), maxAliases)
	}
}
