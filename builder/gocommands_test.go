package builder

import (
	"bytes"
	"debug/elf"
	"os"
	"path/filepath"
	"testing"
)

func TestGoCommand(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"go.mod": "module example.com/hi\n\ngo 1.21\n", "main.go": "package main\n\nfunc main() { println(\"hi\") }\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	cfg := testConfig(t, testArchive(t), testDefinition+"go-commands: ["+dir+"]\n")
	first := mustBuild(t, cfg)
	name := "bin/" + filepath.Base(dir)
	if r := records(t, cfg.Out)[name]; !bytes.HasPrefix(r.Data, []byte(elf.ELFMAG)) || r.Mode&0o111 == 0 {
		t.Errorf("%s has mode %o and begins with %.4q", name, r.Mode, r.Data)
	}
	if err := os.WriteFile(filepath.Join(dir, "main.go"), []byte("package main\n\nfunc main() { println(\"hello\") }\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if second := mustBuild(t, cfg); second.ID == first.ID {
		t.Error("the image ID does not see that the program changed")
	}
}

func TestGoCommandName(t *testing.T) {
	for c, want := range map[string]string{
		"example.com/cmd/tool@v1.2.3": "tool", "example.com/tool/v2@v2.0.0": "tool", "./local/x": "x", "/abs/y": "y", "example.com/v@v1": "v",
	} {
		if got := goCommandName(c); got != want {
			t.Errorf("goCommandName(%s) = %s, want %s", c, got, want)
		}
	}
}

func TestCacheDir(t *testing.T) {
	for name, c := range map[string]struct {
		env  map[string]string
		want string
	}{
		"XDG":          {map[string]string{"XDG_CACHE_HOME": "/c", "HOME": "/h"}, "/c/muster"},
		"home":         {map[string]string{"HOME": "/h"}, "/h/.cache/muster"},
		"relative XDG": {map[string]string{"XDG_CACHE_HOME": "c", "HOME": "/h"}, "/h/.cache/muster"}, // the specification says to ignore it
		"nothing":      {nil, ""},
	} {
		got, err := CacheDir(func(k string) string { return c.env[k] })
		if got != c.want || (err == nil) != (c.want != "") {
			t.Errorf("%s: CacheDir() = %q, %v; want %q", name, got, err, c.want)
		}
	}
}
