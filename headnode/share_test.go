package headnode

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"muster/api"
)

func TestCutSource(t *testing.T) {
	for in, want := range map[string][3]string{
		"nas1:/tank/home":  {"nas1", "/tank/home", "yes"},
		"10.1.0.9:/":       {"10.1.0.9", "/", "yes"},
		"[fd00::9]:/a:/b":  {"fd00::9", "/a:/b", "yes"},
		"nas1:/with space": {"nas1", "/with space", "yes"},
		"nas1":             {}, "/srv/data": {}, ":/x": {}, "fd00::9:/x": {}, "[10.1.0.9]:/x": {}, "na s:/x": {}, "nas:/a\nb": {}, "nas:/\xff": {},
	} {
		host, export, ok := cutSource(in)
		got := [3]string{}
		if ok {
			got = [3]string{host, export, "yes"}
		}
		if got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func TestCheckSharePath(t *testing.T) {
	for at, want := range map[string]string{
		"/home": "", "/srv/data": "", "/a b": "", "/usrs": "",
		"home": "from / on", "/home/../etc": "from / on", "/home/": "from / on", "/": "cannot be the root",
		"/usr": "tasks have /usr", "/usr/local": "tasks have /usr", "/tmp": "tasks have /tmp", "/a\nb": "control characters",
	} {
		err := checkSharePath(at)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(api.AsError(err).Error()+api.AsError(err).Hint, want) {
			t.Errorf("%q: %v, want %q", at, err, want)
		}
	}
}

func TestShareIsMeant(t *testing.T) {
	n := shareNode{name: "n3", ip: "10.1.0.3", labels: []string{"gpu"}}
	for to, want := range map[string]bool{"": true, "n3": true, "n[1-4]": true, "n[5-9]": false, "10.1.0.0/16": true, "10.2.0.0/16": false, "n9 10.1.0.3/32": true, "label:gpu": true, "label:cpu": false, "n9,label:gpu": true} {
		rec := shareRecord{To: strings.Fields(to)}
		if got := rec.meant(n); got != want {
			t.Errorf("to %q: %v", to, got)
		}
	}
}

func TestShareOf(t *testing.T) {
	shares := []string{"/data", "/home", "/home/big"}
	for path, want := range map[string]string{"/home": "/home", "/home/a": "/home", "/home/big/x": "/home/big", "/homes": "", "/": "", "": "", "/data/x": "/data"} {
		if got := shareOf(path, shares); got != want {
			t.Errorf("%q: %q, want %q", path, got, want)
		}
	}
}

func TestHostsText(t *testing.T) {
	nodes := []shareNode{{name: "n1", ip: "10.1.0.1"}, {name: "n2"}}
	want := "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n10.1.0.1\tn1\n127.0.1.1\tn2\n"
	if diff := cmp.Diff(want, hostsText("n2", nodes)); diff != "" {
		t.Error(diff)
	}
}

func TestWithoutLoopback(t *testing.T) {
	in := "search lan\nnameserver 127.0.0.1\nnameserver ::1\nnameserver 10.0.0.1\noptions edns0\n"
	if got := withoutLoopback(in); got != "search lan\nnameserver 10.0.0.1\noptions edns0\n" {
		t.Errorf("%q", got)
	}
}

func TestConfigVersion(t *testing.T) {
	a := api.NodeConfig{Passwd: "x"}
	b := api.NodeConfig{Passwd: "x", Version: 7}
	c := api.NodeConfig{Passwd: "y"}
	if configVersion(a) != configVersion(b) || configVersion(a) == configVersion(c) || configVersion(api.NodeConfig{}) == 0 {
		t.Error("versions do not name contents")
	}
}

// A fake NFS server that answers the null call in different ways.
func TestProbeNFS(t *testing.T) {
	serve := func(answer func(xid uint32) []byte) netip.AddrPort {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				call := make([]byte, 44)
				if _, err := io.ReadFull(c, call); err == nil && answer != nil {
					c.Write(answer(binary.BigEndian.Uint32(call[4:])))
				}
				c.Close()
			}
		}()
		return l.Addr().(*net.TCPAddr).AddrPort()
	}
	words := func(w ...uint32) []byte {
		var b []byte
		for _, n := range w {
			b = binary.BigEndian.AppendUint32(b, n)
		}
		return b
	}
	closed := serve(nil)
	for name, c := range map[string]struct {
		at   netip.AddrPort
		want string
	}{
		"serves":         {serve(func(x uint32) []byte { return words(1<<31|24, x, 1, 0, 0, 0, 0) }), ""},
		"no version 4":   {serve(func(x uint32) []byte { return words(1<<31|32, x, 1, 0, 0, 0, 2, 3, 3) }), "does not speak NFS 4"},
		"denied":         {serve(func(x uint32) []byte { return words(1<<31|20, x, 1, 1, 1, 1, 0) }), "refuses this head"},
		"other call":     {serve(func(x uint32) []byte { return words(1<<31|24, x+1, 1, 0, 0, 0, 0) }), "does not answer as"},
		"something else": {serve(func(uint32) []byte { return []byte("HTTP/1.1 400 Bad Request\r\n\r\n") }), "does not answer as"},
		"closes":         {closed, "does not answer as"},
		"nobody":         {netip.MustParseAddrPort("127.0.0.1:1"), "runs no NFS server"},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), shareLookFor)
		err := probeNFS(ctx, c.at)
		cancel()
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}
