package boot

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"muster/api"
)

func TestParseKmsg(t *testing.T) {
	tests := map[string]struct {
		record string
		want   kmsgRecord
		bad    bool
	}{
		"of the kernel": {
			"6,339,5140900,-;NET: Registered protocol family 10\n",
			kmsgRecord{339, api.KernelLine{Micro: 5140900, Priority: 6, Text: "NET: Registered protocol family 10"}},
			false,
		},
		"with device lines": {
			"4,1,2,-;pci 0000:00:02.0: odd\n SUBSYSTEM=pci\n DEVICE=+pci:0000:00:02.0\n",
			kmsgRecord{1, api.KernelLine{Micro: 2, Priority: 4, Text: "pci 0000:00:02.0: odd"}},
			false,
		},
		"of a program, more fields": {
			"12,7,8,-,caller=T1;muster-init: up\n",
			kmsgRecord{7, api.KernelLine{Micro: 8, Priority: 4, Text: "muster-init: up"}},
			false,
		},
		"semicolon in the text": {"6,1,2,-;a;b\n", kmsgRecord{1, api.KernelLine{Micro: 2, Priority: 6, Text: "a;b"}}, false},
		"escape sequence":       {"6,1,2,-;\x1b[2Jx\n", kmsgRecord{1, api.KernelLine{Micro: 2, Priority: 6, Text: " [2Jx"}}, false},
		"no text":               {"6,1,2,-", kmsgRecord{}, true},
		"no numbers":            {"a,b,c;text", kmsgRecord{}, true},
		"too few fields":        {"6,1;text", kmsgRecord{}, true},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := parseKmsg([]byte(tc.record))
			if (err != nil) != tc.bad {
				t.Fatalf("parseKmsg() error = %v, want one: %v", err, tc.bad)
			}
			if d := cmp.Diff(tc.want, got); d != "" {
				t.Errorf("parseKmsg(), -want +got:\n%s", d)
			}
		})
	}
}

func FuzzParseKmsg(f *testing.F) {
	f.Add([]byte("6,339,5140900,-;NET: Registered\n SUBSYSTEM=x\n"))
	f.Add([]byte("99999999999,-1,,;"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := parseKmsg(b)
		if err == nil && (r.Line.Priority > 7 || len(r.Line.Text) > 3*maxLine || strings.Contains(r.Line.Text, "\n")) {
			t.Errorf("parseKmsg(%q) = %+v", b, r)
		}
	})
}

// kmsgDevice is a stand-in for /dev/kmsg that gives a record a read: a
// socket of datagrams, opened by its descriptor's name.
type kmsgDevice struct{ feed *os.File }

func newKmsgDevice(t *testing.T) (kmsgDevice, *os.File) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	feed, read := os.NewFile(uintptr(fds[0]), "feed"), os.NewFile(uintptr(fds[1]), "kmsg")
	t.Cleanup(func() { feed.Close(); read.Close() })
	return kmsgDevice{feed}, read
}

func (d kmsgDevice) write(t *testing.T, records ...string) {
	t.Helper()
	for _, r := range records {
		if _, err := d.feed.WriteString(r); err != nil {
			t.Fatal(err)
		}
	}
}

func texts(lines []api.KernelLine) []string {
	var out []string
	for _, l := range lines {
		out = append(out, l.Text)
	}
	return out
}

func TestKernelLogNext(t *testing.T) {
	dev, file := newKmsgDevice(t)
	state := filepath.Join(t.TempDir(), "position")
	k := &KernelLog{cfg: KernelLogConfig{State: state}, file: file}

	dev.write(t, "6,10,1,-;a\n", "nonsense", "6,11,2,-;b\n")
	got, err := k.Next(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"a", "b"}, texts(got)); d != "" {
		t.Errorf("first batch, -want +got:\n%s", d)
	}
	if n := readPosition(state); n != 0 {
		t.Errorf("position = %d before the batch has arrived, want none", n)
	}

	// The kernel's ring went round: 12 to 19 are lost.
	dev.write(t, "6,20,3,-;c\n")
	got, err = k.Next(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"muster: 8 lines of the kernel log were lost", "c"}, texts(got)); d != "" {
		t.Errorf("second batch, -want +got:\n%s", d)
	}
	if n := readPosition(state); n != 12 {
		t.Errorf("position = %d, want 12: the first batch has arrived", n)
	}

	// A new reader skips what has arrived, and repeats what may not have.
	again := &KernelLog{cfg: KernelLogConfig{State: state}, file: file, next: readPosition(state)}
	dev.write(t, "6,10,1,-;a\n", "6,11,2,-;b\n", "6,12,3,-;x\n")
	got, err = again.Next(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"x"}, texts(got)); d != "" {
		t.Errorf("after a restart, -want +got:\n%s", d)
	}
}

func TestKernelLogNextEndsWithContext(t *testing.T) {
	_, file := newKmsgDevice(t)
	k := &KernelLog{file: file}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() {
		_, err := k.Next(ctx)
		ended <- err
	}()
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("Next() error = %v, want %v", err, context.Canceled)
	}
	// It can be called again.
	ctx, cancel = context.WithCancel(t.Context())
	cancel()
	if _, err := k.Next(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Next() error = %v, want %v", err, context.Canceled)
	}
}

func TestKernelLogBatchIsBounded(t *testing.T) {
	dev, file := newKmsgDevice(t)
	k := &KernelLog{file: file}
	go func() {
		for range 2 * kmsgBatch {
			dev.feed.WriteString("6,1,1,-;x\n") //nolint:errcheck // the reader may stop first
		}
	}()
	got, err := k.Next(t.Context())
	if err != nil || len(got) == 0 || len(got) > kmsgBatch {
		t.Errorf("Next() = %d lines, %v, want 1 to %d", len(got), err, kmsgBatch)
	}
}

func TestKmsgLine(t *testing.T) {
	for name, tc := range map[string]struct {
		text   string
		kernel bool
		want   string
	}{
		"info":     {"level=INFO msg=\"node joined\" node=n1\n", true, "<6>p: \"node joined\" node=n1\n"},
		"warning":  {"level=WARN msg=odd\n", true, "<4>p: odd\n"},
		"error":    {"level=ERROR msg=bad err=\"level=INFO \"\n", true, "<3>p: bad err=\"level=INFO \"\n"},
		"stderr":   {"level=INFO msg=x\n", false, "p: x\n"},
		"too long": {"level=INFO msg=" + strings.Repeat("y", 2000), true, "<6>p: " + strings.Repeat("y", maxLine) + "\n"},
	} {
		if got := kmsgLine("p", tc.text, tc.kernel); got != tc.want {
			t.Errorf("%s: kmsgLine() = %q, want %q", name, got, tc.want)
		}
	}
}
