package headnode

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"muster/api"
	"muster/headnode/store"
)

// recentJobs is how many ended jobs stay in memory; older ones are read from
// the store's history when somebody asks.
const recentJobs = 2000

// endedRecord is an entry of the history of jobs.
type endedRecord struct {
	Schema    int     `json:"schema"`
	Job       api.Job `json:"job"`
	RequestID string  `json:"request_id,omitempty"`

	rev uint64
}

// jobHistory is the ended jobs that left the records, oldest first. It is
// guarded by jobs.mu.
type jobHistory struct {
	recent []*endedRecord
	byID   map[uint64]*endedRecord
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
	if h.byID[e.Job.ID] != nil {
		return // archived twice: the head stopped in between
	}
	h.recent = append(h.recent, e)
	h.byID[e.Job.ID] = e
	if len(h.recent) > recentJobs {
		delete(h.byID, h.recent[0].Job.ID)
		h.recent[0] = nil
		h.recent = h.recent[1:]
	}
}

func (h *jobHistory) find(id uint64) *endedRecord { return h.byID[id] }

func (h *jobHistory) lastID() uint64 {
	var last uint64
	for id := range h.byID {
		last = max(last, id)
	}
	return last
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
	entries := make([]*endedRecord, len(due))
	for i, j := range due {
		v := js.viewLocked(j)
		v.Spec.Env = nil
		entries[i] = &endedRecord{Schema: recordSchema, Job: v, RequestID: j.spec.RequestID}
	}
	js.mu.Unlock()
	for i, j := range due {
		if err := js.archiveOne(ctx, j, entries[i]); err != nil {
			return i, fmt.Errorf("archiving job %d: %w", j.id, err)
		}
	}
	return len(due), nil
}

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

func (js *jobs) archiveOne(ctx context.Context, j *job, e *endedRecord) error {
	if err := js.cfg.Store.Append(ctx, historyJobs, jobID(j.id), mustJSON(e)); err != nil {
		return err
	}
	ops := removeOps(j, js.cfg.Store)
	for i := range ops {
		ops[i].Expect = store.AnyRev
	}
	if _, err := js.cfg.Store.Commit(ctx, ops...); err != nil {
		return err
	}
	js.mu.Lock()
	delete(js.jobs, j.id)
	for i := range j.tasks {
		delete(js.endDurable, logKey{j.id, i})
	}
	for _, op := range ops {
		delete(js.rec.revs, op.Kind+"/"+op.ID)
	}
	js.history.add(e)
	js.mu.Unlock()
	js.blobs.release(j.spec.Files)
	js.out.forget(j.id, len(j.tasks))
	return nil
}

// keptOutput is the output of one ended job on the disk.
type keptOutput struct {
	job   uint64
	bytes int64
	when  time.Time
}

// pruneOutput removes the output of the jobs that ended first until what is
// left fits KeepBytes and KeepJobs.
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
		js.mu.Unlock()
		if !live {
			kept = append(kept, measureOutput(js.cfg.Dir, id))
		}
	}
	slices.SortFunc(kept, func(a, b keptOutput) int { return b.when.Compare(a.when) })
	var sum int64
	for n, k := range kept {
		if sum += k.bytes; sum > js.cfg.KeepBytes || n >= js.cfg.KeepJobs {
			if err := js.out.removeJob(k.job); err != nil {
				return err
			}
			js.cfg.Log.Info("output removed", "job", k.job, "bytes", k.bytes)
		}
	}
	return nil
}

func measureOutput(dir string, id uint64) keptOutput {
	k := keptOutput{job: id}
	files, _ := os.ReadDir(filepath.Join(dir, strconv.FormatUint(id, 10)))
	for _, f := range files {
		if st, err := f.Info(); err == nil {
			k.bytes += st.Size()
			if st.ModTime().After(k.when) {
				k.when = st.ModTime()
			}
		}
	}
	return k
}
