package api

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseHostList(t *testing.T) {
	tests := map[string]struct {
		want string // names joined by blanks
		err  string // part of the error
	}{
		"":                {},
		"n1":              {want: "n1"},
		"n1,n2 n1":        {want: "n1 n2"},
		"n[1-3,14]":       {want: "n1 n2 n3 n14"},
		"n1-3":            {want: "n1 n2 n3"},
		"n[08-10]":        {want: "n08 n09 n10"},
		"r[1-2]n[1-2]":    {want: "r1n1 r1n2 r2n1 r2n2"},
		"n[1-2]-ib, rack": {want: "n1-ib n2-ib rack"},
		"rack-a":          {want: "rack-a"},
		"rack-1":          {want: "rack-1"},
		"n[1-":            {err: "not closed"},
		"n]1[":            {err: "do not match"},
		"n[3-1]":          {err: "backwards"},
		"n[1-999999]":     {err: "more than"},
		"n[a]":            {err: "not a range"},
		"n[1-99]x[1-999]": {err: "more than"},
		"n1;reboot":       {err: "holds ';'"},
		"n[]":             {err: "not a range"},
	}
	for in, tt := range tests {
		t.Run(in, func(t *testing.T) {
			got, err := ParseHostList(in)
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Fatalf("ParseHostList(%q) = %v, %v; want an error with %q", in, got, err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(tt.want, strings.Join(got, " ")); d != "" {
				t.Errorf("ParseHostList(%q) differs (-want +got):\n%s", in, d)
			}
		})
	}
}

func TestFormatHostList(t *testing.T) {
	tests := map[string]string{
		"":                  "",
		"n3 n1 n2 n7":       "n[1-3,7]",
		"n1":                "n1",
		"n10 n9 rack":       "rack,n[9-10]",
		"n01 n02 n1":        "n[01-02],n1",
		"a1 b2 a2 b2":       "a[1-2],b2",
		"n99999999999 n2":   "n99999999999,n2",
		"head n1 n2 n3 n04": "head,n04,n[1-3]",
	}
	for in, want := range tests {
		if got := FormatHostList(strings.Fields(in)); got != want {
			t.Errorf("FormatHostList(%s) = %q, want %q", in, got, want)
		}
	}
}

func FuzzParseHostList(f *testing.F) {
	for _, s := range []string{"n[1-10,14]", "n1-10", "a[1-2]b[3-4]", "n[", "n]", "[[", "n[1-2147483647]"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		names, err := ParseHostList(s)
		if err != nil {
			return
		}
		if len(names) > MaxHosts {
			t.Fatalf("%q gives %d names", s, len(names))
		}
		back, err := ParseHostList(FormatHostList(names))
		if err != nil {
			return // a name such as a1-2 in the middle of brackets has no short form
		}
		slices.Sort(names)
		slices.Sort(back)
		if len(back) < len(names) {
			t.Fatalf("%q: %v came back as %v", s, names, back)
		}
	})
}
