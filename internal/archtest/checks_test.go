package archtest

import (
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
)

// tree makes a file system of name, text, name, text, …
func tree(pairs ...string) fstest.MapFS {
	m := fstest.MapFS{}
	for i := 0; i < len(pairs); i += 2 {
		m[pairs[i]] = &fstest.MapFile{Data: []byte(pairs[i+1])}
	}
	return m
}

func parse(t *testing.T, fsys fstest.MapFS) []source {
	t.Helper()
	files, err := load(fsys)
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func TestChecksFindWhatIsWrong(t *testing.T) {
	linked := func(files []source) []string {
		return checkLinked(files, "cmd/muster-agent", []string{"golang.org/x/sys"})
	}
	cases := map[string]struct {
		check func([]source) []string
		tree  fstest.MapFS
		want  []string // what each finding contains, in order
	}{
		"allowed arrows": {check: checkImports, tree: tree(
			"builder/b.go", `package builder; import (_ "muster/images"; _ "muster/builder/deb"; _ "fmt"; _ "github.com/x/y")`,
			"builder/deb/d.go", `package deb; import _ "muster/internal/kmod"`,
			"nodeagent/boot/b.go", `package boot; import (_ "muster/api"; _ "golang.org/x/sys/unix")`,
			"cmd/muster/m.go", `package main; import (_ "muster/pxe"; _ "muster/headnode")`,
			"pxe/p_test.go", `package pxe; import (_ "muster/internal/netnstest"; _ "muster/internal/vm"; _ "muster/pxe/pxetest")`,
			"api/client/c.go", `package client; import _ "muster/api"`,
		)},
		"arrow backwards": {check: checkImports, tree: tree(
			"images/i.go", `package images; import _ "muster/builder"`), want: []string{"images/i.go imports muster/builder"}},
		"head and pxe know each other": {check: checkImports, tree: tree(
			"pxe/p.go", `package pxe; import _ "muster/api"`), want: []string{"pxe/p.go imports muster/api"}},
		"scheduler looks at the head": {check: checkImports, tree: tree(
			"headnode/scheduler/s.go", `package scheduler; import _ "muster/headnode/store"`), want: []string{"imports muster/headnode/store"}},
		"internal looks up": {check: checkImports, tree: tree(
			"internal/kmod/k.go", `package kmod; import _ "muster/builder"`), want: []string{"imports muster/builder"}},
		"agent side with a big library": {check: checkImports, tree: tree(
			"nodeagent/a.go", `package nodeagent; import _ "github.com/spf13/cobra"`), want: []string{"imports github.com/spf13/cobra"}},
		"agent's tests may": {check: checkImports, tree: tree(
			"nodeagent/a_test.go", `package nodeagent; import _ "github.com/nats-io/nats-server/v2/server"`)},
		"harness in the product": {check: checkImports, tree: tree(
			"cmd/muster/m.go", `package main; import _ "muster/internal/netnstest"`), want: []string{"only tests may import it"}},
		"folder in no part": {check: checkImports, tree: tree(
			"util/u.go", `package util`), want: []string{`the folder "util" is in no part`}},
		"not in the build": {check: checkImports, tree: tree(
			"pxe/p.go", "//go:build tools\n\npackage pxe\nimport _ \"muster/api\"",
			"pxe/q.go", "//go:build windows\n\npackage pxe\nimport _ \"muster/api\"")},
		"linked through another package": {
			check: linked, tree: tree(
				"cmd/muster-agent/m.go", `package main; import (_ "muster/nodeagent"; _ "golang.org/x/sys/unix")`,
				"nodeagent/a.go", `package nodeagent; import _ "muster/internal/kmod"`,
				"nodeagent/a_test.go", `package nodeagent; import _ "example.com/test"`,
				"internal/kmod/k.go", `package kmod; import _ "example.com/heavy"`),
			want: []string{"links example.com/heavy through internal/kmod/k.go"},
		},

		"documented": {check: checkDocs, tree: tree(
			"a/doc.go", "// Package a is.\npackage a", "cmd/x/main.go", "// Command x does.\npackage main", "cmd/y/y.go", "// Y does.\npackage main", "tagged/t.go", "//go:build tools\n\npackage t", "e/e_test.go", "package e")},
		"undocumented": {
			check: checkDocs, tree: tree(
				"a/a.go", "// Package a is.\npackage a", "b/doc.go", "package b", "cmd/x/main.go", "package main"),
			want: []string{"a: no doc.go", "b: no doc.go", "cmd/x: no comment"},
		},

		"constant tables": {check: checkState, tree: tree("a/a.go", `package a
			var ErrX = errors.New("x")
			var table = map[string]int{"a": 1}
			var re = regexp.MustCompile("x")
			var _ io.Reader = (*T)(nil)
			//go:embed x
			var text string
			func f() { table := 1; table = 2; local := T{}; local.ErrX = nil }`)},
		"init":     {check: checkState, tree: tree("a/a.go", "package a\nfunc init() {}"), want: []string{"a/a.go:2: init"}},
		"no value": {check: checkState, tree: tree("a/a.go", "package a\nvar count int"), want: []string{"package variable count has no value"}},
		"made to change": {
			check: checkState, tree: tree("a/a.go", "package a\nvar m = make(map[string]int)\nvar n = &sync.Mutex{}\nvar p = sync.Pool{}"),
			want: []string{"variable m holds", "variable n holds", "variable p holds"},
		},
		"assigned in another file": {
			check: checkState, tree: tree(
				"a/a.go", "package a\nvar names = map[string]int{}",
				"a/b.go", "package a\nfunc f() {\n names[\"x\"] = 1\n}\nfunc g() { delete(names, \"x\") }\nfunc h(names []int) { names[0]++ }"),
			want: []string{"a/b.go:3: assigns to the package variable names", "a/b.go:5: assigns to the package variable names"},
		},
		"counted": {check: checkState, tree: tree("a/a.go", "package a\nvar n = 1\nfunc f() { n++ }"), want: []string{"a/a.go:3: assigns to the package variable n"}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			got := c.check(parse(t, c.tree))
			if len(got) != len(c.want) {
				t.Fatalf("findings = %q, want %d like %q", got, len(c.want), c.want)
			}
			for i := range got {
				if !strings.Contains(got[i], c.want[i]) {
					t.Errorf("finding %d = %q, want one that contains %q", i, got[i], c.want[i])
				}
			}
		})
	}
}

func TestLoadLeavesOut(t *testing.T) {
	files := parse(t, tree(
		"a/a.go", "package a", "a/testdata/x.go", "not go", "a/_b/x.go", "not go", ".git/x.go", "not go",
		"internal/tools/go.mod", "module x", "internal/tools/x.go", "not go", "a/readme.md", "x"))
	var got []string
	for _, f := range files {
		got = append(got, f.path)
	}
	if diff := cmp.Diff([]string{"a/a.go"}, got); diff != "" {
		t.Errorf("load() (-want +got):\n%s", diff)
	}
}

func TestCheckPaths(t *testing.T) {
	fsys := tree("docs/a.md", "`pxe/dhcp.go` and `pxe/` and `pxe/gone.go`, `muster run`, `a/b`, `go.mod`, `lost.go`, `pxe/answer.go:7`, `application/json`",
		"pxe/dhcp.go", "package pxe", "go.mod", "module muster")
	got, err := checkPaths(fsys, "docs/a.md")
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"docs/a.md names pxe/gone.go, which is not there", "docs/a.md names lost.go, which is not there"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("checkPaths() (-want +got):\n%s", diff)
	}
}
