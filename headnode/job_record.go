package headnode

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"muster/api"
	"muster/headnode/store"
)

// A job is kept in records of these kinds. The hot one changes with the job
// and stays small: arguments, environment and files are in the second, which
// is written once, unless they are small too. A job with more than inlineTasks tasks keeps what left the
// queue in records of that many tasks each; a submission is two records in
// any case.
const (
	kindJob     = "job"      // ID: hotRecord
	kindJobSpec = "jobspec"  // ID: specRecord
	kindTasks   = "jobtasks" // ID-CHUNK: tasksRecord

	historyJobs = "jobs" // subject of ended jobs: endedRecord

	inlineTasks  = 16
	recordSchema = 1
)

type hotRecord struct {
	Schema    int          `json:"schema"`
	State     api.JobState `json:"state"`
	Reason    string       `json:"reason,omitempty"`
	User      string       `json:"user"`
	UID       uint32       `json:"uid"`
	Submitted time.Time    `json:"submitted"`
	Started   time.Time    `json:"started,omitzero"`
	Ended     time.Time    `json:"ended,omitzero"`
	Exit      int          `json:"exit,omitempty"`
	Canceling bool         `json:"canceling,omitempty"`
	CancelWhy string       `json:"cancel_why,omitempty"`
	Tasks     []taskRecord `json:"tasks,omitempty"`
	Spec      *specRecord  `json:"spec,omitempty"` // absent: in a record of its own
}

type specRecord struct {
	Schema int         `json:"schema"`
	Owner  api.Owner   `json:"owner"`
	Spec   api.JobSpec `json:"spec"`
}

type tasksRecord struct {
	Schema int          `json:"schema"`
	Tasks  []taskRecord `json:"tasks"`
}

type taskRecord struct {
	Phase   phase        `json:"p,omitempty"`
	State   api.JobState `json:"s,omitempty"`
	Node    string       `json:"n,omitempty"`
	Boot    string       `json:"b,omitempty"`
	Epoch   int          `json:"e,omitempty"`
	Why     string       `json:"w,omitempty"`
	Started int64        `json:"t0,omitempty"` // milliseconds since 1970
	Ended   int64        `json:"t1,omitempty"`
	Exit    int          `json:"x,omitempty"`
	Signal  int          `json:"g,omitempty"`
	Err     string       `json:"m,omitempty"`
	Total   int64        `json:"o,omitempty"`
}

func milli(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

func fromMilli(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms).UTC()
}

func taskToRecord(t *task, many bool) taskRecord {
	r := taskRecord{
		Phase: t.phase, State: t.state, Node: t.node, Boot: t.boot, Epoch: t.epoch, Why: t.why,
		Started: milli(t.started), Ended: milli(t.ended), Exit: t.exit, Signal: t.signal, Err: t.err, Total: t.total,
	}
	if many {
		r.Why = "" // the same sentence many times over
	}
	return r
}

func (r taskRecord) task() task {
	return task{
		phase: r.Phase, state: r.State, node: r.Node, boot: r.Boot, epoch: r.Epoch, why: r.Why,
		started: fromMilli(r.Started), ended: fromMilli(r.Ended), exit: r.Exit, signal: r.Signal, err: r.Err, total: r.Total,
		sent: r.Phase == phasePlaced, // it may have been sent before the head stopped
	}
}

func jobID(id uint64) string { return strconv.FormatUint(id, 10) }

func chunkID(id uint64, chunk int) string { return jobID(id) + "-" + strconv.Itoa(chunk) }

func chunkOf(index int) int { return index / inlineTasks }

// inline tells whether the hot record of j holds its tasks.
func (j *job) inline() bool { return len(j.tasks) <= inlineTasks }

func (j *job) hot() hotRecord {
	r := hotRecord{
		Schema: recordSchema, State: j.state, Reason: j.reason, User: j.owner.User, UID: j.owner.UID,
		Submitted: j.submitted, Started: j.started, Ended: j.ended, Exit: j.exit,
		Canceling: j.canceling, CancelWhy: j.cancelWhy,
	}
	if j.inline() {
		r.Tasks = j.taskRecords(0)
	}
	if j.smallSpec {
		s := j.specRecord()
		r.Spec = &s
	}
	return r
}

func (j *job) specRecord() specRecord { return specRecord{recordSchema, j.owner, j.spec} }

func (j *job) taskRecords(chunk int) []taskRecord {
	lo := chunk * inlineTasks
	hi := min(lo+inlineTasks, len(j.tasks))
	recs := make([]taskRecord, hi-lo)
	for i := range recs {
		recs[i] = taskToRecord(&j.tasks[lo+i], len(j.tasks) > 4)
	}
	return recs
}

// mustJSON encodes records and messages, which hold nothing that JSON cannot.
// It leaves <, > and & as they are: they are frequent in arguments.
func mustJSON(v any) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		panic(fmt.Sprintf("encoding a record: %v", err))
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

// loadJobs reads every job of the store.
func loadJobs(st store.Interface) (map[uint64]*job, uint64, error) {
	jobs := map[uint64]*job{}
	var last uint64
	for _, r := range st.List(kindJob) {
		j, err := loadJob(st, r)
		if err != nil {
			return nil, 0, fmt.Errorf("reading record of job %s: %w", r.ID, err)
		}
		jobs[j.id] = j
		last = max(last, j.id)
	}
	for _, r := range st.List(kindTasks) {
		id, n, _ := strings.Cut(r.ID, "-")
		jid, err1 := strconv.ParseUint(id, 10, 64)
		chunk, err2 := strconv.Atoi(n)
		j := jobs[jid]
		if err1 != nil || err2 != nil || j == nil || chunk < 0 {
			continue // its job has gone; the next archive round removes it
		}
		var tr tasksRecord
		if err := json.Unmarshal(r.Data, &tr); err != nil {
			return nil, 0, fmt.Errorf("reading tasks %s: %w", r.ID, err)
		}
		for i, t := range tr.Tasks {
			if at := chunk*inlineTasks + i; at < len(j.tasks) {
				j.tasks[at] = t.task()
			}
		}
	}
	for _, j := range jobs {
		j.count()
		if j.live == 0 && !j.state.Ended() {
			j.settle(j.lastEnd()) // the head stopped between two records of one change
		}
	}
	return jobs, last, nil
}

func loadJob(st store.Interface, r store.Record) (*job, error) {
	id, err := strconv.ParseUint(r.ID, 10, 64)
	if err != nil {
		return nil, err
	}
	var hot hotRecord
	if err := json.Unmarshal(r.Data, &hot); err != nil {
		return nil, err
	}
	if hot.Schema > recordSchema {
		return nil, fmt.Errorf("schema %d is newer than this head knows (%d); use the newer muster", hot.Schema, recordSchema)
	}
	var spec specRecord
	if hot.Spec != nil {
		spec = *hot.Spec
	} else {
		cold, ok := st.Get(kindJobSpec, r.ID)
		if !ok {
			return nil, fmt.Errorf("its %s record is missing", kindJobSpec)
		}
		if err := json.Unmarshal(cold.Data, &spec); err != nil {
			return nil, err
		}
	}
	on, err := parseOn(spec.Spec.On)
	if err != nil {
		return nil, err
	}
	j := newJob(id, spec.Owner, spec.Spec, on, hot.Submitted)
	j.state, j.reason, j.started, j.ended, j.exit = hot.State, hot.Reason, hot.Started, hot.Ended, hot.Exit
	j.canceling, j.cancelWhy, j.durable, j.smallSpec = hot.Canceling, hot.CancelWhy, true, hot.Spec != nil
	for i, t := range hot.Tasks {
		if i < len(j.tasks) {
			j.tasks[i] = t.task()
		}
	}
	return j, nil
}
