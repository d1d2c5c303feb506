package kmod_test

import (
	"go/parser"
	"go/token"
	"os"
	"strconv"
	"strings"
	"testing"
)

// The agent carries this package into every initramfs.
func TestImports(t *testing.T) {
	t.Parallel()
	heavy := map[string]string{
		"net/http":      "2 MB",
		"encoding/json": "reflection over every type",
		"debug/elf":     "modules are read by package depmod",
		"regexp":        "patterns are fnmatch patterns",
		"os/exec":       "modules are loaded by system calls",
	}
	files, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, f := range files {
		if !strings.HasSuffix(f.Name(), ".go") || strings.HasSuffix(f.Name(), "_test.go") {
			continue
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), f.Name(), nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range parsed.Imports {
			p, _ := strconv.Unquote(i.Path.Value)
			seen++
			if why, bad := heavy[p]; bad {
				t.Errorf("%s imports %s, which the agent must not link: %s", f.Name(), p, why)
			}
			if strings.Contains(p, ".") && p != "golang.org/x/sys/unix" || strings.HasPrefix(p, "muster") {
				t.Errorf("%s imports %s; only the standard library and golang.org/x/sys/unix may be", f.Name(), p)
			}
		}
	}
	if seen < 10 {
		t.Errorf("only %d imports seen", seen)
	}
}
