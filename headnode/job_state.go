package headnode

import (
	"fmt"
	"syscall"
	"time"

	"muster/api"
)

// phase is how far a task is. Only these steps exist:
//
//	queued   -> placed    a node was chosen; the start is sent once that is durable
//	placed   -> queued    the start surely never reached the node
//	placed   -> running   the node said so
//	placed   -> ending    its end was heard, some of its output was not
//	running  -> ending
//	placed, running, ending -> ended
//	queued   -> ended     canceled
type phase uint8

const (
	phaseQueued phase = iota
	phasePlaced
	phaseRunning
	phaseEnding
	phaseEnded
)

// exitLost is the exit code of a task that muster lost, as ssh has it.
const exitLost = 255

// task is one task as the head keeps it.
type task struct {
	phase   phase
	state   api.JobState // of an ending or ended task: what it ended as
	node    string
	boot    string // first digits of the node's boot id when it was placed
	epoch   int    // counts placements
	why     string
	started time.Time
	ended   time.Time
	exit    int
	signal  int
	err     string
	total   int64 // whole length of its output, once its end was heard

	// What follows is not recorded.
	used    int64  // MiB of memory by the last report
	detail  string // more of how it runs, by the last report
	stops   int    // how often it was stopped
	missing int    // reports of its node in a row that did not have it
	sent    bool   // a start may have reached the node
	// repeated: how it ended is what its node says, and says again until that is recorded.
	repeated bool
}

// active tells whether the task takes cores of its node.
func (t *task) active() bool {
	return t.phase == phasePlaced || t.phase == phaseRunning || t.phase == phaseEnding
}

// job is a job as the head keeps it. Its methods are the only way in which
// its state changes; they do no input or output, and the caller holds the
// lock and records the job afterwards.
type job struct {
	id        uint64
	owner     api.Owner
	spec      api.JobSpec
	state     api.JobState
	reason    string
	submitted time.Time
	started   time.Time
	ended     time.Time
	exit      int
	canceling bool   // the user asked for its end
	cancelWhy string // who or what asked
	insisted  bool   // and they are killed
	tasks     []task

	// What follows is not recorded.
	on      []string // nodes of spec.On
	queued  int      // tasks in phaseQueued
	live    int      // tasks that have not ended
	waits   string   // why tasks are queued
	heard   time.Time
	hungUp  bool
	killAt  time.Time // when a canceled job is told KILL; zero: not canceled
	feed    *feed
	relay   *relay
	window  *api.Window // size of its client's terminal; nil: that of the specification
	durable bool        // its record was committed once

	told      time.Time // when watchers were told of a change
	toldState api.JobState
	smallSpec bool // its specification is in the hot record
}

func newJob(id uint64, owner api.Owner, spec api.JobSpec, on []string, now time.Time) *job {
	j := &job{
		id: id, owner: owner, spec: spec, on: on, state: api.JobQueued,
		submitted: now, heard: now, tasks: make([]task, spec.Tasks),
	}
	j.count()
	return j
}

// count derives what is not recorded from the tasks.
func (j *job) count() {
	j.queued, j.live = 0, 0
	for i := range j.tasks {
		if j.tasks[i].phase == phaseQueued {
			j.queued++
		}
		if j.tasks[i].phase != phaseEnded {
			j.live++
		}
	}
}

// place books task i on a node.
func (j *job) place(i int, node, boot, why string) {
	t := &j.tasks[i]
	t.phase, t.node, t.boot, t.why = phasePlaced, node, boot, why
	t.epoch++
	t.sent, t.missing, t.used, t.detail, t.stops = false, 0, 0, "", 0
	j.queued--
}

// unplace takes a task back whose start never reached its node, unless the
// job is being canceled.
func (j *job) unplace(i int) bool {
	t := &j.tasks[i]
	if t.phase != phasePlaced || j.canceling {
		return false
	}
	t.phase, t.node, t.boot, t.why = phaseQueued, "", "", ""
	j.queued++
	return true
}

// run notes that a node has started the task.
func (j *job) run(i int, at time.Time) bool {
	t := &j.tasks[i]
	if t.phase != phasePlaced {
		return false
	}
	t.phase, t.started = phaseRunning, at
	if j.state == api.JobQueued {
		j.state, j.started, j.reason = api.JobRunning, at, ""
	}
	return true
}

// end notes the end of a task that has written total bytes, of which the
// head has written so many. The task is ending until it has all of it.
func (j *job) end(i int, ev api.TaskEvent, written int64) bool {
	t := &j.tasks[i]
	if t.phase != phasePlaced && t.phase != phaseRunning {
		return false
	}
	if ev.Error == "" && t.phase == phasePlaced {
		j.run(i, ev.Time)
	}
	t.phase, t.ended, t.total = phaseEnding, ev.Time, max(ev.Output, 0)
	if t.ended.Before(t.started) {
		t.ended = t.started // the start may be of the head's clock, the end is of the node's
	}
	t.exit, t.signal, t.err = ev.ExitCode, ev.Signal, ev.Error
	if t.signal != 0 && t.exit == 0 {
		t.exit = 128 + t.signal
	}
	if t.err != "" && t.exit == 0 {
		t.exit = exitLost
	}
	t.repeated = !j.canceling
	t.state = api.JobFinished
	if t.exit != 0 || ev.State == api.JobFailed {
		t.state = api.JobFailed
	}
	if j.canceling {
		t.state = api.JobCanceled
	}
	j.complete(i, written)
	return true
}

// complete ends an ending task when its output is there.
func (j *job) complete(i int, written int64) bool {
	t := &j.tasks[i]
	if t.phase != phaseEnding || written < t.total {
		return false
	}
	t.phase = phaseEnded
	j.live--
	j.settle(t.ended)
	return true
}

// lose ends a task whose node has lost it, or some of its output.
func (j *job) lose(i int, why string, written int64, now time.Time) bool {
	t := &j.tasks[i]
	switch t.phase {
	case phaseEnding: // its exit status is known
		t.err = fmt.Sprintf("%s: %d of %d bytes of output are there", why, written, t.total)
		t.total = written
		j.complete(i, written)
		return true
	case phasePlaced, phaseRunning:
		t.phase, t.ended, t.err, t.exit, t.total = phaseEnded, now, why, exitLost, written
		t.state = api.JobFailed
		if j.canceling {
			t.state = api.JobCanceled
		}
		j.live--
		j.settle(now)
		return true
	}
	return false
}

// cancel asks for the end of the job: what is queued ends now, what runs is
// for the caller to signal.
func (j *job) cancel(why string, now time.Time) bool {
	if j.state.Ended() || j.canceling {
		return false
	}
	j.canceling, j.cancelWhy, j.reason = true, why, why
	for i := range j.tasks {
		if j.tasks[i].phase == phaseQueued {
			j.drop(i, now, 0)
		}
	}
	j.settle(now)
	return true
}

// insist notes that the tasks of a canceled job are killed, since they did not end when they were asked to.
// It reports whether that is news.
func (j *job) insist(after time.Duration) bool {
	if !j.canceling || j.insisted {
		return false
	}
	j.insisted = true
	j.cancelWhy += fmt.Sprintf("; it did not end on TERM and was killed after %v", after)
	j.reason = j.cancelWhy
	return true
}

// drop ends a task of a canceled job without waiting for its node.
func (j *job) drop(i int, now time.Time, written int64) bool {
	t := &j.tasks[i]
	if t.phase == phaseEnded {
		return false
	}
	if t.phase == phaseQueued {
		j.queued--
	}
	if t.phase != phaseEnding {
		t.exit, t.ended = 128+int(syscall.SIGTERM), now
	}
	t.phase, t.state, t.total = phaseEnded, api.JobCanceled, written
	j.live--
	j.settle(now)
	return true
}

// settle gives the job its final state when its last task has ended.
func (j *job) settle(now time.Time) {
	if j.live > 0 || j.state.Ended() {
		return
	}
	j.state, j.ended, j.exit = api.JobFinished, now, 0
	failed, canceled, first := 0, 0, -1
	for i := range j.tasks {
		t := &j.tasks[i]
		j.exit = max(j.exit, t.exit)
		switch t.state {
		case api.JobCanceled:
			canceled++
		case api.JobFailed:
			if failed++; first < 0 {
				first = i
			}
		}
	}
	switch {
	case canceled > 0:
		j.state, j.reason = api.JobCanceled, j.cancelWhy
	case failed > 0:
		j.state, j.reason = api.JobFailed, j.failure(first, failed)
	default:
		j.reason = ""
	}
}

// lastEnd is when the last of its tasks ended.
func (j *job) lastEnd() time.Time {
	var last time.Time
	for i := range j.tasks {
		if e := j.tasks[i].ended; e.After(last) {
			last = e
		}
	}
	return last
}

// failure says in one line what went wrong.
func (j *job) failure(first, failed int) string {
	t := &j.tasks[first]
	what := fmt.Sprintf("exit status %d", t.exit)
	switch {
	case t.err != "":
		what = t.err
	case t.signal != 0:
		what = fmt.Sprintf("ended by signal %d (%v)", t.signal, syscall.Signal(t.signal))
	}
	if len(j.tasks) == 1 {
		return what
	}
	return fmt.Sprintf("%d of %d tasks failed, the first of them task %d: %s", failed, len(j.tasks), first, what)
}

// view is the job as the API shows it. written tells how much output of a
// task is there, nodeTrouble (may be nil) what is wrong with the link to a node now.
func (j *job) view(written func(index int) int64, nodeTrouble func(node string) string) api.Job {
	v := api.Job{
		ID: j.id, Name: j.spec.Name, Owner: j.owner, State: j.state, Reason: j.reason, Spec: j.spec,
		Submitted: j.submitted, Started: j.started, Ended: j.ended, ExitCode: j.exit,
		Tasks: make([]api.Task, len(j.tasks)), Fixed: fixed(j.spec),
	}
	trouble := ""
	for i := range j.tasks {
		t := &j.tasks[i]
		w := api.Task{
			Job: j.id, Index: i, Node: t.node, Why: t.why, Started: t.started,
			ExitCode: t.exit, Signal: t.signal, Error: t.err, Output: t.total,
		}
		switch t.phase {
		case phaseQueued:
			w.State, w.Why = api.JobQueued, j.waits
		case phasePlaced:
			w.State = api.JobQueued
		case phaseRunning:
			w.State, w.Detail, w.Stops = api.JobRunning, t.detail, t.stops
			if t.detail == api.DetailFetching {
				w.Why = "has ended; its files are on the way"
			}
		case phaseEnding:
			w.State, w.Why = api.JobRunning, "has ended; the rest of its output is on the way"
		case phaseEnded:
			w.State, w.Ended = t.state, t.ended
		}
		if t.active() {
			if written != nil {
				w.Output = written(i)
			}
			if nodeTrouble != nil {
				if s := nodeTrouble(t.node); s != "" {
					w.Why, trouble = s, s
				}
			}
		}
		v.Tasks[i] = w
	}
	switch {
	case j.state == api.JobQueued && j.queued > 0 && j.waits != "":
		v.Reason = j.waits
	case j.state == api.JobRunning && trouble != "":
		v.Reason = trouble
	case j.state == api.JobRunning && j.canceling:
		v.Reason = "is being canceled: " + j.cancelWhy
	}
	return v
}
