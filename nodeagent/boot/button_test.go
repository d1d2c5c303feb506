package boot

import (
	"encoding/binary"
	"testing"
)

// acpiMessage is a message of the kernel's ACPI group about a device class.
func acpiMessage(kind uint16, class string) []byte {
	event := make([]byte, 44) // struct acpi_genl_event
	copy(event, class)
	copy(event[acpiClass:], "LNXPWRBN:00")
	msg := make([]byte, 20) // the headers of netlink and generic netlink
	msg = binary.NativeEndian.AppendUint16(msg, uint16(4+len(event)))
	msg = binary.NativeEndian.AppendUint16(msg, kind)
	return append(msg, event...)
}

func TestPowerPressed(t *testing.T) {
	power := acpiMessage(acpiEvent, "button/power")
	tests := map[string]struct {
		msg  []byte
		want bool
	}{
		"power button":  {power, true},
		"sleep button":  {acpiMessage(acpiEvent, "button/sleep"), false},
		"another kind":  {acpiMessage(2, "button/power"), false},
		"behind others": {append(acpiMessage(2, "x"), power[20:]...), true},
		"cut off":       {power[:40], false},
		"headers only":  {power[:20], false},
		"nothing":       {nil, false},
	}
	for name, tc := range tests {
		if got := powerPressed(tc.msg); got != tc.want {
			t.Errorf("%s: powerPressed() = %v, want %v", name, got, tc.want)
		}
	}
}

func FuzzPowerPressed(f *testing.F) {
	f.Add(acpiMessage(acpiEvent, "button/power"))
	f.Fuzz(func(t *testing.T, msg []byte) {
		if powerPressed(msg) && len(msg) < 44 {
			t.Errorf("powerPressed(%x) = true", msg)
		}
	})
}
