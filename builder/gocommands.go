package builder

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
)

// goCommand is a program that a definition adds by its Go import path.
type goCommand struct {
	Name   string `json:"name"`
	SHA256 string `json:"sha256"`
	data   []byte
}

// buildGoCommands compiles the commands of a definition: static, for the image's
// architecture, the same bytes on every host with the same Go version.
func buildGoCommands(ctx context.Context, cfg Config) ([]goCommand, error) {
	if len(cfg.Definition.GoCommands) == 0 {
		return nil, nil
	}
	tool, err := exec.LookPath("go")
	if err != nil {
		return nil, fmt.Errorf("go-commands of definition %s need a Go toolchain, and there is no go in PATH; install it (https://go.dev/dl, apt install golang-go) or take go-commands out", cfg.Definition.Name)
	}
	dir, err := os.MkdirTemp("", "muster-go-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	var out []goCommand
	for _, c := range cfg.Definition.GoCommands {
		cfg.Progress(Event{Step: StepCommands, Detail: "compiling " + c})
		cmd, err := buildGoCommand(ctx, tool, dir, c, cfg.Definition.Arch)
		if err != nil {
			return nil, fmt.Errorf("go-commands: %s: %w", c, err)
		}
		out = append(out, cmd)
	}
	return out, nil
}

func buildGoCommand(ctx context.Context, tool, dir, c, arch string) (goCommand, error) {
	name := goCommandName(c)
	bin := filepath.Join(dir, name)
	flags := []string{"-trimpath", "-buildvcs=false", "-ldflags=-s -w"}
	var cmd *exec.Cmd
	if local := !strings.Contains(c, "@"); local {
		abs, err := filepath.Abs(c)
		if err != nil {
			return goCommand{}, err
		}
		cmd = exec.CommandContext(ctx, tool, append(append([]string{"build", "-o", bin}, flags...), ".")...)
		cmd.Dir = abs
	} else {
		// go install knows programs by version; it wants one folder for all.
		cmd = exec.CommandContext(ctx, tool, append(append([]string{"install"}, flags...), c)...)
		cmd.Dir = dir
	}
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch, "GOBIN="+dir, "GOFLAGS=", "GOWORK=off")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Run(); err != nil {
		return goCommand{}, fmt.Errorf("%w: %s", err, lastLines(stderr.String(), 3))
	}
	data, err := os.ReadFile(bin)
	if errors.Is(err, os.ErrNotExist) {
		return goCommand{}, fmt.Errorf("it is no program (package main) called %s", name)
	}
	return goCommand{Name: name, SHA256: hashBytes(data), data: data}, err
}

// goCommandName is the name that go install gives a program: the last element
// of its path that is no major version.
func goCommandName(c string) string {
	p, _, _ := strings.Cut(c, "@")
	name := path.Base(p)
	if len(name) > 1 && name[0] == 'v' && strings.Trim(name[1:], "0123456789") == "" {
		name = path.Base(path.Dir(p))
	}
	return name
}

func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "; ")
}
