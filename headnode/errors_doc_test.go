package headnode

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"muster/api"
)

// TestErrorsDocument: the document lists every code with the status that
// carries it.
func TestErrorsDocument(t *testing.T) {
	doc, err := os.ReadFile("../docs/errors.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []api.Code{
		api.CodeInvalid, api.CodeNotFound, api.CodeExists, api.CodeConflict, api.CodePending, api.CodeUnsatisfiable,
		api.CodeForbidden, api.CodeUnauthenticated, api.CodeUnreachable, api.CodeUnavailable, api.CodeDiskFull,
		api.CodeTooLarge, api.CodeCanceled, api.CodeInternal,
	} {
		if row := fmt.Sprintf("| `%s` | %d |", c, c.HTTPStatus()); !strings.Contains(string(doc), row) {
			t.Errorf("docs/errors.md has no row %q", row)
		}
	}
	for _, row := range []string{
		fmt.Sprintf("| tasks of a job | %d,%03d |", maxJobTasks/1000, maxJobTasks%1000),
		fmt.Sprintf("| input of a job on its way | %d MiB;", inputWindow>>20),
		fmt.Sprintf("| body of a request | %d MiB,", maxBody>>20),
		fmt.Sprintf("| arguments and environment together | %d KiB; one of them %d KiB; as JSON, with all else that is asked for, %d KiB", maxStrings>>10, maxString>>10, maxSpec>>10),
	} {
		if !strings.Contains(string(doc), row) {
			t.Errorf("docs/errors.md has no row %q", row)
		}
	}
}

// TestSettingsDocument: the document lists every setting with its values and its default.
func TestSettingsDocument(t *testing.T) {
	doc, err := os.ReadFile("../docs/settings.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := 0
	for _, s := range knownSettings() {
		row := fmt.Sprintf("| `%s` | `%s` | `%s` |", s.Key, strings.Join(s.Choices, "`, `"), s.Default)
		if !strings.Contains(string(doc), row) {
			t.Errorf("docs/settings.md has no row %q", row)
		}
		if s.Doc == "" {
			t.Errorf("setting %s is not explained", s.Key)
		}
		rows++
	}
	if n := strings.Count(string(doc), "\n| `"); n != rows {
		t.Errorf("docs/settings.md lists %d settings, want %d", n, rows)
	}
}
