package main

import (
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"muster/api"
)

func TestTableFits(t *testing.T) {
	tab := table{head: []string{"A", "LONGER", "LAST"}}
	tab.add("x", "é", strings.Repeat("y", 200))
	tab.add("wide cell", "", "end")
	var b strings.Builder
	if err := tab.write(&b); err != nil {
		t.Fatal(err)
	}
	want := "A          LONGER  LAST\n" +
		"x          é       " + strings.Repeat("y", 80-20) + "…\n" +
		"wide cell          end\n"
	if d := cmp.Diff(want, b.String()); d != "" {
		t.Errorf("table differs (-want +got):\n%s", d)
	}
	for line := range strings.Lines(b.String()) {
		if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > textWidth {
			t.Errorf("line is %d wide, want at most %d: %s", n, textWidth, line)
		}
	}
}

func TestSpan(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Second: "0s", 0: "0s", 1500 * time.Millisecond: "1s", 59 * time.Second: "59s",
		61 * time.Second: "1m", 47 * time.Hour: "47h", 49 * time.Hour: "2d",
	} {
		if got := span(d); got != want {
			t.Errorf("span(%v) = %q, want %q", d, got, want)
		}
	}
}

func TestSize(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 999: "999 B", 1000: "1.0 kB", 14_200_000: "14.2 MB", 1 << 62: "4.6 EB"} {
		if got := size(n); got != want {
			t.Errorf("size(%d) = %q, want %q", n, got, want)
		}
	}
}

func TestNodeListing(t *testing.T) {
	now := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	nodes := []api.Node{
		{
			Name: "n1", State: api.NodeReady, Link: api.LinkUp, MAC: "52:54:00:12:34:01", Fingerprint: "k7qx-3fza-mm2d-5yth",
			Hardware: api.Hardware{Cores: 128, MemoryMiB: 1048576}, Load: api.Load{Runnable: 99.5},
		},
		{State: api.NodePending, MAC: "52:54:00:12:34:02", Fingerprint: "aaaa-bbbb-cccc-dddd", Hint: "approve it with: muster node approve aaaa-bbbb-cccc-dddd"},
		{Name: "n22", State: api.NodeUnreachable, Link: api.LinkUnreachable, MAC: "52:54:00:12:34:03", Fingerprint: "eeee-ffff-gggg-hhhh"},
		{Name: "n3", State: api.NodeBooting, Link: api.LinkBooting, Admin: api.AdminReady, Stage: "userland 40 %", MAC: "52:54:00:12:34:04", Fingerprint: "iiii-jjjj-kkkk-llll"},
	}
	var b strings.Builder
	if err := writeNodes(&b, nodes, now, true); err != nil {
		t.Fatal(err)
	}
	want := `NAME  STATE        MAC                CPU  MEM    LOAD  FINGERPRINT
n1    ready        52:54:00:12:34:01  128  1024G  99.5  k7qx-3fza-mm2d-5yth
-     pending      52:54:00:12:34:02  -    -      -     aaaa-bbbb-cccc-dddd
n22   unreachable  52:54:00:12:34:03  -    -      -     eeee-ffff-gggg-hhhh
n3    booting      52:54:00:12:34:04  -    -      -     iiii-jjjj-kkkk-llll

52:54:00:12:34:02 is pending; approve it with: muster node approve aaaa-bbbb-cccc-dddd
n3 is booting (userland 40 %)
`
	if d := cmp.Diff(want, b.String()); d != "" {
		t.Errorf("listing differs (-want +got):\n%s", d)
	}
}
