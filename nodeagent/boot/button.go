package boot

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The power button, also when it is pressed from afar (ipmitool power soft,
// the monitor of a virtual machine): the kernel tells of it by generic
// netlink, where the module button is loaded.

const (
	acpiFamily = "acpi_event"    // include/acpi, drivers/acpi/event.c
	acpiGroup  = "acpi_mc_group" // likewise
	acpiEvent  = 1               // ACPI_GENL_ATTR_EVENT
	// acpiClass is the length of device_class, the first field of struct
	// acpi_genl_event.
	acpiClass = 20
)

// openACPI opens a socket for ACPI events. nil where the kernel has none.
func openACPI() (*netlinkSocket, error) {
	family, err := netlink.GenlFamilyGet(acpiFamily)
	if err != nil {
		return nil, nil // a machine without ACPI
	}
	for _, g := range family.Groups {
		if g.Name == acpiGroup {
			return openNetlink("ACPI", unix.NETLINK_GENERIC, int(g.ID))
		}
	}
	return nil, fmt.Errorf("the kernel's family %s has no group %s", acpiFamily, acpiGroup)
}

// powerPressed says whether a message of the ACPI group tells that the power
// button was pressed.
func powerPressed(msg []byte) bool {
	const headers = unix.NLMSG_HDRLEN + 4 // and that of generic netlink
	if len(msg) < headers {
		return false
	}
	for attrs := msg[headers:]; len(attrs) >= 4; {
		n, kind := int(binary.NativeEndian.Uint16(attrs)), binary.NativeEndian.Uint16(attrs[2:])
		if n < 4 || n > len(attrs) {
			return false
		}
		if value := attrs[4:n]; kind == acpiEvent && len(value) >= acpiClass {
			class, _, _ := bytes.Cut(value[:acpiClass], []byte{0})
			return string(class) == "button/power"
		}
		attrs = attrs[min((n+3)&^3, len(attrs)):]
	}
	return false
}

// watchButton calls pressed whenever the power button is, until ctx is done.
func watchButton(ctx context.Context, pressed func()) error {
	s, err := openACPI()
	if err != nil || s == nil {
		return err
	}
	return s.read(ctx, func(msg []byte) {
		if powerPressed(msg) {
			pressed()
		}
	}, func() {})
}
