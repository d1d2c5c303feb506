package builder

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"muster/initramfs"

	"github.com/google/go-cmp/cmp"
)

// TestGoLicenseTable compares golicenses.txt with the modules that the programs of
// an image are made of.
func TestGoLicenseTable(t *testing.T) {
	tool, err := exec.LookPath("go")
	if err != nil {
		t.Skip("needs the go command")
	}
	args := []string{"list", "-deps", "-f", "{{with .Module}}{{.Path}}\t{{.Version}}\t{{.Dir}}{{end}}", "muster/cmd/muster-agent", "muster/cmd/muster-init"}
	cmd := exec.CommandContext(t.Context(), tool, append(args, initramfs.BusyboxCommands()...)...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for line := range strings.Lines(string(out)) {
		f := strings.Split(strings.TrimSpace(line), "\t")
		if len(f) < 3 || f[0] == ownModule {
			continue
		}
		license := licenseOfDir(f[2])
		if license == "" {
			t.Errorf("the license of %s %s was not recognized", f[0], f[1])
		}
		lines = append(lines, fmt.Sprintf("%s %s %s\n", f[0], f[1], license))
	}
	slices.Sort(lines)
	want := strings.Join(slices.Compact(lines), "")
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.WriteFile("golicenses.txt", []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(want, goLicenseTable); diff != "" {
		t.Errorf("golicenses.txt differs; write it with UPDATE_GOLDEN=1 go test -run TestGoLicenseTable ./builder (-want +got):\n%s", diff)
	}
}

func TestParseLicense(t *testing.T) {
	id := func(name string) string {
		if s, ok := spdxID(name); ok {
			return s
		}
		return "LicenseRef-" + name
	}
	for synopsis, want := range map[string]string{
		"GPL-2":                            "GPL-2.0-only",
		"GPL-2+":                           "GPL-2.0-or-later",
		"LGPL-2.1+ or Expat":               "LGPL-2.1-or-later OR MIT",
		"GPL-1+ or Artistic, and BSD":      "(GPL-1.0-or-later OR LicenseRef-Artistic) AND LicenseRef-BSD",
		"BSD-3-clause, or GPL-2 and Zlib":  "BSD-3-Clause OR (GPL-2.0-only AND Zlib)",
		"Apache-2.0+":                      "LicenseRef-Apache-2.0+",
		"GPL-9":                            "LicenseRef-GPL-9",
		"GPL-2+ with OpenSSL exception":    "",
		"some words":                       "",
		"MIT or":                           "",
		"MIT, BSD-2-clause":                "",
		"GFDL-1.3":                         "GFDL-1.3-only",
		"AGPL-3+":                          "AGPL-3.0-or-later",
		"CC0-1.0 and public-domain or W3C": "CC0-1.0 AND LicenseRef-public-domain OR W3C",
	} {
		got, err := parseLicense(synopsis, id)
		if got != want || (err != nil) != (want == "") {
			t.Errorf("parseLicense(%q) = %q, %v; want %q", synopsis, got, err, want)
		}
	}
}
