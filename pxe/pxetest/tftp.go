package pxetest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"
)

// Packets of TFTP, RFC 1350.
const (
	opRead, opData, opAck, opError = 1, 3, 4, 5
	blockSize                      = 512
)

// TFTP fetches a file as the simplest ROM does: no options, block by block.
// It fits [Firmware.Files].
func TFTP(ctx context.Context, server netip.Addr, name string) ([]byte, error) {
	c, err := net.ListenUDP("udp4", nil)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	return fetch(ctx, c, netip.AddrPortFrom(server, 69), name)
}

// fetch fetches over c; the server answers from a port of its own choice.
func fetch(ctx context.Context, c *net.UDPConn, to netip.AddrPort, name string) ([]byte, error) {
	var content []byte
	packet := append([]byte{0, opRead}, name+"\x00octet\x00"...)
	buf := make([]byte, 4+blockSize)
	want := uint16(1)
	for tries := 0; ; {
		if _, err := c.WriteToUDPAddrPort(packet, to); err != nil {
			return nil, err
		}
		if err := errors.Join(ctx.Err(), c.SetReadDeadline(time.Now().Add(time.Second))); err != nil {
			return nil, err
		}
		n, from, err := c.ReadFromUDPAddrPort(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			if tries++; tries > 5 {
				return nil, fmt.Errorf("%s from %v: %w", name, to, ErrNoAnswer)
			}
			continue
		}
		if err != nil {
			return nil, err
		}
		if n < 4 {
			continue
		}
		switch binary.BigEndian.Uint16(buf) {
		case opError:
			return nil, fmt.Errorf("%s from %v: error %d %s", name, to, binary.BigEndian.Uint16(buf[2:]), buf[4:n])
		case opData:
			if binary.BigEndian.Uint16(buf[2:]) != want {
				continue
			}
			content = append(content, buf[4:n]...)
			to, tries = from, 0
			packet = binary.BigEndian.AppendUint16([]byte{0, opAck}, want)
			want++
			if n < 4+blockSize {
				_, err := c.WriteToUDPAddrPort(packet, to)
				return content, err
			}
		}
	}
}
