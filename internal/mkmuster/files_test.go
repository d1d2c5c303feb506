package main

import (
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// allowed are the modules that muster run may link.
var allowed = []string{"github.com/spf13/", "golang.org/x/sys/", "golang.org/x/term"}

// What muster run links is initialized each time that it starts: it may be what a user's side takes, and nothing of images and heads.
func TestRunLinksLittle(t *testing.T) {
	dir := filepath.Join("..", "..", "cmd", "muster")
	files, err := filesFor(dir, "run", "main.go", "commands_run.go")
	if err != nil {
		t.Fatal(err)
	}
	deps, err := exec.Command("go", append([]string{"list", "-tags", "run", "-deps"}, files...)...).Output()
	if err != nil {
		t.Fatal(err)
	}
	count := 0
	for _, p := range strings.Fields(string(deps)) {
		count++
		first, _, _ := strings.Cut(p, "/")
		switch {
		case first == "muster" && p != "muster/api" && p != "muster/api/client",
			strings.Contains(first, ".") && !slices.ContainsFunc(allowed, func(a string) bool { return strings.HasPrefix(p, a) }):
			t.Errorf("muster run links %s", p)
		}
	}
	if count < 50 {
		t.Errorf("%d packages are too few to be all", count)
	}
}

func TestFilesFor(t *testing.T) {
	if files, err := filesFor(t.TempDir(), "run", "main.go"); err == nil {
		t.Errorf("a folder without files gives %v", files)
	}
}
