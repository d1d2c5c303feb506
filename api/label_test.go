package api

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseNodeList(t *testing.T) {
	for list, want := range map[string][]string{
		"n1":                         {"n1"},
		"n[1-2],rack1":               {"n1", "n2", "rack1"},
		"label:gpu":                  {"label:gpu"},
		"label:gpu,n[1-2] label:gpu": {"n1", "n2", "label:gpu"},
		"label:rack-1-3,label:A_b.c": {"label:rack-1-3", "label:A_b.c"},
		"7t53-n45w-k65n-tauq":        {"7t53-n45w-k65n-tauq"},
		"abc2-abc3-abc4-2345":        {"abc2-abc3-abc4-2345"}, // no range
		"n2,52:54:00:12:34:01,label:gpu,abcd-efgh-ijkl-2345,n1": {"n2", "n1", "52:54:00:12:34:01", "abcd-efgh-ijkl-2345", "label:gpu"},
	} {
		got, err := ParseNodeList(list)
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("ParseNodeList(%q): %v (-want +got):\n%s", list, err, diff)
		}
	}
	for _, list := range []string{"", ",", "label:", "label:a b:c", "7t53-n45w-k65n", "7t53-n45w-k65n-tau1", "52:54:00:12:34", "label:-x", "label:gpu*", "label:x[1-2]", "n[1", "N1", "label:" + strings.Repeat("a", 64)} {
		if got, err := ParseNodeList(list); err == nil {
			t.Errorf("ParseNodeList(%q) = %q, want an error", list, got)
		}
	}
	// A name may be given, a label may not.
	if got, err := ParseHostList("label:gpu"); err == nil {
		t.Errorf("ParseHostList(label:gpu) = %q, want an error", got)
	}
}

func FuzzParseNodeList(f *testing.F) {
	for _, s := range []string{"n1,label:gpu", "label:a[", "label:\x00", "n[1-3]label:x", " label:x\n"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, list string) {
		items, err := ParseNodeList(list)
		if err != nil {
			return
		}
		if len(items) == 0 {
			t.Errorf("ParseNodeList(%q) names nothing and is no error", list)
		}
		again, err := ParseNodeList(strings.Join(items, ","))
		if diff := cmp.Diff(items, again); err != nil || diff != "" {
			t.Errorf("ParseNodeList(%q) is not stable: %v (-first +second):\n%s", list, err, diff)
		}
	})
}
