package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// maxSize is what the in-namespace init may weigh: it is in every userland and
// in memory with each task.
const maxSize = 2 << 20

func TestSizeAndImports(t *testing.T) {
	out := filepath.Join(t.TempDir(), "init")
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", out, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if b, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, b)
	}
	st, err := os.Stat(out)
	if err != nil {
		t.Fatal(err)
	}
	if st.Size() > maxSize {
		t.Errorf("muster-init has %d bytes, at most %d are wanted", st.Size(), maxSize)
	}
	t.Logf("muster-init has %d bytes", st.Size())
	deps, err := exec.Command("go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range strings.Fields(string(deps)) {
		if p == "net" || p == "fmt" || strings.Contains(p, ".") || strings.HasPrefix(p, "muster/") && p != "muster/cmd/muster-init" {
			t.Errorf("muster-init links %s", p)
		}
	}
}

func TestParseConfig(t *testing.T) {
	orders := func(fields ...string) []byte { return []byte(strings.Join(fields, "\x00") + "\x00") }
	good := orders(configMagic, "host=n1", "root=/userland", "work=/work", "dir=/home/a\nb", "uid=4711", "gid=4712",
		"group=1", "group=4294967294", "umask=63", "limit=7:1024:18446744073709551615", "tmpfs=/tmp", "tmpfs=/a:b",
		"share=/from=x", "/to", "share-ro=/f", "/t", "file=/p", "/etc/passwd", "tty=24x80", "stdout=/o", "stderr=", "containers", "tasks=8",
		"", "2", "sh", "", "A=b", "")
	want := config{
		host: "n1", root: "/userland", work: "/work", dir: "/home/a\nb", uid: 4711, gid: 4712, groups: []int{1, 4294967294},
		umask: 0o77, limits: []limit{{7, 1024, rlimitInfinity}}, tmpfs: []string{"/tmp", "/a:b"},
		shares: []share{{"/from=x", "/to", false}, {"/f", "/t", true}}, files: []file{{"/p", "/etc/passwd"}},
		tty: true, window: [2]uint16{24, 80}, stdout: "/o", containers: true, tasks: 8,
		argv: []string{"sh", ""}, env: []string{"A=b", ""},
	}
	got, err := parseConfig(good)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(config{}, limit{}, share{}, file{})); diff != "" {
		t.Error(diff)
	}
	for name, b := range map[string][]byte{
		"nothing":              nil,
		"cut off":              good[:len(good)-3],
		"another version":      orders("muster-init 1", "", "1", "x"),
		"magic alone":          orders(configMagic),
		"no end of settings":   orders(configMagic, "host=n1"),
		"nothing after it":     orders(configMagic, "host=n1", ""),
		"unknown setting":      orders(configMagic, "color=red", "", "1", "x"),
		"uid that is none":     orders(configMagic, "uid=x", "", "1", "x"),
		"gid too large":        orders(configMagic, "gid=4294967296", "", "1", "x"),
		"group that is none":   orders(configMagic, "group=1 2", "", "1", "x"),
		"umask that is none":   orders(configMagic, "umask=", "", "1", "x"),
		"limit of two":         orders(configMagic, "limit=1:2", "", "1", "x"),
		"limit that is none":   orders(configMagic, "limit=1:2:-1", "", "1", "x"),
		"window that is none":  orders(configMagic, "tty=24", "", "1", "x"),
		"window too large":     orders(configMagic, "tty=65536x80", "", "1", "x"),
		"share without target": orders(configMagic, "share=/x"),
		"no argument":          orders(configMagic, "", "0", "x"),
		"too many arguments":   orders(configMagic, "", "2", "x"),
		"negative arguments":   orders(configMagic, "", "-1", "x"),
		"no number":            orders(configMagic, "", "", "x"),
	} {
		if c, err := parseConfig(b); err == nil {
			t.Errorf("%s: understood as %+v", name, c)
		}
	}
}

func FuzzParseConfig(f *testing.F) {
	f.Add([]byte(configMagic + "\x00host=n1\x00uid=4711\x00group=1\x00share=/a\x00/b\x00tty=1x2\x00\x001\x00sh\x00A=b\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := parseConfig(b)
		if err == nil && len(c.argv) == 0 {
			t.Error("orders without a program are taken")
		}
	})
}

func TestCandidates(t *testing.T) {
	for _, c := range []struct {
		name string
		env  []string
		want []string
	}{
		{"ls", []string{"PATH=/bbin:/bin"}, []string{"/bbin/ls", "/bin/ls"}},
		{"ls", []string{"PATH=/a", "PATH=/b"}, []string{"/b/ls"}},
		{"ls", []string{"PATH=/a::/b"}, []string{"/a/ls", "./ls", "/b/ls"}},
		{"./ls", []string{"PATH=/bin"}, []string{"./ls"}},
		{"a/b", nil, []string{"a/b"}},
		{"", []string{"PATH=/bin"}, nil},
	} {
		if diff := cmp.Diff(c.want, candidates(c.name, c.env)); diff != "" {
			t.Errorf("%q with %q: %s", c.name, c.env, diff)
		}
	}
}

func TestReason(t *testing.T) {
	write := func(content string) string {
		f := filepath.Join(t.TempDir(), "f")
		if err := os.WriteFile(f, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return f
	}
	elf := "\x7fELF\x02" + strings.Repeat("\x00", 100)
	for _, c := range []struct {
		content string
		errno   syscall.Errno
		mode    uint32
		want    string
	}{
		{"#! /no/shell -x\n", syscall.ENOENT, 0o755, "it needs /no/shell, which this node does not have; send a statically linked program"},
		{elf + "/lib64/ld-linux-x86-64.so.2\x00", syscall.ENOENT, 0o755, "it needs /lib64/ld-linux-x86-64.so.2, which this node does not have; send a statically linked program"},
		{elf + "/lib/x\x00/nix/store/a/ld.so\x00", syscall.ENOENT, 0o755, "it needs /nix/store/a/ld.so, which this node does not have; send a statically linked program"},
		{elf, syscall.ENOENT, 0o755, "what it needs to start is not on this node; send a statically linked program"},
		{"#!", syscall.ENOENT, 0o755, "what it needs to start is not on this node; send a statically linked program"},
		{elf, syscall.ENOEXEC, 0o755, "it is a program for another kind of processor"},
		{"text", syscall.ENOEXEC, 0o755, "it is neither a program nor a script with a #! line"},
		{"text", syscall.EACCES, syscall.S_IFREG | 0o644, "it is not executable; chmod +x it"},
		{"text", syscall.EACCES, syscall.S_IFDIR | 0o755, "it is a directory"},
		{"text", syscall.EACCES, syscall.S_IFREG | 0o755, "permission denied"},
		{"text", syscall.ETXTBSY, 0o755, "text file busy"},
	} {
		if got := reason(write(c.content), c.errno, c.mode); got != c.want {
			t.Errorf("%q, %v:\n got %q\nwant %q", c.content, c.errno, got, c.want)
		}
	}
}

func FuzzInterpreter(f *testing.F) {
	f.Add("#! /bin/sh -e\n")
	f.Add("\x7fELF\x00/lib64/ld-linux-x86-64.so.2\x00")
	f.Fuzz(func(t *testing.T, head string) {
		if i := interpreter(head); i != "" && !strings.Contains(head, i) {
			t.Errorf("%q is not in the file", i)
		}
	})
}
