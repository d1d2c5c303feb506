package deb

import (
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// installedOf is what an image has, written as for indexOf.
func installedOf(t interface{ Fatal(...any) }, packages ...string) []Package {
	x := indexOf(t, packages...)
	var out []Package
	for _, name := range x.Names() {
		p, err := x.Latest(name)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, p)
	}
	return out
}

func TestResolveOnAnImage(t *testing.T) {
	for _, c := range []struct {
		name      string
		installed []string
		packages  []string
		ask       string
		want      string // packages, or
		err       string // parts of the error, separated by …
	}{
		{"what is there fulfills", []string{"libc 1"}, []string{"aa 1; Depends: libc", "libc 2"}, "aa", "aa=1", ""},
		{"too old", []string{"libc 1"}, []string{"aa 1; Depends: libc (>= 2)", "libc 2"}, "aa", "aa=1 libc=2", ""},
		{"asked for and there", []string{"aa 2"}, []string{"aa 2"}, "aa", "", ""},
		{"asked for and newer in the archive", []string{"aa 1"}, []string{"aa 2"}, "aa", "aa=2", ""},
		{"asked for and newer in the image", []string{"aa 3"}, []string{"aa 2"}, "aa", "", ""},
		{"only in the image", []string{"own 1"}, []string{"aa 2"}, "own", "", ""},
		{"pinned to what is there", []string{"aa 1"}, []string{"aa 1", "aa 2"}, "aa=1*", "", ""},
		{"pinned to another", []string{"aa 3"}, []string{"aa 1", "aa 2"}, "aa=1", "aa=1", ""},
		{"provided by the image", []string{"mawk 1; Provides: awk"}, []string{"aa 1; Depends: awk", "gawk 1; Provides: awk"}, "aa", "aa=1", ""},
		{"an alternative that is there", []string{"cc 1"}, []string{"aa 1; Depends: bb | cc", "bb 1"}, "aa", "aa=1", ""},
		{"broken by what comes", []string{"old 1"}, []string{"aa 1; Breaks: old (<< 2)", "old 2"}, "aa", "aa=1 old=2", ""},
		{"its partner is replaced", []string{"lib 1", "lib-bin 1; Depends: lib (= 1)"}, []string{"aa 1; Depends: lib (>= 2)", "lib 2", "lib-bin 2; Depends: lib (= 2)"}, "aa", "aa=1 lib=2 lib-bin=2", ""},
		{"what was met is not met any more", []string{"mm 1", "tt 1; Depends: mm (= 1)"}, []string{"aa 1; Depends: tt, mm (>= 2)", "mm 2", "tt 2"}, "aa", "aa=1 mm=2 tt=2", ""},
		{"what the image leaves out is not looked for", []string{"libc 1; Depends: gone"}, []string{"aa 1; Depends: libc"}, "aa", "aa=1", ""},
		{"a conflict with the image", []string{"rival 1"}, []string{"aa 1; Conflicts: rival"}, "aa", "", "package rival 1…aa 1 (asked for) has a conflict with rival…the image below has it"},
		{"a conflict that the archive has too", []string{"rival 1"}, []string{"aa 1; Conflicts: rival", "rival 2"}, "aa", "", "rival 2…cannot be in one userland"},
		{"what it needs is replaced, and nothing newer", []string{"lib 1", "own 1; Depends: lib (= 1)"}, []string{"aa 1; Depends: lib (>= 2)", "lib 2"}, "aa", "", "package own 1: it depends on lib (= 1), which is replaced"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := Resolve(indexOf(t, c.packages...), Request{Packages: strings.Fields(c.ask), Installed: installedOf(t, c.installed...)})
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

// What is installed and what is chosen fit to each other as they would on an empty system.
func TestResolveOnAnImageRandom(t *testing.T) {
	names := []string{"aa", "bb", "cc", "dd", "ee"}
	rapid.Check(t, func(t *rapid.T) {
		draw := func(version string, lowest int) []string {
			var out []string
			for _, n := range names {
				p := n + " " + version
				of := func(label string) string {
					name := rapid.SampledFrom(names).Draw(t, label)
					return rapid.SampledFrom([]string{name, name + " (= 1)", name + " (>= 2)", "vv"}).Draw(t, label+" of")
				}
				if rapid.IntRange(lowest, 3).Draw(t, "there") == 0 {
					continue
				}
				if rapid.Bool().Draw(t, "needs") {
					p += "; Depends: " + of("dependency") + " | " + of("alternative")
				}
				if rapid.IntRange(0, 3).Draw(t, "hostile") == 0 {
					p += "; Conflicts: " + of("conflict")
				}
				if rapid.IntRange(0, 3).Draw(t, "provides") == 0 {
					p += "; Provides: vv"
				}
				out = append(out, p)
			}
			return out
		}
		old, fresh := draw("1", 0), draw("2", 1)
		base := rapid.SliceOfNDistinct(rapid.SampledFrom(names), 1, 2, rapid.ID).Draw(t, "base")
		installed, err := Resolve(indexOf(t, old...), Request{Packages: base})
		if err != nil {
			t.Skip("there is no such image")
		}
		ask := rapid.SliceOfNDistinct(rapid.SampledFrom(names), 1, 2, rapid.ID).Draw(t, "ask")
		got, err := Resolve(indexOf(t, fresh...), Request{Packages: ask, Installed: installed})
		if err != nil {
			return
		}
		all := got
		for _, p := range installed {
			if !strings.Contains(" "+namesOf(got), " "+p.Name+"=") {
				all = append(all, p)
			}
		}
		if why := wrongWith(t, all, ask); why != "" {
			t.Fatalf("image %s (of %q), archive %q, asked for %q: %s: %s", namesOf(installed), old, fresh, ask, namesOf(got), why)
		}
	})
}

func FuzzParseStatus(f *testing.F) {
	f.Add([]byte("Package: aa\nStatus: install ok installed\nVersion: 1\n\nPackage: bb\nStatus: deinstall ok config-files\nVersion: 2\n"))
	f.Add([]byte("Package: aa\nVersion: 1\nDepends: ,,|\n\n\n\nVersion: 1"))
	f.Fuzz(func(t *testing.T, text []byte) {
		for _, p := range ParseStatus(text) {
			if p.Name == "" || p.Version == "" {
				t.Errorf("%+v is no package", p)
			}
		}
	})
}

func TestParseStatus(t *testing.T) {
	const status = `Package: aa
Status: install ok installed
Version: 1

Package: gone
Status: deinstall ok config-files
Version: 1

Package: held
Status: hold ok installed
Version: 1
Source: ss (2)

Package: damaged
Status: install ok installed
Version: 1
Depends: bb (~ 1)

Package: distroless
Version: 1
`
	got := ParseStatus([]byte(status))
	if namesOf(got) != "aa=1 held=1 distroless=1" || got[1].Source != "ss" || got[1].SourceVersion != "2" {
		t.Errorf("installed are %+v", got)
	}
}
