package api

import (
	"encoding/hex"
	"fmt"
	"net"
	"strings"
)

// How a machine that was told no head finds one on its network.
const (
	// ServiceType is the DNS-SD type that heads answer to by mDNS. The text record has pin=PIN,
	// the port is that of agents.
	ServiceType = "_muster._tcp"
	// ServicePin is the key of the head's pin in the text record.
	ServicePin = "pin"
	// DHCPClass is the vendor class (option 60) of agents. A DHCP server may answer it with
	// vendor-specific information (option 43) that holds a [HeadNote].
	DHCPClass = "muster"
	// MaxHeadNote is the most bytes of an encoded [HeadNote].
	MaxHeadNote = 255
)

// Sub-options of the vendor-specific information. They are far from those of PXE (1 to 12, 64 to
// 127), which careless servers send to everybody.
const (
	subHead = 201 // HOST or HOST:PORT, text
	subPin  = 202 // the pin, 64 hexadecimal digits, text
)

// HeadNote says where a head is, and which: what a DHCP server tells of it.
type HeadNote struct {
	Addr string // HOST or HOST:PORT
	Pin  string // SHA-256 of its public key, 64 hexadecimal digits; "": not said
}

// Encode writes n as vendor-specific information.
func (n HeadNote) Encode() ([]byte, error) {
	var b []byte
	for _, o := range []struct {
		code byte
		text string
	}{{subHead, n.Addr}, {subPin, n.Pin}} {
		if o.text != "" {
			b = append(append(b, o.code, byte(min(len(o.text), 255))), o.text...)
		}
	}
	if _, err := ParseHeadNote(b); err != nil {
		return nil, fmt.Errorf("telling machines of the head %q: %w", n.Addr, err)
	}
	return b, nil
}

// ParseHeadNote reads vendor-specific information. What names no head is an error.
func ParseHeadNote(b []byte) (HeadNote, error) {
	var n HeadNote
	if len(b) > MaxHeadNote {
		return n, fmt.Errorf("vendor-specific information has %d bytes, at most %d hold a head", len(b), MaxHeadNote)
	}
	for len(b) > 0 && b[0] != 255 {
		if b[0] == 0 { // padding, RFC 2132 3.1
			b = b[1:]
			continue
		}
		if len(b) < 2 || len(b) < 2+int(b[1]) {
			return HeadNote{}, fmt.Errorf("vendor-specific information ends within sub-option %d", b[0])
		}
		text := strings.TrimRight(string(b[2:2+int(b[1])]), "\x00")
		switch b[0] {
		case subHead:
			n.Addr = text
		case subPin:
			n.Pin = strings.ToLower(text)
		}
		b = b[2+int(b[1]):]
	}
	switch {
	case n.Addr == "":
		return HeadNote{}, fmt.Errorf("vendor-specific information names no head: sub-option %d is missing", subHead)
	case !isHostPort(n.Addr):
		return HeadNote{}, fmt.Errorf("vendor-specific information names %q as head, want HOST or HOST:PORT", n.Addr)
	case n.Pin != "" && !ValidPin(n.Pin):
		return HeadNote{}, fmt.Errorf("vendor-specific information has the pin %q, want 64 hexadecimal digits", n.Pin)
	}
	return n, nil
}

// HeadIdentity is what the head tells its boot service of itself, for machines that look for one.
type HeadIdentity struct {
	Fingerprint string `json:"fingerprint"`
	Pin         string `json:"pin"`
}

// ValidPin tells whether s is the pin of a head, in lower case.
func ValidPin(s string) bool {
	b, err := hex.DecodeString(s)
	return err == nil && len(b) == 32 && s == strings.ToLower(s)
}

// isHostPort tells whether s can be the address of a head: HOST, IP, HOST:PORT or [IP]:PORT.
func isHostPort(s string) bool {
	if len(s) > 200 || strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune(`/\"'@#?%`, r) }) {
		return false
	}
	if net.ParseIP(s) != nil {
		return true
	}
	host := s
	if h, port, err := net.SplitHostPort(s); err == nil {
		if port == "" || strings.Trim(port, "0123456789") != "" || len(port) > 5 {
			return false
		}
		host = h
	}
	return host != "" && (!strings.Contains(host, ":") || net.ParseIP(host) != nil)
}
