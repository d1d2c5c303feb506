package headnode

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"muster/api"
	"muster/api/client"
)

// TestRestartOnDisk: jobs of every state on the real store, which is closed
// and opened again under them.
func TestRestartOnDisk(t *testing.T) {
	r := newStoppedRig(t, "n1", "n2")
	st := realStore(t, r)
	r.startHead()
	defer r.stopHead()

	ended := r.run(api.JobSpec{Argv: []string{"echo", "kept"}}, client.RunOptions{}).job
	running := r.submit(api.JobSpec{Argv: []string{"sleep"}, Cores: 4, Detached: true, Env: manySmallEnv()})
	wide := r.submit(api.JobSpec{Argv: []string{"sleep"}, Tasks: 40, Detached: true}) // 4 fit beside it, 36 wait
	r.running(running.ID)
	r.until(wide.ID, "on all cores", func(j api.Job) bool { return count(j, api.JobRunning) == 4 })
	for i := range 3 {
		r.stopHead()
		if err := st.Close(); err != nil {
			t.Fatal(err)
		}
		st = realStore(t, r)
		r.startHead()
		if j := r.running(running.ID); len(j.Spec.Env) != 100 {
			t.Fatalf("restart %d: environment has %d entries, want 100", i, len(j.Spec.Env))
		}
		if j := r.until(wide.ID, "as before", func(j api.Job) bool { return count(j, api.JobRunning) == 4 }); count(j, api.JobQueued) != 36 {
			t.Fatalf("restart %d: %d tasks are queued, want 36", i, count(j, api.JobQueued))
		}
	}
	defer func() { r.stopHead(); st.Close() }()
	var out strings.Builder
	if err := r.client.Logs(context.Background(), ended.ID, -1, false, &out, &out); err != nil || out.String() != "kept\n" {
		t.Errorf("output after restarts is %q, %v; want kept", out.String(), err)
	}
	if _, err := r.client.Cancel(context.Background(), running.ID); err != nil {
		t.Fatal(err)
	}
	r.until(wide.ID, "on the free cores too", func(j api.Job) bool { return count(j, api.JobRunning) == 8 })
	if _, err := r.client.Cancel(context.Background(), wide.ID); err != nil {
		t.Fatal(err)
	}
	if got := r.ended(wide.ID); got.State != api.JobCanceled || count(got, api.JobCanceled) != 40 {
		t.Errorf("job is %s, %d of its tasks canceled; want all 40", got.State, count(got, api.JobCanceled))
	}
	for _, a := range r.fleet.agents {
		if a.starts > 9 {
			t.Errorf("node %s started %d tasks, more than were placed there", a.name, a.starts)
		}
	}
}

// TestRestartFromCopy: a head that starts from what lay on the disk while
// another one worked, as after kill -9, has every job that was acknowledged
// before the copy, and its output.
func TestRestartFromCopy(t *testing.T) {
	r := newStoppedRig(t, "n1")
	st := realStore(t, r)
	r.startHead()
	var ids []uint64
	for i := range 20 {
		ids = append(ids, r.submit(api.JobSpec{Argv: []string{"echo", fmt.Sprint(i)}, Detached: true}).ID)
		if i%2 == 0 {
			r.ended(ids[i])
		}
	}
	copied := t.TempDir()
	if err := os.CopyFS(copied, os.DirFS(r.dir)); err != nil {
		t.Fatal(err)
	}
	r.stopHead()
	st.Close()
	r.dir = copied
	st = realStore(t, r)
	defer func() { r.stopHead(); st.Close() }()
	r.startHead()
	// What the first head did after the copy is the future here: the node
	// has forgotten tasks, or told the end of tasks, of which this head does
	// not know that they ended.
	beats, beat := make(chan struct{}), sync.WaitGroup{}
	beat.Go(func() {
		for {
			select {
			case <-beats:
				return
			case <-time.After(time.Millisecond):
				r.fleet.agents["n1"].beat()
			}
		}
	})
	defer func() { close(beats); beat.Wait() }()
	for i, id := range ids {
		if j := r.ended(id); i%2 == 0 && (j.State != api.JobFinished || j.Tasks[0].Output == 0) {
			t.Errorf("job %d is %s with %d bytes of output after the restart", id, j.State, j.Tasks[0].Output)
		}
	}
}

func count(j api.Job, s api.JobState) int {
	n := 0
	for _, t := range j.Tasks {
		if t.State == s {
			n++
		}
	}
	return n
}

func manySmallEnv() []string {
	var env []string
	for i := range 100 {
		env = append(env, fmt.Sprintf("VARIABLE_%d=value", i))
	}
	return env
}
