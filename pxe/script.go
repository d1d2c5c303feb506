package pxe

import (
	"fmt"
	"net/netip"
	"net/url"
	"path"
	"strings"
	"time"
)

// scriptName is the file that iPXE asks for.
const scriptName = "boot.ipxe"

// scriptTry is how long a script waits before it tries again what failed.
const scriptTry = 3 * time.Second

// site is how a machine reaches this server: what scripts are made with.
type site struct {
	host  netip.Addr
	http  string // base URL of scripts and loaders, without the last slash
	files string // base URL of bulk files, without the last slash
}

func newSite(host netip.Addr, httpPort, filesPort uint16) site {
	return site{host: host, http: baseURL(host, httpPort), files: baseURL(host, filesPort)}
}

// baseURL leaves port 80 out: HTTP clients in firmware send "Host:" without
// it anyway.
func baseURL(host netip.Addr, port uint16) string {
	if port == 80 {
		return "http://" + host.String()
	}
	return "http://" + netip.AddrPortFrom(host, port).String()
}

// scriptURL is where m finds its script. What m said of itself by DHCP is
// part of it, so that a server that was started meanwhile knows it too.
func (s site) scriptURL(m Machine) string {
	u := s.http + "/" + scriptName + "?mac=" + hexhyp(MAC(m.MAC))
	if m.Arch != "" {
		u += "&arch=" + m.Arch
	}
	if m.UUID != "" {
		u += "&uuid=" + m.UUID
	}
	return u
}

// hexhyp is an address with hyphens, as iPXE and BOOTIF= write it.
func hexhyp(m MAC) string { return strings.ReplaceAll(m.String(), ":", "-") }

// fileURL completes the place of a kernel, initramfs or UKI, and adds who asks
// for what, so that the transfer can be told to the observer.
func (s site) fileURL(place string, m MAC, stage Stage) string {
	if !strings.HasPrefix(place, "/") {
		return place
	}
	u := url.URL{Path: place}
	return s.files + u.EscapedPath() + "?mac=" + hexhyp(m) + "&stage=" + string(stage)
}

// bootScript boots what b says. It never ends: what fails is tried again
// from the start, with a fresh script, since what the machine is to boot may
// have changed. Pure.
func bootScript(s site, m Machine, b Boot) string {
	mac := MAC(m.MAC)
	initramfs := fileName(b.Initramfs)
	cmdline := strings.ReplaceAll(b.Cmdline, "{host}", s.host.String())
	var t script
	t.line("#!ipxe")
	t.echo("muster: booting " + orElse(b.HostName, mac.String()) + " from " + s.host.String())
	// initrd= is how a UEFI kernel finds the initramfs among iPXE's files;
	// BOOTIF= names the card that this boot came by.
	t.line("kernel --name %s %s initrd=%s BOOTIF=01-%s %s || goto retry",
		fileName(b.Kernel), s.fileURL(b.Kernel, mac, StageKernel), initramfs, hexhyp(mac), oneLine(cmdline))
	if b.Initramfs != "" {
		t.line("initrd --name %s %s || goto retry", initramfs, s.fileURL(b.Initramfs, mac, StageInitramfs))
	}
	t.line("boot || goto retry")
	t.again(s.scriptURL(m), scriptTry)
	return t.String()
}

// waitScript asks again after d. Pure.
func waitScript(s site, m Machine, why string, d time.Duration) string {
	var t script
	t.line("#!ipxe")
	t.echo("muster: " + why)
	t.again(s.scriptURL(m), d)
	return t.String()
}

// whoScript is for a request that does not say which machine asks: iPXE that
// was started from a medium of its own.
func whoScript(s site) string {
	var t script
	t.line("#!ipxe")
	t.line(":retry")
	t.line("chain --replace %s/%s?mac=${netX/mac:hexhyp}&uuid=${uuid}&buildarch=${buildarch} || sleep %d && goto retry",
		s.http, scriptName, int(scriptTry.Seconds()))
	return t.String()
}

// script is the text of an iPXE script in the making.
type script struct{ strings.Builder }

func (t *script) line(format string, args ...any) {
	fmt.Fprintf(&t.Builder, format, args...)
	t.WriteByte('\n')
}

// echo shows text. Characters that iPXE would interpret are left out.
func (t *script) echo(text string) {
	t.line("echo %s", strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' || strings.ContainsRune("$|&\\\"'#", r) {
			return '_'
		}
		return r
	}, text))
}

// again ends a script: what failed is left, everything fetched is freed, and
// the script is asked for once more, for ever.
func (t *script) again(u string, wait time.Duration) {
	t.line(":retry")
	t.line("imgfree")
	t.line("sleep %d", max(1, int(wait.Round(time.Second).Seconds())))
	t.line("chain --replace %s || goto retry", u)
}

// fileName is the last part of a URL or path, made of characters that need no
// quoting on a kernel command line.
func fileName(place string) string {
	if u, err := url.Parse(place); err == nil {
		place = u.Path
	}
	name := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', strings.ContainsRune("._-+", r):
			return r
		}
		return '_'
	}, path.Base(place))
	if name == "." {
		return ""
	}
	return name
}

// oneLine keeps a command line from being more than one line of script.
func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

func orElse(s, other string) string {
	if s == "" {
		return other
	}
	return s
}
