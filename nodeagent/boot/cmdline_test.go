package boot

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const (
	someID    = "1111111111111111111111111111111111111111111111111111111111111111"
	anotherID = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
)

func TestParseCmdline(t *testing.T) {
	mac := net.HardwareAddr{0x52, 0x54, 0, 0x12, 0x34, 0x01}
	tests := map[string]struct {
		line string
		want Params
	}{
		"nothing": {"", Params{}},
		"of a boot script": {
			"initrd=initramfs.zst quiet console=ttyS0 muster.head=10.0.0.1:7421 muster.pin=" + someID + " muster.image=" + anotherID + " BOOTIF=01-52-54-00-12-34-01\n",
			Params{Head: "10.0.0.1:7421", Pin: someID, Image: anotherID, BootMAC: mac},
		},
		"the later one counts":        {"muster.head=a muster.head=b", Params{Head: "b"}},
		"quoted value":                {`muster.head="a" x="y muster.head=c"`, Params{Head: "a"}},
		"quoted word":                 {`"muster.head=a"`, Params{Head: "a"}},
		"quote without end":           {`x="muster.head=a`, Params{}},
		"capital letters in a pin":    {"muster.pin=" + strings.ToUpper(anotherID), Params{Pin: anotherID}},
		"address without type":        {"BOOTIF=52-54-00-12-34-01", Params{BootMAC: mac}},
		"address with colons":         {"BOOTIF=01:52:54:00:12:34:01", Params{BootMAC: mac}},
		"consoles":                    {"muster.console=tty1,/dev/ttyS1", Params{Consoles: []string{"tty1", "ttyS1"}}},
		"no console":                  {"muster.console=none", Params{Consoles: []string{}}},
		"verbose kernel":              {"loglevel=7", Params{Verbose: true}},
		"medium":                      {"muster.medium=iso", Params{Medium: "iso"}},
		"a name that begins likewise": {"muster.headless=1 muster=2", Params{}},
		"InfiniBand address": {"BOOTIF=20-52-54-00-12-34-01", Params{Problems: []string{
			"BOOTIF=20-52-54-00-12-34-01 was ignored: it is not a hardware address",
		}}},
		"short pin": {"muster.pin=1234", Params{Problems: []string{
			"muster.pin=1234 was ignored: it is not 64 hexadecimal digits",
		}}},
		"control characters": {"muster.medium=\x1b[2J", Params{Problems: []string{
			"muster.medium= [2J was ignored: it is not pxe, http, iso, usb or uki",
		}}},
		"device outside of /dev": {"muster.console=../etc/passwd", Params{Consoles: []string{}, Problems: []string{
			"muster.console=../etc/passwd was ignored: it is not a list of devices such as tty0,ttyS0",
		}}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got := ParseCmdline(tc.line)
			if d := cmp.Diff(tc.want, got); d != "" {
				t.Errorf("ParseCmdline(%q), -want +got:\n%s", tc.line, d)
			}
		})
	}
}

func TestReadParamsSiteWins(t *testing.T) {
	root := fakeRoot(t, map[string]string{
		"proc/cmdline":         "muster.head=10.0.0.1 muster.pin=" + someID + " muster.image=" + someID,
		"etc/muster/site.json": `{"head": "10.9.9.9:1", "pin": "` + anotherID + `", "later": true}`,
	})
	want := Params{Head: "10.9.9.9:1", Pin: anotherID, Image: someID}
	if d := cmp.Diff(want, ReadParams(root)); d != "" {
		t.Errorf("ReadParams(), -want +got:\n%s", d)
	}
}

func TestReadParamsSiteBroken(t *testing.T) {
	for name, text := range map[string]string{
		"no JSON":  "head: 1",
		"cut off":  `{"head": "10.9.9.9`,
		"too long": `{"head": "` + strings.Repeat("x", maxSite) + `"}`,
	} {
		t.Run(name, func(t *testing.T) {
			root := fakeRoot(t, map[string]string{
				"proc/cmdline":         "muster.head=10.0.0.1",
				"etc/muster/site.json": text,
			})
			got := ReadParams(root)
			if got.Head != "10.0.0.1" || len(got.Problems) != 1 {
				t.Errorf("ReadParams() = %+v, want the command line's head and one problem", got)
			}
		})
	}
}

func FuzzParseCmdline(f *testing.F) {
	f.Add(`quiet muster.head=10.0.0.1 BOOTIF=01-52-54-00-12-34-01 muster.pin=` + someID)
	f.Add(`"muster.console=tty0,../x" muster.medium="`)
	f.Fuzz(func(t *testing.T, line string) {
		p := ParseCmdline(line)
		if p.BootMAC != nil && len(p.BootMAC) != 6 {
			t.Errorf("BootMAC = %v, want 6 bytes", p.BootMAC)
		}
		if p.Pin != "" && !isSHA256(p.Pin) {
			t.Errorf("Pin = %q, want SHA-256", p.Pin)
		}
		for _, c := range p.Consoles {
			if !filepath.IsLocal(c) {
				t.Errorf("console %q leaves /dev", c)
			}
		}
		for _, s := range append(p.Problems, p.Head) {
			if strings.ContainsFunc(s, func(r rune) bool { return r < ' ' }) {
				t.Errorf("text %q has a control character", s)
			}
		}
	})
}

// fakeRoot makes a folder with files, some of which look like a machine's.
func fakeRoot(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}
