package task

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"muster/api"
)

func TestMissingLibrary(t *testing.T) {
	for words, want := range map[string]string{
		"": "",
		"./x: error while loading shared libraries: libgfortran.so.5: cannot open shared object file: No such file or directory\n": "library libgfortran.so.5 is not",
		"Error loading shared library libz.so.1: No such file or directory (needed by ./x)\n":                                      "library libz.so.1 is not",
		"sh: 1: x: not found\n":                        "",
		"error while loading shared libraries: a b: c": "",
	} {
		if got := missingLibrary(words); !strings.HasPrefix(got, want) || (got == "") != (want == "") {
			t.Errorf("%q: %q", words, got)
		}
	}
}

func TestMissing(t *testing.T) {
	for words, want := range map[string]string{
		"env: ‘python3’: No such file or directory\n":                "python3: command not found on this node",
		"/usr/bin/env: 'gfortran': No such file or directory\n":      "gfortran: command not found on this node",
		"env: can't execute 'perl': No such file or directory\n":     "perl: command not found on this node",
		"x: error while loading shared libraries: libz.so.1: cannot": "library libz.so.1 is not in the node's userland",
		"env: ./tool: No such file or directory":                     "",
		"env: invalid option":                                        "",
		"":                                                           "",
	} {
		if got := missing(words); got != want {
			t.Errorf("%q: %q, want %q", words, got, want)
		}
	}
}

func TestTasksMemory(t *testing.T) {
	for total, want := range map[int64]int64{
		16 << 30:  16<<30 - (16<<30)/10,
		1 << 30:   1<<30 - 128<<20,
		200 << 20: 100 << 20, // a machine that small keeps half
	} {
		if got := tasksMemory(total); got != want {
			t.Errorf("%d MiB: %d MiB, want %d", total>>20, got>>20, want>>20)
		}
	}
}

func TestOutOfMemory(t *testing.T) {
	dir := t.TempDir()
	if got := outOfMemory(dir, api.TaskStart{}); got != "" {
		t.Errorf("without a controller: %q", got)
	}
	for events, want := range map[string]string{
		"low 0\noom 1\noom_kill 0\n": "",
		"low 0\noom 1\noom_kill 3\n": "more than the 64 MiB of --mem",
	} {
		if err := os.WriteFile(filepath.Join(dir, "memory.events"), []byte(events), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := outOfMemory(dir, api.TaskStart{MemMiB: 64}); !strings.Contains(got, want) || (got == "") != (want == "") {
			t.Errorf("%q: %q", events, got)
		}
	}
}
