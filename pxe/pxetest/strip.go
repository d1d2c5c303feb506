package pxetest

import (
	"bytes"
	"encoding/binary"
	"slices"
)

// Places in an Ethernet frame with an IPv4 header without options, a UDP
// header and a DHCP message.
const (
	offProtocol = 14 + 9
	offUDP      = 14 + 20
	offDHCP     = offUDP + 8
	offOptions  = offDHCP + 240
)

// Options by which iPXE is recognized.
const (
	optUserClass = 77
	optIPXE      = 175
)

// StripIPXE turns what an iPXE ROM asks by DHCP into what a plain PXE ROM
// asks: options 77 and 175 become padding. Other frames come back as they
// are. The frame is not changed.
func StripIPXE(frame []byte) []byte {
	if !toPort(frame, 67) || len(frame) < offOptions {
		return frame
	}
	out := slices.Clone(frame)
	for opts := out[offOptions:]; len(opts) > 1; {
		switch {
		case opts[0] == 255:
			opts = nil
			continue
		case opts[0] == 0:
			opts = opts[1:]
			continue
		case len(opts) < 2+int(opts[1]):
			opts = nil
			continue
		}
		n := 2 + int(opts[1])
		if opts[0] == optUserClass || opts[0] == optIPXE {
			clear(opts[:n])
		}
		opts = opts[n:]
	}
	if !bytes.Equal(out, frame) {
		clear(out[offUDP+6 : offUDP+8]) // RFC 768: no checksum
	}
	return out
}

// StripROM gives a filter that strips what a machine's ROM asks, but not what
// the iPXE asks that it fetched by TFTP: a BIOS with a plain PXE ROM. It is
// for the frames of one machine.
func StripROM() func(frame []byte) []byte {
	fetched := false
	return func(frame []byte) []byte {
		if toPort(frame, 69) {
			fetched = true
		}
		if fetched {
			return frame
		}
		return StripIPXE(frame)
	}
}

// toPort tells whether a frame is a UDP datagram over IPv4 to that port.
func toPort(frame []byte, port uint16) bool {
	return len(frame) >= offDHCP && binary.BigEndian.Uint16(frame[12:]) == 0x0800 && frame[14] == 0x45 &&
		frame[offProtocol] == 17 && binary.BigEndian.Uint16(frame[offUDP+2:]) == port
}
