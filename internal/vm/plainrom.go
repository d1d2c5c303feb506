package vm

import (
	"encoding/binary"
	"sync/atomic"
)

// PlainROM is a [NIC.Filter] that makes QEMU's boot ROM, which is iPXE, look like
// a PXE ROM that is not: what tells iPXE apart is taken out of its DHCP
// messages, until the machine asks for a file by TFTP. What that file then
// sends goes unchanged. So the way of a BIOS machine can be seen whole: ROM,
// undionly.kpxe by TFTP, and its own DHCP.
type PlainROM struct {
	fetched  atomic.Bool
	stripped atomic.Int64
}

// Filter is the filter.
func (p *PlainROM) Filter(frame []byte) []byte {
	udp, ok := udpOf(frame)
	if !ok || p.fetched.Load() {
		return frame
	}
	switch binary.BigEndian.Uint16(udp[2:]) {
	case tftpPort:
		p.fetched.Store(true)
	case dhcpPort, proxyPort:
		if stripOptions(udp[8:], userClass, ipxeOptions) {
			setChecksum(frame, udp)
			p.stripped.Add(1)
		}
	}
	return frame
}

// Fetched reports whether the machine has asked for a file by TFTP.
func (p *PlainROM) Fetched() bool { return p.fetched.Load() }

// Stripped is how many DHCP messages were changed.
func (p *PlainROM) Stripped() int64 { return p.stripped.Load() }

const (
	dhcpPort  = 67
	tftpPort  = 69
	proxyPort = 4011

	userClass   = 77  // RFC 3004
	ipxeOptions = 175 // site-specific; iPXE's features
)

// udpOf returns the UDP datagram, with its header, of an Ethernet frame with an
// unfragmented IPv4 packet.
func udpOf(frame []byte) ([]byte, bool) {
	const ethernet = 14
	if len(frame) < ethernet+20 || binary.BigEndian.Uint16(frame[12:]) != 0x0800 {
		return nil, false
	}
	ip := frame[ethernet:]
	header := int(ip[0]&0xf) * 4
	total := int(binary.BigEndian.Uint16(ip[2:]))
	fragment := binary.BigEndian.Uint16(ip[6:]) &^ 0x4000 // all but "don't fragment"
	if ip[0]>>4 != 4 || header < 20 || ip[9] != 17 || fragment != 0 || total < header+8 || total > len(ip) {
		return nil, false
	}
	udp := ip[header:total]
	size := int(binary.BigEndian.Uint16(udp[4:]))
	if size < 8 || size > len(udp) {
		return nil, false
	}
	return udp[:size], true
}

// stripOptions removes DHCP options from a message in place; what follows moves
// up, and the end is padded, so that its size stays. It reports whether there
// was one.
func stripOptions(message []byte, codes ...byte) bool {
	const optionsAt = 240 // RFC 2131 2, behind the cookie
	if len(message) < optionsAt || binary.BigEndian.Uint32(message[236:]) != 0x63825363 {
		return false
	}
	options := message[optionsAt:]
	kept, found := options[:0], false
	for i := 0; i < len(options); {
		size := 1
		if options[i] != 0 && options[i] != 255 {
			if i+1 >= len(options) {
				break
			}
			size = 2 + int(options[i+1])
		}
		option := options[i:min(i+size, len(options))]
		i += size
		if has(codes, option[0]) {
			found = true
			continue
		}
		kept = append(kept, option...)
		if option[0] == 255 {
			break
		}
	}
	if found {
		clear(options[len(kept):])
	}
	return found
}

func has(codes []byte, code byte) bool {
	for _, c := range codes {
		if c == code {
			return true
		}
	}
	return false
}

// setChecksum computes the UDP checksum anew (RFC 768).
func setChecksum(frame, udp []byte) {
	ip := frame[14:]
	udp[6], udp[7] = 0, 0
	sum := uint32(17) + uint32(len(udp))
	for i := 12; i < 20; i += 2 { // both addresses
		sum += uint32(binary.BigEndian.Uint16(ip[i:]))
	}
	for i := 0; i+1 < len(udp); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(udp[i:]))
	}
	if len(udp)%2 == 1 {
		sum += uint32(udp[len(udp)-1]) << 8
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	checksum := ^uint16(sum)
	if checksum == 0 {
		checksum = 0xffff
	}
	binary.BigEndian.PutUint16(udp[6:], checksum)
}
