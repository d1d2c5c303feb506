package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"muster/api"
	"muster/internal/netnstest"
)

// randomJob is a shell program that writes as many random bytes as its first
// argument says and then says their SHA-256 on its standard error.
const randomJob = `mkfifo copy && { sha256sum < copy >&2 & head -c $1 /dev/urandom | tee copy; wait; }`

// received is the output of a job on its way into a hash. Each time that it
// passes a mark, reached gets a value.
type received struct {
	mu      sync.Mutex
	hash    hash.Hash
	bytes   int64
	marks   []int64 // that were not reached, in order
	reached chan int64
}

func newReceived(marks ...int64) *received {
	return &received{hash: sha256.New(), marks: marks, reached: make(chan int64, len(marks))}
}

// Write implements io.Writer.
func (p *received) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hash.Write(b)
	p.bytes += int64(len(b))
	for len(p.marks) > 0 && p.bytes >= p.marks[0] {
		p.reached <- p.marks[0]
		p.marks = p.marks[1:]
	}
	return len(b), nil
}

func (p *received) sum() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return hex.EncodeToString(p.hash.Sum(nil))
}

// cutSize is how much output is sent over the link that is cut.
const cutSize = 1 << 30

// Output arrives whole and in order over a link that is cut at random moments:
// sometimes shortly, so that TCP gets over it, sometimes the connection
// breaks at the agent's or at the head's end.
func TestOutputOutlivesLinkCuts(t *testing.T) {
	const cuts = 20
	c := newAgentCluster(t)
	c.startHead("--dhcp=full")
	a := c.newAgent()
	a.start()
	a.ready()

	marks := make([]int64, cuts)
	for i := range marks {
		marks[i] = rand.Int64N(cutSize / 100 * 95)
	}
	slices.Sort(marks)
	got := newReceived(marks...)
	var errOut bytes.Buffer
	began := time.Now()
	run := c.program(nil, got, &errOut, "run", "sh", "-c", randomJob, "sh", fmt.Sprint(cutSize))
	broken := 0
	for i := range cuts {
		select {
		case <-got.reached:
		case <-run.ended:
			t.Fatalf("the job ended after %d of %d cuts and %d bytes: %v\n%s", i, cuts, got.bytes, run.err, errOut.String())
		case <-time.After(jobTime):
			t.Fatalf("the output stopped at %d of %d bytes after %d cuts", got.bytes, cutSize, i)
		}
		netnstest.SetUp(t, a.ns, a.link, false)
		kind := i % 4
		if kind == 1 && a.breakConnection(true) { // the agent learns of it when the link is back
			broken++
		}
		<-time.After(rand.N(200 * time.Millisecond))
		netnstest.SetUp(t, a.ns, a.link, true)
		if kind == 3 && a.breakConnection(false) {
			broken++
		}
	}
	run.wait(t, 3*time.Minute)
	t.Logf("%d MiB with %d cuts, of which %d broke the connection, in %v", cutSize>>20, cuts, broken, time.Since(began).Round(100*time.Millisecond))
	if run.status != 0 {
		t.Errorf("muster run ended with %d: %s", run.status, errOut.String())
	}
	want, _, _ := strings.Cut(errOut.String(), " ")
	if got.bytes != cutSize || got.sum() != want {
		t.Errorf("%d bytes with SHA-256 %s arrived, want %d with %s", got.bytes, got.sum(), cutSize, want)
	}
	// Without connections that really broke the test would say nothing.
	if lost := a.said("not connected to the head"); broken < cuts/4 || lost < broken {
		t.Errorf("%d connections were broken and the agent noticed %d; want %d and no fewer", broken, lost, cuts/4)
	}
}

// programRun is muster as its users start it, in the background.
type programRun struct {
	cmd    *exec.Cmd
	ended  chan struct{}
	err    error // of the end; valid after ended, as status
	status int
}

// program starts muster; nil as stdin is empty input.
func (c *cluster) program(stdin io.Reader, stdout, stderr io.Writer, args ...string) *programRun {
	c.t.Helper()
	r := &programRun{cmd: exec.Command(c.bin, args...), ended: make(chan struct{})}
	r.cmd.Env = append(os.Environ(), "MUSTER_HEAD="+c.socket())
	r.cmd.Dir = c.t.TempDir()
	r.cmd.Stdin, r.cmd.Stdout, r.cmd.Stderr = stdin, stdout, stderr
	if err := r.cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	go func() {
		r.err = r.cmd.Wait()
		r.status = r.cmd.ProcessState.ExitCode()
		close(r.ended)
	}()
	c.t.Cleanup(func() {
		_ = r.cmd.Process.Kill() // it has ended, unless the test failed
		<-r.ended
	})
	return r
}

func (r *programRun) wait(t testing.TB, most time.Duration) {
	t.Helper()
	select {
	case <-r.ended:
	case <-time.After(most):
		t.Fatalf("%s does not end within %v", strings.Join(r.cmd.Args, " "), most)
	}
}

// gates are named pipes by which a job and its test wait for each other.
type gates struct {
	t    testing.TB
	dir  string
	seen string // dir, as tasks see it
}

// gatesSeen is where tasks see an agent's gatesDir.
const gatesSeen = "/mnt"

func (a *agent) gatesDir() string { return filepath.Join(a.dir, "gates") }

// newGates makes the pipes in a folder that tasks see too.
func (a *agent) newGates() gates {
	a.c.t.Helper()
	dir, err := os.MkdirTemp(a.gatesDir(), "")
	if err != nil {
		a.c.t.Fatal(err)
	}
	g := gates{a.c.t, dir, filepath.Join(gatesSeen, filepath.Base(dir))}
	for _, name := range []string{"half", "go", "end"} {
		if err := syscall.Mkfifo(filepath.Join(dir, name), 0o600); err != nil {
			a.c.t.Fatal(err)
		}
	}
	return g
}

// gatedJob writes 5 MB of random output, opens the gate half, waits for the
// gate go, writes 5 MB more, says the SHA-256 of all of it on standard error,
// opens the gate end, and exits with 7. Its argument is the folder of the gates.
const gatedJob = `mkfifo copy
sha256sum < copy > sum &
{ head -c 5000000 /dev/urandom; : > $1/half; : < $1/go; head -c 5000000 /dev/urandom; } | tee copy
wait
cat sum >&2
: > $1/end
exit 7`

// gatedBytes is the size of its output.
const gatedBytes = 10_000_000

// passed waits until the job opens a gate.
func (g gates) passed(name string) { g.open(name, os.O_RDONLY) }

// let opens a gate for the job, which has to wait there.
func (g gates) let(name string) { g.open(name, os.O_WRONLY) }

func (g gates) open(name string, how int) {
	g.t.Helper()
	done := make(chan error, 1)
	path := filepath.Join(g.dir, name)
	go func() {
		f, err := os.OpenFile(path, how, 0)
		if err == nil {
			err = f.Close()
		}
		done <- err
	}()
	select {
	case err := <-done:
		if err != nil {
			g.t.Fatal(err)
		}
	case <-time.After(jobTime):
		// The goroutine is let go by opening the other end.
		if f, err := os.OpenFile(path, os.O_RDWR, 0); err == nil {
			f.Close()
		}
		g.t.Fatalf("the job does not come to the gate %s", name)
	}
}

// checkGated checks the whole output of a gated job.
func checkGated(t *testing.T, out *received, errOut string) {
	t.Helper()
	want, _, _ := strings.Cut(errOut, " ")
	if out.bytes != gatedBytes || out.sum() != want {
		t.Errorf("%d bytes with SHA-256 %s arrived, want %d with %s (errors: %s)", out.bytes, out.sum(), gatedBytes, want, errOut)
	}
}

// latestJob is the number of the job that was submitted last.
func (c *cluster) latestJob() uint64 {
	c.t.Helper()
	list, err := c.client.Jobs(c.t.Context(), false)
	if err != nil || len(list.Items) == 0 {
		c.t.Fatalf("listing jobs: %v, %d jobs", err, len(list.Items))
	}
	return slices.MaxFunc(list.Items, func(a, b api.Job) int { return int(a.ID) - int(b.ID) }).ID
}

// ended waits until the job has ended.
func (c *cluster) ended(id uint64) api.Job {
	c.t.Helper()
	var j api.Job
	c.eventually(jobTime, fmt.Sprintf("job %d has ended", id), func(ctx context.Context) (bool, error) {
		var err error
		j, err = c.client.Job(ctx, id)
		return err == nil && j.State.Ended(), nil
	})
	return j
}

// TestOutputOutlives kills whoever is between a job and its user.
func TestOutputOutlives(t *testing.T) {
	c := newAgentCluster(t)
	c.startHead("--dhcp=full")
	a := c.newAgent()
	a.start()
	node := a.ready()

	t.Run("its client", func(t *testing.T) {
		c.during(t)
		g := a.newGates()
		first := c.program(nil, newReceived(), &bytes.Buffer{}, "run", "sh", "-c", gatedJob, "sh", g.seen)
		g.passed("half")
		id := c.latestJob()
		if err := first.cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		first.wait(t, jobTime)
		out := newReceived()
		var errOut bytes.Buffer
		logs := c.program(nil, out, &errOut, "job", "logs", "-f", fmt.Sprint(id))
		g.let("go")
		g.passed("end")
		logs.wait(t, jobTime)
		checkGated(t, out, errOut.String())
		if j := c.ended(id); j.ExitCode != 7 || j.State != api.JobFailed {
			t.Errorf("the job %s with exit status %d, want it failed with 7", j.State, j.ExitCode)
		}
	})

	t.Run("its agent", func(t *testing.T) {
		c.during(t)
		g := a.newGates()
		out := newReceived()
		var errOut bytes.Buffer
		run := c.program(nil, out, &errOut, "run", "sh", "-c", gatedJob, "sh", g.seen)
		g.passed("half")
		a.kill()
		g.let("go")
		g.passed("end") // it wrote the rest while there was no agent
		select {
		case <-run.ended:
			t.Error("the client ended although nobody could tell it of the job's end")
		default:
		}
		a.start()
		run.wait(t, jobTime)
		checkGated(t, out, errOut.String())
		if run.status != 7 {
			t.Errorf("muster run ended with %d, want 7: %s", run.status, errOut.String())
		}
		if n := a.wait(api.NodeReady); n.ID != node.ID {
			t.Errorf("the agent came back as node %s, want %s", n.ID, node.ID)
		}
	})

	// The control: with its shim, the one process that nothing replaces, the
	// task is lost, and that is said.
	t.Run("but not its shim", func(t *testing.T) {
		c.during(t)
		g := a.newGates()
		var errOut bytes.Buffer
		run := c.program(nil, newReceived(), &errOut, "run", "sh", "-c", gatedJob, "sh", g.seen)
		g.passed("half")
		a.endTasks()
		run.wait(t, jobTime)
		if run.status == 0 || run.status == 7 || !strings.Contains(errOut.String(), "shim was killed") {
			t.Errorf("muster run ended with %d and said %q, want a failure that names the killed shim", run.status, errOut.String())
		}
	})
}

// A head that is killed while a job runs has its output and exit status when
// it is started again, and the client goes on.
func TestOutputOutlivesHead(t *testing.T) {
	c := newAgentCluster(t)
	c.startHead("--dhcp=full")
	a := c.newAgent()
	a.start()
	a.ready()
	g := a.newGates()
	out := newReceived()
	var errOut bytes.Buffer
	run := c.program(nil, out, &errOut, "run", "sh", "-c", gatedJob, "sh", g.seen)
	g.passed("half")
	id := c.latestJob()
	c.stopHead(os.Kill)
	g.let("go")
	g.passed("end") // it wrote the rest and ended while there was no head
	c.startHead("--dhcp=full")
	run.wait(t, jobTime)
	// Beside the hash, the client may have said that the head did not answer.
	lines := strings.Split(strings.TrimSpace(errOut.String()), "\n")
	sum := slices.IndexFunc(lines, func(l string) bool { return strings.HasSuffix(l, " -") })
	if sum < 0 {
		t.Fatalf("the job's errors lack its hash: %q", errOut.String())
	}
	checkGated(t, out, lines[sum])
	if run.status != 7 {
		t.Errorf("muster run ended with %d, want 7: %s", run.status, errOut.String())
	}
	if j := c.ended(id); j.ExitCode != 7 || j.State != api.JobFailed {
		t.Errorf("the job %s with exit status %d, want it failed with 7", j.State, j.ExitCode)
	}
	again := newReceived()
	var errAgain bytes.Buffer
	logs := c.program(nil, again, &errAgain, "job", "logs", fmt.Sprint(id))
	logs.wait(t, jobTime)
	checkGated(t, again, errAgain.String())
}
