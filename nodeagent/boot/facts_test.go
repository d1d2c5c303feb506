package boot

import (
	"net"
	"runtime"
	"testing"

	"github.com/google/go-cmp/cmp"

	"muster/api"
)

// machineFiles are those of a small server with two network adapters, of which
// one has a bridge's port beside it.
var machineFiles = map[string]string{
	"proc/cpuinfo":                     "processor\t: 0\nmodel name\t: Intel(R) Xeon(R)   CPU E5\nprocessor\t: 1\nmodel name\t: other\n",
	"proc/meminfo":                     "MemTotal:       16315632 kB\nMemFree: 1 kB\n",
	"proc/sys/kernel/osrelease":        "6.12.1\n",
	"proc/sys/kernel/random/boot_id":   "0f8fad5b-d9cb-469f-a165-70867728950e\n",
	"sys/class/dmi/id/product_uuid":    "4C4C4544-0044-3310-8059-B1C04F4B4432\n",
	"sys/class/dmi/id/sys_vendor":      "Dell Inc.\n",
	"sys/class/dmi/id/product_name":    "PowerEdge R320\n",
	"sys/devices/system/cpu/online":    "0-3,8-11\n",
	"sys/firmware/efi/systab":          "",
	"sys/class/net/eth0/type":          "1\n",
	"sys/class/net/eth0/address":       "52:54:00:12:34:01\n",
	"sys/class/net/eth0/device/uevent": "",
	"sys/class/net/eth1/type":          "1\n",
	"sys/class/net/eth1/address":       "52:54:00:12:34:02\n",
	"sys/class/net/eth1/device/uevent": "",
	"sys/class/net/br0/type":           "1\n", // no device
	"sys/class/net/br0/address":        "52:54:00:12:34:03\n",
	"sys/class/net/ib0/type":           "32\n", // InfiniBand
	"sys/class/net/ib0/address":        "80:00:02:08:fe:80:00:00:00:00:00:00:00:02:c9:03:00:2a:f9:9b",
	"sys/class/net/ib0/device/uevent":  "",
	"sys/class/net/lo/type":            "772\n",
	"sys/class/net/lo/address":         "00:00:00:00:00:00\n",
	"etc/muster/image":                 someID + "\n",
	"etc/muster/runtime":               anotherID + "\n",
}

func TestReadHardware(t *testing.T) {
	root := fakeRoot(t, machineFiles)
	got := ReadHardware(root, net.HardwareAddr{0x52, 0x54, 0, 0x12, 0x34, 0x02})
	want := api.Hardware{
		MACs:      []string{"52:54:00:12:34:02", "52:54:00:12:34:01"},
		UUID:      "4c4c4544-0044-3310-8059-b1c04f4b4432",
		Vendor:    "Dell Inc.",
		Product:   "PowerEdge R320",
		Arch:      runtime.GOARCH,
		CPUModel:  "Intel(R) Xeon(R) CPU E5",
		Cores:     8,
		MemoryMiB: 15933,
		Firmware:  "uefi",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("ReadHardware(), -want +got:\n%s", d)
	}
}

func TestReadHardwareOfNothing(t *testing.T) {
	got := ReadHardware(t.TempDir(), nil)
	want := api.Hardware{Arch: runtime.GOARCH, Cores: runtime.NumCPU(), Firmware: "bios"}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("ReadHardware(), -want +got:\n%s", d)
	}
}

func TestReadSoftware(t *testing.T) {
	root := fakeRoot(t, machineFiles)
	want := api.Software{Kernel: "6.12.1", ImageID: someID, RuntimeID: anotherID, Medium: "usb"}
	if d := cmp.Diff(want, ReadSoftware(root, Params{Medium: "usb"})); d != "" {
		t.Errorf("ReadSoftware(), -want +got:\n%s", d)
	}
	if got, want := BootID(root), "0f8fad5b-d9cb-469f-a165-70867728950e"; got != want {
		t.Errorf("BootID() = %q, want %q", got, want)
	}
}

func TestMedium(t *testing.T) {
	mac := net.HardwareAddr{1, 2, 3, 4, 5, 6}
	for name, tc := range map[string]struct {
		p    Params
		want string
	}{
		"told":             {Params{Medium: "http", BootMAC: mac}, "http"},
		"from the network": {Params{BootMAC: mac}, "pxe"},
		"nothing is known": {Params{}, "unknown"},
	} {
		if got := Medium(tc.p); got != tc.want {
			t.Errorf("%s: Medium() = %q, want %q", name, got, tc.want)
		}
	}
}

func TestSystemUUID(t *testing.T) {
	for text, want := range map[string]string{
		"":                                       "",
		"Not Settable":                           "",
		"00000000-0000-0000-0000-000000000000":   "",
		"FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF":   "",
		"4C4C4544-0044-3310-8059-B1C04F4B4432\n": "4c4c4544-0044-3310-8059-b1c04f4b4432",
	} {
		root := fakeRoot(t, map[string]string{"sys/class/dmi/id/product_uuid": text})
		if got := systemUUID(root); got != want {
			t.Errorf("systemUUID() of %q = %q, want %q", text, got, want)
		}
	}
}

func TestOnlineCPUs(t *testing.T) {
	for list, want := range map[string]int{
		"0": 1, "0-3": 4, "0-1,4,6-7": 5,
		"": 0, "x": 0, "3-1": 0, "0-x": 0, "0-99999999": 0,
	} {
		if got := onlineCPUs(list); got != want {
			t.Errorf("onlineCPUs(%q) = %d, want %d", list, got, want)
		}
	}
}

func TestProvisionalName(t *testing.T) {
	mac := net.HardwareAddr{0x52, 0x54, 0, 0x12, 0x34, 0x01}
	tests := map[string]struct {
		root string
		mac  net.HardwareAddr
		want string
	}{
		"by address": {fakeRoot(t, machineFiles), mac, "machine-525400123401"},
		"by UUID":    {fakeRoot(t, machineFiles), nil, "machine-4c4c4544004433108059b1c04f4b4432"},
		"by boot": {
			fakeRoot(t, map[string]string{"proc/sys/kernel/random/boot_id": machineFiles["proc/sys/kernel/random/boot_id"]}),
			nil, "machine-0f8fad5bd9cb469fa16570867728950e",
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got := provisionalName(tc.root, tc.mac)
			if got != tc.want || !validHostName(got) {
				t.Errorf("provisionalName() = %q, want %q, a valid host name", got, tc.want)
			}
		})
	}
}

func TestValidHostName(t *testing.T) {
	for name, want := range map[string]bool{
		"n1": true, "node-17": true, "N1": true,
		"": false, "-a": false, "a-": false, "a.b": false, "a b": false, "ü": false, "a\n": false,
		"a123456789012345678901234567890123456789012345678901234567890123": false,
	} {
		if got := validHostName(name); got != want {
			t.Errorf("validHostName(%q) = %v, want %v", name, got, want)
		}
	}
}
