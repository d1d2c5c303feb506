package headnode

import (
	"bytes"
	"compress/flate"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"

	"muster/api"
	"muster/headnode/store"
)

// recentJobs is how many ended jobs stay in memory; older ones are read from
// the store's history when somebody asks.
const recentJobs = 2000

// endedRecord is an entry of the history of jobs. The job itself is packed
// when it is large, for the store's limit and for the memory that it takes.
type endedRecord struct {
	Schema    int          `json:"schema"`
	ID        uint64       `json:"id"`
	State     api.JobState `json:"state"`
	UID       uint32       `json:"uid"`
	RequestID string       `json:"request_id,omitempty"`
	LastID    uint64       `json:"last_id"` // highest that was given so far
	Job       *api.Job     `json:"job,omitempty"`
	Packed    []byte       `json:"packed,omitempty"` // the job as JSON, deflated

	rev uint64
}

// packAbove is how large a job is kept as it is.
const packAbove = 4 << 10

func newEnded(v api.Job, requestID string, lastID uint64) *endedRecord {
	v.Spec.Env = nil
	e := &endedRecord{Schema: recordSchema, ID: v.ID, State: v.State, UID: v.Owner.UID, RequestID: requestID, LastID: lastID}
	b := mustJSON(v)
	if len(b) <= packAbove {
		e.Job = &v
		return e
	}
	var packed bytes.Buffer
	w, _ := flate.NewWriter(&packed, flate.BestSpeed) // fails for a wrong level only
	w.Write(b)
	w.Close()
	e.Packed = packed.Bytes()
	return e
}

// job unpacks the job. What cannot be unpacked is shown by its number alone.
func (e *endedRecord) job() api.Job {
	if e.Job != nil {
		return *e.Job
	}
	var v api.Job
	if err := json.NewDecoder(flate.NewReader(bytes.NewReader(e.Packed))).Decode(&v); err != nil {
		return api.Job{ID: e.ID, Reason: fmt.Sprintf("its entry in the history is damaged: %v", err)}
	}
	return v
}

// jobHistory is the ended jobs that left the records, oldest first. It is
// guarded by jobs.mu.
type jobHistory struct {
	recent []*endedRecord
	byID   map[uint64]*endedRecord
	lastID uint64
}

func loadHistory(st store.Interface) (*jobHistory, error) {
	h := &jobHistory{byID: map[uint64]*endedRecord{}}
	recs, err := st.History(context.Background(), historyJobs, 0, recentJobs)
	if err != nil {
		return nil, fmt.Errorf("reading the history of jobs: %w", err)
	}
	for _, r := range slices.Backward(recs) {
		if e, err := parseEnded(r); err == nil {
			h.add(e)
		}
	}
	return h, nil
}

func parseEnded(r store.Record) (*endedRecord, error) {
	e := &endedRecord{rev: r.Rev}
	if err := json.Unmarshal(r.Data, e); err != nil {
		return nil, fmt.Errorf("reading history entry %s: %w", r.ID, err)
	}
	return e, nil
}

func (h *jobHistory) add(e *endedRecord) {
	h.lastID = max(h.lastID, e.LastID, e.ID)
	if h.byID[e.ID] != nil {
		return // archived twice: the head stopped in between
	}
	h.recent = append(h.recent, e)
	h.byID[e.ID] = e
	if len(h.recent) > recentJobs {
		delete(h.byID, h.recent[0].ID)
		h.recent[0] = nil
		h.recent = h.recent[1:]
	}
}

// findInHistory looks for a job that is not in memory any more.
func findInHistory(ctx context.Context, st store.Interface, id uint64) (*endedRecord, error) {
	var before uint64
	for {
		recs, err := st.History(ctx, historyJobs, before, 500)
		if err != nil {
			return nil, fmt.Errorf("looking for job %d in the history: %w", id, err)
		}
		for _, r := range recs {
			if r.ID == jobID(id) {
				return parseEnded(r)
			}
			before = r.Rev
		}
		if len(recs) == 0 {
			return nil, nil
		}
	}
}

// archiving moves ended jobs from the records to the history and removes
// output that is more than is kept.
func (js *jobs) archiving(ctx context.Context) error {
	if err := js.pruneOutput(); err != nil {
		js.cfg.Log.Warn("old output not removed", "err", err)
	}
	t := time.NewTicker(js.cfg.ArchiveAfter / 4)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		n, err := js.archive(ctx, js.cfg.Now())
		if err != nil && ctx.Err() == nil {
			js.cfg.Log.Warn("ended jobs not archived", "err", err)
		}
		js.blobs.sweep()
		if n > 0 {
			if err := js.pruneOutput(); err != nil {
				js.cfg.Log.Warn("old output not removed", "err", err)
			}
		}
	}
}

// archive moves the jobs that ended ArchiveAfter ago and returns how many.
func (js *jobs) archive(ctx context.Context, now time.Time) (int, error) {
	js.mu.Lock()
	var due []*job
	for _, j := range js.jobs {
		if j.state.Ended() && j.durable && now.Sub(j.ended) >= js.cfg.ArchiveAfter && js.rec.dirty[j.id] == nil && js.allThere(j) {
			due = append(due, j)
		}
	}
	slices.SortFunc(due, func(a, b *job) int { return a.ended.Compare(b.ended) })
	due = due[:min(len(due), archiveRound)]
	entries := make([]*endedRecord, len(due))
	var ops []store.Op
	for i, j := range due {
		entries[i] = newEnded(js.viewLocked(j), j.spec.RequestID, js.lastID)
		ops = append(ops, js.removeOps(j)...)
	}
	js.mu.Unlock()
	for _, e := range entries {
		if err := js.cfg.Store.Append(ctx, historyJobs, jobID(e.ID), mustJSON(e)); err != nil {
			return 0, fmt.Errorf("archiving job %d: %w", e.ID, err)
		}
	}
	for chunk := range slices.Chunk(ops, commitOps) {
		if _, err := js.cfg.Store.Commit(ctx, chunk...); err != nil {
			return 0, fmt.Errorf("removing records of ended jobs: %w", err)
		}
	}
	js.mu.Lock()
	for i, j := range due {
		delete(js.jobs, j.id)
		for t := range j.tasks {
			delete(js.endDurable, logKey{j.id, t})
		}
		js.history.add(entries[i])
	}
	js.rec.gone = append(js.rec.gone, ops...)
	js.mu.Unlock()
	for _, j := range due {
		js.blobs.release(j.spec.Files)
		js.out.forget(j.id, len(j.tasks))
		js.fetched.forget(j.id)
	}
	return len(due), nil
}

// archiveRound is how many jobs are archived in one go.
const archiveRound = 500

// allThere tells whether every byte of an ended job's output is durable, or
// cannot come any more. js.mu is held.
func (js *jobs) allThere(j *job) bool {
	for i := range j.tasks {
		t := &j.tasks[i]
		if _, ok := js.endDurable[logKey{j.id, i}]; !ok {
			return false
		}
		if w, _ := js.out.peek(j.id, i); w > 0 && !js.complete(logKey{j.id, i}, t) {
			return false
		}
	}
	return true
}

// keptOutput is the output of one ended job on the disk.
type keptOutput struct {
	job   uint64
	bytes int64
	when  time.Time
	uid   uint32
}

// pruneOutput removes output and fetched files of the jobs that ended first until what is left
// fits KeepBytes and KeepJobs, and no user has more than half of it. The latest job of a user
// keeps what fits at all.
func (js *jobs) pruneOutput() error {
	dirs, err := os.ReadDir(js.cfg.Dir)
	if err != nil {
		return fmt.Errorf("listing task output: %w", err)
	}
	var kept []keptOutput
	for _, d := range dirs {
		id, err := strconv.ParseUint(d.Name(), 10, 64)
		if err != nil || !d.IsDir() {
			continue
		}
		js.mu.Lock()
		_, live := js.jobs[id]
		uid := unknownUID
		if e := js.history.byID[id]; e != nil {
			uid = e.UID
		}
		js.mu.Unlock()
		if !live {
			k := measureOutput(js.cfg.Dir, id)
			k.uid = uid
			kept = append(kept, k)
		}
	}
	slices.SortFunc(kept, func(a, b keptOutput) int { return b.when.Compare(a.when) })
	for _, k := range surplus(kept, js.cfg.KeepBytes, js.cfg.KeepJobs) {
		if err := js.out.removeJob(k.job); err != nil {
			return err
		}
		js.cfg.Log.Info("output removed", "job", k.job, "bytes", k.bytes)
	}
	return nil
}

// unknownUID stands for the user of a job that is not in memory any more.
const unknownUID = ^uint32(0)

// surplus are those of kept, which is in the order of their ends, the latest first, that are too many.
func surplus(kept []keptOutput, bytes int64, jobs int) []keptOutput {
	var sum int64
	var out []keptOutput
	users := map[uint32]int64{}
	for n, k := range kept {
		had := users[k.uid]
		mine := had + k.bytes
		if sum+k.bytes > bytes || n >= jobs || k.uid != unknownUID && had > 0 && mine > bytes/2 {
			out = append(out, k)
			continue
		}
		sum += k.bytes
		users[k.uid] = mine
	}
	return out
}

// usedBytes is the room that a file takes on the disk: output in the middle may have been given up.
func usedBytes(st os.FileInfo) int64 {
	if sys, ok := st.Sys().(*syscall.Stat_t); ok {
		return sys.Blocks * 512
	}
	return st.Size()
}

func measureOutput(dir string, id uint64) keptOutput {
	k := keptOutput{job: id}
	files, _ := os.ReadDir(filepath.Join(dir, strconv.FormatUint(id, 10)))
	for _, f := range files {
		if st, err := f.Info(); err == nil {
			k.bytes += usedBytes(st)
			if st.ModTime().After(k.when) {
				k.when = st.ModTime()
			}
		}
	}
	return k
}
