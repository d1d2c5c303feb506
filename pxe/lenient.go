package pxe

import (
	"bytes"
	"fmt"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// Layout of a DHCP message, RFC 2131 section 2.
const (
	offSname   = 44
	offFile    = 108
	offCookie  = 236
	offOptions = 240
	maxMessage = 4096 // the longest message that is read; real ones are below 1,500
)

// Parse reads a DHCP message as firmware writes it: an END option that is
// missing is supplied, an option that is cut off at the end is left out, and
// options that were put into the file and sname fields (option overload,
// RFC 2132 9.3) are found there. A message without header, magic cookie or
// options gives an error that is [ErrNotOurs]. b is not changed. Pure.
func Parse(b []byte) (*dhcpv4.DHCPv4, error) {
	m, err := dhcpv4.FromBytes(b)
	if err == nil && len(m.Options.Get(optOverload)) == 0 {
		return m, nil
	}
	whole, err := mend(b)
	if err != nil {
		return nil, err
	}
	m, err = dhcpv4.FromBytes(whole)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotOurs, err)
	}
	return m, nil
}

// mend returns a copy of message b whose options are whole and in one place.
func mend(b []byte) ([]byte, error) {
	if len(b) < offOptions {
		return nil, fmt.Errorf("%w: %d bytes are no DHCP message", ErrNotOurs, len(b))
	}
	if !bytes.Equal(b[offCookie:offOptions], []byte{99, 130, 83, 99}) {
		return nil, fmt.Errorf("%w: no magic cookie", ErrNotOurs)
	}
	out := bytes.Clone(b[:offOptions])
	opts, overload := wholeOptions(b[offOptions:])
	out = append(out, opts...)
	// RFC 3396 section 5: the options field first, then file, then sname.
	if overload&1 != 0 {
		more, _ := wholeOptions(b[offFile:offCookie])
		out = append(out, more...)
		clear(out[offFile:offCookie])
	}
	if overload&2 != 0 {
		more, _ := wholeOptions(b[offSname:offFile])
		out = append(out, more...)
		clear(out[offSname:offFile])
	}
	return append(out, byte(dhcpv4.OptionEnd.Code())), nil
}

// wholeOptions copies the options of b up to END or to the first one that is
// cut off. Option overload itself is left out and returned as bits.
func wholeOptions(b []byte) (opts []byte, overload byte) {
	for len(b) > 0 {
		switch b[0] {
		case dhcpv4.OptionPad.Code():
			b = b[1:]
			continue
		case dhcpv4.OptionEnd.Code():
			return opts, overload
		}
		if len(b) < 2 || len(b) < 2+int(b[1]) {
			return opts, overload
		}
		opt := b[:2+int(b[1])]
		b = b[len(opt):]
		if opt[0] == optOverload.Code() {
			if len(opt) == 3 {
				overload = opt[2]
			}
			continue
		}
		opts = append(opts, opt...)
	}
	return opts, overload
}
