// Package cmds_test runs the commands as processes.
package cmds_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// build compiles the commands once for all tests.
func build(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if out, err := exec.Command("go", "build", "-o", dir, "./...").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v: %s", err, out)
	}
	return dir
}

// result is what a process leaves.
type result struct {
	Status int
	Out    string
	Err    string
}

func run(t *testing.T, bin, stdin string, env []string, name string, args ...string) result {
	t.Helper()
	cmd := exec.Command(filepath.Join(bin, name), args...)
	cmd.Stdin = strings.NewReader(stdin)
	cmd.Dir = bin
	cmd.Env = append([]string{"PATH=" + bin + ":/bin:/usr/bin", "HOME=/"}, env...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if _, exited := err.(*exec.ExitError); err != nil && !exited {
		t.Fatalf("%s: %v", name, err)
	}
	return result{cmd.ProcessState.ExitCode(), out.String(), errs.String()}
}

func TestCommands(t *testing.T) {
	t.Parallel()
	bin := build(t)
	script := filepath.Join(bin, "script.sh")
	if err := os.WriteFile(script, []byte("#!/bin/sh\nset -e\necho \"$0|$1|$2|$#\"\n[ -f \"$0\" ] && echo file\nfalse\necho no\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	const sumX = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881" // of "x"
	tests := map[string]struct {
		stdin string
		env   []string
		args  []string
		want  result
	}{
		"sh status":               {args: []string{"sh", "-c", "exit 7"}, want: result{Status: 7}},
		"sh arguments of -c":      {args: []string{"sh", "-c", `echo "$0 $1 $#"`, "name", "a b", "c"}, want: result{Out: "name a b 2\n"}},
		"sh script":               {args: []string{"sh", script, "one two", "3"}, want: result{Status: 1, Out: script + "|one two|3|2\nfile\n"}},
		"sh -e":                   {args: []string{"sh", "-ec", "false; echo no"}, want: result{Status: 1}},
		"sh -u":                   {args: []string{"sh", "-uc", "echo $NOSUCH"}, want: result{Status: 1, Err: "NOSUCH: unbound variable\n"}},
		"sh -o pipefail":          {args: []string{"sh", "-o", "pipefail", "-c", "false | true"}, want: result{Status: 1}},
		"sh pipe":                 {args: []string{"sh", "-c", "printf 'b\\na\\n' | sort | { read x; echo got $x; }"}, want: result{Out: "got a\n"}},
		"sh reads its input":      {stdin: "read x\nhello\necho got $x\nexit 3\n", args: []string{"sh"}, want: result{Status: 3, Out: "got hello\n"}},
		"sh -s is standard input": {stdin: "echo $1\n", args: []string{"sh", "-s"}, want: result{Out: "\n"}},
		"sh command not found":    {args: []string{"sh", "-c", "nosuchcommand"}, want: result{Status: 127, Err: "\"nosuchcommand\": executable file not found in $PATH\n"}},
		"sh script not found":     {args: []string{"sh", "/nosuch"}, want: result{Status: 127, Err: "sh: open /nosuch: no such file or directory\n"}},
		"sh syntax":               {args: []string{"sh", "-c", "if"}, want: result{Status: 2, Err: "sh: sh:1:1: \"if\" must be followed by a statement list\n"}},
		"sh signal":               {args: []string{"sh", "-c", "sh -c 'kill -9 $$'"}, want: result{Status: 137}},
		"sh -c without command":   {args: []string{"sh", "-c"}, want: result{Status: 2, Err: "sh: -c needs a command\n"}},
		"sh -o without option":    {args: []string{"sh", "-o"}, want: result{Status: 2, Err: "sh: -o needs the name of an option\n"}},
		"sh environment":          {env: []string{"A=1"}, args: []string{"sh", "-c", "B=2 env | grep -E '^(A|B)=' | sort"}, want: result{Out: "A=1\nB=2\n"}},
		"sh here document":        {args: []string{"sh", "-c", "cat <<E\n$((2*21))\nE\n"}, want: result{Out: "42\n"}},

		"env prints":            {env: []string{"A=1"}, args: []string{"env", "-i", "B=2", "C=a=b"}, want: result{Out: "B=2\nC=a=b\n"}},
		"env runs":              {env: []string{"A=1"}, args: []string{"env", "A=2", "sh", "-c", "echo $A; exit 5"}, want: result{Status: 5, Out: "2\n"}},
		"env unsets":            {env: []string{"A=1", "AB=2"}, args: []string{"env", "-u", "A", "sh", "-c", "echo ${A-unset} $AB"}, want: result{Out: "unset 2\n"}},
		"env unsets, one word":  {env: []string{"A=1", "B=2"}, args: []string{"env", "-uA", "--unset=B", "sh", "-c", "echo ${A-unset} ${B-unset}"}, want: result{Out: "unset unset\n"}},
		"env --":                {args: []string{"env", "-i", "--", "D=1"}, want: result{Out: "D=1\n"}},
		"env command not found": {args: []string{"env", "nosuchcommand"}, want: result{Status: 127, Err: "env: exec: \"nosuchcommand\": executable file not found in $PATH\n"}},
		"env cannot run":        {args: []string{"env", "/etc/passwd"}, want: result{Status: 126, Err: "env: exec: \"/etc/passwd\": permission denied\n"}},
		"env option":            {args: []string{"env", "-z"}, want: result{Status: 125, Err: "env: unknown option -z; usage: env [-i] [-u NAME] [NAME=VALUE] [COMMAND [ARG]]\n"}},
		"env -u without name":   {args: []string{"env", "-u"}, want: result{Status: 125, Err: "env: -u needs the name of a variable\n"}},

		"sha256sum input":   {stdin: "x", args: []string{"sha256sum"}, want: result{Out: sumX + "  -\n"}},
		"sha256sum check":   {stdin: sumX + "  script.sh\n" + sumX + " *nosuch\n", args: []string{"sha256sum", "-c"}, want: result{Status: 1, Out: "script.sh: FAILED\nnosuch: FAILED (open nosuch: no such file or directory)\n", Err: "sha256sum: some files are not what they should be\n"}},
		"sha256sum no list": {stdin: "hello\n", args: []string{"sha256sum", "-c"}, want: result{Status: 1, Err: "sha256sum: -: \"hello\" is not SUM  FILE\n"}},
		"sha256sum missing": {args: []string{"sha256sum", "nosuch"}, want: result{Status: 1, Err: "sha256sum: open nosuch: no such file or directory\n"}},
		"sha256sum round":   {args: []string{"sh", "-c", "sha256sum script.sh | sha256sum -c -"}, want: result{Out: "script.sh: OK\n"}},

		"nproc option": {args: []string{"nproc", "-x"}, want: result{Status: 1, Err: "nproc: usage: nproc [--all]\n"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(tt.want, run(t, bin, tt.stdin, tt.env, tt.args[0], tt.args[1:]...)); diff != "" {
				t.Errorf("%v (-want +got):\n%s", tt.args, diff)
			}
		})
	}
	t.Run("nproc", func(t *testing.T) {
		if _, err := exec.LookPath("nproc"); err != nil {
			t.Skip("no nproc to compare with")
		}
		for _, args := range [][]string{nil, {"--all"}} {
			want, err := exec.Command("nproc", args...).Output()
			if err != nil {
				t.Fatal(err)
			}
			if got := run(t, bin, "", nil, "nproc", args...).Out; got != string(want) {
				t.Errorf("nproc %v = %q, want %q", args, got, want)
			}
		}
	})
}
