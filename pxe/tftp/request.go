package tftp

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"
)

// Opcodes of RFC 1350 5 and RFC 2347.
const (
	opRead  = 1
	opWrite = 2
	opData  = 3
	opAck   = 4
	opError = 5
	opOack  = 6
)

// Error codes of RFC 1350 5.
const (
	codeOther    = 0
	codeNotFound = 1
	codeAccess   = 2
	codeIllegal  = 4
)

const (
	defaultBlock = 512 // RFC 1350 2
	minBlock     = 8   // RFC 2348 2
	maxWindow    = 64  // as much as one or two sends with segmentation offload take
	maxTimeout   = 30  // seconds; RFC 2349 2 allows 255, which would hold a slot for half an hour

	// headers of a DATA packet: IPv4 or IPv6, UDP, TFTP. The 4 bytes on top of
	// IPv4's are room for one VLAN tag that the interface's MTU does not count.
	headers4 = 20 + 8 + 4
	headers6 = 40 + 8 + 4
)

// option is one name and value of a request, as the client wrote them.
type option struct{ name, value string }

// request is a well-formed read request.
type request struct {
	name    string // as the client wrote it
	options []option
}

// refusal is an answer that ends a request before it began.
type refusal struct {
	code uint16
	text string
}

func (r *refusal) Error() string { return r.text }

// errNotRequest is for datagrams that are dropped without an answer: on port
// 69 only requests are expected, and an answer to something else could
// begin an exchange of errors between two servers.
var errNotRequest = errors.New("not a TFTP request")

// parseRequest reads the first packet of a transfer. The error is a *refusal
// when the client is to be told, else it wraps errNotRequest. A request
// that ends in a name without a value keeps the options before it.
func parseRequest(packet []byte) (request, error) {
	if len(packet) < 2 || packet[0] != 0 {
		return request{}, errNotRequest
	}
	switch packet[1] {
	case opRead:
	case opWrite:
		return request{}, &refusal{codeAccess, "this server is read-only"}
	default:
		return request{}, fmt.Errorf("opcode %d: %w", packet[1], errNotRequest)
	}
	fields := bytes.Split(packet[2:], []byte{0})
	// The last field is what follows the last NUL: nothing, or padding, or a
	// value whose NUL is missing. It is no field of ours.
	fields = fields[:len(fields)-1]
	if len(fields) < 2 {
		return request{}, &refusal{codeIllegal, "request without file name or mode"}
	}
	if len(fields[0]) == 0 {
		return request{}, &refusal{codeIllegal, "request without file name"}
	}
	// RFC 1350 5: the mode in any combination of upper and lower case.
	if mode := string(fields[1]); !strings.EqualFold(mode, "octet") {
		return request{}, &refusal{codeIllegal, "this server sends in mode octet (binary) only"}
	}
	r := request{name: string(fields[0])}
	for f := fields[2:]; len(f) >= 2; f = f[2:] {
		r.options = append(r.options, option{string(f[0]), string(f[1])})
	}
	return r, nil
}

// cleanName turns the name that a client asked for into a path as [fs.ValidPath]
// wants it. Firmware writes backslashes and leading slashes.
func cleanName(name string) (string, error) {
	clean := strings.TrimLeft(strings.ReplaceAll(name, `\`, "/"), "/")
	clean = path.Clean(clean)
	if clean == "." || !fs.ValidPath(clean) || strings.ContainsRune(clean, 0) {
		return "", &refusal{codeAccess, "no such file name"}
	}
	return clean, nil
}

// settings are what client and server agreed on.
type settings struct {
	block   int
	window  int
	timeout int      // seconds, 0: the server's own
	agreed  []option // for the OACK, in the order of the request; empty: no OACK
}

// negotiate settles the options of a request for a file of size bytes. What is
// unknown, out of range or given twice is left out of the answer, which by RFC
// 2347 means that it does not apply.
func negotiate(options []option, size int64, maxBlock int) settings {
	s := settings{block: defaultBlock, window: 1}
	seen := map[string]bool{}
	for _, o := range options {
		name := strings.ToLower(o.name)
		if seen[name] {
			continue
		}
		seen[name] = true
		value, err := strconv.ParseUint(o.value, 10, 32)
		if err != nil {
			continue
		}
		n := int(min(value, 1<<30))
		switch {
		case name == "blksize" && n >= minBlock:
			s.block = min(n, maxBlock)
			n = s.block
		case name == "windowsize" && n >= 1: // RFC 7440 3
			s.window = min(n, maxWindow)
			n = s.window
		case name == "timeout" && n >= 1 && n <= maxTimeout:
			s.timeout = n
		case name == "tsize":
			s.agreed = append(s.agreed, option{o.name, strconv.FormatInt(size, 10)})
			continue
		default:
			continue
		}
		s.agreed = append(s.agreed, option{o.name, strconv.Itoa(n)})
	}
	return s
}

// oack writes the packet that confirms the options, or nil when there are none.
func (s settings) oack() []byte {
	if len(s.agreed) == 0 {
		return nil
	}
	p := []byte{0, opOack}
	for _, o := range s.agreed {
		p = append(append(p, o.name...), 0)
		p = append(append(p, o.value...), 0)
	}
	return p
}

// errorPacket writes an ERROR. The text is cut to what any client can take.
func errorPacket(code uint16, text string) []byte {
	p := []byte{0, opError, byte(code >> 8), byte(code)}
	return append(append(p, text[:min(len(text), 200)]...), 0)
}
