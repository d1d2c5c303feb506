package bb

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	goversion "go/version"
	"log/slog"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"

	gobb "github.com/u-root/gobusybox/src/pkg/bb"
	"github.com/u-root/gobusybox/src/pkg/bb/findpkg"
	"github.com/u-root/gobusybox/src/pkg/golang"

	"muster/initramfs"
)

// Config is what [Build] needs.
type Config struct {
	Dir      string       // module folder, whose go.mod covers the commands; required
	Commands []string     // import paths of main packages; required
	Arch     string       // as Go names it; empty: amd64
	Log      *slog.Logger // nil: no log
}

func (c Config) complete() Config {
	if c.Arch == "" {
		c.Arch = "amd64"
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c
}

// Build returns the binary and what it is made of.
//
// It is compiled in GOPATH mode, since that is what gobusybox generates. There
// every program gets the behavior of Go 1.20 (TLS 1.0, old patterns of
// http.ServeMux, …) unless its main file says otherwise, so Build adds that line.
func Build(ctx context.Context, cfg Config) ([]byte, initramfs.Busybox, error) {
	bin, info, err := build(ctx, cfg.complete())
	if err != nil {
		return nil, initramfs.Busybox{}, fmt.Errorf("building the busybox: %w", err)
	}
	return bin, info, nil
}

func build(ctx context.Context, cfg Config) ([]byte, initramfs.Busybox, error) {
	var info initramfs.Busybox
	tool, err := findGo(ctx, cfg.Dir)
	if err != nil {
		return nil, info, err
	}
	if info, err = Describe(ctx, cfg); err != nil {
		return nil, info, err
	}
	work, err := os.MkdirTemp("", "muster-bb-")
	if err != nil {
		return nil, info, err
	}
	defer os.RemoveAll(work)
	if err := generate(cfg, tool, work); err != nil {
		return nil, info, err
	}
	if err := setGodebug(mainDir(work), tool.version); err != nil {
		return nil, info, err
	}
	bin, err := compile(ctx, cfg, tool, work)
	if err != nil {
		return nil, info, err
	}
	sum := sha256.Sum256(bin)
	info.SHA256, info.Size = hex.EncodeToString(sum[:]), int64(len(bin))
	return bin, info, nil
}

// toolchain is the go command that is used.
type toolchain struct {
	root    string // GOROOT
	version string // go1.26.8
}

func (t toolchain) command() string { return filepath.Join(t.root, "bin", "go") }

// findGo asks the go command of PATH in the module's folder, so that the
// toolchain that go.mod names is found.
func findGo(ctx context.Context, dir string) (toolchain, error) {
	cmd := exec.CommandContext(ctx, "go", "env", "GOROOT", "GOVERSION")
	cmd.Dir = dir
	out, err := cmd.Output()
	if errors.Is(err, exec.ErrNotFound) {
		return toolchain{}, fmt.Errorf("it needs a Go toolchain, and there is no go command in PATH: %w", err)
	}
	if err != nil {
		return toolchain{}, fmt.Errorf("asking go for its version: %w", withStderr(err))
	}
	f := strings.Fields(string(out))
	if len(f) != 2 {
		return toolchain{}, fmt.Errorf("asking go for its version: answer %q is not GOROOT and GOVERSION", out)
	}
	return toolchain{root: f[0], version: f[1]}, nil
}

// generate writes the rewritten sources below work, which becomes a GOPATH.
func generate(cfg Config, tool toolchain, work string) error {
	env := golang.Default(golang.DisableCGO(), golang.WithGOOS("linux"), golang.WithGOARCH(cfg.Arch),
		golang.WithGOROOT(tool.root), golang.WithGO111MODULE("on"), golang.WithMod(golang.ModReadonly),
		golang.WithWorkingDir(cfg.Dir))
	err := gobb.BuildBusybox(logger{cfg.Log}, &gobb.Opts{
		Env:          env,
		LookupEnv:    &findpkg.Env{},
		GenSrcDir:    work,
		CommandPaths: cfg.Commands,
		GenerateOnly: true,
	})
	if err != nil {
		return fmt.Errorf("generating sources: %w", err)
	}
	return nil
}

// mainDir is where gobusybox puts the main package.
func mainDir(work string) string { return filepath.Join(work, "src", "bb.u-root.com", "bb") }

// setGodebug makes the program whose main package is in dir behave as one of the
// toolchain's version.
func setGodebug(dir, version string) error {
	file := filepath.Join(dir, "main.go")
	text, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("generating sources: %w", err)
	}
	line := fmt.Sprintf("//go:debug default=%s\n", goversion.Lang(version))
	i := bytes.Index(text, []byte("\npackage main"))
	if i < 0 {
		return fmt.Errorf("generating sources: %s has no package clause", file)
	}
	text = slices.Concat(text[:i+1], []byte("\n"+line+"\n"), text[i+1:])
	return os.WriteFile(file, text, 0o644)
}

// compile builds the generated program. Nothing of the caller's environment but
// the caches and PATH gets in.
func compile(ctx context.Context, cfg Config, tool toolchain, work string) ([]byte, error) {
	out := filepath.Join(work, "bb")
	cmd := exec.CommandContext(ctx, tool.command(), "build", "-trimpath", "-buildvcs=false",
		"-ldflags", "-s -w -buildid=", "-o", out, ".")
	cmd.Dir = mainDir(work)
	cmd.Env = append(keepEnv(os.Environ(), "HOME", "XDG_CACHE_HOME", "GOCACHE", "GOMAXPROCS", "TMPDIR", "PATH"),
		"GOROOT="+tool.root, "GOPATH="+work, "GO111MODULE=off", "GOFLAGS=", "GOENV=off", "GOTOOLCHAIN=local",
		"GOOS=linux", "GOARCH="+cfg.Arch, "GOAMD64=v1", "CGO_ENABLED=0", "GOEXPERIMENT=", "GOWORK=off")
	if text, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("compiling: %w: %s", err, text)
	}
	return os.ReadFile(out)
}

func keepEnv(env []string, names ...string) []string {
	var kept []string
	for _, v := range env {
		name, _, _ := strings.Cut(v, "=")
		if slices.Contains(names, name) {
			kept = append(kept, v)
		}
	}
	return kept
}

// Describe returns what [Build] would build, without its size and hash. It runs
// go list, which takes a second or two.
func Describe(ctx context.Context, cfg Config) (initramfs.Busybox, error) {
	cfg = cfg.complete()
	tool, err := findGo(ctx, cfg.Dir)
	if err != nil {
		return initramfs.Busybox{}, err
	}
	info := initramfs.Busybox{Arch: cfg.Arch, GoVersion: tool.version}
	for _, c := range cfg.Commands {
		info.Commands = append(info.Commands, path.Base(c))
	}
	slices.Sort(info.Commands)
	if info.Modules, err = modules(ctx, cfg); err != nil {
		return info, fmt.Errorf("listing modules: %w", err)
	}
	return info, nil
}

// modules lists the modules that the commands are made of, except the one that
// Dir itself is.
func modules(ctx context.Context, cfg Config) ([]initramfs.BusyboxModule, error) {
	args := append([]string{"list", "-deps", "-mod=readonly", "-json=Module"}, cfg.Commands...)
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = cfg.Dir
	cmd.Env = append(os.Environ(), "GOOS=linux", "GOARCH="+cfg.Arch, "CGO_ENABLED=0", "GOFLAGS=")
	out, err := cmd.Output()
	if err != nil {
		return nil, withStderr(err)
	}
	seen := make(map[initramfs.BusyboxModule]bool)
	var list []initramfs.BusyboxModule
	for dec := json.NewDecoder(bytes.NewReader(out)); dec.More(); {
		var p struct {
			Module *struct{ Path, Version, Sum string }
		}
		if err := dec.Decode(&p); err != nil {
			return nil, err
		}
		if p.Module == nil || p.Module.Version == "" {
			continue
		}
		m := initramfs.BusyboxModule{Path: p.Module.Path, Version: p.Module.Version, Sum: p.Module.Sum}
		if !seen[m] {
			seen[m] = true
			list = append(list, m)
		}
	}
	slices.SortFunc(list, func(a, b initramfs.BusyboxModule) int { return strings.Compare(a.Path, b.Path) })
	return list, nil
}

// withStderr adds what a command said to the error of its end.
func withStderr(err error) error {
	var exit *exec.ExitError
	if errors.As(err, &exit) && len(exit.Stderr) > 0 {
		return fmt.Errorf("%w: %s", err, bytes.TrimSpace(exit.Stderr))
	}
	return err
}

// logger gives gobusybox's messages to slog.
type logger struct{ log *slog.Logger }

func (l logger) Printf(format string, v ...any) {
	l.log.Debug("gobusybox said", "text", fmt.Sprintf(format, v...))
}

func (l logger) Print(v ...any) { l.log.Debug("gobusybox said", "text", fmt.Sprint(v...)) }
