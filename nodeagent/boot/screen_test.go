package boot

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var pendingStatus = Status{
	State:           StatePending,
	Address:         "10.0.0.101/24 on eth0",
	Head:            "10.0.0.1:7421",
	Fingerprint:     "k7qx-3fza-mm2d-5yth",
	HeadFingerprint: "abcd-efgh-ijkl-mnop",
	Why:             "waiting for approval",
	Type:            []string{"muster node approve k7qx-3fza-mm2d-5yth"},
}

func TestLines(t *testing.T) {
	ready := pendingStatus
	ready.State, ready.Name, ready.Why, ready.Type = StateReady, "n1", "", nil
	moved := pendingStatus
	moved.Address = "10.0.0.102/24 on eth0"
	const all = "muster: state pending\r\n" +
		"muster: address 10.0.0.101/24 on eth0\r\n" +
		"muster: head 10.0.0.1:7421\r\n" +
		"muster: fingerprint node k7qx-3fza-mm2d-5yth head abcd-efgh-ijkl-mnop\r\n" +
		"muster: why waiting for approval\r\n" +
		"muster: type muster node approve k7qx-3fza-mm2d-5yth\r\n"
	tests := map[string]struct {
		before, st Status
		want       string
	}{
		"all at first": {Status{}, pendingStatus, all},
		"all at a change of state": {pendingStatus, ready, "muster: state ready\r\n" +
			"muster: name n1\r\n" +
			"muster: address 10.0.0.101/24 on eth0\r\n" +
			"muster: head 10.0.0.1:7421\r\n" +
			"muster: fingerprint node k7qx-3fza-mm2d-5yth head abcd-efgh-ijkl-mnop\r\n"},
		"else what is new": {pendingStatus, moved, "muster: address 10.0.0.102/24 on eth0\r\n"},
		"nothing new":      {pendingStatus, pendingStatus, ""},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if d := cmp.Diff(tc.want, lines(tc.before, tc.st)); d != "" {
				t.Errorf("lines(), -want +got:\n%s", d)
			}
		})
	}
}

func TestPage(t *testing.T) {
	st := pendingStatus
	st.Problems = []string{"the initramfs is not whole: " + strings.Repeat("word ", 30)}
	got := page(st)
	for _, want := range []string{"k7qx-3fza-mm2d-5yth", "abcd-efgh-ijkl-mnop", "muster node approve k7qx", "Ctrl-Alt-Del"} {
		if !strings.Contains(got, want) {
			t.Errorf("page() lacks %q:\n%s", want, got)
		}
	}
	for line := range strings.Lines(stripANSI(got)) {
		if n := len(strings.TrimRight(line, "\r\n")); n > 79 {
			t.Errorf("line of %d columns, want at most 79: %q", n, line)
		}
	}
}

// stripANSI takes control sequences away.
func stripANSI(s string) string {
	var b strings.Builder
	for i, part := range strings.Split(s, "\x1b[") {
		if i > 0 {
			_, part, _ = strings.Cut(part, part[strings.IndexAny(part, "mHJ"):][:1])
		}
		b.WriteString(part)
	}
	return b.String()
}

func TestScreenShow(t *testing.T) {
	root := fakeRoot(t, map[string]string{
		"sys/class/tty/console/active": "tty0 ttyS0\n",
		"dev/tty0":                     "",
		"dev/ttyS0":                    "",
	})
	s := NewScreen(ScreenConfig{Root: root})
	evil := pendingStatus
	evil.Why = "\x1b[2Jroot@head# \r\nmuster: state ready"
	s.Show(pendingStatus)
	s.Show(pendingStatus) // changes nothing
	s.Show(evil)
	ctx, cancel := contextOf(t)
	done := make(chan struct{})
	go func() { s.Run(ctx); close(done) }()

	serial := waitForFile(t, filepath.Join(root, "dev/ttyS0"), "root@head")
	if want := lines(Status{}, pendingStatus) + "muster: why  [2Jroot@head#   muster: state ready\r\n"; serial != want {
		t.Errorf("on the serial line: %q, want %q", serial, want)
	}
	display := waitForFile(t, filepath.Join(root, "dev/tty0"), "root@head")
	if n := strings.Count(display, "\x1b[2J"); n != 2 {
		t.Errorf("the display was drawn %d times, want 2:\n%q", n, display)
	}
	cancel()
	<-done
}

func TestScreenKeepsTheLatest(t *testing.T) {
	root := fakeRoot(t, map[string]string{"dev/ttyS0": ""})
	s := NewScreen(ScreenConfig{Root: root, Consoles: []string{"ttyS0"}})
	// Nobody writes yet: far more than the queue holds.
	for i := range 10 * screenQueue {
		st := pendingStatus
		st.Why = strings.Repeat("x", 1+i%7)
		s.Show(st)
	}
	last := pendingStatus
	last.Why = "the latest"
	s.Show(last)
	ctx, cancel := contextOf(t)
	defer cancel()
	go s.Run(ctx)
	waitForFile(t, filepath.Join(root, "dev/ttyS0"), "the latest")
}

func TestConsoleNames(t *testing.T) {
	for name, want := range map[string]bool{
		"tty0": true, "tty1": true, "ttyS0": false, "ttyAMA0": false, "hvc0": false, "console": false, "tty": false,
	} {
		if got := isDisplay(name); got != want {
			t.Errorf("isDisplay(%q) = %v, want %v", name, got, want)
		}
	}
	if d := cmp.Diff([]string{"console"}, kernelConsoles(t.TempDir())); d != "" {
		t.Errorf("consoles of an unknown kernel, -want +got:\n%s", d)
	}
}

func TestWrap(t *testing.T) {
	for _, tc := range []struct {
		text string
		want []string
	}{
		{"", []string{""}},
		{"short", []string{"short"}},
		{"two words here", []string{"two words", "here"}},
		{"exactly ten", []string{"exactly", "ten"}},
		{"abcdefghijklmno", []string{"abcdefghij", "klmno"}},
	} {
		if d := cmp.Diff(tc.want, wrap(tc.text, 10)); d != "" {
			t.Errorf("wrap(%q), -want +got:\n%s", tc.text, d)
		}
	}
}

func TestClean(t *testing.T) {
	for text, want := range map[string]string{
		"plain":                 "plain",
		"über":                  "über",
		"a\x00b\x1b\x7f\u0085c": "a b   c",
		"\xff":                  "?",
		"123456789 1":           "123456789 ",
		"123456789ü":            "123456789", // not half a letter
	} {
		if got := clean(text, 10); got != want {
			t.Errorf("clean(%q) = %q, want %q", text, got, want)
		}
	}
}

// waitForFile reads path until it contains text.
func waitForFile(t *testing.T, path, text string) string {
	t.Helper()
	patience := time.After(20 * time.Second)
	for {
		b, err := os.ReadFile(path)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		if strings.Contains(string(b), text) {
			return string(b)
		}
		select {
		case <-patience:
			t.Fatalf("%s has %q, want %q in it", path, b, text)
		case <-time.After(5 * time.Millisecond):
		}
	}
}
