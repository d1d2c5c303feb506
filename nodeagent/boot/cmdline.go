package boot

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
)

// maxSite bounds the site segment's file. It holds a few short strings.
const maxSite = 64 << 10

// Params is what a machine was told when it was started: by its kernel
// command line and by the site segment of its image, which wins.
type Params struct {
	Head     string           // muster.head: address of the head, host or host:port; empty: to be found
	Pin      string           // muster.pin: SHA-256 of the head's public key, 64 lower-case hexadecimal digits
	Image    string           // muster.image: ID of the image that was to be started
	Consoles []string         // muster.console: devices that show the screen, without /dev/; nil: those of the kernel
	Medium   string           // muster.medium: pxe, http, iso, usb or uki; see [Medium]
	BootMAC  net.HardwareAddr // BOOTIF: the link that the firmware booted from; nil: unknown
	Label    string           // of the site segment: text for people, such as which stick it is
	Probe    string           // muster.probe: "network" loads drivers of network cards only; empty: of everything
	Verbose  bool             // debug, ignore_loglevel or loglevel=: the kernel's messages stay on the consoles

	// Problems are values that could not be used, each a sentence for the
	// machine's screen.
	Problems []string
}

// site is /etc/muster/site.json. Unknown keys are for later agents.
type site struct {
	Head    string `json:"head"`
	Pin     string `json:"pin"`
	Image   string `json:"image"`
	Console string `json:"console"`
	Medium  string `json:"medium"`
	Label   string `json:"label"`
}

// ReadParams reads proc/cmdline and etc/muster/site.json below root, "/" on a
// machine. What cannot be read or understood is left out and named in
// Problems: a machine says what is wrong with it rather than stop.
func ReadParams(root string) Params {
	line, err := os.ReadFile(filepath.Join(root, "proc/cmdline"))
	p := ParseCmdline(string(line))
	if err != nil {
		p.Problems = append(p.Problems, fmt.Sprintf("reading the kernel command line: %v", err))
	}
	path := filepath.Join(root, "etc/muster/site.json")
	text, err := readLimited(path, maxSite)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		p.Problems = append(p.Problems, fmt.Sprintf("reading the site segment: %v", err))
	default:
		p.applySite(text)
	}
	return p
}

// ParseCmdline reads the parameters of a kernel command line. Of a parameter
// given twice the later one counts.
func ParseCmdline(line string) Params {
	var p Params
	for _, word := range splitCmdline(line) {
		key, value, _ := strings.Cut(word, "=")
		p.set(key, value)
	}
	return p
}

// applySite lets the site segment's values replace those of the command line.
func (p *Params) applySite(text []byte) {
	var s site
	if err := json.Unmarshal(text, &s); err != nil {
		p.Problems = append(p.Problems, fmt.Sprintf("site segment /etc/muster/site.json: %v; write it again with muster", err))
		return
	}
	for _, v := range [...]struct{ key, value string }{
		{"muster.head", s.Head},
		{"muster.pin", s.Pin},
		{"muster.image", s.Image},
		{"muster.console", s.Console},
		{"muster.medium", s.Medium},
	} {
		if v.value != "" {
			p.set(v.key, v.value)
		}
	}
	p.Label = s.Label
}

func (p *Params) set(key, value string) {
	bad := func(want string) {
		p.Problems = append(p.Problems, fmt.Sprintf("%s=%s was ignored: it is not %s", key, clean(value, 80), want))
	}
	switch key {
	case "muster.head":
		if strings.ContainsFunc(value, func(r rune) bool { return r <= ' ' || r > '~' }) {
			bad("an address")
			return
		}
		p.Head = value
	case "muster.pin":
		if pin := strings.ToLower(value); isSHA256(pin) {
			p.Pin = pin
		} else {
			bad("64 hexadecimal digits")
		}
	case "muster.image":
		if id := strings.ToLower(value); isSHA256(id) {
			p.Image = id
		} else {
			bad("64 hexadecimal digits")
		}
	case "muster.console":
		p.Consoles = []string{}
		for _, name := range strings.Split(value, ",") {
			name = strings.TrimPrefix(name, "/dev/")
			switch {
			case name == "" || name == "none":
			case !filepath.IsLocal(name):
				bad("a list of devices such as tty0,ttyS0")
			default:
				p.Consoles = append(p.Consoles, name)
			}
		}
	case "muster.medium":
		switch value {
		case "pxe", "http", "iso", "usb", "uki":
			p.Medium = value
		default:
			bad("pxe, http, iso, usb or uki")
		}
	case "muster.probe":
		switch value {
		case "network", "all":
			p.Probe = strings.TrimSuffix(value, "all")
		default:
			bad("network or all")
		}
	case "BOOTIF":
		mac, err := parseBootif(value)
		if err != nil {
			bad("a hardware address")
			return
		}
		p.BootMAC = mac
	case "debug", "ignore_loglevel", "loglevel":
		p.Verbose = true
	}
}

// parseBootif reads BOOTIF as PXELINUX defined it and iPXE scripts write it:
// the ARP hardware type (01 is Ethernet) before the address, all joined by
// hyphens. Some scripts leave the type out or write colons.
func parseBootif(s string) (net.HardwareAddr, error) {
	s = strings.ReplaceAll(s, "-", ":")
	if len(s) == len("01:00:00:00:00:00:00") {
		rest, ok := strings.CutPrefix(s, "01:")
		if !ok {
			return nil, fmt.Errorf("hardware type of %s is not Ethernet", s)
		}
		s = rest
	}
	mac, err := net.ParseMAC(s)
	if err != nil {
		return nil, err
	}
	if len(mac) != 6 {
		return nil, fmt.Errorf("address %s is not of Ethernet", s)
	}
	return mac, nil
}

// splitCmdline splits a command line as the kernel does: at white space
// outside of double quotes; quotes around a word or around a value go away.
func splitCmdline(line string) []string {
	var words []string
	var word strings.Builder
	inWord, quoted := false, false
	for i := 0; i < len(line); i++ {
		switch c := line[i]; {
		case c == '"':
			quoted = !quoted
			inWord = true
		case !quoted && (c == ' ' || c == '\t' || c == '\n' || c == 0):
			if inWord {
				words = append(words, word.String())
				word.Reset()
				inWord = false
			}
		default:
			word.WriteByte(c)
			inWord = true
		}
	}
	if inWord {
		words = append(words, word.String())
	}
	return words
}

func isSHA256(s string) bool {
	b, err := hex.DecodeString(s)
	return err == nil && len(b) == 32
}

// readLimited reads a file of at most limit bytes.
func readLimited(path string, limit int64) ([]byte, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if st.Size() > limit {
		return nil, fmt.Errorf("%s has %d bytes, more than %d", path, st.Size(), limit)
	}
	return os.ReadFile(path)
}
