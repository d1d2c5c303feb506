// Command mkmuster builds muster, the program for people and heads, with a second, small program for its
// verb run in the same file.
//
// A Go program initializes every package that it links before it does anything. Those of image building and of
// the head take longer than all that `muster run true` does at a user's side; the
// small program has neither. docs/decisions/0013 tells why it is done so.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
)

// runAddress is where the text of the small program begins: far behind the other one's end, and one page behind
// its own headers, as the linker has it.
const runAddress = "0x20001000"

func main() {
	out := flag.String("o", "bin/muster", "`file` to write")
	version := flag.String("version", "", "version to tell")
	flag.Parse()
	if err := run(*out, *version); err != nil {
		fmt.Fprintln(os.Stderr, "mkmuster: error:", err)
		os.Exit(1)
	}
}

func run(out, version string) error {
	tmp, err := os.MkdirTemp("", "mkmuster")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	const dir = "cmd/muster"
	flags := "-s -w -X main.version=" + version
	full, err := build(filepath.Join(tmp, "full"), flags, "./"+dir)
	if err != nil {
		return err
	}
	if runtime.GOARCH == "amd64" {
		const tag = "run"
		files, err := filesFor(dir, tag, "main.go", "commands_run.go")
		if err != nil {
			return fmt.Errorf("choosing the files of muster run: %w", err)
		}
		small, err := build(filepath.Join(tmp, "run"), flags+" -T "+runAddress, append([]string{"-tags", tag}, files...)...)
		if err != nil {
			return err
		}
		if full, err = join(full, small, "run"); err != nil {
			return fmt.Errorf("joining the programs: %w", err)
		}
	}
	// It may be running.
	if err := errors.Join(os.MkdirAll(filepath.Dir(out), 0o755), os.WriteFile(out+".new", full, 0o755)); err != nil {
		return err
	}
	return os.Rename(out+".new", out)
}

func build(out, flags string, args ...string) ([]byte, error) {
	cmd := exec.Command("go", append([]string{"build", "-trimpath", "-ldflags", flags, "-o", out}, args...)...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("building %s: %w", args[len(args)-1], err)
	}
	return os.ReadFile(out)
}
