package boot

import (
	"encoding/hex"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"muster/api"
)

// ReadHardware reads what the machine is from proc and sys below root, "/" on
// a machine. What is not known is empty. boot is the address of the link that
// it booted from, which comes first; nil: unknown.
func ReadHardware(root string, boot net.HardwareAddr) api.Hardware {
	dmi := func(name string) string { return readWord(root, "sys/class/dmi/id", name) }
	hw := api.Hardware{
		MACs:      ethernetAddresses(root, boot),
		UUID:      systemUUID(root),
		Vendor:    dmi("sys_vendor"),
		Product:   dmi("product_name"),
		Arch:      runtime.GOARCH, // Debian's names of amd64 and arm64 are Go's
		CPUModel:  cpuModel(root),
		Cores:     onlineCPUs(readWord(root, "sys/devices/system/cpu/online")),
		MemoryMiB: MemTotalMiB(root),
		Firmware:  "bios",
	}
	if hw.Cores == 0 {
		hw.Cores = runtime.NumCPU()
	}
	if _, err := os.Stat(filepath.Join(root, "sys/firmware/efi")); err == nil {
		hw.Firmware = "uefi"
	}
	return hw
}

// ReadSoftware reads what the machine runs from; the caller adds the
// agent's version and protocol.
func ReadSoftware(root string, p Params) api.Software {
	return api.Software{
		Kernel:    readWord(root, "proc/sys/kernel/osrelease"),
		ImageID:   readWord(root, imageFile),
		RuntimeID: readWord(root, runtimeFile),
		Medium:    Medium(p),
	}
}

// BootID is the kernel's name for this boot, read below root.
func BootID(root string) string { return bootID(root) }

func bootID(root string) string { return readWord(root, "proc/sys/kernel/random/boot_id") }

// Medium says how the machine was booted: what muster.medium names, else pxe
// where the loader passed the link's address on, else unknown.
func Medium(p Params) string {
	switch {
	case p.Medium != "":
		return p.Medium
	case p.BootMAC != nil:
		return "pxe"
	}
	return "unknown"
}

// MediumText says for people before the machine what it was booted from, where that
// is something to take out: nothing is read from it any more.
func MediumText(p Params) string {
	what := map[string]string{"iso": "CD or USB stick", "usb": "USB stick", "uki": "UEFI program, over the network or from a stick"}[Medium(p)]
	if what == "" {
		return ""
	}
	if p.Label != "" {
		what += " " + strconv.Quote(p.Label)
	}
	return what + "; take it out if you like, the machine does not need it any more"
}

// systemUUID is the SMBIOS system UUID in lower case, or empty where the
// vendor left it blank: two machines would be taken for one.
func systemUUID(root string) string {
	s := strings.ToLower(readWord(root, "sys/class/dmi/id/product_uuid"))
	if b, err := hex.DecodeString(strings.ReplaceAll(s, "-", "")); err != nil || len(b) != 16 {
		return ""
	}
	if d := strings.ReplaceAll(s, "-", ""); strings.Trim(d, "0") == "" || strings.Trim(d, "f") == "" {
		return ""
	}
	return s
}

// ethernetAddresses lists the addresses of the machine's Ethernet devices in
// the order of their names, boot first.
func ethernetAddresses(root string, boot net.HardwareAddr) []string {
	const typeEthernet = "1" // ARPHRD_ETHER
	var macs []string
	if boot != nil {
		macs = append(macs, boot.String())
	}
	dir := filepath.Join(root, "sys/class/net")
	entries, _ := os.ReadDir(dir) // no network, no addresses
	for _, e := range entries {
		link := filepath.Join(dir, e.Name())
		// Only hardware has a device behind it.
		if _, err := os.Stat(filepath.Join(link, "device")); err != nil || readWord(link, "type") != typeEthernet {
			continue
		}
		mac, err := net.ParseMAC(readWord(link, "address"))
		if err != nil || len(mac) != 6 || slices.Contains(macs, mac.String()) {
			continue
		}
		macs = append(macs, mac.String())
	}
	return macs
}

// cpuModel is the name that the first CPU gives itself.
func cpuModel(root string) string {
	b, err := os.ReadFile(filepath.Join(root, "proc/cpuinfo"))
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(b)) {
		key, value, ok := strings.Cut(line, ":")
		if ok && strings.TrimSpace(key) == "model name" {
			return clean(strings.Join(strings.Fields(value), " "), 120)
		}
	}
	return ""
}

// MemTotalMiB is the memory that the kernel can give away, as proc below root
// says. 0: not known.
func MemTotalMiB(root string) int64 {
	b, err := os.ReadFile(filepath.Join(root, "proc/meminfo"))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "MemTotal:"); ok {
			kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			if err != nil {
				return 0
			}
			return kib >> 10
		}
	}
	return 0
}

// onlineCPUs counts a list such as 0-3,8. 0 means that it could not be read.
func onlineCPUs(list string) int {
	n := 0
	for part := range strings.SplitSeq(list, ",") {
		from, to, isRange := strings.Cut(part, "-")
		a, err := strconv.Atoi(from)
		if err != nil {
			return 0
		}
		b := a
		if isRange {
			if b, err = strconv.Atoi(to); err != nil {
				return 0
			}
		}
		if a < 0 || b < a || b > 1<<20 {
			return 0
		}
		n += b - a + 1
	}
	return n
}

// readWord reads a file of one line, without white space around it; empty if
// it cannot be read.
func readWord(path ...string) string {
	b, err := readLimited(filepath.Join(path...), 64<<10)
	if err != nil {
		return ""
	}
	return clean(strings.TrimSpace(string(b)), 256)
}
