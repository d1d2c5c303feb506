package bb

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// format is raised when Build makes something else of the same inputs.
const format = 1

// Stamp returns a hash of everything that the result of [Build] depends on: the
// toolchain, the versions of all modules, the commands, and the sources of those
// that are in the module of cfg.Dir itself.
func Stamp(ctx context.Context, cfg Config) (string, error) {
	cfg = cfg.complete()
	info, err := Describe(ctx, cfg)
	if err != nil {
		return "", fmt.Errorf("describing the busybox: %w", err)
	}
	h := sha256.New()
	fmt.Fprintf(h, "format %d\n", format)
	if err := json.NewEncoder(h).Encode(info); err != nil {
		return "", err
	}
	sources, err := ownSources(ctx, cfg)
	if err != nil {
		return "", fmt.Errorf("describing the busybox: %w", err)
	}
	for _, name := range sources {
		if err := hashFile(h, cfg.Dir, name); err != nil {
			return "", fmt.Errorf("describing the busybox: %w", err)
		}
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// ownSources lists the Go files of commands that are in the module of Dir,
// relative to it.
func ownSources(ctx context.Context, cfg Config) ([]string, error) {
	const list = `{{if and .Module .Module.Main}}{{$d := .Dir}}{{range .GoFiles}}{{$d}}/{{.}}{{"\n"}}{{end}}{{end}}`
	cmd := exec.CommandContext(ctx, "go", append([]string{"list", "-f", list}, cfg.Commands...)...)
	cmd.Dir = cfg.Dir
	cmd.Env = append(os.Environ(), "GOOS=linux", "GOARCH="+cfg.Arch, "CGO_ENABLED=0", "GOFLAGS=")
	out, err := cmd.Output()
	if err != nil {
		return nil, withStderr(err)
	}
	root, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return nil, err
	}
	var names []string
	for file := range strings.FieldsSeq(string(out)) {
		rel, err := filepath.Rel(root, file)
		if err != nil {
			return nil, err
		}
		names = append(names, rel)
	}
	slices.Sort(names)
	return names, nil
}

func hashFile(w io.Writer, dir, name string) error {
	text, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "%s %d\n%s", filepath.ToSlash(name), len(text), text)
	return nil
}
