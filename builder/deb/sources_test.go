package deb

import (
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
)

func TestHostSources(t *testing.T) {
	host := fstest.MapFS{
		"etc/apt/sources.list": {Data: []byte(`
# deb http://commented.example/debian trixie main
deb http://one.example/debian bookworm main contrib # a comment
deb-src http://one.example/debian bookworm main
deb [arch=amd64 signed-by=/x.gpg] https://two.example/debian-security bookworm-security main
deb [ arch=amd64 ] http://three.example/debian bookworm main
deb cdrom:[Debian]/ bookworm main
deb file:/srv/mirror bookworm main
deb http://short.example
deb [broken http://broken.example/debian bookworm main
`)},
		"etc/apt/sources.list.d/debian.sources": {Data: []byte(`
Types: deb deb-src
URIs: http://four.example/debian http://five.example/debian
Suites: bookworm bookworm-updates
Components: main

# off
Enabled: no
Types: deb
URIs: http://off.example/debian
Suites: bookworm

Types: deb-src
URIs: http://src.example/debian
Suites: bookworm
`)},
		"etc/apt/sources.list.d/broken.sources": {Data: []byte("no field\n")},
		"etc/apt/sources.list.d/notes.txt":      {Data: []byte("deb http://notes.example/debian trixie main\n")},
	}
	want := []Source{
		{URIs: []string{"http://one.example/debian"}, Suites: []string{"bookworm"}},
		{URIs: []string{"https://two.example/debian-security"}, Suites: []string{"bookworm-security"}},
		{URIs: []string{"http://three.example/debian"}, Suites: []string{"bookworm"}},
		{URIs: []string{"http://four.example/debian", "http://five.example/debian"}, Suites: []string{"bookworm", "bookworm-updates"}},
	}
	if diff := cmp.Diff(want, HostSources(host)); diff != "" {
		t.Errorf("HostSources() differs (-want +got):\n%s", diff)
	}
	if got := HostSources(fstest.MapFS{}); got != nil {
		t.Errorf("HostSources(nothing) = %v", got)
	}
}

func TestBases(t *testing.T) {
	host := []Source{
		{URIs: []string{"http://m.example/debian/"}, Suites: []string{"bookworm", "bookworm-updates"}},
		{URIs: []string{"http://m.example/debian-security"}, Suites: []string{"bookworm-security"}},
		{URIs: []string{"http://old.example/security"}, Suites: []string{"buster/updates"}},
		{URIs: []string{"http://vendor.example/apt"}, Suites: []string{"nodistro"}},
		{URIs: []string{"http://ubuntu.example/ubuntu"}, Suites: []string{"noble", "noble-security"}},
	}
	for name, c := range map[string]struct {
		m     Mirrors
		suite string
		want  []string
	}{
		"host":           {Mirrors{Host: host}, "trixie", []string{"http://m.example/debian", "http://ftp.debian.org/debian"}},
		"host updates":   {Mirrors{Host: host}, "trixie-updates", []string{"http://m.example/debian", "http://ftp.debian.org/debian"}},
		"host security":  {Mirrors{Host: host}, "trixie-security", []string{"http://m.example/debian-security", "http://old.example/security", "http://security.debian.org/debian-security"}},
		"nothing":        {Mirrors{}, "trixie", []string{"http://ftp.debian.org/debian"}},
		"given":          {Mirrors{Given: "http://x.example/debian/", Host: host}, "trixie", []string{"http://x.example/debian"}},
		"given security": {Mirrors{Given: "http://x.example/debian", Host: host}, "trixie-security", []string{"http://x.example/debian-security", "http://x.example/debian"}},
		"Ubuntu":         {Mirrors{Host: host, Origin: "Ubuntu"}, "noble-updates", []string{"http://ubuntu.example/ubuntu", "http://archive.ubuntu.com/ubuntu"}},
		"its security":   {Mirrors{Host: host, Origin: "Ubuntu"}, "noble-security", []string{"http://ubuntu.example/ubuntu", "http://security.ubuntu.com/ubuntu"}},
		"of a stranger":  {Mirrors{Host: host, Origin: "Other"}, "other", nil},
		"no default":     {Mirrors{NoDefault: true}, "noble", nil},
	} {
		if diff := cmp.Diff(c.want, c.m.Bases(c.suite)); diff != "" {
			t.Errorf("%s: Bases() differs (-want +got):\n%s", name, diff)
		}
	}
}
