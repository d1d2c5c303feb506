package deb

import (
	"errors"
	"strings"
	"testing"
)

func TestPins(t *testing.T) {
	for _, c := range []struct {
		name     string
		packages []string
		ask      string
		want     string // packages, or
		err      string // parts of the error, separated by …
		pin      bool   // it is ErrPin
	}{
		{"exactly", []string{"aa 1", "aa 3", "aa 2"}, "aa=2", "aa=2", "", false},
		{"the same version otherwise written", []string{"aa 1:2-0", "aa 3"}, "aa=1:2", "aa=1:2-0", "", false},
		{"epoch 0", []string{"aa 2"}, "aa=0:2", "aa=2", "", false},
		{"open end", []string{"aa 1.2", "aa 1.3-1", "aa 1.3-2", "aa 2"}, "aa=1.3*", "aa=1.3-2", "", false},
		{"tilde is older", []string{"aa 1~rc1", "aa 1"}, "aa=1~*", "aa=1~rc1", "", false},
		{"also for who depends on it", []string{"aa 1", "aa 2", "bb 1; Depends: aa"}, "bb aa=1", "aa=1 bb=1", "", false},
		{"what only the older provides", []string{"aa 1; Provides: vv", "aa 2", "bb 1; Depends: vv"}, "bb aa=1", "aa=1 bb=1", "", false},
		{"what only the newer provides", []string{"aa 1", "aa 2; Provides: vv", "bb 1; Depends: vv"}, "bb aa=1", "", "package bb 1 (asked for) depends on vv", false},
		{"not there", []string{"aa 1", "aa 2"}, "aa=3", "", "package aa=3: there is no such version…the archive has 2, 1; name one of these…snapshot", true},
		{"no such package", []string{"aa 1"}, "bb=3", "", "package bb: there is no such package", false},
		{"twice", []string{"aa 1", "aa 2"}, "aa=1 aa=2", "", "package aa is pinned to 1 and to 2", false},
		{"twice the same", []string{"aa 1", "aa 2"}, "aa=1 aa=1", "aa=1", "", false},
		{"asked for without as well", []string{"aa 1", "aa 2"}, "aa aa=1", "aa=1", "", false},
		{"not what another needs", []string{"aa 1", "aa 2", "bb 1; Depends: aa (>= 2)"}, "bb aa=1", "", "package bb 1 (asked for) depends on aa (>= 2)…aa is version 1 by its pin 1", false},
		{"needs an older one as well", []string{"aa 1; Depends: bb (= 1)", "aa 2; Depends: bb (= 2)", "bb 1", "bb 2"}, "aa=1", "", "depends on bb (= 1)…bb is version 2 (the archive also has 1: pin it as well, bb=1)", false},
		{"both pinned", []string{"aa 1; Depends: bb (= 1)", "aa 2; Depends: bb (= 2)", "bb 1", "bb 2"}, "aa=1 bb=1", "aa=1 bb=1", "", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := Resolve(indexOf(t, c.packages...), Request{Packages: strings.Fields(c.ask)})
			if (err == nil) != (c.want != "") || errors.Is(err, ErrPin) != c.pin {
				t.Fatalf("Resolve() = %v, %v; want %q, ErrPin %v", namesOf(got), err, c.want, c.pin)
			}
			if err == nil && namesOf(got) != c.want {
				t.Errorf("Resolve() = %s, want %s", namesOf(got), c.want)
			}
			for part := range strings.SplitSeq(c.err, "…") {
				if err != nil && !strings.Contains(err.Error(), part) {
					t.Errorf("Resolve() = %v, want %q in it", err, part)
				}
			}
		})
	}
}

// A package of a local suite counts before all others of its name, whatever their versions.
func TestLocal(t *testing.T) {
	x := indexOf(t, "aa 5", "bb 1; Depends: aa", "dd 1")
	own := indexOf(t, "aa 1; Depends: dd")
	x.entries["aa"] = append(x.entries["aa"], entry{"local", own.entries["aa"][0].text})
	got, err := Resolve(x, Request{Packages: []string{"bb"}, Local: "local"})
	if err != nil || namesOf(got) != "aa=1 bb=1 dd=1" {
		t.Errorf("Resolve() = %s, %v", namesOf(got), err)
	}
	if _, err := Resolve(x, Request{Packages: []string{"aa=5"}, Local: "local"}); !errors.Is(err, ErrPin) || !strings.Contains(err.Error(), "the .deb of the definition is version 1") {
		t.Errorf("a pin that is not the version of the file: %v", err)
	}
}
