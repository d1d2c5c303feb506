package main

import (
	"archive/zip"
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"

	"muster/images"
)

// recipe is a part of docs/software.md: what is typed, and what that prints.
type recipe struct {
	name     string
	packages []string // that it adds to an image; none: it needs nothing of one
	script   string
	want     string
}

// readRecipes reads docs/software.md. The image of testdata/software.yaml has what they need.
func readRecipes(t testing.TB) []recipe {
	t.Helper()
	page, err := os.ReadFile("../../docs/software.md")
	if err != nil {
		t.Fatal(err)
	}
	image, err := images.Load("testdata/software.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var list []recipe
	for _, part := range strings.Split("\n"+string(page), "\n## ") {
		name, _, _ := strings.Cut(part, "\n")
		r := recipe{name: name}
		blocks := strings.Split(part, "\n```")
		for i := 1; i < len(blocks); i += 2 {
			kind, text, _ := strings.Cut(blocks[i], "\n")
			var packages struct {
				Packages []string `yaml:"packages"`
			}
			switch kind {
			case "yaml":
				if err := yaml.Unmarshal([]byte(text), &packages); err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				r.packages = slices.DeleteFunc(packages.Packages, func(p string) bool { return p == "..." })
				for _, p := range r.packages {
					if !slices.Contains(image.Packages, p) {
						t.Errorf("docs/software.md, %s: testdata/software.yaml lacks %s", name, p)
					}
				}
			case "sh":
				r.script += text + "\n"
			case "text":
				r.want += text + "\n"
			}
		}
		switch {
		case r.script != "" && r.want != "":
			list = append(list, r)
		case r.script != "" || r.want != "":
			t.Errorf("docs/software.md, %s: commands and what they print have to be there both", name)
		}
	}
	if len(list) < 7 {
		t.Fatalf("docs/software.md has %d recipes, want 7", len(list))
	}
	return list
}

// sumClass is a Java program that adds the numbers up to its argument, in parallel; in gzip.
const sumClass = "" +
	"H4sIAAAAAAACA4VRXUvCUBh+3jY9bp5MM+3DzOxzs2DQTRdGBN4NoUDwpquVQyZzk20G/ay6KO2iH9CPis6mIIHUuTjP+/I+z8P78fX98QngEucqViAxyBwp" +
	"pAn5gfVkGa7l9Y3bh4H9GBHSV47nRNcESdO7KjJQGFSOLDght6C3fa9PUEZWENqzuKS1F+VOFDhev6mbWeSwxpDnKGCdUEko48hxjTAKbGuYGHWSkJANhNZu" +
	"uX5o9wh1zTT19h+CZmy+wVFCmZARrViua7uEmva/bItjGztiynA8TGY1FeyiyrDHUcP+r9V0nsPIjln+WCyoNPN2fONOzBjNPVUc4JDhiOMYJ4TiEg6BjeLM" +
	"9QiyZupdBk2YduIG5JbfswUMLUdUy9r9kl12UcepuF/8VkDxBcWvi6wgkASmGu+gl4SgoIGzeVmHDElgVW1IFxOwCVanKBKm2CTcvKJSe0N9JsMPsM2sWCsC" +
	"AAA="

// writeRecipeFiles puts what stands for somebody's own programs into a folder: mine, a package of R, wheels with
// answer, a package of Python, and Sum.class.
func writeRecipeFiles(t testing.TB, dir string) {
	t.Helper()
	packed, err := gzip.NewReader(base64.NewDecoder(base64.StdEncoding, strings.NewReader(sumClass)))
	if err != nil {
		t.Fatal(err)
	}
	class, err := io.ReadAll(packed)
	if err != nil {
		t.Fatal(err)
	}
	var wheel bytes.Buffer
	z := zip.NewWriter(&wheel)
	for _, f := range [][2]string{
		{"answer.py", "value = 42\n"},
		{"answer-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: answer\nVersion: 1.0\n"},
		{"answer-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"},
		{"answer-1.0.dist-info/RECORD", "answer.py,,\nanswer-1.0.dist-info/METADATA,,\nanswer-1.0.dist-info/WHEEL,,\nanswer-1.0.dist-info/RECORD,,\n"},
	} {
		w, err := z.Create(f[0])
		if err == nil {
			_, err = io.WriteString(w, f[1])
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{
		"Sum.class":                          class,
		"wheels/answer-1.0-py3-none-any.whl": wheel.Bytes(),
		"mine/DESCRIPTION":                   []byte("Package: mine\nVersion: 1.0\nTitle: Mine\nDescription: A package.\nAuthor: Me\nMaintainer: Me <me@example.org>\nLicense: GPL-2\n"),
		"mine/NAMESPACE":                     []byte("export(twice)\n"),
		"mine/R/twice.R":                     []byte("twice <- function(x) 2 * x\n"),
	} {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// serveLicences answers on port 27000 of the head's network as a licence server does that has one for
// everybody. It returns its address.
func serveLicences(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", net.JoinHostPort(headAddr, "27000"))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, "a licence") // a client that went away is the test's failure
			c.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return headAddr
}

// recipeShell is how a recipe is typed in a folder.
func recipeShell(t testing.TB, r recipe, bin, dir, licences string) *exec.Cmd {
	cmd := exec.CommandContext(t.Context(), "bash", "-e", "-c", strings.ReplaceAll(r.script, "licenses.example.org", licences))
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), fmt.Sprintf("PATH=%s:%s", filepath.Dir(bin), os.Getenv("PATH")))
	return cmd
}

// TestRecipes follows the recipes of docs/software.md that need nothing of an image. TestVMPrograms follows
// the others.
func TestRecipes(t *testing.T) {
	list := readRecipes(t)
	c := newAgentCluster(t)
	c.startHead("--dhcp=full")
	a := c.newAgent()
	a.start()
	a.ready()
	licences := serveLicences(t)
	ran := 0
	for _, r := range list {
		if len(r.packages) > 0 {
			continue
		}
		ran++
		t.Run(r.name, func(t *testing.T) {
			cmd := recipeShell(t, r, c.bin, t.TempDir(), licences)
			cmd.Env = append(cmd.Env, "MUSTER_HEAD="+c.socket())
			if got := finish(t, cmd, ""); got.stdout != r.want || got.status != 0 {
				t.Errorf("it prints %q and ends with %d, want %q\n%s", got.stdout, got.status, r.want, got.stderr)
			}
		})
	}
	if ran < 2 {
		t.Errorf("%d recipes need nothing of an image, want 2", ran)
	}
}
