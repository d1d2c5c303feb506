package headnode

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"muster/api"
	"muster/api/client"
	"muster/headnode/scheduler"
	"muster/headnode/store"
)

func TestRun(t *testing.T) {
	r := newRig(t, "n1", "n2")
	tests := map[string]struct {
		spec  api.JobSpec
		stdin string
		out   string
		errs  string
		exit  int
		state api.JobState
	}{
		"output":      {spec: api.JobSpec{Argv: []string{"echo", "hello"}}, out: "hello\n", state: api.JobFinished},
		"stderr":      {spec: api.JobSpec{Argv: []string{"warn", "beware"}}, errs: "beware\n", state: api.JobFinished},
		"exit status": {spec: api.JobSpec{Argv: []string{"exit", "7"}}, exit: 7, state: api.JobFailed},
		"stdin":       {spec: api.JobSpec{Argv: []string{"cat"}}, stdin: "b\na\n", out: "b\na\n", state: api.JobFinished},
		"empty stdin": {spec: api.JobSpec{Argv: []string{"cat"}}, state: api.JobFinished},
		"not there":   {spec: api.JobSpec{Argv: []string{"nosuch"}}, exit: 255, state: api.JobFailed},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got := r.run(tt.spec, client.RunOptions{Stdin: strings.NewReader(tt.stdin)})
			if got.err != nil {
				t.Fatal(got.err)
			}
			if got.out.String() != tt.out || got.errs.String() != tt.errs || got.job.ExitCode != tt.exit || got.job.State != tt.state {
				t.Errorf("Run() = %q, %q, %d, %s; want %q, %q, %d, %s", got.out.String(), got.errs.String(),
					got.job.ExitCode, got.job.State, tt.out, tt.errs, tt.exit, tt.state)
			}
		})
	}
}

func TestSpread(t *testing.T) {
	r := newRig(t, "n1", "n2")
	got := r.run(api.JobSpec{Argv: []string{"where"}, Tasks: 2, Spread: true}, client.RunOptions{})
	if got.err != nil {
		t.Fatal(got.err)
	}
	lines := strings.Split(strings.TrimSpace(got.out.String()), "\n")
	if len(lines) != 2 || lines[0][:2] == lines[1][:2] {
		t.Errorf("two spread tasks ran at %q, want one on each node", lines)
	}
}

// TestNoUserland: a node whose image has no userland runs what names it, and
// what does not says why it waits.
func TestNoUserland(t *testing.T) {
	r := newRig(t, "n1", "n3")
	bare := func(yes bool) { r.fleet.set("n3", func(n *scheduler.Node) { n.NoUserland = yes }) }
	bare(true)
	if got := r.run(api.JobSpec{Argv: []string{"where"}, On: "n3"}, client.RunOptions{}); got.err != nil || !strings.HasPrefix(got.out.String(), "n3") {
		t.Errorf("a task that names n3 ran at %q, %v", got.out.String(), got.err)
	}
	if got := r.run(api.JobSpec{Argv: []string{"where"}}, client.RunOptions{}); got.err != nil || !strings.HasPrefix(got.out.String(), "n1") {
		t.Errorf("a task that names no node ran at %q, %v", got.out.String(), got.err)
	}
	r.fleet.set("n1", func(n *scheduler.Node) { n.Ready, n.Reason = false, "paused" })
	j := r.submit(api.JobSpec{Argv: []string{"where"}, Detached: true})
	const why = "waits: n1 paused, n3 has no userland: only tasks that name it (--on n3) run there"
	r.until(j.ID, "waiting for a node with userland", func(j api.Job) bool { return j.Reason == why })
	bare(false) // it booted another image
	if j := r.ended(j.ID); j.State != api.JobFinished || j.Tasks[0].Node != "n3" {
		t.Errorf("the job that waited is %s at %s", j.State, j.Tasks[0].Node)
	}
}

func TestSubmitRefuses(t *testing.T) {
	r := newRig(t, "n1", "n2")
	big := strings.Repeat("x", maxString+1)
	tests := map[string]struct {
		spec api.JobSpec
		code api.Code
		msg  string
	}{
		"no program":      {api.JobSpec{}, api.CodeInvalid, "no program"},
		"too many tasks":  {api.JobSpec{Argv: []string{"x"}, Tasks: maxJobTasks + 1}, api.CodeTooLarge, "10001 tasks"},
		"long argument":   {api.JobSpec{Argv: []string{"x", big}}, api.CodeTooLarge, "an argument has"},
		"large env":       {api.JobSpec{Argv: []string{"x"}, Env: manyEnv()}, api.CodeTooLarge, "together"},
		"bad env":         {api.JobSpec{Argv: []string{"x"}, Env: []string{"novalue"}}, api.CodeInvalid, "not KEY=value"},
		"zero byte":       {api.JobSpec{Argv: []string{"a\x00b"}}, api.CodeInvalid, "zero byte"},
		"unknown node":    {api.JobSpec{Argv: []string{"x"}, On: "n3"}, api.CodeNotFound, "there is no node n3"},
		"no node yet":     {api.JobSpec{Argv: []string{"x"}, On: "waiting"}, api.CodePending, "is pending and no node"},
		"bad host list":   {api.JobSpec{Argv: []string{"x"}, On: "n[1-"}, api.CodeInvalid, "n[1-"},
		"too many cores":  {api.JobSpec{Argv: []string{"x"}, Cores: 5}, api.CodeUnsatisfiable, "largest offers 4"},
		"spread too wide": {api.JobSpec{Argv: []string{"x"}, Tasks: 3, Spread: true}, api.CodeUnsatisfiable, "need 3 nodes, and 2 could run one; ask for less, or add nodes"},
		"path above": {
			api.JobSpec{Argv: []string{"x"}, Files: []api.SentFile{{Path: "../x", SHA256: strings.Repeat("a", 64)}}},
			api.CodeInvalid, "not a clean relative path",
		},
		"file not sent": {
			api.JobSpec{Argv: []string{"x"}, Files: []api.SentFile{{Path: "x", SHA256: strings.Repeat("a", 64)}}},
			api.CodeNotFound, "has no file",
		},
		"stdin of a detached job": {api.JobSpec{Argv: []string{"x"}, Stdin: true, Detached: true}, api.CodeInvalid, "nobody who sends"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := r.client.Submit(context.Background(), tt.spec)
			if api.CodeOf(err) != tt.code || !strings.Contains(err.Error(), tt.msg) {
				t.Errorf("Submit() = %v (%s), want code %s and %q", err, api.CodeOf(err), tt.code, tt.msg)
			}
		})
	}
	list, err := r.client.Jobs(context.Background(), true)
	if err != nil || len(list.Items) != 0 {
		t.Errorf("Jobs() = %v, %v after refused submissions, want none", list.Items, err)
	}
}

func manyEnv() []string {
	var env []string
	for i := range 10 {
		env = append(env, fmt.Sprintf("V%d=%s", i, strings.Repeat("x", 60000)))
	}
	return env
}

func TestSubmitTwice(t *testing.T) {
	r := newRig(t, "n1")
	spec := api.JobSpec{Argv: []string{"sleep"}, RequestID: "once", Detached: true}
	a, b := r.submit(spec), r.submit(spec)
	r.restartHead()
	c := r.submit(spec)
	if a.ID != b.ID || a.ID != c.ID {
		t.Errorf("one request id gave jobs %d, %d and after a restart %d", a.ID, b.ID, c.ID)
	}
}

// TestRestart: the head goes away while a job runs and comes back; the client
// and the job go on as if nothing had happened.
func TestRestart(t *testing.T) {
	r := newRig(t, "n1")
	in, feed := io.Pipe()
	started := make(chan uint64, 1)
	done := make(chan *result, 1)
	go func() {
		done <- r.run(api.JobSpec{Argv: []string{"cat"}}, client.RunOptions{Stdin: in, Changed: func(j api.Job) {
			if j.State == api.JobRunning {
				select {
				case started <- j.ID:
				default:
				}
			}
		}})
	}()
	var want bytes.Buffer
	say := func(s string) {
		want.WriteString(s)
		io.WriteString(feed, s)
	}
	say("before\n")
	<-started
	for i := range 5 {
		r.stopHead()
		say(fmt.Sprintf("without a head %d\n", i))
		r.startHead()
		say(strings.Repeat(fmt.Sprintf("with a head %d\n", i), 5000))
	}
	feed.Close()
	got := <-done
	if got.err != nil || got.job.ExitCode != 0 {
		t.Fatalf("Run() = %v, exit %d", got.err, got.job.ExitCode)
	}
	if !bytes.Equal(got.out.Bytes(), want.Bytes()) {
		t.Errorf("output has %d bytes and differs, want %d", got.out.Len(), want.Len())
	}
	if n := r.fleet.agents["n1"].starts; n != 1 {
		t.Errorf("the task was started %d times", n)
	}
}

// TestRestartEnded: the job ends while there is no head; its output and exit
// status are there afterwards.
func TestRestartEnded(t *testing.T) {
	r := newRig(t, "n1")
	j := r.submit(api.JobSpec{Argv: []string{"sleep"}, Detached: true})
	r.running(j.ID)
	a := r.fleet.agents["n1"]
	r.stopHead()
	for _, task := range a.tasks {
		task.signal(15)
	}
	r.startHead()
	got := r.ended(j.ID)
	if got.ExitCode != 143 || got.Tasks[0].Signal != 15 || got.State != api.JobFailed {
		t.Errorf("job = %s, exit %d, signal %d; want failed, 143, 15", got.State, got.ExitCode, got.Tasks[0].Signal)
	}
}

func TestLinkCut(t *testing.T) {
	r := newRig(t, "n1", "n2")
	const size = 20 << 20
	go func() {
		a := r.fleet.agents["n1"]
		for range 10 {
			<-time.After(10 * time.Millisecond)
			a.connect(false)
			<-time.After(5 * time.Millisecond)
			a.connect(true)
		}
	}()
	got := r.run(api.JobSpec{Argv: []string{"spew", fmt.Sprint(size)}, On: "n1"}, client.RunOptions{})
	if got.err != nil {
		t.Fatal(got.err)
	}
	want, err := io.ReadAll(io.LimitReader(&pattern{}, size))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.out.Bytes(), want) || got.job.Tasks[0].Output != size {
		t.Errorf("output has %d bytes and differs, the job says %d, want %d", got.out.Len(), got.job.Tasks[0].Output, size)
	}
}

func TestNodeLost(t *testing.T) {
	r := newRig(t, "n1")
	j := r.submit(api.JobSpec{Argv: []string{"sleep"}, Detached: true})
	r.running(j.ID)
	a := r.fleet.agents["n1"]
	a.connect(false)
	if got, _ := r.client.Job(context.Background(), j.ID); got.State != api.JobRunning {
		t.Fatalf("job on an unreachable node is %s, want running", got.State)
	}
	a.connect(true)
	if got, _ := r.client.Job(context.Background(), j.ID); got.State != api.JobRunning {
		t.Fatalf("job is %s after its node came back with the same boot id, want running", got.State)
	}
	a.restart()
	got := r.ended(j.ID)
	if got.State != api.JobFailed || !strings.Contains(got.Reason, "node lost") || got.ExitCode != 255 {
		t.Errorf("job = %s (%s), exit %d; want failed, node lost, 255", got.State, got.Reason, got.ExitCode)
	}
}

func TestCancel(t *testing.T) {
	r := newRig(t, "n1")
	r.change = func(c *jobsConfig) { c.KillAfter = 50 * time.Millisecond }
	r.restartHead()
	t.Run("term", func(t *testing.T) {
		j := r.submit(api.JobSpec{Argv: []string{"sleep"}, Detached: true})
		r.running(j.ID)
		if _, err := r.client.Cancel(context.Background(), j.ID); err != nil {
			t.Fatal(err)
		}
		if got := r.ended(j.ID); got.State != api.JobCanceled || got.Tasks[0].Signal != 15 {
			t.Errorf("job = %s, signal %d; want canceled, 15", got.State, got.Tasks[0].Signal)
		}
		if _, err := r.client.Cancel(context.Background(), j.ID); api.CodeOf(err) != api.CodeConflict {
			t.Errorf("Cancel() of an ended job = %v, want conflict", err)
		}
	})
	t.Run("kill", func(t *testing.T) {
		j := r.submit(api.JobSpec{Argv: []string{"stubborn"}, Detached: true})
		r.running(j.ID)
		if _, err := r.client.Cancel(context.Background(), j.ID); err != nil {
			t.Fatal(err)
		}
		if got := r.ended(j.ID); got.State != api.JobCanceled || got.Tasks[0].Signal != 9 {
			t.Errorf("job = %s, signal %d; want canceled, 9", got.State, got.Tasks[0].Signal)
		}
	})
	t.Run("queued", func(t *testing.T) {
		r.fleet.set("n1", func(n *scheduler.Node) { n.Ready, n.Reason = false, "is paused" })
		defer r.fleet.set("n1", func(n *scheduler.Node) { n.Ready = true })
		j := r.submit(api.JobSpec{Argv: []string{"true"}, Detached: true})
		r.until(j.ID, "queued for a reason", func(j api.Job) bool { return strings.Contains(j.Reason, "n1 is paused") })
		got, err := r.client.Cancel(context.Background(), j.ID)
		if err != nil || got.State != api.JobCanceled {
			t.Errorf("Cancel() = %s, %v; want canceled", got.State, err)
		}
	})
	t.Run("unreachable", func(t *testing.T) {
		j := r.submit(api.JobSpec{Argv: []string{"stubborn"}, Detached: true})
		r.running(j.ID)
		a := r.fleet.agents["n1"]
		a.connect(false)
		if _, err := r.client.Cancel(context.Background(), j.ID); err != nil {
			t.Fatal(err)
		}
		if got := r.ended(j.ID); got.State != api.JobCanceled {
			t.Errorf("job = %s, want canceled", got.State)
		}
		a.connect(true)
		for len(a.held()) > 0 { // killed and forgotten when it is heard again
			a.beat()
			<-time.After(5 * time.Millisecond)
		}
	})
}

func TestSignal(t *testing.T) {
	r := newRig(t, "n1", "n2")
	j := r.submit(api.JobSpec{Argv: []string{"sleep"}, Tasks: 3, Detached: true})
	r.until(j.ID, "running everywhere", func(j api.Job) bool {
		for _, t := range j.Tasks {
			if t.State != api.JobRunning {
				return false
			}
		}
		return true
	})
	if err := r.client.Signal(context.Background(), j.ID, 99); api.CodeOf(err) != api.CodeInvalid {
		t.Errorf("Signal(99) = %v, want invalid", err)
	}
	if err := r.client.Signal(context.Background(), j.ID, int(syscall.SIGUSR1)); err != nil {
		t.Fatal(err)
	}
	got := r.ended(j.ID)
	if got.ExitCode != 138 || !strings.Contains(got.Reason, "3 of 3 tasks failed") {
		t.Errorf("job ended with %d (%s), want 138", got.ExitCode, got.Reason)
	}
}

func TestClientSignals(t *testing.T) {
	r := newRig(t, "n1")
	sigs := make(chan os.Signal, 1)
	got := r.run(api.JobSpec{Argv: []string{"sleep"}}, client.RunOptions{Signals: sigs, Changed: func(j api.Job) {
		if j.State == api.JobRunning {
			select {
			case sigs <- syscall.SIGINT:
			default:
			}
		}
	}})
	if got.err != nil || got.job.ExitCode != 130 {
		t.Errorf("Run() = exit %d, %v; want 130", got.job.ExitCode, got.err)
	}
}

// TestHangUp: a job whose client goes away without a word is told HUP, a
// detached one is not.
func TestHangUp(t *testing.T) {
	r := newRig(t, "n1")
	r.change = func(c *jobsConfig) { c.ClientGone = 100 * time.Millisecond }
	r.restartHead()
	kept := r.submit(api.JobSpec{Argv: []string{"sleep"}, Detached: true})
	left := r.submit(api.JobSpec{Argv: []string{"sleep"}})
	if got := r.ended(left.ID); got.Tasks[0].Signal != int(syscall.SIGHUP) {
		t.Errorf("job without its client ended by signal %d, want 1", got.Tasks[0].Signal)
	}
	if got, _ := r.client.Job(context.Background(), kept.ID); got.State != api.JobRunning {
		t.Errorf("detached job is %s, want running", got.State)
	}
}

func TestInputShut(t *testing.T) {
	if testing.Short() {
		t.Skip("takes more than ten seconds")
	}
	r := newRig(t, "n1")
	in, feed := io.Pipe()
	go func() {
		for {
			if _, err := feed.Write(make([]byte, 32<<10)); err != nil {
				return
			}
		}
	}()
	sigs := make(chan os.Signal, 1)
	go func() {
		for r.fleet.agents["n1"].count(api.VerbInput) < 2 {
			<-time.After(time.Millisecond)
		}
		sigs <- syscall.SIGTERM
	}()
	got := r.run(api.JobSpec{Argv: []string{"head1"}}, client.RunOptions{Stdin: in, Signals: sigs})
	feed.CloseWithError(io.ErrClosedPipe)
	if got.err != nil || got.out.Len() != 1 {
		t.Errorf("Run() = %d bytes, %v; want 1 byte", got.out.Len(), got.err)
	}
}

// TestBrokenPipe: when nobody reads the client's output, the job is told as
// it would be here.
func TestBrokenPipe(t *testing.T) {
	r := newRig(t, "n1")
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	j, err := r.client.Run(ctx, api.JobSpec{Argv: []string{"head1"}}, client.RunOptions{
		Stdin:  strings.NewReader("x"),
		Output: func(int, api.Stream, []byte) error { return &os.PathError{Op: "write", Err: syscall.EPIPE} },
	})
	if err != nil || j.Tasks[0].Signal != int(syscall.SIGPIPE) {
		t.Errorf("Run() = signal %d, %v; want 13", j.Tasks[0].Signal, err)
	}
}

func TestFiles(t *testing.T) {
	r := newRig(t, "n1", "n2")
	ctx := context.Background()
	content := bytes.Repeat([]byte("muster"), 30000)
	sum := sha256.Sum256(content)
	name := hex.EncodeToString(sum[:])
	open := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil }
	if has, err := r.client.HasBlob(ctx, name); has || err != nil {
		t.Fatalf("HasBlob() = %v, %v before the upload", has, err)
	}
	if err := r.client.PutBlob(ctx, strings.Repeat("0", 64), int64(len(content)), open); api.CodeOf(err) != api.CodeInvalid {
		t.Fatalf("PutBlob() under a wrong hash = %v, want invalid", err)
	}
	if err := r.client.PutBlob(ctx, name, int64(len(content)), open); err != nil {
		t.Fatal(err)
	}
	if has, err := r.client.HasBlob(ctx, name); !has || err != nil {
		t.Fatalf("HasBlob() = %v, %v after the upload", has, err)
	}
	j := r.submit(api.JobSpec{
		Argv: []string{"sleep"}, On: "n1", Detached: true,
		Files: []api.SentFile{{Path: "bin/x", SHA256: name, Size: int64(len(content)), Mode: 0o755}},
	})
	r.running(j.ID)
	var got []byte
	for {
		b, err := r.js.JobFile(ctx, "n1", api.FileRequest{Job: j.ID, SHA256: name, Offset: int64(len(got))})
		if err != nil {
			t.Fatal(err)
		}
		if len(b) == 0 {
			break
		}
		got = append(got, b...)
	}
	if !bytes.Equal(got, content) {
		t.Errorf("JobFile() gave %d bytes that differ, want %d", len(got), len(content))
	}
	if _, err := r.js.JobFile(ctx, "n2", api.FileRequest{Job: j.ID, SHA256: name}); api.CodeOf(err) != api.CodeForbidden {
		t.Errorf("JobFile() for a node without a task = %v, want forbidden", err)
	}
}

// TestStoreFails: a submission that could not be recorded never was, and a
// task's end that could not be recorded is told again until it can.
func TestStoreFails(t *testing.T) {
	r := newRig(t, "n1")
	j := r.submit(api.JobSpec{Argv: []string{"sleep"}, Detached: true})
	r.running(j.ID)
	r.mem.Fail(store.ErrFull)
	_, err := r.client.Submit(context.Background(), api.JobSpec{Argv: []string{"true"}, Detached: true})
	if api.CodeOf(err) != api.CodeDiskFull {
		t.Fatalf("Submit() = %v, want disk_full", err)
	}
	if err := r.client.Signal(context.Background(), j.ID, 15); err != nil {
		t.Fatal(err)
	}
	r.mem.Fail(errors.New("some other trouble"))
	<-time.After(50 * time.Millisecond)
	if n := r.fleet.agents["n1"].count(api.VerbForget); n != 0 {
		t.Errorf("the node was told to forget before the end was durable")
	}
	r.mem.Fail(nil)
	r.ended(j.ID)
	for r.fleet.agents["n1"].count(api.VerbForget) == 0 {
		<-time.After(time.Millisecond)
	}
	list, err := r.client.Jobs(context.Background(), true)
	if err != nil || len(list.Items) != 1 {
		t.Errorf("Jobs() = %d jobs, %v; want 1: the refused one must not be there", len(list.Items), err)
	}
}

func TestArchive(t *testing.T) {
	r := newRig(t, "n1")
	r.change = func(c *jobsConfig) { c.ArchiveAfter = 4 * time.Millisecond }
	r.restartHead()
	var last api.Job
	for i := range 5 {
		last = r.run(api.JobSpec{Argv: []string{"echo", fmt.Sprint(i)}, Env: []string{"SECRET=x"}}, client.RunOptions{}).job
	}
	for len(r.mem.List(kindJob)) > 0 {
		<-time.After(time.Millisecond)
	}
	if n := len(r.mem.List(kindJobSpec)); n != 0 {
		t.Errorf("%d specifications are left in the records", n)
	}
	r.restartHead()
	got, err := r.client.Job(context.Background(), last.ID)
	if err != nil {
		t.Fatal(err)
	}
	last.Spec.Env = nil
	if d := cmp.Diff(last, got); d != "" {
		t.Errorf("archived job differs (-want +got):\n%s", d)
	}
	var out bytes.Buffer
	if err := r.client.Logs(context.Background(), last.ID, -1, false, &out, io.Discard); err != nil || out.String() != "4\n" {
		t.Errorf("Logs() = %q, %v; want 4", out.String(), err)
	}
	if j := r.submit(api.JobSpec{Argv: []string{"true"}, Detached: true}); j.ID != last.ID+1 {
		t.Errorf("next job is %d, want %d", j.ID, last.ID+1)
	}
}
