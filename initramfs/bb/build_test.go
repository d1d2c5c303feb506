package bb

import (
	"bytes"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"muster/initramfs"
	"muster/internal/need"
)

// small is a busybox of few commands, one of them from this module.
func small() Config {
	return Config{Dir: "../..", Commands: []string{
		"github.com/u-root/u-root/cmds/core/true", "github.com/u-root/u-root/cmds/core/seq", "muster/initramfs/cmds/sh",
	}}
}

func needLong(t *testing.T) {
	t.Helper()
	if !need.All() && os.Getenv("MUSTER_LONG") != "1" {
		t.Skip("only in make test-net: compiles three busyboxes")
	}
}

// The same bytes in another folder and under another umask, and a program that
// answers to its names.
func TestBuild(t *testing.T) {
	needLong(t)
	bin, info, err := Build(t.Context(), small())
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("TMPDIR", t.TempDir())
	t.Setenv("GOFLAGS", "-v") // of the caller, which must not matter
	old := syscall.Umask(0o077)
	again, infoAgain, err := Build(t.Context(), small())
	syscall.Umask(old)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(bin, again) {
		t.Error("built in another folder with another umask, it is another binary")
	}
	if diff := cmp.Diff(info, infoAgain); diff != "" {
		t.Errorf("description differs (-first +second):\n%s", diff)
	}
	sum := sha256.Sum256(bin)
	if info.SHA256 != hex.EncodeToString(sum[:]) || info.Size != int64(len(bin)) || info.Arch != "amd64" {
		t.Errorf("description is of another binary: %+v", info)
	}
	if diff := cmp.Diff([]string{"seq", "sh", "true"}, info.Commands); diff != "" {
		t.Errorf("commands (-want +got):\n%s", diff)
	}
	checkModules(t, info)
	checkRuns(t, bin)
	if got := godebug(t, bin); got != "" {
		t.Errorf("the program behaves like one of an old Go: %s", got)
	}
}

func checkModules(t *testing.T, info initramfs.Busybox) {
	t.Helper()
	have := make(map[string]initramfs.BusyboxModule)
	for _, m := range info.Modules {
		have[m.Path] = m
		if m.Version == "" || !strings.HasPrefix(m.Sum, "h1:") {
			t.Errorf("module %+v has no version or sum", m)
		}
	}
	for _, p := range []string{"github.com/u-root/u-root", "mvdan.cc/sh/v3"} {
		if _, ok := have[p]; !ok {
			t.Errorf("modules lack %s: %v", p, info.Modules)
		}
	}
	if _, ok := have["muster"]; ok {
		t.Error("modules have muster itself, which has no version")
	}
}

func checkRuns(t *testing.T, bin []byte) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "bb"), bin, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"sh", "seq", "true"} {
		if err := os.Symlink("bb", filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(filepath.Join(dir, "sh"), "-c", "seq 2; true && exit 7")
	cmd.Env = []string{"PATH=" + dir}
	out, _ := cmd.CombinedOutput()
	if status := cmd.ProcessState.ExitCode(); status != 7 || string(out) != "1\n2\n" {
		t.Errorf("sh -c 'seq 2; true && exit 7' = status %d, %q", status, out)
	}
	unknown := exec.Command(filepath.Join(dir, "bb"), "nosuch")
	if out, err := unknown.CombinedOutput(); err == nil || !strings.Contains(string(out), " - seq") {
		t.Errorf("bb nosuch: %v, %q, want a list of commands", err, out)
	}
}

// godebug returns the settings in which a program differs from its toolchain's
// defaults.
func godebug(t *testing.T, bin []byte) string {
	t.Helper()
	info, err := buildinfo.Read(bytes.NewReader(bin))
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range info.Settings {
		if s.Key == "DefaultGODEBUG" {
			return s.Value
		}
	}
	return ""
}

// Without our line the program is one of Go 1.20: the check above can fail.
func TestGodebugControl(t *testing.T) {
	needLong(t)
	tool, err := findGo(t.Context(), small().Dir)
	if err != nil {
		t.Fatal(err)
	}
	work := t.TempDir()
	cfg := small().complete()
	if err := generate(cfg, tool, work); err != nil {
		t.Fatal(err)
	}
	bin, err := compile(t.Context(), cfg, tool, work)
	if err != nil {
		t.Fatal(err)
	}
	if got := godebug(t, bin); !strings.Contains(got, "httpmuxgo121=1") {
		t.Errorf("DefaultGODEBUG without the line = %q; is it still needed?", got)
	}
}

func TestSetGodebug(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "main.go")
	if err := os.WriteFile(file, []byte("// Comment.\n\n// Package main is it.\npackage main\n\nimport \"os\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := setGodebug(dir, "go1.26.8"); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(file)
	if want := "// Comment.\n\n// Package main is it.\n\n//go:debug default=go1.26\n\npackage main\n\nimport \"os\"\n"; err != nil || string(got) != want {
		t.Errorf("main.go = %q, %v, want %q", got, err, want)
	}
	if err := os.WriteFile(file, []byte("// nothing\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := setGodebug(dir, "go1.26.8"); err == nil {
		t.Error("a file without package clause is no error")
	}
}

func TestNoToolchain(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	_, _, err := Build(t.Context(), small())
	if err == nil || !strings.HasPrefix(err.Error(), "building the busybox: it needs a Go toolchain, and there is no go command in PATH") {
		t.Errorf("Build() without go: error = %v", err)
	}
}

func TestStamp(t *testing.T) {
	if _, err := exec.LookPath("go"); err != nil {
		t.Skip("no go command")
	}
	stamp := func(cfg Config) string {
		t.Helper()
		s, err := Stamp(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	first := stamp(small())
	if again := stamp(small()); again != first {
		t.Errorf("stamps of the same inputs differ: %s, %s", first, again)
	}
	fewer := small()
	fewer.Commands = fewer.Commands[:2]
	if stamp(fewer) == first {
		t.Error("the stamp does not see the commands")
	}
	arm := small()
	arm.Arch = "arm64"
	if stamp(arm) == first {
		t.Error("the stamp does not see the architecture")
	}
	sources, err := ownSources(t.Context(), small().complete())
	if err != nil || len(sources) != 1 || sources[0] != "initramfs/cmds/sh/main.go" {
		t.Errorf("own sources = %v, %v, want initramfs/cmds/sh/main.go", sources, err)
	}
	unknown := small()
	unknown.Commands = []string{"github.com/u-root/u-root/cmds/core/nosuch"}
	if _, err := Stamp(t.Context(), unknown); err == nil || !strings.Contains(err.Error(), "cmds/core/nosuch") {
		t.Errorf("Stamp() of an unknown command: error = %v", err)
	}
}
