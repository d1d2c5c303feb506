package api

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseHostList(t *testing.T) {
	for name, c := range map[string]struct {
		list string
		want []string // nil: an error
	}{
		"one":               {"n1", []string{"n1"}},
		"commas and blanks": {"n1, n3 n2", []string{"n1", "n3", "n2"}},
		"brackets":          {"n[1-3,7]", []string{"n1", "n2", "n3", "n7"}},
		"no brackets":       {"n1-3", []string{"n1", "n2", "n3"}},
		"width is kept":     {"n[08-11]", []string{"n08", "n09", "n10", "n11"}},
		"twice is once":     {"n1,n[1-2]", []string{"n1", "n2"}},
		"a dash in a name":  {"rack2-a", []string{"rack2-a"}},
		"dash and range":    {"rack2-[1-2]", []string{"rack2-1", "rack2-2"}},
		"text behind":       {"n[1-2]x", []string{"n1x", "n2x"}},
		"rack-5 is a name":  {"rack-5", []string{"rack-5"}},
		"nothing":           {" , ", nil},
		"backwards":         {"n[3-1]", nil},
		"letters":           {"n[a-c]", nil},
		"open":              {"n[1-3", nil},
		"closed twice":      {"n[1]]", nil},
		"nested":            {"n[[1]]", nil},
		"two ranges":        {"n[1-2]r[1-2]", nil},
		"empty brackets":    {"n[]", nil},
		"too many":          {"n[1-999999999]", nil},
		"upper case":        {"N1", nil},
		"a wildcard":        {"n*", nil},
		"a dot":             {"n1.lan", nil},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := ParseHostList(c.list)
			if (err != nil) != (c.want == nil) {
				t.Fatalf("ParseHostList(%q) = %v, %v", c.list, got, err)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("ParseHostList(%q) differs (-want +got):\n%s", c.list, diff)
			}
		})
	}
}

func TestFormatHostList(t *testing.T) {
	for _, c := range []struct{ names, want string }{
		{"n1", "n1"},
		{"n3 n1 n2 n7", "n[1-3,7]"},
		{"n9 n10 n11", "n[9-11]"},
		{"n08 n09 n10 n11", "n[08-09],n[10-11]"},
		{"head n1 n2", "head,n[1-2]"},
		{"", ""},
	} {
		if got := FormatHostList(strings.Fields(c.names)); got != c.want {
			t.Errorf("FormatHostList(%s) = %s, want %s", c.names, got, c.want)
		}
	}
}

func TestCompareNames(t *testing.T) {
	got := strings.Fields("n10 n2 n1 a n01 n1a rack2-n10 rack2-n9 n")
	slices.SortFunc(got, CompareNames)
	want := strings.Fields("a n n1 n1a n01 n2 n10 rack2-n9 rack2-n10")
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("sorted names differ (-want +got):\n%s", diff)
	}
}

func FuzzHostList(f *testing.F) {
	for _, s := range []string{"n1", "n[1-10,14]", "n1-10", "rack2-[01-20]x,n3", "n[", "]", "n[1-2]r[3]", "a-0-0", "n007-9", "n[1-99999]"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, list string) {
		names, err := ParseHostList(list)
		if err != nil {
			return
		}
		if len(names) == 0 || len(names) > maxHosts {
			t.Fatalf("%d names", len(names))
		}
		again, err := ParseHostList(FormatHostList(names))
		if err != nil {
			t.Fatalf("%q is written as %q: %v", list, FormatHostList(names), err)
		}
		slices.Sort(names)
		slices.Sort(again)
		if diff := cmp.Diff(names, again); diff != "" {
			t.Fatalf("%q, written as %q, differs (-want +got):\n%s", list, FormatHostList(names), diff)
		}
	})
}
