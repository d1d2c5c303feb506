package headnode

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"muster/api"
	"muster/headnode/store"
	"muster/headnode/store/storetest"
)

var t0 = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func testJob(tasks int) *job {
	return newJob(7, api.Owner{User: "alice", UID: 1000}, api.JobSpec{Argv: []string{"x"}, Tasks: tasks, Cores: 1}, nil, t0)
}

func TestJobEnds(t *testing.T) {
	end := func(exit, signal int, err string) api.TaskEvent {
		return api.TaskEvent{State: api.JobFinished, Time: t0, ExitCode: exit, Signal: signal, Error: err}
	}
	tests := map[string]struct {
		tasks  int
		do     func(j *job)
		state  api.JobState
		exit   int
		reason string
	}{
		"finished":    {1, func(j *job) { j.place(0, "n1", "b", ""); j.end(0, end(0, 0, ""), 0) }, api.JobFinished, 0, ""},
		"exit status": {1, func(j *job) { j.place(0, "n1", "b", ""); j.end(0, end(7, 0, ""), 0) }, api.JobFailed, 7, "exit status 7"},
		"signal":      {1, func(j *job) { j.place(0, "n1", "b", ""); j.end(0, end(0, 9, ""), 0) }, api.JobFailed, 137, "ended by signal 9 (killed)"},
		"not started": {1, func(j *job) { j.place(0, "n1", "b", ""); j.end(0, end(127, 0, "x: not found"), 0) }, api.JobFailed, 127, "x: not found"},
		"highest of three": {3, func(j *job) {
			for i, exit := range []int{0, 3, 2} {
				j.place(i, "n1", "b", "")
				j.end(i, end(exit, 0, ""), 0)
			}
		}, api.JobFailed, 3, "2 of 3 tasks failed, the first of them task 1: exit status 3"},
		"lost": {1, func(j *job) {
			j.place(0, "n1", "b", "")
			j.run(0, t0)
			j.lose(0, "node lost: n1 was restarted", 0, t0)
		}, api.JobFailed, 255, "node lost: n1 was restarted"},
		"lost with a part of its output": {1, func(j *job) {
			j.place(0, "n1", "b", "")
			ev := end(0, 0, "")
			ev.Output = 100
			j.end(0, ev, 40)
			j.lose(0, "node lost", 40, t0)
		}, api.JobFinished, 0, ""},
		"canceled in the queue": {2, func(j *job) { j.cancel("by alice", t0) }, api.JobCanceled, 143, "by alice"},
		"canceled": {2, func(j *job) {
			j.place(0, "n1", "b", "")
			j.end(0, end(0, 0, ""), 0)
			j.place(1, "n1", "b", "")
			j.cancel("by alice", t0)
			j.end(1, end(0, 15, ""), 0)
		}, api.JobCanceled, 143, "by alice"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			j := testJob(tt.tasks)
			tt.do(j)
			if j.state != tt.state || j.exit != tt.exit || j.reason != tt.reason {
				t.Errorf("job is %s, %d, %q; want %s, %d, %q", j.state, j.exit, j.reason, tt.state, tt.exit, tt.reason)
			}
		})
	}
}

func TestEndWaitsForOutput(t *testing.T) {
	j := testJob(1)
	j.place(0, "n1", "b", "")
	j.end(0, api.TaskEvent{State: api.JobFinished, Time: t0, Output: 10}, 4)
	if j.state.Ended() {
		t.Fatal("job ended with 4 of 10 bytes of its output")
	}
	if j.complete(0, 9) {
		t.Fatal("complete(9) of 10")
	}
	if !j.complete(0, 10) || j.state != api.JobFinished {
		t.Errorf("job is %s with all of its output, want finished", j.state)
	}
}

// TestJobProperties does anything in any order: a job's books agree with its
// tasks, what has ended stays as it is, and records bring back the same job.
func TestJobProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		j := testJob(rapid.IntRange(1, 40).Draw(t, "tasks"))
		for range rapid.IntRange(0, 120).Draw(t, "steps") {
			i := rapid.IntRange(0, len(j.tasks)-1).Draw(t, "task")
			before, was := j.tasks[i], j.state
			written := rapid.Int64Range(0, 20).Draw(t, "written")
			switch rapid.IntRange(0, 7).Draw(t, "what") {
			case 0:
				if before.phase == phaseQueued {
					j.place(i, "n1", "boot", "why")
				}
			case 1:
				j.unplace(i)
			case 2:
				j.run(i, t0)
			case 3:
				j.end(i, api.TaskEvent{
					State: api.JobFinished, Time: t0, Output: rapid.Int64Range(-1, 20).Draw(t, "output"),
					ExitCode: rapid.IntRange(0, 3).Draw(t, "exit"), Signal: rapid.IntRange(0, 2).Draw(t, "signal"),
				}, written)
			case 4:
				j.complete(i, written)
			case 5:
				j.lose(i, "node lost", written, t0)
			case 6:
				if j.canceling {
					j.drop(i, t0, written)
				}
			case 7:
				if rapid.IntRange(0, 9).Draw(t, "cancel") == 0 {
					j.cancel("somebody", t0)
				}
			}
			if before.phase == phaseEnded && j.tasks[i] != before {
				t.Fatalf("an ended task changed from %+v to %+v", before, j.tasks[i])
			}
			if was.Ended() && j.state != was {
				t.Fatalf("an ended job went from %s to %s", was, j.state)
			}
			if j.tasks[i].epoch < before.epoch {
				t.Fatalf("epoch went back")
			}
			queued, live := j.queued, j.live
			if j.count(); j.queued != queued || j.live != live {
				t.Fatalf("books say %d queued, %d live; the tasks say %d, %d", queued, live, j.queued, j.live)
			}
			if j.state.Ended() != (j.live == 0) {
				t.Fatalf("job is %s with %d live tasks", j.state, j.live)
			}
			if j.canceling && j.queued > 0 && before.phase != phasePlaced {
				t.Fatalf("a canceled job has queued tasks")
			}
		}
		checkReload(t, j)
	})
}

// checkReload writes the records of a job and reads them again.
func checkReload(t *rapid.T, j *job) {
	js := &jobs{cfg: jobsConfig{Store: &storetest.Mem{}}, jobs: map[uint64]*job{j.id: j}, rec: newRecorder()}
	for i := range j.tasks {
		js.rec.note(j, i)
	}
	if err := js.commit(t.Context(), js.opsOf(js.rec.dirty)); err != nil {
		t.Fatal(err)
	}
	all, last, err := loadJobs(js.cfg.Store)
	if err != nil || last != j.id {
		t.Fatal(last, err)
	}
	got := all[j.id]
	for i := range j.tasks { // what is not recorded, and why of many
		want := &j.tasks[i]
		want.sent, want.repeated = want.phase == phasePlaced, false
		if len(j.tasks) > 4 {
			want.why = ""
		}
	}
	opts := []cmp.Option{
		cmp.AllowUnexported(job{}, task{}), cmpopts.EquateEmpty(),
		cmpopts.IgnoreFields(job{}, "heard", "durable", "waits", "feed", "relay"),
	}
	if d := cmp.Diff(j, got, opts...); d != "" {
		t.Fatalf("job differs after it was read again (-was +is):\n%s", d)
	}
}

// TestRecordSize: the hot record of an ordinary job stays below 1 kB, in each
// of its states.
func TestRecordSize(t *testing.T) {
	j := newJob(123456, api.Owner{User: "some.long.user", UID: 100000, GID: 100000, Groups: []uint32{100000, 100001}},
		api.JobSpec{Tasks: 1, Cores: 1, Argv: []string{"program"}, RequestID: strings.Repeat("r", 26)}, nil, t0)
	for len(mustJSON(j.specRecord())) < inlineSpec-1 {
		j.spec.Argv[0] += "x"
	}
	j.smallSpec = true
	j.place(0, "node-with-a-name", "0123456789abc", "fewest tasks per unit of speed among 1000 nodes; memory fits")
	j.run(0, t0)
	j.end(0, api.TaskEvent{State: api.JobFailed, Time: t0, ExitCode: 127, Error: "program: not found in the userland", Output: 1 << 40}, 1<<40)
	if n := len(mustJSON(j.hot())); n > 1024 {
		t.Errorf("hot record has %d bytes, want at most 1024: %s", n, mustJSON(j.hot()))
	}
}

// TestSweepRecords: one record for a job of many tasks, and those of a job
// that is gone do not stay.
func TestSweepRecords(t *testing.T) {
	mem := &storetest.Mem{}
	js := &jobs{cfg: jobsConfig{Store: mem}, jobs: map[uint64]*job{}, rec: newRecorder()}
	j := testJob(maxJobTasks)
	js.jobs[j.id] = j
	js.rec.note(j, -1)
	ops := js.opsOf(js.rec.dirty)
	if len(ops) != 1 {
		t.Fatalf("submitting %d tasks takes %d records, want 1", maxJobTasks, len(ops))
	}
	j.spec.Env = manyEnv()
	if ops = js.opsOf(js.rec.dirty); len(ops) != 2 || ops[1].Kind != kindJob {
		t.Fatalf("submitting a large specification takes %d records, want 2, the job last", len(ops))
	}
	ops = append(ops[:1], store.Op{Kind: kindTasks, ID: chunkID(j.id, 3), Data: []byte(`{"schema":1}`)})
	if _, err := mem.Commit(t.Context(), ops...); err != nil {
		t.Fatal(err)
	}
	if err := js.sweepRecords(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := len(mem.List(kindJobSpec)) + len(mem.List(kindTasks)); n != 0 {
		t.Errorf("%d records of a job that does not exist are left", n)
	}
}

// TestEndedRecord: the largest job fits into an entry of the history, and
// comes back whole.
func TestEndedRecord(t *testing.T) {
	j := testJob(maxJobTasks)
	for i := range j.tasks {
		j.place(i, fmt.Sprintf("n%d", i%1000), "boot", "fewest tasks per unit of speed among 2 nodes")
		j.lose(i, fmt.Sprintf("node lost: n%d was restarted", i%1000), int64(i), t0)
	}
	want := j.view(nil, nil)
	e := newEnded(want, "request", 9)
	b := mustJSON(e)
	if len(b) > store.MaxRecord {
		t.Fatalf("entry has %d bytes, the store takes %d", len(b), store.MaxRecord)
	}
	var back endedRecord
	if err := json.Unmarshal(b, &back); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, back.job(), cmpopts.EquateEmpty()); d != "" {
		t.Errorf("job differs (-want +got):\n%s", d)
	}
}
