package deb

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"muster/builder/deb/debtest"
)

const releaseText = "Origin: Debian\nSuite: stable\nCodename: trixie\nDate: Sat, 21 Nov 2026 09:15:44 UTC\n" +
	"Architectures: all amd64\nComponents: main\nAcquire-By-Hash: yes\nDescription: two\n lines\nSHA256:\n" +
	" e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855 0 main/binary-amd64/Packages.xz\n"

func TestVerifyInRelease(t *testing.T) {
	ours, other, late := debtest.NewKey(t), debtest.NewKey(t), debtest.NewKey(t)
	text := releaseText
	signed := debtest.Sign(t, text, ours)
	tests := map[string]struct {
		data []byte
		good bool
	}{
		"signed":                {signed, true},
		"by another key too":    {debtest.Sign(t, text, other, ours), true},
		"ours first":            {debtest.Sign(t, text, ours, other), true},
		"by another key":        {debtest.Sign(t, text, other, late), false},
		"a changed byte":        {bytes.Replace(signed, []byte("trixie"), []byte("sid123"), 1), false},
		"a line more":           {bytes.Replace(signed, []byte("SHA256:\n e3"), []byte("Extra: x\nSHA256:\n e3"), 1), false},
		"text before":           {append([]byte("Codename: sid\n"), signed...), false},
		"text behind":           {append(bytes.Clone(signed), "Codename: sid\n"...), false},
		"a second message":      {append(bytes.Clone(signed), signed...), false},
		"no signature":          {[]byte(text), false},
		"empty":                 {nil, false},
		"half":                  {signed[:len(signed)/2], false},
		"line ends are changed": {bytes.ReplaceAll(signed, []byte("\n"), []byte("\r\n")), true}, // RFC 9580 7: they do not count
	}
	for name, c := range tests {
		t.Run(name, func(t *testing.T) {
			r, err := VerifyInRelease(c.data, ours.Keyring(t), debtest.Time().Add(time.Hour))
			if c.good {
				if err != nil || r.Codename != "trixie" || !r.ByHash || len(r.Files) != 1 {
					t.Errorf("VerifyInRelease() = %+v, %v", r, err)
				}
				return
			}
			if !errors.Is(err, ErrSignature) {
				t.Errorf("VerifyInRelease() = %+v, %v; want ErrSignature", r, err)
			}
		})
	}
}

func TestReleaseCheck(t *testing.T) {
	now := debtest.Time().Add(time.Hour)
	good := Release{Codename: "trixie", Suite: "stable", Date: debtest.Time(), Arches: []string{"amd64"}}
	for name, c := range map[string]struct {
		change func(*Release)
		want   string
	}{
		"good":          {func(r *Release) {}, ""},
		"by suite":      {func(r *Release) { r.Codename, r.Suite = "x", "trixie" }, ""},
		"valid":         {func(r *Release) { r.ValidUntil = now.Add(time.Hour) }, ""},
		"another suite": {func(r *Release) { r.Codename = "bookworm" }, "it is of suite bookworm (stable), not of trixie"},
		"expired":       {func(r *Release) { r.ValidUntil = now.Add(-time.Second) }, "is out of date: it was valid until 2026-11-21T10:15:43Z"},
		"from tomorrow": {func(r *Release) { r.Date = now.Add(48 * time.Hour) }, "set the clock"},
		"another arch":  {func(r *Release) { r.Arches = []string{"arm64", "riscv64"} }, "it has no packages for amd64, only for arm64 riscv64"},
	} {
		t.Run(name, func(t *testing.T) {
			r := good
			c.change(&r)
			err := r.check("trixie", "amd64", now)
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("check() = %v, want %q", err, c.want)
			}
		})
	}
}

func TestParseReleaseErrors(t *testing.T) {
	for name, c := range map[string]struct{ old, new, want string }{
		"no date":      {"Date: Sat, 21 Nov 2026 09:15:44 UTC\n", "", `Date: "" is no date`},
		"bad date":     {"21 Nov", "99 Nov", "is no date"},
		"climbing":     {"main/binary-amd64", "../../../etc", "does not stay in its suite"},
		"absolute":     {"main/binary-amd64", "/etc", "does not stay in its suite"},
		"bad hash":     {"e3b0", "E3B0", "is not a hash, a size and a path"},
		"bad size":     {" 0 main", " -1 main", `size "-1"`},
		"twice":        {"Suite: stable", "Suite: stable\nsuite: x", "field suite is there twice"},
		"no field":     {"Suite: stable", "Suite stable", "is no field"},
		"two of them":  {"Suite: stable", "\nSuite: stable", "begins a second paragraph"},
		"continuation": {"Origin: Debian", " x", "continues no field"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := parseRelease([]byte(strings.Replace(releaseText, c.old, c.new, 1)))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("parseRelease() = %v, want %q", err, c.want)
			}
		})
	}
}

func FuzzVerifyInRelease(f *testing.F) {
	key := debtest.NewKey(f)
	ring := key.Keyring(f)
	f.Add(debtest.Sign(f, releaseText, key))
	f.Add([]byte("-----BEGIN PGP SIGNED MESSAGE-----\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if r, err := VerifyInRelease(data, ring, debtest.Time()); err == nil && r.Codename != "trixie" {
			t.Errorf("something that was not signed was taken: %+v", r)
		}
	})
}

func FuzzParseRelease(f *testing.F) {
	f.Add([]byte(releaseText))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := parseRelease(data)
		if err != nil {
			return
		}
		for name := range r.Files {
			if strings.HasPrefix(name, "/") || strings.Contains("/"+name+"/", "/../") {
				t.Errorf("path %q leaves the suite", name)
			}
		}
	})
}
