package boot

import (
	"bytes"
	"errors"
	"strings"

	"golang.org/x/sys/unix"
)

// uevent is what the kernel says of one device. Only the parts that PID 1
// needs are kept.
type uevent struct {
	Action    string // add, remove, change, ...
	DevPath   string // below /sys
	Subsystem string
	Modalias  string
	DevName   string // below /dev
}

// errNotUevent says that a datagram is not one of the kernel's events.
var errNotUevent = errors.New("not a kernel uevent")

// parseUevent reads a datagram of the kernel's uevent group:
// "ACTION@DEVPATH" and KEY=VALUE strings, each ended by NUL.
func parseUevent(b []byte) (uevent, error) {
	head, rest, ok := bytes.Cut(b, []byte{0})
	if !ok || !bytes.Contains(head, []byte("@")) {
		return uevent{}, errNotUevent
	}
	var e uevent
	for field := range bytes.SplitSeq(rest, []byte{0}) {
		key, value, _ := strings.Cut(string(field), "=")
		switch key {
		case "ACTION":
			e.Action = value
		case "DEVPATH":
			e.DevPath = value
		case "SUBSYSTEM":
			e.Subsystem = value
		case "MODALIAS":
			e.Modalias = value
		case "DEVNAME":
			e.DevName = value
		}
	}
	if e.Action == "" || e.DevPath == "" {
		return uevent{}, errNotUevent
	}
	return e, nil
}

// openUevents opens a socket that receives the kernel's uevents. Open it before
// looking at the devices that are there, so that none falls between.
func openUevents() (*netlinkSocket, error) {
	const kernelGroup = 1 // 2 would be udev's
	return openNetlink("uevent", unix.NETLINK_KOBJECT_UEVENT, kernelGroup)
}
