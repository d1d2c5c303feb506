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
	if err := tab.writeIn(&b, textWidth); err != nil {
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
	b.Reset()
	if err := tab.write(&b); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(b.String(), strings.Repeat("y", 200)+"\n") {
		t.Errorf("a pipe gets a line that is cut:\n%s", b.String())
	}
}

// TestTableWhole keeps what a listing is asked for: no column is lost to an overlong cell before it.
func TestTableWhole(t *testing.T) {
	tab := table{head: []string{"WHAT", "NAME", "OLD", "NEW"}, whole: true}
	long := strings.Repeat("y", 70)
	tab.add("file", long, "1 byte", "2 bytes")
	tab.add("package", "bash", "5.2", "5.3")
	var b strings.Builder
	if err := tab.write(&b); err != nil {
		t.Fatal(err)
	}
	pad := func(s string) string { return s + strings.Repeat(" ", maxColumn-len(s)) }
	want := "WHAT     " + pad("NAME") + "  OLD     NEW\n" +
		"file     " + long + "  1 byte  2 bytes\n" +
		"package  " + pad("bash") + "  5.2     5.3\n"
	if d := cmp.Diff(want, b.String()); d != "" {
		t.Errorf("table differs (-want +got):\n%s", d)
	}
}

func TestPrintable(t *testing.T) {
	for s, want := range map[string]string{
		"/a b/\u00e9": "/a b/\u00e9", "": "", "/a\nb": `"/a\nb"`, "/bad\xff": `"/bad\xff"`, "\x1b[2J": `"\x1b[2J"`,
	} {
		if got := printable(s); got != want {
			t.Errorf("printable(%q) = %s, want %s", s, got, want)
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
			Admin: api.AdminReady, Image: api.NodeImage{Name: "compute", Next: "gpu", NextID: "77aa"},
			Hardware: api.Hardware{Cores: 128, MemoryMiB: 1048576}, Load: api.Load{Runnable: 99.5},
		},
		{State: api.NodePending, MAC: "52:54:00:12:34:02", Fingerprint: "aaaa-bbbb-cccc-dddd", Hint: "approve it with: muster node approve aaaa-bbbb-cccc-dddd"},
		{Name: "n22", Admin: api.AdminReady, Image: api.NodeImage{Name: "compute"}, State: api.NodeUnreachable, Link: api.LinkUnreachable, MAC: "52:54:00:12:34:03", Fingerprint: "eeee-ffff-gggg-hhhh"},
		{Name: "n3", State: api.NodeBooting, Link: api.LinkBooting, Admin: api.AdminReady, Stage: "userland 40 %", Image: api.NodeImage{Unknown: true}, Software: api.Software{ImageID: "3f9a2c1122334455"}, MAC: "52:54:00:12:34:04", Fingerprint: "iiii-jjjj-kkkk-llll"},
	}
	var b strings.Builder
	if err := writeNodes(&b, nodes, now, true); err != nil {
		t.Fatal(err)
	}
	want := `NAME  STATE        MAC                CPU  MEM    LOAD  IMAGE OR FINGERPRINT
n1    ready        52:54:00:12:34:01  128  1024G  99.5  compute, next gpu
-     pending      52:54:00:12:34:02  -    -      -     aaaa-bbbb-cccc-dddd
n22   unreachable  52:54:00:12:34:03  -    -      -     compute
n3    booting      52:54:00:12:34:04  -    -      -     unknown (3f9a2c112233)

52:54:00:12:34:02 is pending; approve it with: muster node approve aaaa-bbbb-cccc-dddd
n3 is booting (userland 40 %)
`
	if d := cmp.Diff(want, b.String()); d != "" {
		t.Errorf("listing differs (-want +got):\n%s", d)
	}
}

func TestImageTexts(t *testing.T) {
	const id, next = "3f9a2c11223344", "77aa0000000000"
	for name, c := range map[string]struct {
		node           api.Node
		list, row, set string
	}{
		"nothing is known": {api.Node{Name: "n1"}, "-", "", "n1 boots the default image"},
		"the default": {
			api.Node{Name: "n1", Software: api.Software{ImageID: id}, Image: api.NodeImage{Name: "compute"}},
			"compute", "compute (3f9a2c112233)", "n1 boots the default image, as it does now",
		},
		"another one next": {
			api.Node{Name: "n1", Admin: api.AdminReady, Software: api.Software{ImageID: id}, Image: api.NodeImage{Name: "compute", Assigned: "gpu", Next: "gpu", NextID: next}},
			"compute, next gpu", "compute (3f9a2c112233), next gpu; its own is gpu",
			"n1 boots gpu (gpu 77aa00000000) the next time it starts: muster node reboot n1",
		},
		"one of the same name next": {
			api.Node{Name: "n1", Admin: api.AdminReady, Software: api.Software{ImageID: id}, Image: api.NodeImage{Name: "compute", Next: "compute", NextID: next}},
			"compute, next compute (77aa00000000)", "compute (3f9a2c112233), next compute (77aa00000000)",
			"n1 boots the default image (compute 77aa00000000) the next time it starts: muster node reboot n1",
		},
		"one of another head": {
			api.Node{Name: "n1", Software: api.Software{ImageID: id}, Image: api.NodeImage{Unknown: true}},
			"unknown (3f9a2c112233)", "unknown (3f9a2c112233)", "n1 boots the default image",
		},
		"its own is gone": {
			api.Node{Name: "n1", Software: api.Software{ImageID: id}, Image: api.NodeImage{Name: "compute", Assigned: "gpu", Missing: true}},
			"compute, next gpu, which is not published", "compute (3f9a2c112233), next gpu, which is not published; its own is gpu", "n1 boots gpu",
		},
		"declared": {
			api.Node{MAC: "52:54:00:12:34:01", Image: api.NodeImage{Assigned: next, Next: "gpu", NextID: next}},
			"-, next gpu", "-, next gpu; its own is 77aa00000000", "52:54:00:12:34:01 boots 77aa00000000 (gpu 77aa00000000) when it comes",
		},
	} {
		var b strings.Builder
		if err := writeAssigned(&b, []api.Node{c.node}); err != nil {
			t.Fatal(err)
		}
		if l, r, s := imageText(c.node), imageRow(c.node), strings.TrimSpace(b.String()); l != c.list || r != c.row || s != c.set {
			t.Errorf("%s: %q, %q, %q; want %q, %q, %q", name, l, r, s, c.list, c.row, c.set)
		}
	}
}

func TestUserlandRow(t *testing.T) {
	const u = "1111222233334444"
	for _, c := range []struct {
		sw   api.Software
		want string
	}{
		{api.Software{ImageID: "i", Userland: u, UserlandWanted: u}, "111122223333"},
		{api.Software{ImageID: "i", Userland: u, UserlandWanted: u, UserlandIn: api.UserlandMemory, UserlandBytes: 34e6}, "111122223333, in memory, 34.0 MB"},
		{api.Software{ImageID: "i", Userland: u, UserlandWanted: u, UserlandIn: api.UserlandShare, UserlandFrom: "nas1:/x"}, "111122223333, read from nas1:/x, takes no memory for good"},
		{api.Software{ImageID: "i", Userland: u, UserlandWanted: u, UserlandIn: api.UserlandShare, UserlandFrom: "nas1:/x", UserlandStalled: "nas1:/x does not answer"}, "111122223333, nas1:/x does not answer"},
		{api.Software{ImageID: "i", UserlandWanted: u}, "111122223333, which it does not hold yet"},
		{api.Software{ImageID: "i"}, "none: only tasks that name it (--on n3) run there"},
		{api.Software{}, ""},
	} {
		if got := userlandRow(api.Node{Name: "n3", Admin: api.AdminReady, Software: c.sw}); got != c.want {
			t.Errorf("userlandRow(%+v) = %q, want %q", c.sw, got, c.want)
		}
	}
}
