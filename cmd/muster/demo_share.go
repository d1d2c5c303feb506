package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// The programs of the folder that the demo shares.
const (
	demoProg = `#!/bin/sh
# counts the words of a file and leaves their number beside it
wc -w <"$1" >"$1.count"
echo "$(cat "$1.count") words, counted by $(id -un) on $(hostname) in $PWD"
`
	demoLong = "#!/bin/sh\nfor i in 1 2 3; do echo step $i; sleep 1; done\n"
)

// demoMountWait is how long the demo waits for the nodes to have mounted its folders.
const demoMountWait = time.Minute

// jobNumber is what a job that goes on alone prints.
var jobNumber = regexp.MustCompile(`(?m)^\d+$`)

// demoStep is a command of the demo in a folder, and what it has to say.
type demoStep struct {
	dir    string
	args   []string
	status int
	says   string // regular expression for all of its output
}

// showShare shows a folder that is shared, or says why none is.
func (d *demo) showShare(ctx context.Context) error {
	if d.opts.Engine == "" {
		d.say("no folder is shared here: %s; sudo muster demo shows it", d.opts.NoShare)
		return nil
	}
	work, data := filepath.Join(d.opts.Share, "work"), filepath.Join(d.opts.Share, "data")
	for name, text := range map[string]string{
		filepath.Join(work, "prog"):     demoProg,
		filepath.Join(work, "long"):     demoLong,
		filepath.Join(work, "data.txt"): "one two three\nfour five\n",
		filepath.Join(data, "big.dat"):  strings.Repeat("0123456789\n", 100),
	} {
		if err := d.writeOwn(name, text); err != nil {
			return fmt.Errorf("filling the folder that is shared: %w", err)
		}
	}
	add := []string{"share", "add", work}
	if d.opts.User == nil && os.Geteuid() == 0 {
		add = append(add, "--no-root-squash") // the jobs are those of root
	}
	in := regexp.QuoteMeta(work)
	for _, s := range []demoStep{
		{args: add, says: in + ` is mounted at .*\nthe head serves it with nfs-ganesha`},
		{args: []string{"share", "add", data, "--ro"}, says: `is mounted at`},
	} {
		if err := d.step(ctx, s); err != nil {
			return err
		}
	}
	start := time.Now()
	if err := d.waitForMounts(ctx); err != nil {
		return err
	}
	d.say("both nodes have mounted both folders %.1f s later", time.Since(start).Seconds())
	steps := []demoStep{
		{dir: work, args: []string{"run", "./prog", "data.txt"}, says: `(?m)^5 words, counted by \S+ on n[12] in ` + in + `$`},
		{dir: work, args: []string{"cat", "data.txt.count"}, says: `^5\n$`},
		{dir: data, args: []string{"run", "sh", "-c", "wc -l <big.dat; echo more >>big.dat"}, status: 2, says: `(?m)^100\n.*Read-only file system$`},
		{dir: work, args: []string{"run", "-t", "sh", "-c", "tty && stty size"}, says: `(?m)^/dev/pts/\d+\r?\n\d+ \d+\r?$`},
		{dir: work, args: []string{"run", "-d", "-o", "sim.log", "./long"}, says: jobNumber.String()},
	}
	var out string
	for _, s := range steps {
		var err error
		if out, err = d.stepOut(ctx, s); err != nil {
			return err
		}
	}
	return d.endShare(ctx, jobNumber.FindString(out), work)
}

// endShare follows the job that goes on alone and lists what is shared.
func (d *demo) endShare(ctx context.Context, job, work string) error {
	in := regexp.QuoteMeta(work)
	for _, s := range []demoStep{
		{args: []string{"job", "logs", "-f", job}, says: `(?m)^step 1\nstep 2\nstep 3$`},
		{args: []string{"share", "list"}, says: in + ` .*served`},
		{args: []string{"share", "show", work}, says: `n1 +mounted(?s:.*)n2 +mounted`},
	} {
		if err := d.step(ctx, s); err != nil {
			return err
		}
	}
	return nil
}

// writeOwn makes a file that belongs to who submits the jobs.
func (d *demo) writeOwn(name, text string) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(name, []byte(text), 0o755); err != nil {
		return err
	}
	if u := d.opts.User; u != nil {
		return errors.Join(os.Chown(filepath.Dir(name), int(u.UID), int(u.GID)), os.Chown(name, int(u.UID), int(u.GID)))
	}
	return nil
}

func (d *demo) step(ctx context.Context, s demoStep) error {
	_, err := d.stepOut(ctx, s)
	return err
}

// stepOut shows a command of the demo and checks what it says, which it returns.
func (d *demo) stepOut(ctx context.Context, s demoStep) (string, error) {
	shown := shellWords(s.args)
	cmd := d.command(ctx, "", s.args...)
	if s.args[0] == "cat" {
		cmd = exec.CommandContext(ctx, s.args[0], s.args[1:]...)
	} else {
		shown = "muster " + shown
	}
	if cmd.Dir = d.opts.Dir; s.dir != "" {
		shown, cmd.Dir = "cd "+s.dir+" && "+shown, s.dir
	}
	d.say("$ %s", shown)
	var out bytes.Buffer
	cmd.Stdout = io.MultiWriter(d.out, &out)
	cmd.Stderr = cmd.Stdout // one pipe for both, so that they stay in order
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return "", ctx.Err()
	case err == nil && s.status == 0, errors.As(err, &exit) && exit.ExitCode() == s.status:
	default:
		return "", fmt.Errorf("%s: %w, want exit status %d", shown, err, s.status)
	}
	if !regexp.MustCompile(s.says).Match(out.Bytes()) {
		return "", fmt.Errorf("%s said %q, which is not what it should (%s)", shown, out.String(), s.says)
	}
	return out.String(), nil
}

// plainWord is a word that a shell takes as it is.
var plainWord = regexp.MustCompile(`^[A-Za-z0-9_./:=,@%+-]+$`)

// shellWords is a command as it is typed.
func shellWords(args []string) string {
	words := make([]string, len(args))
	for i, a := range args {
		if words[i] = a; !plainWord.MatchString(a) {
			words[i] = "'" + strings.ReplaceAll(a, "'", `'\''`) + "'"
		}
	}
	return strings.Join(words, " ")
}

// waitForMounts waits until every node has mounted every share.
func (d *demo) waitForMounts(parent context.Context) error {
	ctx, cancel := context.WithTimeout(parent, demoMountWait)
	defer cancel()
	for {
		list, err := d.client.Shares(ctx)
		missing := ""
		for _, s := range list.Items {
			for _, m := range s.Mounts {
				if m.State != "mounted" {
					missing = fmt.Sprintf("%s on %s is %s %s", s.Path, m.Node, m.State, m.Reason)
				}
			}
			if s.Reason != "" {
				missing = s.Path + ": " + s.Reason
			}
		}
		if err == nil && missing == "" && len(list.Items) > 0 {
			return nil
		}
		select {
		case <-parent.Done():
			return parent.Err()
		case <-ctx.Done():
			return fmt.Errorf("the nodes did not mount what is shared within %v: %s (%v); see %s", demoMountWait, missing, err, filepath.Join(d.opts.Dir, "nfs.log"))
		case <-time.After(50 * time.Millisecond):
		}
	}
}
