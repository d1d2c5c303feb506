package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"muster/internal/need"
)

// unchanged is a program that people have, none of which knows of muster, in
// a folder that has the files of writeWorkFiles.
type unchanged struct {
	name  string
	argv  []string
	input string // what it gets as standard input
	fails bool   // it ends with something else than 0: else a program that is not there would pass as well
}

// unchangedPrograms run on a node as they do alone: the same output, the same errors and the same
// exit status, byte for byte.
func unchangedPrograms() []unchanged {
	var numbers strings.Builder
	for i := range 100_000 {
		fmt.Fprintln(&numbers, i*7919%100_003)
	}
	var binary strings.Builder
	for i := range 1 << 18 {
		binary.WriteByte(byte(i * i >> 3))
	}
	n, b := numbers.String(), binary.String()
	return []unchanged{
		{"gzip", []string{"gzip", "-9", "-n"}, n, false},
		{"xz", []string{"xz", "-0", "-T1", "-c", "words"}, "", false},
		{"zstd", []string{"zstd", "-q", "-c"}, b, false},
		{"tar", []string{"tar", "--mtime=@0", "--owner=1", "--group=1", "--mode=644", "-c", "words", "prog.py"}, "", false},
		{"sort", []string{"sort", "-n"}, n, false},
		{"sha256sum", []string{"sha256sum", "-", "words"}, b, false},
		{"od", []string{"od", "-A", "x", "-t", "x1z"}, b[:1<<14], false},
		{"awk", []string{"awk", `{ s += $1; c[$1 % 7]++ } END { printf "%d %.3f", s, s / NR; for (i = 0; i < 7; i++) printf " %d", c[i]; print "" }`}, n, false},
		{"sed", []string{"sed", "-n", `s/\(..\)\(.\)/\2\1/; /^[aeiou]/p`, "words"}, "", false},
		{"grep without a match", []string{"grep", "-c", "no such word", "words"}, "", true},
		{"diff", []string{"diff", "words", "-"}, "alpha\nnew\n", true},
		{"find and xargs", []string{"sh", "-c", "find . -type f -name '[pw]*' -print0 | sort -z | xargs -0 wc -c"}, "", false},
		{"a pipeline that is cut", []string{"bash", "-c", `set -o pipefail; yes | head -3; echo "${PIPESTATUS[@]}"`}, "", false},
		{"bash", []string{"bash", "./prog.bash", "two words", "", "*"}, "line\n", true},
		{"perl", []string{"perl", "./prog.pl"}, n, false},
		{"python3", []string{"python3", "./prog.py", "ü", "a b"}, n, true},
		{"openssl", []string{"openssl", "enc", "-aes-128-cbc", "-K", "00", "-iv", "00", "-nosalt"}, b, false},
		{"a Go program", []string{"./primes", "300000"}, "", false},
		{"a Go program that panics", []string{"./primes"}, "", true},
		{"a program that is killed", []string{"sh", "-c", "echo before; kill -SEGV $$"}, "", true},
		{"a program that is not there", []string{"sh", "-c", "nosuchprogram"}, "", true},
		{"a program that closes its output", []string{"sh", "-c", "exec >&-; echo lost; echo status $? >&2"}, "", false},
	}
}

// workFiles are the files that unchangedPrograms find, and primes beside them.
var workFiles = map[string]string{
	"words": strings.Repeat("alpha\nbeta\neta\niota\nomega\nupsilon\n", 500),
	"prog.bash": `#!/bin/bash
read -r line; printf '<%s>' "$line" "$#" "$@"; echo
declare -A m=([a]=1 [b]=2); for k in a b; do echo "$k=${m[$k]}"; done
trap 'echo on exit >&2' EXIT
diff <(echo 1) <(echo 2)
exit 42
`,
	"prog.pl": `use strict; use POSIX qw(floor);
my %seen; my $lines = 0;
while (<STDIN>) { chomp; $seen{floor($_ / 1000)}++; $lines++ }
printf "%d lines, %d groups\n", $lines, scalar keys %seen;
print join(",", map { "$_:$seen{$_}" } (sort { $a <=> $b } keys %seen)[0..3]), "\n";
print STDERR "done\n";
`,
	"prog.py": `import hashlib, os, struct, subprocess, sys, threading
data = sys.stdin.buffer.read()
parts = [None] * 4
def work(i):
    parts[i] = hashlib.sha256(data[i::4]).hexdigest()
threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
for t in threads: t.start()
for t in threads: t.join()
print(*parts, sep="\n")
r, w = os.pipe()
if os.fork() == 0:
    os.write(w, b"from a child"); os._exit(0)
os.wait()
print(os.read(r, 100), sys.argv[1:], sys.stdin.isatty(), len(struct.pack("P", 0)))
print(subprocess.run(["tr", "a-z", "A-Z"], input=b"piped\n", capture_output=True).stdout)
sys.stdout.flush()
raise SystemExit("it ends with a message")
`,
}

// primesSource is a Go program with goroutines; without an argument it panics with the message alone, as
// traces name addresses.
const primesSource = `package main

import (
	"fmt"
	"os"
	"strconv"
	"sync"
)

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "panic: no limit")
		os.Exit(2)
	}
	limit, _ := strconv.Atoi(os.Args[1])
	counts := make([]int, 8)
	var wg sync.WaitGroup
	for i := range counts {
		wg.Go(func() {
			for n := 2 + i; n < limit; n += len(counts) {
				if prime(n) {
					counts[i]++
				}
			}
		})
	}
	wg.Wait()
	sum := 0
	for _, c := range counts {
		sum += c
	}
	fmt.Println(sum, counts)
}

func prime(n int) bool {
	for d := 2; d*d <= n; d++ {
		if n%d == 0 {
			return false
		}
	}
	return true
}
`

// buildStatic builds a Go program of one file that runs everywhere.
func buildStatic(t testing.TB, source, to string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "main.go")
	if err := os.WriteFile(file, []byte(source), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), need.Program(t, "go", "golang"), "build", "-trimpath", "-ldflags=-s -w", "-o", to, file)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building a Go program: %v\n%s", err, out)
	}
}

// writeWorkFiles fills a folder with what unchangedPrograms need, and returns the names.
func writeWorkFiles(t testing.TB, dir string) []string {
	t.Helper()
	names := []string{"primes"}
	for name, text := range workFiles {
		names = append(names, name)
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	buildStatic(t, primesSource, filepath.Join(dir, "primes"))
	slices.Sort(names)
	return names
}

// finish runs a command to its end and returns what it printed and the status as a
// shell has it.
func finish(t testing.TB, cmd *exec.Cmd, input string) result {
	t.Helper()
	var out, errOut bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &out, &errOut
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("%q: %v", cmd.Args, err)
	}
	status := cmd.ProcessState.ExitCode()
	if ws, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		status = 128 + int(ws.Signal())
	}
	return result{out.String(), errOut.String(), status}
}

// checkUnchanged runs the programs on a node and alone, with the same files and input. alone
// makes the command that does without muster, in a folder with the files.
func (c *cluster) checkUnchanged(t *testing.T, node, dir string, alone func(argv []string) *exec.Cmd) {
	t.Helper()
	names := writeWorkFiles(t, dir)
	list := unchangedPrograms()
	if len(list) < 20 {
		t.Fatalf("%d programs, want 20", len(list))
	}
	for _, p := range list {
		t.Run(p.name, func(t *testing.T) {
			want := finish(t, alone(p.argv), p.input)
			if (want.status != 0) != p.fails {
				t.Fatalf("alone it ends with %d: %s", want.status, want.stderr)
			}
			args := []string{"run", "--on", node}
			for _, name := range names {
				args = append(args, "--send", name)
			}
			ctx, cancel := context.WithTimeout(t.Context(), jobTime)
			defer cancel()
			cmd := exec.CommandContext(ctx, c.bin, slices.Concat(args, []string{"--"}, p.argv)...)
			cmd.Env = append(os.Environ(), "MUSTER_HEAD="+c.socket())
			cmd.Dir = dir
			if d := cmp.Diff(want, finish(t, cmd, p.input), cmp.AllowUnexported(result{})); d != "" {
				t.Errorf("%q does something else on a node (-alone +node):\n%s", p.argv, d)
			}
		})
	}
}

// TestProgramsAsAlone runs programs of this computer on a node that is a process of this computer. The
// same is done with the programs of a userland by TestVMUserland.
func TestProgramsAsAlone(t *testing.T) {
	c := newAgentCluster(t)
	c.startHead("--dhcp=full")
	a := c.newAgent()
	a.start()
	node := a.ready()
	dir := t.TempDir()
	begin := time.Now()
	c.checkUnchanged(t, node.Name, dir, func(argv []string) *exec.Cmd {
		cmd := exec.CommandContext(t.Context(), argv[0], argv[1:]...)
		cmd.Dir = dir
		return cmd
	})
	t.Logf("%d programs in %v", len(unchangedPrograms()), time.Since(begin).Round(time.Millisecond))
}

// inUserland makes commands that run in the userland of an image on this computer, without a node. They
// find the files of the folder that it returns.
func inUserland(t *testing.T, image string) (dir string, alone func(argv []string) *exec.Cmd) {
	t.Helper()
	root := filepath.Join(t.TempDir(), "root")
	out, err := exec.Command(need.Program(t, "unsquashfs", "squashfs-tools"), "-n", "-no-xattrs", "-d", root, filepath.Join(image, "userland.sqfs")).CombinedOutput()
	if err != nil {
		t.Fatalf("unpacking the userland: %v\n%s", err, out)
	}
	unshare := need.Program(t, "unshare", "util-linux")
	script := `mount --rbind /dev "$1/dev" && mount -t proc proc "$1/proc" && exec chroot "$1" sh -c 'cd /mnt && exec "$@"' "$@"`
	return filepath.Join(root, "mnt"), func(argv []string) *exec.Cmd {
		return exec.CommandContext(t.Context(), unshare, slices.Concat([]string{"--mount", "sh", "-c", script, "sh", root}, argv)...)
	}
}
