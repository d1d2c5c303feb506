package images

import (
	"os"
	"path/filepath"
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
	// Every key is in the example.
	for _, key := range []string{
		"name", "from", "arch", "suite", "mirror", "keyring", "package", "cmdline", "groups", "names", "firmware", "commands",
		"go-commands", "path", "content", "source", "mode", "owner", "packages",
		"media", "site", "head", "pin", "label", "console",
	} {
		if !strings.Contains(example, key+":") {
			t.Errorf("the example does not show %s", key)
		}
	}
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
