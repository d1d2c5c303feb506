package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestRunAsHere: what people see who use the program for the first time, and who have used a shell for long.
func TestRunAsHere(t *testing.T) {
	c, _, share, _ := badCluster(t)
	user := asker{dir: share, uid: nobody}
	shell := func(line string) asker { return asker{dir: share, uid: nobody, shell: line} }

	t.Run("output and errors in one place keep their order", func(t *testing.T) {
		c.during(t)
		r := c.ask(shell(`"$1" run sh -c 'for i in 1 2 3 4 5 6 7 8 9; do echo $i; echo $i >&2; done' 2>&1`))
		want := ""
		for i := range 9 {
			want += fmt.Sprintf("%d\n%d\n", i+1, i+1)
		}
		if r.stdout != want || r.status != 0 {
			t.Errorf("%+v, want %q", r, want)
		}
		r = c.ask(user, "run", "sh", "-c", "echo out; echo err >&2")
		if d := cmp.Diff(result{stdout: "out\n", stderr: "err\n"}, r, cmp.AllowUnexported(result{})); d != "" {
			t.Error(d)
		}
	})

	t.Run("logs and attach print the file that a job writes", func(t *testing.T) {
		c.during(t)
		for _, tc := range []struct{ flags, file string }{{"", "sh-%d.out"}, {"-o all-%j", "all-%d"}, {"-o out-%j -e err-%j", "out-%d"}} {
			r := c.ask(shell(`id=$("$1" run -d ` + tc.flags + ` sh -c 'echo first; sleep 1; echo second; echo bad >&2; exit 3' 2>said) && echo $id && "$1" job attach $id; echo $?; "$1" job logs -f $id`))
			var id int
			if _, err := fmt.Sscan(r.stdout, &id); err != nil {
				t.Fatalf("%+v", r)
			}
			text := "first\nsecond\n"
			want := result{stderr: "bad\nbad\n"}
			if !strings.Contains(tc.flags, "-e") {
				text, want.stderr = text+"bad\n", ""
			}
			want.stdout = fmt.Sprintf("%d\n%s3\n%s", id, text, text)
			named := fmt.Sprintf("muster: output of job %d: %s\n", id, filepath.Join(share, fmt.Sprintf(tc.file, id)))
			if n := strings.Count(r.stderr, named); n != 2 {
				t.Errorf("%q: the file is named %d times, want 2: %q", tc.flags, n, r.stderr)
			}
			r.stderr = strings.ReplaceAll(r.stderr, named, "")
			if d := cmp.Diff(want, r, cmp.AllowUnexported(result{})); d != "" {
				t.Errorf("%q: %s", tc.flags, d)
			}
		}
	})

	t.Run("a file of a job that is gone is named", func(t *testing.T) {
		c.during(t)
		r := c.ask(shell(`id=$("$1" run -d echo x 2>said); "$1" job attach $id >seen; rm -f echo-*.out; "$1" job logs $id`))
		if r.stdout != "" || r.status != 0 || !strings.Contains(r.stderr, ".out is not to be read here: no such file or directory\n") {
			t.Errorf("%+v", r)
		}
	})

	t.Run("files and folders of any name are sent", func(t *testing.T) {
		c.during(t)
		dir := filepath.Join(share, "sent")
		names := []string{"-dash", "a b", "line\nfeed", "not\xffutf8", "folder/x", "folder/deep/er/y"}
		args := []string{"run"}
		for _, n := range names {
			path := filepath.Join(dir, n)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(n), 0o644); err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(n, "/") {
				args = append(args, "--send", n)
			}
		}
		here := asker{dir: dir, uid: nobody}
		r := c.ask(here, append(args, "--send", "folder", "--", "find", ".", "-type", "f", "-print0")...)
		got := map[string]bool{}
		for n := range strings.SplitSeq(strings.TrimSuffix(r.stdout, "\x00"), "\x00") {
			got[strings.TrimPrefix(n, "./")] = true
		}
		want := map[string]bool{}
		for _, n := range names {
			want[n] = true
		}
		if d := cmp.Diff(want, got); d != "" || r.status != 0 {
			t.Errorf("%s\n%+v", d, r)
		}
		if err := os.Mkdir(filepath.Join(dir, "none"), 0o755); err != nil {
			t.Fatal(err)
		}
		checkFails(t, c.ask(here, "run", "--send", "none", "true"), exitUsage, "--send none: the folder has no files")
		checkFails(t, c.ask(here, "run", "--send", "../x", "true"), exitUsage, "--send ../x: it would not be below the working directory")
	})

	t.Run("files that stay at the head are named", func(t *testing.T) {
		c.during(t)
		r := c.ask(shell(`id=$("$1" run -d --fetch made sh -c 'echo x >made' 2>said) && "$1" job attach $id && "$1" job fetch $id && cat made`))
		if r.stdout != "x\n" || !strings.Contains(r.stderr, "are at the head; bring them here with: muster job fetch ") {
			t.Errorf("%+v", r)
		}
	})

	t.Run("timeout ends it by the signal that it was told", func(t *testing.T) {
		c.during(t)
		r := c.ask(shell(`timeout -s INT 1 "$1" run --name timed sleep 100`)) // sends it twice
		if r.status != 124 || r.stderr != "" {
			t.Errorf("%+v", r)
		}
		if j := c.ended(c.named("timed").ID); j.Tasks[0].Signal != int(syscall.SIGINT) {
			t.Errorf("the job ended by signal %d", j.Tasks[0].Signal)
		}
	})

	t.Run("a job is completed once", func(t *testing.T) {
		c.during(t)
		r := c.ask(shell(`id=$("$1" run -d true 2>said); "$1" job attach $id 2>said; for before in "" $id; do "$1" __complete job show $before "" 2>said | grep -c "^$id"; done`))
		if r.stdout != "1\n0\n" {
			t.Errorf("%+v", r)
		}
	})

	t.Run("an empty list of nodes is not any node", func(t *testing.T) {
		c.during(t)
		checkFails(t, c.ask(user, "run", "--on", "", "true"), exitUsage, "--on is given no nodes; leave it out for any")
	})
}
