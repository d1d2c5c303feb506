package headnode

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"unicode"

	"github.com/nats-io/nkeys"

	"muster/api"
)

// Bounds of what a stranger may say of itself.
const (
	maxText      = 200
	maxMACs      = 16
	maxHeldTasks = 4096
	maxNodeCores = 1 << 14
)

// normalMAC reads a hardware address in any usual spelling and writes it as
// 52:54:00:12:34:56.
func normalMAC(s string) (string, bool) {
	s = strings.TrimSpace(s)
	if len(s) == 12 && !strings.ContainsAny(s, ":-.") {
		s = s[0:2] + ":" + s[2:4] + ":" + s[4:6] + ":" + s[6:8] + ":" + s[8:10] + ":" + s[10:12]
	}
	hw, err := net.ParseMAC(s)
	if err != nil || len(hw) != 6 {
		return "", false
	}
	return hw.String(), true
}

// fakeUUIDs are system UUIDs that boards of many makers share.
var fakeUUIDs = []string{
	"00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff",
	"03000200-0400-0500-0006-000700080009", "00020003-0004-0005-0006-000700080009",
}

// normalUUID returns a system UUID in lower case, or "" for what is none or
// what many boards share.
func normalUUID(s string) string {
	s = strings.ToLower(strings.TrimSpace(s))
	if len(s) != 36 || slices.Contains(fakeUUIDs, s) {
		return ""
	}
	for i := range len(s) {
		dash := i == 8 || i == 13 || i == 18 || i == 23
		if dash != (s[i] == '-') || !dash && !strings.ContainsRune("0123456789abcdef", rune(s[i])) {
			return ""
		}
	}
	return s
}

// cleanText keeps what can be shown on a terminal and bounds its length.
func cleanText(s string) string {
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) || r == unicode.ReplacementChar {
			return -1
		}
		return r
	}, s[:min(len(s), 4*maxText)])
	if len(s) <= maxText {
		return s
	}
	return strings.ToValidUTF8(s[:maxText], "")
}

// cleanFacts makes a join request harmless: texts are bounded and
// printable, addresses in one spelling, numbers within reason.
func cleanFacts(req *api.JoinRequest) {
	hw := &req.Hardware
	for _, s := range []*string{
		&req.BootID, &hw.Vendor, &hw.Product, &hw.Arch, &hw.CPUModel, &hw.Firmware,
	} {
		*s = cleanText(*s)
	}
	cleanSoftware(&req.Software)
	req.Stage = cleanStage(req.Stage)
	hw.UUID = normalUUID(hw.UUID)
	var macs []string
	for _, m := range hw.MACs {
		if mac, ok := normalMAC(m); ok && mac != "00:00:00:00:00:00" && mac != "ff:ff:ff:ff:ff:ff" && !slices.Contains(macs, mac) && len(macs) < maxMACs {
			macs = append(macs, mac)
		}
	}
	hw.MACs = macs
	hw.Cores = min(max(hw.Cores, 0), maxNodeCores)
	hw.MemoryMiB = min(max(hw.MemoryMiB, 0), 1<<30)
	req.Speed = cleanSpeed(req.Speed)
	if addr, err := netip.ParseAddr(req.IP); err != nil {
		req.IP = ""
	} else {
		req.IP = addr.Unmap().WithZone("").String()
	}
	req.Tasks = req.Tasks[:min(len(req.Tasks), maxHeldTasks)]
}

// cleanSoftware makes what a machine says of its software harmless.
func cleanSoftware(sw *api.Software) {
	for _, s := range []*string{&sw.Agent, &sw.Kernel, &sw.ImageID, &sw.RuntimeID, &sw.Medium, &sw.UserlandFrom, &sw.UserlandStalled} {
		*s = cleanText(*s)
	}
	if sw.UserlandIn != api.UserlandMemory && sw.UserlandIn != api.UserlandShare {
		sw.UserlandIn = ""
	}
	sw.UserlandBytes = max(sw.UserlandBytes, 0)
	for _, s := range []*string{&sw.Userland, &sw.UserlandWanted} {
		if !isSHA256(*s) {
			*s = ""
		}
	}
}

// cleanStage makes a stage harmless. One that cannot be shown is a stage all the same:
// none would say that the node takes tasks.
func cleanStage(s string) string {
	if s == "" {
		return ""
	}
	return cmp.Or(strings.TrimSpace(cleanText(s)), "preparing")
}

// cleanSpeed bounds a measured speed; what is none is 0, not measured.
func cleanSpeed(v float64) float64 {
	if !(v > 0) {
		return 0
	}
	return min(v, 1000)
}

// cleanHeartbeat does for a heartbeat what cleanFacts does for a join.
func cleanHeartbeat(hb *api.Heartbeat) {
	hb.BootID = cleanText(hb.BootID)
	hb.Speed = cleanSpeed(hb.Speed)
	hb.Stage = cleanStage(hb.Stage)
	if hb.Software != nil {
		cleanSoftware(hb.Software)
	}
	hb.Tasks = hb.Tasks[:min(len(hb.Tasks), maxHeldTasks)]
	hb.Mounts = hb.Mounts[:min(len(hb.Mounts), maxShares)]
	for i := range hb.Mounts {
		m := &hb.Mounts[i]
		m.State, m.Reason = cleanText(m.State), cleanStage(m.Reason)
	}
	l := &hb.Load
	for _, v := range []*float64{&l.Runnable, &l.CPUBusy, &l.MemPressure, &l.UptimeSecond} {
		if !(*v >= 0) {
			*v = 0
		}
		*v = min(*v, 1e12)
	}
	l.MemTotalMiB = min(max(l.MemTotalMiB, 0), 1<<30)
	l.MemFreeMiB = min(max(l.MemFreeMiB, 0), 1<<30)
}

// keyFingerprint is the fingerprint of a node's session key.
func keyFingerprint(key string) (string, error) {
	raw, err := nkeys.Decode(nkeys.PrefixByteUser, []byte(key))
	if err != nil || len(raw) != 32 {
		return "", fmt.Errorf("%q is no public key of a machine", cleanText(key))
	}
	return api.Fingerprint(raw), nil
}
