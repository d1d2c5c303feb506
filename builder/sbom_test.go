package builder

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"muster/initramfs"

	"github.com/google/go-cmp/cmp"
	spdxjson "github.com/spdx/tools-golang/json"
	"github.com/spdx/tools-golang/spdx/v2/v2_3"
	"github.com/spdx/tools-golang/spdxlib"
)

// readSBOM reads a bill of materials as SPDX's own library does.
func readSBOM(t *testing.T, dir string) *v2_3.Document {
	t.Helper()
	text := readFile(t, filepath.Join(dir, sbomName))
	var doc v2_3.Document
	if err := spdxjson.ReadInto(bytes.NewReader([]byte(text)), &doc); err != nil {
		t.Fatal(err)
	}
	if err := spdxlib.ValidateDocument(&doc); err != nil {
		t.Errorf("the document is not valid: %v", err)
	}
	return &doc
}

// checkSBOM checks the rules of SPDX 2.3 that the library does not, and how many packages
// have a license.
func checkSBOM(t *testing.T, doc *v2_3.Document) {
	t.Helper()
	if doc.SPDXVersion != "SPDX-2.3" || doc.DataLicense != "CC0-1.0" || doc.CreationInfo.Created == "" || len(doc.CreationInfo.Creators) == 0 {
		t.Errorf("head is %+v %+v", doc, doc.CreationInfo)
	}
	extracted := make(map[string]bool)
	for _, l := range doc.OtherLicenses {
		if l.ExtractedText == "" || !strings.HasPrefix(l.LicenseIdentifier, "LicenseRef-") {
			t.Errorf("license %s has text %.40q", l.LicenseIdentifier, l.ExtractedText)
		}
		extracted[l.LicenseIdentifier] = true
	}
	seen := make(map[string]bool)
	licensed := 0
	for _, p := range doc.Packages {
		id := string(p.PackageSPDXIdentifier)
		if seen[id] || strings.Trim(id, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-") != "" {
			t.Errorf("identifier %q is there twice or has other characters", id)
		}
		seen[id] = true
		if p.PackageName == "" || p.PackageDownloadLocation == "" {
			t.Errorf("package %s lacks what SPDX wants: %+v", id, p)
		}
		if p.PackageLicenseDeclared != noAssertion {
			licensed++
		}
		words := strings.NewReplacer("(", " ", ")", " ").Replace(p.PackageLicenseDeclared)
		for _, w := range strings.Fields(words) {
			if strings.HasPrefix(w, "LicenseRef-") && !extracted[w] {
				t.Errorf("package %s has license %s, whose text is not there", id, w)
			}
		}
	}
	if 100*licensed < 95*len(doc.Packages) {
		t.Errorf("%d of %d packages have a license", licensed, len(doc.Packages))
	}
	t.Logf("%d packages, %d with a license, %d licenses outside of SPDX's list", len(doc.Packages), licensed, len(doc.OtherLicenses))
}

func TestSBOM(t *testing.T) {
	cfg := testConfig(t, testArchive(t), testDefinition)
	cfg.Agent = compileGo(t, "muster/cmd/muster-agent")
	cfg.BusyboxInfo = &initramfs.Busybox{Commands: []string{"cat", "ls", "sh"}, GoVersion: "go1.26.8", Modules: []initramfs.BusyboxModule{
		{Path: "github.com/u-root/u-root", Version: "v0.16.0", Sum: "h1:x"}, {Path: "mvdan.cc/sh/v3", Version: "v3.11.0", Sum: "h1:y"},
	}}
	mustBuild(t, cfg)
	doc := readSBOM(t, cfg.Out)
	checkSBOM(t, doc)

	got := make(map[string]string)
	for _, p := range doc.Packages {
		got[p.PackageName] = p.PackageVersion + " " + p.PackageLicenseDeclared
	}
	for name, want := range map[string]string{
		"linux-image-" + newKernel:   "6.12.10-1 GPL-2.0-only AND BSD-3-Clause",
		"firmware-realtek":           "2025 (GPL-2.0-or-later OR LicenseRef-redist-Realtek-HASH) AND LicenseRef-redist-Realtek-HASH",
		"ipxe":                       "1.21 LicenseRef-copyright-HASH",
		"muster-agent":               " Apache-2.0",
		"ls":                         "v0.16.0 BSD-3-Clause",
		"sh":                         " Apache-2.0",
		"github.com/nats-io/nats.go": "v1.55.0 Apache-2.0",
		"mvdan.cc/sh/v3":             "v3.11.0 BSD-3-Clause",
	} {
		text := hashSuffix(got[name])
		if text != want {
			t.Errorf("%s is %q, want %q", name, text, want)
		}
	}
	if _, ok := got["cat"]; ok {
		t.Error("a command is listed that the image does not have")
	}

	sources := readFile(t, filepath.Join(cfg.Out, sourcesName))
	for _, want := range []string{
		"linux-signed 6.12.10-1\n  of linux-image-" + newKernel + "\n  http://security.debian.org/debian-security/pool/main/linux-signed_6.12.10-1.dsc\n",
		"linux 6.12.10-1\n  of linux-image-" + newKernel + "\n  http://security.debian.org/debian-security/pool/main/l/linux/linux_6.12.10-1.dsc\n",
		"github.com/nats-io/nats.go v1.55.0\n  go mod download github.com/nats-io/nats.go@v1.55.0\n",
		"go1.26.8\n  https://go.dev/dl/go1.26.8.src.tar.gz\n",
	} {
		if !strings.Contains(sources, want) {
			t.Errorf("SOURCES does not have\n%s\nit is\n%s", want, sources)
		}
	}
}

// hashSuffix hides the hashes at the end of license references.
func hashSuffix(text string) string {
	words := strings.Fields(text)
	lead := ""
	if strings.HasPrefix(text, " ") {
		lead = " "
	}
	for i, w := range words {
		if strings.Contains(w, "LicenseRef-") {
			end := strings.TrimRight(w, ")")
			words[i] = end[:strings.LastIndex(end, "-")] + "-HASH" + w[len(end):]
		}
	}
	return lead + strings.Join(words, " ")
}

func compileGo(t *testing.T, pkg string) []byte {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "program")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-ldflags=-s -w", "-o", bin, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("compiling %s: %v\n%s", pkg, err, out)
	}
	return []byte(readFile(t, bin))
}

// TestCopyrights: the copyright files are remembered on the way, and what
// is not remembered is read from the package.
func TestCopyrights(t *testing.T) {
	cfg := testConfig(t, testArchive(t), testDefinition)
	mustBuild(t, cfg)
	steps, err := filepath.Glob(filepath.Join(cfg.Cache, "steps", copyrightStep+"-*"))
	if err != nil || len(steps) != 3 {
		t.Errorf("the cache has copyright files %v, %v; want those of 3 packages", steps, err)
	}
	want := readFile(t, filepath.Join(cfg.Out, sbomName))
	// An older cache does not have them: the same text comes out.
	bills, _ := filepath.Glob(filepath.Join(cfg.Cache, "steps", "bill-*"))
	for _, s := range append(steps, bills...) {
		if err := os.Remove(s); err != nil {
			t.Fatal(err)
		}
	}
	mustBuild(t, cfg)
	if diff := cmp.Diff(want, readFile(t, filepath.Join(cfg.Out, sbomName))); diff != "" {
		t.Errorf("read apart, the bill differs:\n%s", diff)
	}
}
