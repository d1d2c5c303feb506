package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// Two programs in one file behave as each of them does alone, whatever follows the verb and whatever looks like it.
func TestJoin(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("run by TestJoin on amd64: elsewhere there is one program")
	}
	dir := t.TempDir()
	source := filepath.Join(dir, "main.go")
	// Memory that begins as zeros, arguments, environment and the heap are what a wrong file would break.
	const program = `package main

import ("fmt"; "os"; "strings")

var name = "NAME"
var zeros [1 << 20]byte

func main() {
	for _, b := range zeros { if b != 0 { panic("memory is not empty") } }
	garbage := make([][]byte, 0)
	for i := range 100 { garbage = append(garbage, make([]byte, 100_000+i)) }
	fmt.Print(name, " ", strings.Join(os.Args[1:], ","), " ", os.Getenv("WORD"), len(garbage))
	os.Exit(len(os.Args))
}`
	var raw [2][]byte
	for i, flags := range []string{"", "-T " + runAddress} {
		text := strings.Replace(program, "NAME", []string{"full", "small"}[i], 1)
		if err := os.WriteFile(source, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		var err error
		if raw[i], err = build(filepath.Join(dir, "program"), flags, source); err != nil {
			t.Fatal(err)
		}
	}
	for verb, tests := range map[string]map[string]string{
		"run": {"": "full", "run": "small", "run,x": "small", "x,run": "full", "runx": "full", "ru": "full", "r": "full", "Run": "full"},
		"rm":  {"": "full", "rm": "small", "rmx": "full", "r": "full", "rm,rm": "small"},
		"r":   {"r": "small", "ru": "full", "": "full"},
	} {
		joined, err := join(raw[0], raw[1], verb)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, "joined-"+verb)
		if err := os.WriteFile(path, joined, 0o755); err != nil {
			t.Fatal(err)
		}
		for words, want := range tests {
			args := strings.FieldsFunc(words, func(r rune) bool { return r == ',' })
			cmd := exec.Command(path, args...)
			cmd.Env = []string{"WORD=env"}
			out, err := cmd.Output()
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.ExitCode() != len(args)+1 {
				t.Errorf("%s %q ended with %v, want exit status %d", verb, args, err, len(args)+1)
			}
			if got, want := string(out), want+" "+words+" env100"; got != want {
				t.Errorf("%s %q wrote %q, want %q", verb, args, got, want)
			}
		}
	}
	for name, refused := range map[string][2][]byte{
		"at one address": {raw[0], raw[0]}, "no program": {raw[0], []byte("#!/bin/sh\n")}, "cut off": {raw[0][:100], raw[1]},
	} {
		if _, err := join(refused[0], refused[1], "run"); err == nil {
			t.Errorf("two programs that cannot be joined were: %s", name)
		}
	}
	if _, err := join(raw[0], raw[1], "longer"); err == nil {
		t.Error("a verb that does not fit was taken")
	}
}
