package boot

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cavaliergopher/cpio"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// unpack writes a segment below a folder, read by a library that others wrote.
func unpack(t *testing.T, segment []byte, root string) {
	t.Helper()
	r := cpio.NewReader(bytes.NewReader(segment))
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(root, h.Name)
		if h.Mode.IsDir() {
			if err := os.MkdirAll(path, h.FileInfo().Mode().Perm()); err != nil {
				t.Fatal(err)
			}
			continue
		}
		data, err := io.ReadAll(r)
		if err == nil {
			err = os.WriteFile(path, data, h.FileInfo().Mode().Perm())
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// What one image packs the next one takes, and only once: agents that come later have it too, the initramfs does not.
func TestKexecSegment(t *testing.T) {
	want := KexecState{ImageID: strings.Repeat("a", 64), From: strings.Repeat("b", 64), Medium: "usb", Label: "room 12"}
	key := []byte("SUAEXAMPLE")
	segment, err := kexecSegment(key, want)
	if err != nil {
		t.Fatal(err)
	}
	if len(segment)%4 != 0 {
		t.Errorf("the segment has %d bytes, want a multiple of 4", len(segment))
	}
	root, run := t.TempDir(), t.TempDir()
	unpack(t, segment, root)
	for name, mode := range map[string]os.FileMode{kexecDir: 0o700, kexecKey: 0o600, kexecState: 0o600} {
		if st, err := os.Stat(filepath.Join(root, name)); err != nil || st.Mode().Perm() != mode {
			t.Errorf("%s has mode %v (%v), want %v", name, st.Mode().Perm(), err, mode)
		}
	}
	for range 2 {
		got, err := TakeKexec(root, run)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(&want, got); d != "" {
			t.Error(d)
		}
		if _, err := os.Stat(filepath.Join(root, kexecDir)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the initramfs still has %s: %v", kexecDir, err)
		}
	}
	got, err := os.ReadFile(filepath.Join(run, "key"))
	if err != nil || string(got) != string(key) {
		t.Errorf("key = %q, %v", got, err)
	}
	if st, err := os.Stat(filepath.Join(run, "key")); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("the key has mode %v (%v), want 0600", st.Mode().Perm(), err)
	}
}

func TestTakeKexecElsewhere(t *testing.T) {
	if st, err := TakeKexec(t.TempDir(), t.TempDir()); st != nil || err != nil {
		t.Errorf("TakeKexec without a segment = %+v, %v, want nothing", st, err)
	}
	// A key that is in use stays.
	root, run := t.TempDir(), t.TempDir()
	segment, err := kexecSegment([]byte("other"), KexecState{ImageID: "x"})
	if err != nil {
		t.Fatal(err)
	}
	unpack(t, segment, root)
	if err := os.WriteFile(filepath.Join(run, "key"), []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := TakeKexec(root, run); err != nil {
		t.Fatal(err)
	}
	if b, _ := os.ReadFile(filepath.Join(run, "key")); string(b) != "mine" {
		t.Errorf("key = %q, want the one in use", b)
	}
	if err := os.MkdirAll(filepath.Join(root, kexecDir), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, kexecState), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if st, err := TakeKexec(root, run); err == nil {
		t.Errorf("TakeKexec of a damaged state = %+v, want an error", st)
	}
}

func TestKexecCmdline(t *testing.T) {
	mac, _ := net.ParseMAC("52:54:00:77:00:01")
	for name, c := range map[string]struct {
		p    Params
		now  string
		want string
	}{
		"nothing chosen":   {want: "console=ttyS0 muster.head=h:1"},
		"from a stick":     {p: Params{Medium: "usb"}, now: "console=tty9 muster.image=old muster.pin=old", want: "console=ttyS0 muster.head=h:1 muster.medium=usb"},
		"no probing":       {p: Params{Medium: "iso", Probe: "network"}, want: "console=ttyS0 muster.head=h:1 muster.medium=iso muster.probe=network"},
		"verbose":          {now: "quiet loglevel=7 ignore_loglevel", want: "console=ttyS0 muster.head=h:1 loglevel=7 ignore_loglevel"},
		"consoles":         {p: Params{Consoles: []string{"tty0", "ttyS1"}}, want: "console=ttyS0 muster.head=h:1 muster.console=tty0,ttyS1"},
		"no consoles":      {p: Params{Consoles: []string{}}, want: "console=ttyS0 muster.head=h:1 muster.console=none"},
		"a link of choice": {p: Params{BootMAC: mac}, want: "console=ttyS0 muster.head=h:1 BOOTIF=01-52-54-00-77-00-01"},
	} {
		got := kexecCmdline("console=ttyS0 muster.head=h:1", c.p, c.now)
		if got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
		if p := ParseCmdline(got); len(p.Problems) > 0 {
			t.Errorf("%s: the next boot says %q", name, p.Problems)
		}
	}
}

func TestKexecError(t *testing.T) {
	for name, c := range map[string]struct {
		err   error
		files map[string]string
		want  string
	}{
		"no such call":   {err: unix.ENOSYS, want: "no kexec_file_load"},
		"switched off":   {err: unix.EPERM, files: map[string]string{"proc/sys/kernel/kexec_load_disabled": "1\n"}, want: "switched off"},
		"lockdown":       {err: unix.EPERM, files: map[string]string{"sys/kernel/security/lockdown": "none [integrity] confidentiality\n"}, want: "not signed by a key"},
		"not allowed":    {err: unix.EPERM, files: map[string]string{"sys/kernel/security/lockdown": "[none] integrity confidentiality\n"}, want: "refuses to load it: operation not permitted"},
		"rejected key":   {err: unix.EKEYREJECTED, want: "not signed by a key"},
		"no kernel":      {err: unix.ENOEXEC, want: "none that can be started"},
		"no memory":      {err: unix.ENOMEM, want: "not enough memory"},
		"something else": {err: unix.EBUSY, want: "refuses to load it: device or resource busy"},
	} {
		root := t.TempDir()
		for file, text := range c.files {
			path := filepath.Join(root, file)
			if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
				t.Fatal(err)
			}
		}
		if got := kexecError(c.err, root).Error(); !strings.Contains(got, c.want) {
			t.Errorf("%s: %q, want %q in it", name, got, c.want)
		}
	}
}

func TestMemAvailable(t *testing.T) {
	root := t.TempDir()
	if err := os.MkdirAll(filepath.Join(root, "proc"), 0o755); err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]int64{
		"MemTotal: 1 kB\nMemAvailable:     2048 kB\n": 2 << 20, "MemTotal: 1 kB\n": -1, "MemAvailable: x kB\n": -1,
	} {
		if err := os.WriteFile(filepath.Join(root, "proc/meminfo"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		got, err := memAvailable(root)
		if err != nil {
			got = -1
		}
		if got != want {
			t.Errorf("memAvailable of %q = %d, %v, want %d", text, got, err, want)
		}
	}
	if need := kexecMemory(20 << 20); need != 92<<20 {
		t.Errorf("kexecMemory(20 MiB) = %d", need)
	}
}
