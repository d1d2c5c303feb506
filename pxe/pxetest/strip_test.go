package pxetest

import (
	"bytes"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// frame wraps a message as a machine sends it.
func frame(payload []byte, port byte) []byte {
	f := make([]byte, offDHCP, offDHCP+len(payload))
	copy(f, bytes.Repeat([]byte{0xff}, 6))
	f[12], f[13], f[14], f[offProtocol] = 8, 0, 0x45, 17
	f[offUDP+3], f[offUDP+6] = port, 0xaa
	return append(f, payload...)
}

func TestStripIPXE(t *testing.T) {
	ipxe := (&Firmware{Kind: IPXE, MAC: MAC(1)}).Discover(true)
	plain := (&Firmware{Kind: BIOS, MAC: MAC(1)}).Discover(false)
	in := frame(ipxe.ToBytes(), 67)
	before := bytes.Clone(in)
	out := StripIPXE(in)
	if !bytes.Equal(in, before) {
		t.Error("the frame was changed")
	}
	got, err := dhcpv4.FromBytes(out[offDHCP:])
	if err != nil {
		t.Fatal(err)
	}
	for code := range got.Options {
		if code == optUserClass || code == optIPXE {
			t.Errorf("option %d is still there", code)
		}
	}
	for code := range plain.Options {
		if !bytes.Equal(got.Options[code], plain.Options[code]) {
			t.Errorf("option %d: %x, want %x", code, got.Options[code], plain.Options[code])
		}
	}
	for name, f := range map[string][]byte{
		"plain": frame(plain.ToBytes(), 67), "other port": frame(ipxe.ToBytes(), 68), "short": {1, 2, 3}, "nothing": nil,
	} {
		if got := StripIPXE(f); !bytes.Equal(got, f) {
			t.Errorf("%s: the frame was changed", name)
		}
	}
}

func TestStripROM(t *testing.T) {
	strip := StripROM()
	ipxe := frame((&Firmware{Kind: IPXE, MAC: MAC(1)}).Discover(true).ToBytes(), 67)
	if bytes.Equal(strip(ipxe), ipxe) {
		t.Error("the ROM's message was not stripped")
	}
	strip(frame([]byte("\x00\x01undionly.kpxe\x00octet\x00"), 69))
	if !bytes.Equal(strip(ipxe), ipxe) {
		t.Error("the message of the iPXE that was fetched was stripped")
	}
}
