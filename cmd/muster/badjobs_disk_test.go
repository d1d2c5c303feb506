package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"muster/api"
	"muster/internal/need"
)

// smallDisk gives the head's state a disk of its own with so many MB.
func (c *cluster) smallDisk(mb int) {
	c.t.Helper()
	image := filepath.Join(c.t.TempDir(), "disk")
	for _, cmd := range []*exec.Cmd{
		exec.Command("truncate", "-s", fmt.Sprintf("%dM", mb), image),
		exec.Command(need.Program(c.t, "mkfs.ext4", "e2fsprogs"), "-q", "-m", "0", "-F", image),
		exec.Command("mkdir", "-m", "755", c.state),
		exec.Command("mount", "-o", "loop", image, c.state),
	} {
		if out, err := cmd.CombinedOutput(); err != nil {
			c.t.Fatalf("%q: %v\n%s", cmd.Args, err, out)
		}
	}
	c.t.Cleanup(func() {
		c.stopHead(os.Interrupt)
		if err := unix.Unmount(c.state, 0); err != nil {
			c.t.Errorf("unmounting the head's disk: %v", err)
		}
	})
}

// fill leaves so many MB of the head's disk, and returns what gives them back.
func (c *cluster) fill(left int) (empty func()) {
	c.t.Helper()
	var st unix.Statfs_t
	if err := unix.Statfs(c.state, &st); err != nil {
		c.t.Fatal(err)
	}
	f, err := os.CreateTemp(c.state, "filler-")
	if err != nil {
		c.t.Fatal(err)
	}
	defer f.Close()
	size := int64(st.Bavail)*st.Bsize - int64(left)<<20
	for chunk := int64(16 << 20); chunk >= 4096; { // the last of it in small pieces
		switch err := unix.Fallocate(int(f.Fd()), 0, fileSize(c.t, f), min(chunk, max(size, 0))); {
		case size <= 0:
			chunk = 0
		case err == nil:
			size -= chunk
		default:
			chunk /= 2
		}
	}
	return func() {
		if err := os.Remove(f.Name()); err != nil {
			c.t.Error(err)
		}
	}
}

func fileSize(t testing.TB, f *os.File) int64 {
	t.Helper()
	fi, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	return fi.Size()
}

// A head whose disk is full says so to who asks, keeps what it has, and goes on when there is room.
func TestHeadDiskFull(t *testing.T) {
	c := newAgentCluster(t)
	c.smallDisk(640)
	c.startHead("--dhcp=full")
	a := c.newAgent()
	a.start()
	a.ready()
	here := asker{dir: t.TempDir()}

	t.Run("output waits for room", func(t *testing.T) {
		c.during(t)
		empty := c.fill(80)
		const size = 60 << 20 // more than the 16 MB that output may still take
		var said lines
		out := newReceived()
		cmd := c.command(here, "run", "--name", "much", "sh", "-c", randomJob, "sh", fmt.Sprint(size))
		cmd.Stdout, cmd.Stderr = out, &said
		run := c.start(cmd)
		said.wait(t, "waits for room on the head's disk")
		select {
		case <-run.ended:
			t.Fatalf("the job ended with %d: %s", run.status, said.text())
		default:
		}
		// Others are told, and can look.
		big := filepath.Join(here.dir, "big")
		if err := os.WriteFile(big, make([]byte, 32<<20), 0o644); err != nil {
			t.Fatal(err)
		}
		checkFails(t, c.ask(here, "run", "--send", "big", "true"), exitMuster, "the head has no room for the files that are sent along", "free space on the head's disk, or put them on a share")
		if r := c.ask(here, "job", "list"); r.status != 0 || !strings.Contains(r.stdout, "much") && !strings.Contains(r.stdout, "sh -c") {
			t.Errorf("muster job list: %+v", r)
		}
		empty()
		run.wait(t, jobTime)
		lines := strings.Split(strings.TrimSpace(said.text()), "\n")
		sum, _, _ := strings.Cut(lines[len(lines)-1], " ")
		if out.bytes != size || out.sum() != sum || run.status != 0 {
			t.Errorf("%d bytes with SHA-256 %s arrived, want %d with %s; ended with %d", out.bytes, out.sum(), size, sum, run.status)
		}
	})

	t.Run("not a byte left", func(t *testing.T) {
		c.during(t)
		before := c.children()
		empty := c.fill(0)
		var refused result
		c.eventually(jobTime, "a job is refused", func(context.Context) (bool, error) {
			refused = c.ask(here, "run", "true")
			return refused.status != 0, nil
		})
		checkFails(t, refused, exitMuster, "no room", "disk")
		if s, err := c.client.Status(t.Context()); err != nil {
			t.Errorf("the head does not answer any more: %v (%+v)", err, s)
		}
		empty()
		c.eventually(jobTime, "jobs run again", func(context.Context) (bool, error) {
			return c.ask(here, "run", "true").status == 0, nil
		})
		if now := c.children(); before["core"] != now["core"] {
			t.Errorf("the head's core was started again: %v, then %v", before, now)
		}
	})
}

// TestVMBigOutput sends more output through the head than its disk takes, to a reader, to one that is slow, and
// to none.
func TestVMBigOutput(t *testing.T) {
	if os.Getenv("MUSTER_LONG") != "1" {
		t.Skip("only in make test-vm: gigabytes of output")
	}
	c := newAgentCluster(t)
	c.smallDisk(2800) // the head keeps 2 GiB of a task whose client is that far behind
	c.startHead("--dhcp=full")
	a := c.newAgent()
	a.start()
	a.ready()
	here := asker{dir: t.TempDir()}
	const size = 5 << 30
	flood := []string{"sh", "-c", `exec head -c "$1" /dev/zero`, "sh", fmt.Sprint(int64(size))}

	t.Run("a reader", func(t *testing.T) {
		c.during(t)
		before := peaks(t, c)
		out := &counted{}
		cmd := c.command(here, append([]string{"run", "--name", "read"}, flood...)...)
		var said bytes.Buffer
		cmd.Stdout, cmd.Stderr = out, &said
		kb := c.peakOf(cmd)
		if status := cmd.ProcessState.ExitCode(); out.n != size || status != 0 {
			t.Errorf("%d bytes arrived, want %d; ended with %d: %s", out.n, int64(size), status, said.String())
		}
		if kb > 80<<10 {
			t.Errorf("muster run took %d MB", kb>>10)
		}
		for pid, now := range peaks(t, c) {
			if was, known := before[pid]; known && now-was > 128<<10 {
				t.Errorf("process %d grew by %d MB", pid, (now-was)>>10)
			}
		}
	})

	t.Run("nobody", func(t *testing.T) {
		c.during(t)
		r := c.ask(here, append([]string{"run", "-d", "--name", "unread"}, flood...)...)
		if r.status != 0 {
			t.Fatalf("%+v", r)
		}
		id := c.named("unread").ID
		var j api.Job
		c.eventually(10*jobTime, "the job has ended", func(ctx context.Context) (ok bool, err error) {
			j, err = c.client.Job(ctx, id)
			return j.State.Ended(), err
		})
		if j.State != api.JobFinished || j.Tasks[0].Output != size {
			t.Errorf("the job %s with %d bytes of output, want %d", j.State, j.Tasks[0].Output, int64(size))
		}
		out := &counted{}
		var said bytes.Buffer
		logs := c.command(here, "job", "logs", fmt.Sprint(id))
		logs.Stdout, logs.Stderr = out, &said
		c.finish(logs)
		var left int64
		if _, err := fmt.Sscanf(said.String(), "[muster: %d bytes of output are not kept]", &left); err != nil || out.n+left != size || out.n > 128<<20 {
			t.Errorf("muster job logs wrote %d bytes and said %q (%v); together they should be %d", out.n, said.String(), err, int64(size))
		}
	})
}

// counted counts what is written to it.
type counted struct{ n int64 }

// Write implements io.Writer.
func (c *counted) Write(b []byte) (int, error) {
	c.n += int64(len(b))
	return len(b), nil
}
