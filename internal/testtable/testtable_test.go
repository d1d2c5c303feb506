package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"
)

// TestTable shows recorded events and compares what is printed. The archives in
// testdata have the events, the output, and the status without and with
// MUSTER_NEED=all.
func TestTable(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) < 4 {
		t.Fatalf("found %d archives in testdata, %v", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			archive, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			parts := map[string]*txtar.File{}
			for i := range archive.Files {
				parts[archive.Files[i].Name] = &archive.Files[i]
			}
			var status []string
			for _, needAll := range []bool{false, true} {
				var out, errs bytes.Buffer
				code := run(nil, bytes.NewReader(parts["events"].Data), &out, &errs, needAll)
				status = append(status, string(rune('0'+code)))
				name := "output"
				if needAll {
					name = "output need=all"
				}
				want := parts[name]
				if want == nil {
					want = parts["output"]
				}
				if os.Getenv("UPDATE_GOLDEN") != "" && (name == "output" || parts[name] != nil) {
					want.Data = out.Bytes()
				}
				if diff := cmp.Diff(string(want.Data), out.String()); diff != "" {
					t.Errorf("%s (-want +got):\n%s", name, diff)
				}
			}
			got := strings.Join(status, " ") + "\n"
			if want := string(parts["status"].Data); got != want {
				t.Errorf("status = %q, want %q", got, want)
			}
			if os.Getenv("UPDATE_GOLDEN") != "" {
				if err := os.WriteFile(file, txtar.Format(archive), 0o644); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

func TestRunsCommand(t *testing.T) {
	var out, errs bytes.Buffer
	script := `echo '{"Action":"pass","Package":"p","Test":"T"}'; echo '{"Action":"pass","Package":"p"}'; exit 1`
	if code := run([]string{"sh", "-c", script}, nil, &out, &errs, false); code != 1 {
		t.Errorf("status = %d when go test ended with 1, want 1", code)
	}
	if code := run([]string{"sh", "-c", strings.ReplaceAll(script, "exit 1", "exit 0")}, nil, &out, &errs, false); code != 0 {
		t.Errorf("status = %d when go test ended with 0, want 0; %s", code, errs.String())
	}
	if code := run([]string{"/no/such/program"}, nil, &out, &errs, false); code != 2 {
		t.Errorf("status = %d without go, want 2", code)
	}
}
