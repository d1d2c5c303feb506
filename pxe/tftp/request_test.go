package tftp

import (
	"bytes"
	"errors"
	"io/fs"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// rrq writes a read request: file, mode, then names and values of options.
func rrq(fields ...string) []byte {
	return append([]byte{0, opRead}, strings.Join(fields, "\x00")+"\x00"...)
}

func TestParseRequest(t *testing.T) {
	edk2 := rrq("snponly.efi", "octet", "tsize", "0", "blksize", "1468", "windowsize", "4")
	cases := map[string]struct {
		packet     []byte
		want       request
		wantCode   int // -1: dropped, -2: accepted
		wantReason string
	}{
		"plain":    {packet: rrq("f", "octet"), want: request{name: "f"}, wantCode: -2},
		"capitals": {packet: rrq("f", "OcTeT"), want: request{name: "f"}, wantCode: -2},
		"EDK2": {packet: edk2, wantCode: -2, want: request{name: "snponly.efi", options: []option{
			{"tsize", "0"}, {"blksize", "1468"}, {"windowsize", "4"},
		}}},
		"padded with zeros":    {packet: append(rrq("f", "octet"), make([]byte, 20)...), want: request{name: "f", options: emptyOptions(10)}, wantCode: -2},
		"option without value": {packet: rrq("f", "octet", "tsize"), want: request{name: "f"}, wantCode: -2},
		"value without NUL":    {packet: append(rrq("f", "octet", "tsize"), '0'), want: request{name: "f"}, wantCode: -2},
		"name not of ASCII":    {packet: rrq("ünï\xff", "octet"), want: request{name: "ünï\xff"}, wantCode: -2},

		"nothing":              {packet: nil, wantCode: -1},
		"one byte":             {packet: []byte{0}, wantCode: -1},
		"data":                 {packet: []byte{0, opData, 0, 1, 'x'}, wantCode: -1},
		"ack":                  {packet: []byte{0, opAck, 0, 1}, wantCode: -1},
		"error":                {packet: errorPacket(0, "x"), wantCode: -1},
		"opcode of two bytes":  {packet: append([]byte{1, 1}, "f\x00octet\x00"...), wantCode: -1},
		"write":                {packet: append([]byte{0, opWrite}, "f\x00octet\x00"...), wantCode: codeAccess, wantReason: "read-only"},
		"opcode alone":         {packet: []byte{0, opRead}, wantCode: codeIllegal, wantReason: "without file name"},
		"name without NUL":     {packet: []byte{0, opRead, 'f'}, wantCode: codeIllegal, wantReason: "without file name"},
		"no mode":              {packet: rrq("f"), wantCode: codeIllegal, wantReason: "mode"},
		"mode without NUL":     {packet: append(rrq("f"), "octet"...), wantCode: codeIllegal, wantReason: "mode"},
		"empty name":           {packet: rrq("", "octet"), wantCode: codeIllegal, wantReason: "without file name"},
		"empty name and mode":  {packet: rrq("", ""), wantCode: codeIllegal, wantReason: "without file name"},
		"text":                 {packet: rrq("f", "netascii"), wantCode: codeIllegal, wantReason: "octet"},
		"mail":                 {packet: rrq("f", "mail"), wantCode: codeIllegal, wantReason: "octet"},
		"longer than is read":  {packet: rrq(strings.Repeat("n", maxRequest), "octet")[:maxRequest], wantCode: codeIllegal, wantReason: "without file name"},
		"only zeros":           {packet: append([]byte{0, opRead}, make([]byte, 100)...), wantCode: codeIllegal, wantReason: "without file name"},
		"zero mode":            {packet: rrq("f", "", "octet"), wantCode: codeIllegal, wantReason: "octet"},
		"mode with blank":      {packet: rrq("f", "octet "), wantCode: codeIllegal, wantReason: "octet"},
		"name and no mode NUL": {packet: []byte("\x00\x01f\x00"), wantCode: codeIllegal, wantReason: "mode"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			got, err := parseRequest(c.packet)
			code := -2
			var r *refusal
			switch {
			case errors.As(err, &r):
				code = int(r.code)
			case errors.Is(err, errNotRequest):
				code = -1
			case err != nil:
				t.Fatalf("parseRequest() = %v, which is neither a refusal nor a drop", err)
			}
			if code != c.wantCode || (err != nil && !strings.Contains(err.Error(), c.wantReason)) {
				t.Fatalf("parseRequest() = %+v, %v (code %d), want code %d with %q", got, err, code, c.wantCode, c.wantReason)
			}
			if diff := cmp.Diff(c.want, got, cmp.AllowUnexported(request{}, option{})); diff != "" {
				t.Errorf("parseRequest() (-want +got):\n%s", diff)
			}
		})
	}
}

// emptyOptions is what padding looks like; no name is known, so it is harmless.
func emptyOptions(n int) []option { return make([]option, n) }

func TestCleanName(t *testing.T) {
	for name, want := range map[string]string{
		"f": "f", "/f": "f", "//grubx64.efi": "grubx64.efi", `\EFI\boot\x.efi`: "EFI/boot/x.efi", "./a/../b": "b", "a//b": "a/b", "a/./b/": "a/b", "..x": "..x",
		"": "", "/": "", ".": "", "..": "", "../etc/passwd": "", "/../x": "", `..\..\x`: "", "a/../../x": "", "bad\xff": "",
	} {
		got, err := cleanName(name)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("cleanName(%q) = %q, %v, want %q", name, got, err, want)
		}
	}
}

func TestNegotiate(t *testing.T) {
	const size, maxBlock = 1_000_000, 1468
	cases := map[string]struct {
		options []option
		want    settings
	}{
		"none":              {want: settings{block: 512, window: 1}},
		"all":               {[]option{{"tsize", "0"}, {"blksize", "1024"}, {"windowsize", "4"}, {"timeout", "3"}}, settings{1024, 4, 3, []option{{"tsize", "1000000"}, {"blksize", "1024"}, {"windowsize", "4"}, {"timeout", "3"}}}},
		"as it was written": {[]option{{"BlkSize", "600"}}, settings{600, 1, 0, []option{{"BlkSize", "600"}}}},
		"too much":          {[]option{{"blksize", "65464"}, {"windowsize", "65535"}}, settings{1468, 64, 0, []option{{"blksize", "1468"}, {"windowsize", "64"}}}},
		"far too much":      {[]option{{"blksize", "4294967295"}, {"windowsize", "99999999999"}}, settings{1468, 1, 0, []option{{"blksize", "1468"}}}},
		"too little":        {[]option{{"blksize", "7"}, {"windowsize", "0"}, {"timeout", "0"}}, settings{block: 512, window: 1}},
		"least":             {[]option{{"blksize", "8"}, {"windowsize", "1"}, {"timeout", "1"}}, settings{8, 1, 1, []option{{"blksize", "8"}, {"windowsize", "1"}, {"timeout", "1"}}}},
		"nonsense":          {[]option{{"blksize", "x"}, {"blksize", "-1"}, {"windowsize", ""}, {"", ""}, {"multicast", ""}, {"timeout", "255"}, {"blksize", "900"}}, settings{block: 512, window: 1}},
		"twice":             {[]option{{"blksize", "600"}, {"BLKSIZE", "700"}}, settings{600, 1, 0, []option{{"blksize", "600"}}}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, negotiate(c.options, size, maxBlock), cmp.AllowUnexported(settings{}, option{})); diff != "" {
				t.Errorf("negotiate() (-want +got):\n%s", diff)
			}
		})
	}
}

func FuzzRequest(f *testing.F) {
	f.Add(rrq("snponly.efi", "octet", "tsize", "0", "blksize", "1468", "windowsize", "4"))
	f.Add(rrq("f", "octet", "tsize"))
	f.Add(rrq("f", "OCTET", "blksize", "0", "windowsize", "0"))
	f.Add([]byte{0, 1, 'f', 0})
	f.Add([]byte{0, 2, 0, 0})
	f.Fuzz(func(t *testing.T, packet []byte) {
		if len(packet) > maxRequest {
			return // is cut when it is read
		}
		before := bytes.Clone(packet)
		r, err := parseRequest(packet)
		if !bytes.Equal(before, packet) {
			t.Fatal("parseRequest changed the packet")
		}
		if err != nil {
			return
		}
		if name, err := cleanName(r.name); err == nil && (!fs.ValidPath(name) || name == ".") {
			t.Errorf("cleanName(%q) = %q, which is no path", r.name, name)
		}
		s := negotiate(r.options, 12345, 1468)
		if s.block < minBlock || s.block > 1468 || s.window < 1 || s.window > maxWindow || s.timeout < 0 || s.timeout > maxTimeout {
			t.Errorf("negotiate(%q) = %+v, out of range", r.options, s)
		}
		// The answer is a list of the request's options, so it is no longer than
		// the request but for the digits of sizes.
		if n := len(s.oack()); n > len(packet)+64 {
			t.Errorf("a request of %d bytes is answered with %d", len(packet), n)
		}
	})
}
