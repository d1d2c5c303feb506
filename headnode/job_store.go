package headnode

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"muster/api"
	"muster/headnode/store"
)

const (
	// commitOps is the most changes that go into one batch of the store.
	commitOps = 256
	// fewOps is up to how many changes are cheaper one by one, each with its
	// sync, than as a batch: JetStream makes and removes a folder for every
	// batch (measured: 1.1 ms for a record, 12 ms for a batch of two).
	fewOps = 8
	// inlineSpec is up to how many bytes of a specification are kept in the
	// hot record, so that submitting a small job is one record.
	inlineSpec = 450
)

// commitBatch is one round of the recorder. Those who changed something wait
// for done; err is set before it is closed.
type commitBatch struct {
	done   chan struct{}
	err    error
	starts []startKey // placed in this round: sent when it is durable
	ended  []logKey
}

// startKey names one start of a task.
type startKey struct {
	logKey
	epoch int
}

// dirtyJob is what of a job differs from its records.
type dirtyJob struct {
	chunks map[int]struct{} // of tasksRecord
}

// recorder brings changed jobs to the store: it takes all that changed since
// its last round, writes their present state as one batch and then tells those
// who wait. So any number of changes cost one sync, and records are always of
// one moment. Its fields are guarded by jobs.mu.
type recorder struct {
	batch *commitBatch
	dirty map[uint64]*dirtyJob
	gone  []store.Op // records that were deleted by others
	wake  chan struct{}

	revs map[string]uint64 // revision of each record by KIND/ID; the recorder's own
}

func newRecorder() *recorder {
	return &recorder{
		batch: &commitBatch{done: make(chan struct{})}, dirty: map[uint64]*dirtyJob{},
		revs: map[string]uint64{}, wake: make(chan struct{}, 1),
	}
}

// note marks task i of j (-1: the job alone) as changed, without haste: it is
// written with the next round, at the latest with the next tick.
func (r *recorder) note(j *job, i int) {
	d := r.dirty[j.id]
	if d == nil {
		d = &dirtyJob{chunks: map[int]struct{}{}}
		r.dirty[j.id] = d
	}
	if i >= 0 && !j.inline() {
		d.chunks[chunkOf(i)] = struct{}{}
	}
}

// now starts a round and returns it.
func (r *recorder) now() *commitBatch {
	select {
	case r.wake <- struct{}{}:
	default:
	}
	return r.batch
}

// wait blocks until the round is durable.
func (b *commitBatch) wait(ctx context.Context) error {
	select {
	case <-b.done:
		return b.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// record is the recorder's loop.
func (js *jobs) record(ctx context.Context) error {
	for {
		select {
		case <-js.rec.wake:
		case <-ctx.Done():
			// What was acknowledged is durable; what was not may still be.
			js.recordRound(context.WithoutCancel(ctx))
			return nil
		}
		for js.recordRound(ctx) != nil {
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(js.cfg.RetryEvery):
			}
		}
	}
}

// recordRound writes what is dirty now. An error means that it is dirty still.
func (js *jobs) recordRound(ctx context.Context) error {
	js.mu.Lock()
	r := js.rec
	if len(r.dirty) == 0 {
		if b := r.batch; len(b.starts)+len(b.ended) == 0 {
			r.batch = &commitBatch{done: make(chan struct{})}
			js.mu.Unlock()
			close(b.done)
			return nil
		}
	}
	batch, dirty := r.batch, r.dirty
	r.batch, r.dirty = &commitBatch{done: make(chan struct{})}, map[uint64]*dirtyJob{}
	ops := js.opsOf(dirty)
	for _, op := range r.gone {
		delete(r.revs, op.Kind+"/"+op.ID)
	}
	r.gone = nil
	js.mu.Unlock()

	err := js.commit(ctx, ops)

	js.mu.Lock()
	if err != nil {
		batch.err = recordError(err)
		js.keepDirty(dirty, batch)
	} else {
		js.settled(dirty, batch)
	}
	js.mu.Unlock()
	close(batch.done)
	if err != nil {
		js.cfg.Log.Error("jobs not recorded", "err", err)
		return err
	}
	js.afterCommit(dirty, batch)
	return nil
}

// opsOf encodes the present state of dirty jobs, the record that makes a job
// exist behind those that it needs: written one by one, nothing half is ever
// there. js.mu is held.
func (js *jobs) opsOf(dirty map[uint64]*dirtyJob) []store.Op {
	var ops []store.Op
	for id, d := range dirty {
		j := js.jobs[id]
		if j == nil {
			continue
		}
		if !j.durable {
			spec := mustJSON(j.specRecord())
			if j.smallSpec = len(spec) <= inlineSpec; !j.smallSpec {
				ops = append(ops, store.Op{Kind: kindJobSpec, ID: jobID(id), Data: spec})
			}
		}
		for c := range d.chunks {
			ops = append(ops, store.Op{Kind: kindTasks, ID: chunkID(id, c), Data: mustJSON(tasksRecord{recordSchema, j.taskRecords(c)})})
		}
		ops = append(ops, store.Op{Kind: kindJob, ID: jobID(id), Data: mustJSON(j.hot())})
	}
	return ops
}

// commit writes ops, which the recorder alone does for their kinds. A
// revision that is not the expected one is what an earlier commit left that
// failed half-way to us and not to the store: it is learned and overwritten.
func (js *jobs) commit(ctx context.Context, ops []store.Op) error {
	size := commitOps
	if len(ops) <= fewOps {
		size = 1
	}
	for len(ops) > 0 {
		n := min(len(ops), size)
		if err := js.commitOnce(ctx, ops[:n]); err != nil {
			if !errors.Is(err, store.ErrConflict) {
				return err
			}
			for _, op := range ops[:n] {
				rec, _ := js.cfg.Store.Get(op.Kind, op.ID)
				js.rec.revs[op.Kind+"/"+op.ID] = rec.Rev
			}
			if err := js.commitOnce(ctx, ops[:n]); err != nil {
				return err
			}
		}
		ops = ops[n:]
	}
	return nil
}

func (js *jobs) commitOnce(ctx context.Context, ops []store.Op) error {
	for i := range ops {
		ops[i].Expect = js.rec.revs[ops[i].Kind+"/"+ops[i].ID]
	}
	rev, err := js.cfg.Store.Commit(ctx, ops...)
	if err != nil {
		return err
	}
	for i, op := range ops {
		key := op.Kind + "/" + op.ID
		if op.Data == nil {
			delete(js.rec.revs, key)
		} else {
			js.rec.revs[key] = rev - uint64(len(ops)-1-i)
		}
	}
	return nil
}

func recordError(err error) error {
	if errors.Is(err, store.ErrFull) {
		return &api.Error{
			Code: api.CodeDiskFull, Msg: "the head has no room to record this",
			Hint: "free space on the head's disk and try again",
		}
	}
	return &api.Error{Code: api.CodeUnavailable, Msg: fmt.Sprintf("recording on the head: %v", err), Hint: "try again"}
}

// keepDirty puts back what a failed round did not write, but for jobs that
// were never recorded: their submission fails and they never were. js.mu is held.
func (js *jobs) keepDirty(dirty map[uint64]*dirtyJob, b *commitBatch) {
	r := js.rec
	for id, d := range dirty {
		j := js.jobs[id]
		if j == nil {
			continue
		}
		if !j.durable {
			js.rollBack(j)
			continue
		}
		now := r.dirty[id]
		if now == nil {
			r.dirty[id] = d
			continue
		}
		for c := range d.chunks {
			now.chunks[c] = struct{}{}
		}
	}
	for _, k := range b.starts {
		if js.jobs[k.job] != nil {
			r.batch.starts = append(r.batch.starts, k)
		}
	}
	r.batch.ended = append(r.batch.ended, b.ended...)
}

// settled notes what became durable. js.mu is held.
func (js *jobs) settled(dirty map[uint64]*dirtyJob, b *commitBatch) {
	for id := range dirty {
		if j := js.jobs[id]; j != nil {
			j.durable = true
		}
	}
	for _, k := range b.ended {
		js.endDurable[k] = struct{}{}
	}
	for _, s := range b.starts {
		if j := js.jobs[s.job]; j != nil && j.tasks[s.index].epoch == s.epoch && j.tasks[s.index].phase == phasePlaced {
			js.starting[s.logKey] = &startTry{}
		}
	}
}

// afterCommit does what had to wait until the round was durable.
func (js *jobs) afterCommit(dirty map[uint64]*dirtyJob, b *commitBatch) {
	js.mu.Lock()
	for _, k := range b.starts {
		js.sendStart(k.logKey, js.cfg.Now())
	}
	for _, k := range b.ended {
		js.forgetIfComplete(k)
	}
	var events []api.Event
	for id := range dirty {
		j := js.jobs[id]
		if j == nil {
			continue
		}
		j.feed.changed()
		if js.cfg.Notify != nil && j.newsworthy(js.cfg.Now()) {
			v := js.viewLocked(j)
			v.Spec.Env = nil
			if len(v.Tasks) > inlineTasks {
				v.Tasks = nil // a watcher that wants them asks
			}
			events = append(events, api.Event{Time: js.cfg.Now(), Kind: "job", Actor: j.owner.User, Job: &v})
		}
	}
	js.mu.Unlock()
	for _, e := range events {
		js.cfg.Notify(e)
	}
}

// newsworthy tells whether the job's watchers are told of a change: of one
// with many tasks at most once a second, but for its state.
func (j *job) newsworthy(now time.Time) bool {
	if len(j.tasks) > inlineTasks && j.state == j.toldState && now.Sub(j.told) < time.Second {
		return false
	}
	j.told, j.toldState = now, j.state
	return true
}

// removeOps are the changes that delete every record of a job, the one that
// makes it exist first: what a stop in between leaves is swept at the next start.
func (js *jobs) removeOps(j *job) []store.Op {
	ops := []store.Op{{Kind: kindJob, ID: jobID(j.id), Expect: store.AnyRev}}
	if !j.smallSpec {
		ops = append(ops, store.Op{Kind: kindJobSpec, ID: jobID(j.id), Expect: store.AnyRev})
	}
	if !j.inline() {
		for c := range chunkOf(len(j.tasks)-1) + 1 {
			if _, ok := js.cfg.Store.Get(kindTasks, chunkID(j.id, c)); ok {
				ops = append(ops, store.Op{Kind: kindTasks, ID: chunkID(j.id, c), Expect: store.AnyRev})
			}
		}
	}
	return ops
}

// sweepRecords deletes records of jobs that do not exist.
func (js *jobs) sweepRecords(ctx context.Context) error {
	var ops []store.Op
	for _, kind := range []string{kindJobSpec, kindTasks} {
		for _, r := range js.cfg.Store.List(kind) {
			id, _, _ := strings.Cut(r.ID, "-")
			if _, ok := js.cfg.Store.Get(kindJob, id); !ok {
				ops = append(ops, store.Op{Kind: kind, ID: r.ID, Expect: store.AnyRev})
			}
		}
	}
	for chunk := range slices.Chunk(ops, commitOps) {
		if _, err := js.cfg.Store.Commit(ctx, chunk...); err != nil {
			return fmt.Errorf("sweeping records of jobs: %w", err)
		}
	}
	return nil
}
