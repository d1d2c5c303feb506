package images

import (
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
)

func definitionPage(t *testing.T) string {
	t.Helper()
	page, err := os.ReadFile(filepath.Join("..", "docs", "definition.md"))
	if err != nil {
		t.Fatal(err)
	}
	return string(page)
}

// TestDocumentedExample loads the example of docs/definition.md.
func TestDocumentedExample(t *testing.T) {
	_, rest, _ := strings.Cut(definitionPage(t), "```yaml\n")
	example, _, ok := strings.Cut(rest, "```")
	if !ok {
		t.Fatal("docs/definition.md has no example")
	}
	dir := writeAll(t, map[string]string{"rack-b.yaml": example, "site.pem": "a certificate"})
	d, err := Load(filepath.Join(dir, "rack-b.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	base, err := Load("compute")
	if err != nil {
		t.Fatal(err)
	}
	if want := base.Kernel.Cmdline + " mitigations=off"; d.Kernel.Cmdline != want {
		t.Errorf("cmdline is %q, want %q", d.Kernel.Cmdline, want)
	}
	if len(d.Modules.Groups) != len(base.Modules.Groups)+1 || len(d.Files) != 2 || len(d.GoCommands) != 2 {
		t.Errorf("the example is %+v", d)
	}
}

// TestEveryKeyIsDocumented looks for each key of a definition, as a key in one of the page's
// examples or by its name in a table.
func TestEveryKeyIsDocumented(t *testing.T) {
	page := definitionPage(t)
	var walk func(at string, typ reflect.Type)
	walk = func(at string, typ reflect.Type) {
		for typ.Kind() == reflect.Slice || typ.Kind() == reflect.Map || typ.Kind() == reflect.Pointer {
			typ = typ.Elem()
		}
		if typ.Kind() != reflect.Struct {
			return
		}
		for f := range typ.Fields() {
			key := f.Tag.Get("yaml")
			if key == "" || key == "-" {
				continue
			}
			shown := regexp.MustCompile("(?m)(^[-# ]*|[{,] ?)" + key + ":|`" + key + "(`|: )|`[a-z]+\\." + key + "`")
			if !shown.MatchString(page) {
				t.Errorf("docs/definition.md does not show the key %s%s", at, key)
			}
			walk(at+key+".", f.Type)
		}
	}
	walk("", reflect.TypeFor[Definition]())
	walk("sysctls.", reflect.TypeFor[sysctlForm]())
}

// TestDocumentedGroups compares the tables of docs/definition.md with the code.
func TestDocumentedGroups(t *testing.T) {
	page := definitionPage(t)
	var rows []string
	for _, g := range ModuleGroups() {
		rows = append(rows, "| `"+g.Name+"` | "+g.For+" |")
	}
	for _, g := range FirmwareGroups() {
		rows = append(rows, "| `"+g.Name+"` | "+g.For+" |")
	}
	for _, row := range rows {
		if !strings.Contains(page, row) {
			t.Errorf("docs/definition.md does not have the row %s", row)
		}
	}
}
