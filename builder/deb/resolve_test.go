package deb

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// indexOf makes an index of packages that are written as "name version; Field: value; …".
func indexOf(t interface{ Fatal(...any) }, packages ...string) *Index {
	var text strings.Builder
	for _, p := range packages {
		head, fields, _ := strings.Cut(p, ";")
		name, version, _ := strings.Cut(head, " ")
		fmt.Fprintf(&text, "Package: %s\nVersion: %s\nArchitecture: amd64\nFilename: pool/%s.deb\nSize: 1\nSHA256: %064d\n", name, version, name, 0)
		for f := range strings.SplitSeq(fields, ";") {
			if f = strings.TrimSpace(f); f != "" {
				text.WriteString(f + "\n")
			}
		}
		text.WriteString("\n")
	}
	x := NewIndex()
	if err := x.Add("trixie", []byte(text.String())); err != nil {
		t.Fatal(err)
	}
	return x
}

func namesOf(packages []Package) string {
	var out []string
	for _, p := range packages {
		out = append(out, p.Name+"="+p.Version)
	}
	return strings.Join(out, " ")
}

func TestResolve(t *testing.T) {
	for _, c := range []struct {
		name     string
		packages []string
		ask      string
		want     string // packages, or
		err      string // parts of the error, separated by …
	}{
		{"the newest", []string{"aa 1", "aa 3", "aa 2"}, "aa", "aa=3", ""},
		{"dependencies", []string{"aa 1; Depends: bb, cc (>= 2)", "bb 1; Pre-Depends: dd", "cc 2", "dd 1", "ee 1"}, "aa", "aa=1 bb=1 cc=2 dd=1", ""},
		{"recommended packages are left out", []string{"aa 1; Recommends: bb", "bb 1"}, "aa", "aa=1", ""},
		{"a loop", []string{"aa 1; Depends: bb", "bb 1; Depends: cc", "cc 1; Depends: aa"}, "aa", "aa=1 bb=1 cc=1", ""},
		{"the first alternative", []string{"aa 1; Depends: bb | cc", "bb 1", "cc 1"}, "aa", "aa=1 bb=1", ""},
		{"an alternative that is in", []string{"aa 1; Depends: bb | cc", "bb 1", "cc 1", "dd 1; Depends: cc"}, "aa dd", "aa=1 cc=1 dd=1", ""},
		{"an alternative that is there", []string{"aa 1; Depends: gone | cc", "cc 1"}, "aa", "aa=1 cc=1", ""},
		{"an alternative whose version fits", []string{"aa 1; Depends: bb (>= 2) | cc (<< 2)", "bb 1", "cc 1"}, "aa", "aa=1 cc=1", ""},
		{"virtual", []string{"aa 1; Depends: vv", "pp 1; Provides: vv"}, "aa", "aa=1 pp=1", ""},
		{"real before virtual", []string{"aa 1; Depends: vv", "bb 1; Provides: vv", "vv 1"}, "aa", "aa=1 vv=1", ""},
		{"virtual by priority", []string{"aa 1; Depends: vv", "pp 1; Provides: vv; Priority: optional", "qq 1; Provides: vv; Priority: required"}, "aa", "aa=1 qq=1", ""},
		{"virtual by source", []string{"aa 1; Depends: vv; Source: s", "pp 1; Provides: vv", "qq 1; Provides: vv; Source: s (2)"}, "aa", "aa=1 qq=1", ""},
		{"virtual with a version", []string{"aa 1; Depends: vv (>= 2)", "pp 9; Provides: vv", "qq 1; Provides: vv (= 2)", "rr 1; Provides: vv (= 1)"}, "aa", "aa=1 qq=1", ""},
		{"a virtual one asked for", []string{"pp 1; Provides: vv"}, "vv", "pp=1", ""},
		{"any architecture", []string{"aa 1; Depends: bb:any", "bb 1; Multi-Arch: allowed"}, "aa", "aa=1 bb=1", ""},
		{"its own conflict", []string{"aa 1; Provides: vv; Conflicts: vv; Breaks: aa (<< 2)"}, "aa", "aa=1", ""},
		{"a conflict with another version", []string{"aa 1; Depends: bb; Breaks: bb (<< 2)", "bb 2"}, "aa", "aa=1 bb=2", ""},
		{"a choice taken back", []string{"aa 1; Depends: bb | cc, dd | ee", "bb 1", "cc 1", "dd 1; Conflicts: bb", "ee 1; Conflicts: bb"}, "aa", "aa=1 cc=1 dd=1", ""},
		{"none by that name", []string{"python3-numpy 1"}, "python3-nunpy", "", "package python3-nunpy: there is no such package…like it are: python3-numpy"},
		{"a virtual one of several", []string{"pp 1; Provides: vv", "qq 1; Provides: vv"}, "vv", "", "name one of them: pp, qq"},
		{"unmet", []string{"aa 1; Depends: bb", "bb 2; Depends: cc (>= 3) | nope", "cc 2"}, "aa", "", "package bb 2 (needed by aa) depends on cc (>= 3) | nope…cc is version 2, no package nope"},
		{"no versioned provider", []string{"aa 1; Depends: vv (>= 1)", "pp 1; Provides: vv"}, "aa", "", "depends on vv (>= 1)"},
		{"architecture not allowed", []string{"aa 1; Depends: bb:any", "bb 1"}, "aa", "", "depends on bb:any"},
		{"conflict", []string{"aa 1; Depends: cc", "bb 1; Conflicts: vv", "cc 1; Provides: vv"}, "aa bb", "", "bb 1 (asked for)…cc 1 (needed by aa)…conflict with vv"},
		{"conflict of the earlier one", []string{"aa 1; Breaks: bb (<< 2)", "bb 1"}, "aa bb", "", "aa 1 (asked for)…bb 1 (asked for)…conflict with bb (<< 2)"},
		{"a damaged package that nobody needs", []string{"aa 1; Depends: vv", "bb 1; Provides: vv (~ 1)", "cc 1; Provides: vv"}, "aa", "aa=1 cc=1", ""},
		{"a damaged package", []string{"aa 1; Depends: bb", "bb 1; Provides: vv (~ 1)"}, "aa", "", "package bb in trixie: reading Provides…no relation"},
		{"bad relation", []string{"aa 1; Depends: bb (~ 3)"}, "aa", "", "aa 1: Depends…no relation"},
	} {
		t.Run(c.name, func(t *testing.T) {
			near := func(string, []string) []string { return []string{"python3-numpy"} }
			got, err := Resolve(indexOf(t, c.packages...), Request{Packages: strings.Fields(c.ask), Nearest: near})
			if c.err == "" {
				if err != nil || namesOf(got) != c.want {
					t.Errorf("got %s, %v; want %s", namesOf(got), err, c.want)
				}
				return
			}
			if err == nil {
				t.Fatalf("got %s, want an error", namesOf(got))
			}
			for part := range strings.SplitSeq(c.err, "…") {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("error %q lacks %q", err, part)
				}
			}
		})
	}
}

func TestResolveEssential(t *testing.T) {
	x := indexOf(t, "aa 1", "sh 1; Essential: yes; Depends: libc", "libc 1", "other 1; Essential: no")
	got, err := Resolve(x, Request{Packages: []string{"aa"}, Essential: true})
	if err != nil || namesOf(got) != "aa=1 libc=1 sh=1" {
		t.Errorf("got %s, %v", namesOf(got), err)
	}
}

// TestResolveRandom: an answer holds what was asked for, every dependency is met
// and nothing excludes anything; it is the same each time; and where any
// set of packages would do, there is an answer.
func TestResolveRandom(t *testing.T) {
	names := []string{"aa", "bb", "cc", "dd", "ee", "ff"}
	rapid.Check(t, func(t *rapid.T) {
		pick := rapid.SampledFrom(append([]string{"vv", "ww"}, names...))
		relations := func(label, sep string, most int) string {
			return strings.Join(rapid.SliceOfN(pick, 0, most).Draw(t, label), sep)
		}
		var packages []string
		for _, n := range names {
			if rapid.IntRange(0, 5).Draw(t, "there") == 0 {
				continue
			}
			p := n + " 1"
			for range rapid.IntRange(0, 2).Draw(t, "fields") {
				if alternatives := relations("alternatives", " | ", 3); alternatives != "" && !strings.Contains(p, "Depends") {
					p += "; Depends: " + alternatives
					if more := relations("more", ", ", 1); more != "" {
						p += ", " + more
					}
				}
			}
			if v := relations("conflicts", ", ", 1); v != "" {
				p += "; Conflicts: " + v
			}
			if v := rapid.SampledFrom([]string{"", "", "vv", "ww"}).Draw(t, "provides"); v != "" {
				p += "; Provides: " + v
			}
			packages = append(packages, p)
		}
		x := indexOf(t, packages...)
		ask := rapid.SliceOfNDistinct(rapid.SampledFrom(names), 1, 2, rapid.ID).Draw(t, "ask")
		got, err := Resolve(x, Request{Packages: ask})
		again, err2 := Resolve(indexOf(t, packages...), Request{Packages: ask})
		if fmt.Sprint(err) != fmt.Sprint(err2) || namesOf(got) != namesOf(again) {
			t.Fatalf("two answers: %s, %v and %s, %v", namesOf(got), err, namesOf(again), err2)
		}
		if err == nil {
			if why := wrongWith(t, got, ask); why != "" {
				t.Fatalf("%q: %s: %s", packages, namesOf(got), why)
			}
			return
		}
		var all []Package
		for _, n := range x.Names() {
			p, err := x.Latest(n)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, p)
		}
		for bits := range 1 << len(all) {
			var set []Package
			for i, p := range all {
				if bits>>i&1 == 1 {
					set = append(set, p)
				}
			}
			if cmp.Diff("", wrongWith(t, set, ask)) == "" {
				t.Fatalf("%q: %v, but %s would do", packages, err, namesOf(set))
			}
		}
	})
}

// wrongWith checks a set of packages by the definition of the relations.
func wrongWith(t *rapid.T, set []Package, ask []string) string {
	has := func(r Relation, except string) bool {
		for _, p := range set {
			if p.Name != except && r.means(&p) {
				return true
			}
		}
		return false
	}
	for _, name := range ask {
		if !has(Relation{Name: name}, "") {
			return name + " is not in it"
		}
	}
	for _, p := range set {
		needs, err := ParseRelations(p.Depends)
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range needs {
			met := false
			for _, r := range a {
				met = met || has(r, "")
			}
			if !met {
				return p.Name + " lacks " + a.String()
			}
		}
		for _, group := range p.Conflicts {
			for _, r := range group {
				if has(r, p.Name) {
					return p.Name + " conflicts with " + r.String()
				}
			}
		}
	}
	return ""
}

func FuzzParseRelations(f *testing.F) {
	f.Add("libc6 (>= 2.41), aa:any | bb (<< 1:2~), cc")
	f.Fuzz(func(t *testing.T, text string) {
		got, err := ParseRelations(text)
		if err != nil {
			return
		}
		var parts []string
		for _, a := range got {
			parts = append(parts, a.String())
		}
		again, err := ParseRelations(strings.Join(parts, ", "))
		if diff := cmp.Diff(got, again); err != nil || diff != "" {
			t.Errorf("%q read again: %v %s", text, err, diff)
		}
	})
}
