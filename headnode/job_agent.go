package headnode

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"syscall"
	"time"

	"muster/api"
)

const (
	sigCont = int(syscall.SIGCONT)
	sigHup  = int(syscall.SIGHUP)
	sigKill = int(syscall.SIGKILL)
	sigTerm = int(syscall.SIGTERM)
	sigStop = int(syscall.SIGTSTP)

	// missingReports is how many reports of a node in a row must lack a task
	// that runs there before it counts as lost: one may have been written
	// just before the task started.
	missingReports = 3

	// endedReports is how many reports in a row may say that a task has ended
	// before its end itself was told. A node tells it until it is taken; it
	// was taken already when this head was restored from older records.
	endedReports = 30
)

var _ taskSink = (*jobs)(nil)

// shortBoot is the part of a boot id that records keep.
func shortBoot(id string) string { return id[:min(len(id), 13)] }

// request sends a message to a node and decodes its answer. An error in the
// answer is returned as such.
func (js *jobs) request(ctx context.Context, node, verb string, msg any) (api.Ack, error) {
	return js.requestRaw(ctx, node, verb, mustJSON(msg))
}

// requestRaw is request with a message that is in its wire form.
func (js *jobs) requestRaw(ctx context.Context, node, verb string, msg []byte) (api.Ack, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	b, err := js.cfg.Fleet.Request(ctx, node, verb, msg)
	if err != nil {
		return api.Ack{}, err
	}
	var ack api.Ack
	if err := json.Unmarshal(b, &ack); err != nil {
		return ack, &api.Error{Code: api.CodeInternal, Msg: fmt.Sprintf("answer of node %s to %s: %v", node, verb, err)}
	}
	if ack.Err != nil {
		return ack, ack.Err
	}
	return ack, nil
}

// task finds the task that ref names if it is on node. js.mu is held.
func (js *jobs) task(node string, ref api.TaskRef) (*job, *task) {
	j := js.jobs[ref.Job]
	if j == nil || ref.Index < 0 || ref.Index >= len(j.tasks) {
		return nil, nil
	}
	t := &j.tasks[ref.Index]
	if t.epoch != ref.Epoch || t.node != node {
		return nil, nil
	}
	return j, t
}

// sendStart sends the start of a placed task unless that is under way or was
// tried a moment ago. js.mu is held.
func (js *jobs) sendStart(k logKey, now time.Time) {
	try, j := js.starting[k], js.jobs[k.job]
	if j == nil || try == nil {
		delete(js.starting, k)
		return
	}
	t := &j.tasks[k.index]
	if t.phase != phasePlaced {
		delete(js.starting, k)
		return
	}
	if try.flying || now.Before(try.next) {
		return
	}
	if j.canceling {
		if !t.sent {
			js.dropLocked(j, k.index)
		}
		return
	}
	try.flying = true
	node := t.node
	start := startOf(j, k.index)
	js.todo.forKey(node, func(ctx context.Context) {
		_, err := js.request(ctx, node, api.VerbStart, start)
		js.startAnswered(k, node, start.Epoch, err)
	})
}

// startOf is what a node is told of a placed task. js.mu is held.
func startOf(j *job, index int) api.TaskStart {
	s, t := &j.spec, &j.tasks[index]
	start := api.TaskStart{
		TaskRef: api.TaskRef{Job: j.id, Index: index, Epoch: t.epoch},
		Argv:    s.Argv, Env: s.Env, Owner: j.owner, Files: s.Files,
		Stdin: s.Stdin && (index == 0 || !s.StdinFirst),
		Cores: j.cores(), MemMiB: s.MemMiB, Host: t.node, Tasks: len(j.tasks), Node: t.node,
		Umask: s.Umask, Limits: s.Limits, Terminal: s.Terminal, Containers: s.Containers, OneOutput: s.OneOutput,
		Output: taskFile(s.Output, j.id, index), Errors: taskFile(s.Errors, j.id, index),
	}
	for _, p := range s.Fetch {
		start.Fetch = append(start.Fetch, taskFile(p, j.id, index))
	}
	if j.window != nil {
		start.Terminal = j.window
	}
	if !s.Private {
		start.Dir = s.Dir
	}
	return start
}

// taskFile fills in what a path says about job and task: %j is the job's number, %t
// the task's, %% a percent sign.
func taskFile(path string, job uint64, index int) string {
	if path == "" {
		return ""
	}
	fill := strings.NewReplacer("%j", jobID(job), "%t", strconv.Itoa(index), "%%", "%")
	return api.EncodeText(fill.Replace(api.DecodeText(path)))
}

// startAnswered takes the answer to a start.
func (js *jobs) startAnswered(k logKey, node string, epoch int, err error) {
	notReady := err != nil && errors.Is(err, errNotDelivered) && !js.nodeReady(k, epoch)
	now := js.cfg.Now()
	js.mu.Lock()
	defer js.mu.Unlock()
	j := js.jobs[k.job]
	if try := js.starting[k]; try != nil {
		try.flying, try.next = false, now.Add(js.cfg.RetryEvery)
	}
	if j == nil || j.tasks[k.index].epoch != epoch || j.tasks[k.index].phase != phasePlaced {
		return
	}
	t := &j.tasks[k.index]
	if t.node != node {
		return // it was renamed meanwhile: the next try finds it
	}
	var e *api.Error
	switch isAPI := errors.As(err, &e); {
	case err == nil:
		js.runs(j, k.index, now)
	case errors.Is(err, errNotDelivered):
		switch {
		case t.sent:
		case j.canceling:
			js.dropLocked(j, k.index)
		case notReady && j.spec.EachNode:
			js.loseLocked(j, k.index, err.Error())
		case notReady:
			js.mutate(j, k.index, func() bool { return j.unplace(k.index) })
			js.waiting = append(js.waiting, j)
			js.sortWaiting()
			js.wakePlace()
		}
	case !isAPI, e.Code == api.CodeUnreachable, e.Code == api.CodeUnavailable, e.Code == api.CodeDiskFull, e.Code == api.CodeConflict, e.Code == api.CodeCanceled:
		t.sent = true
		t.why = "start is tried again: " + err.Error()
	default: // the node will not run it
		js.mutate(j, k.index, func() bool {
			return j.end(k.index, api.TaskEvent{State: api.JobFailed, Time: now.UTC(), Error: e.Error()}, 0)
		})
		js.rec.now()
	}
}

// nodeReady tells whether the node of a placed task takes tasks.
func (js *jobs) nodeReady(k logKey, epoch int) bool {
	nodes := js.cfg.Fleet.Snapshot()
	js.mu.Lock()
	defer js.mu.Unlock()
	j := js.jobs[k.job]
	if j == nil || j.tasks[k.index].epoch != epoch {
		return false
	}
	for _, n := range nodes {
		if n.Name == j.tasks[k.index].node {
			return n.Ready
		}
	}
	return false
}

// runs notes that a task was started. js.mu is held.
func (js *jobs) runs(j *job, i int, at time.Time) {
	if js.mutate(j, i, func() bool { return j.run(i, at.UTC()) }) {
		j.feed.changed()
		js.feedInput(j, i)
	}
}

// TaskEvent implements taskSink.
func (js *jobs) TaskEvent(ctx context.Context, node string, ev api.TaskEvent) error {
	if ev.State.Ended() {
		// Read before the lock is taken: the head may have been restarted.
		if _, err := js.taskLog(node, ev.TaskRef); err != nil {
			return err
		}
		if err := js.noteFetched(node, ev); err != nil {
			return err
		}
		ev.Error = wayOut(ev.Error)
	}
	js.mu.Lock()
	j, t := js.task(node, ev.TaskRef)
	if j == nil {
		js.mu.Unlock()
		return nil // not ours any more: the node may forget it
	}
	t.missing = 0
	if !ev.State.Ended() {
		js.runs(j, ev.Index, ev.Time)
		js.mu.Unlock()
		return nil
	}
	js.mutate(j, ev.Index, func() bool {
		written, _ := js.out.peek(ev.Job, ev.Index)
		return j.end(ev.Index, ev, written)
	})
	b := js.rec.now()
	if j.state.Ended() {
		j.feed.changed() // its client need not wait for the record
	}
	js.mu.Unlock()
	return b.wait(ctx)
}

// taskLog returns the log of a task that is on node, nil when it is not.
func (js *jobs) taskLog(node string, ref api.TaskRef) (*taskLog, error) {
	js.mu.Lock()
	j, t := js.task(node, ref)
	done := j == nil || t.phase == phaseEnded && js.complete(logKey{ref.Job, ref.Index}, t)
	js.mu.Unlock()
	if done {
		return nil, nil
	}
	l, err := js.out.task(ref.Job, ref.Index, true)
	if err != nil {
		return nil, &api.Error{Code: api.CodeUnavailable, Msg: err.Error()}
	}
	return l, nil
}

// complete tells whether all output of an ended task is durable. js.mu is
// held.
func (js *jobs) complete(k logKey, t *task) bool {
	if t.state == api.JobCanceled || t.total == 0 {
		return true // of a task that was dropped nothing more is wanted
	}
	return js.out.durable(k.job, k.index) >= t.total
}

// TaskOutput implements taskSink.
func (js *jobs) TaskOutput(node string, ref api.TaskRef, f api.Frame, done func(int64, error)) {
	l, err := js.taskLog(node, ref)
	switch {
	case err != nil:
		done(0, err)
	case l == nil:
		if done != nil {
			done(f.Offset+int64(len(f.Data)), nil) // nobody wants it: let the task go on
		}
	default:
		l.append(f, done)
	}
}

// appended is told by outputs that a task's output grew.
func (js *jobs) appended(id uint64, index int) {
	js.mu.Lock()
	defer js.mu.Unlock()
	j := js.jobs[id]
	if j == nil {
		return
	}
	if j.tasks[index].phase == phaseEnding {
		written, _ := js.out.peek(id, index)
		if js.mutate(j, index, func() bool { return j.complete(index, written) }) {
			js.rec.now()
			if j.state.Ended() {
				j.feed.changed()
			}
		}
	}
	j.feed.output(index)
}

// stuck is told by outputs that a task's output has to wait, or has not any more.
func (js *jobs) stuck(id uint64, _ int) {
	js.mu.Lock()
	defer js.mu.Unlock()
	if j := js.jobs[id]; j != nil {
		j.feed.changed()
	}
}

// synced is told by outputs that more of a task's output is durable.
func (js *jobs) synced(id uint64, index int, _ int64) {
	js.mu.Lock()
	defer js.mu.Unlock()
	js.forgetIfComplete(logKey{id, index})
}

// forgetIfComplete tells the node of an ended task to forget it when the head
// has everything durable. js.mu is held.
func (js *jobs) forgetIfComplete(k logKey) {
	j := js.jobs[k.job]
	if j == nil {
		return
	}
	t := &j.tasks[k.index]
	if _, ok := js.endDurable[k]; !ok || t.phase != phaseEnded || t.node == "" || !js.complete(k, t) {
		return
	}
	js.forgetAt(t.node, api.TaskRef{Job: k.job, Index: k.index, Epoch: t.epoch})
}

// forgetAt tells a node to forget a task. A node that does not hear it says
// so with its next heartbeat.
func (js *jobs) forgetAt(node string, ref api.TaskRef) {
	js.todo.forKey(node, func(ctx context.Context) {
		if _, err := js.request(ctx, node, api.VerbForget, ref); err != nil {
			js.cfg.Log.Debug("forget not taken", "node", node, "task", ref.String(), "err", err)
		}
	})
}

// killAt kills a task that ought not run on a node.
func (js *jobs) killAt(node string, ref api.TaskRef) {
	js.cfg.Log.Warn("task killed that ought not run there", "node", node, "task", ref.String())
	js.todo.forKey(node, func(ctx context.Context) {
		_, err := js.request(ctx, node, api.VerbSignal, api.TaskSignal{TaskRef: ref, Signal: sigKill})
		if err != nil {
			js.cfg.Log.Debug("kill not taken", "node", node, "task", ref.String(), "err", err)
		}
	})
}

// signalResult is what became of a signal to one task.
type signalResult struct {
	node string
	err  error
}

// signalRunning sends a signal to every task of j that may run. The channel's
// capacity is the number of results that come. js.mu is held.
func (js *jobs) signalRunning(j *job, signal int) chan signalResult {
	var idx []int
	for i := range j.tasks {
		if p := j.tasks[i].phase; p == phasePlaced || p == phaseRunning {
			idx = append(idx, i)
		}
	}
	results := make(chan signalResult, len(idx))
	for _, i := range idx {
		t := &j.tasks[i]
		node, ref := t.node, api.TaskRef{Job: j.id, Index: i, Epoch: t.epoch}
		js.todo.forKey(node, func(ctx context.Context) {
			_, err := js.request(ctx, node, api.VerbSignal, api.TaskSignal{TaskRef: ref, Signal: signal})
			js.signalAnswered(node, ref, signal, err)
			results <- signalResult{node, err}
		})
	}
	return results
}

// signalAnswered ends the wait for a canceled task whose node does not
// answer or does not know it, and notes a hang-up that was not heard.
func (js *jobs) signalAnswered(node string, ref api.TaskRef, signal int, err error) {
	if err == nil {
		return
	}
	js.mu.Lock()
	defer js.mu.Unlock()
	j, _ := js.task(node, ref)
	if j == nil {
		return
	}
	code := api.CodeOf(err)
	gone := code == api.CodeUnreachable || signal == sigKill && code == api.CodeNotFound
	switch {
	case j.canceling && gone:
		js.dropLocked(j, ref.Index)
	case signal == sigHup && code == api.CodeUnreachable:
		j.hungUp = false
	}
}

// dropLocked ends a task of a canceled job without its node. js.mu is held.
func (js *jobs) dropLocked(j *job, i int) {
	written, _ := js.out.peek(j.id, i)
	now := js.cfg.Now().UTC()
	if js.mutate(j, i, func() bool { return j.drop(i, now, written) }) {
		js.rec.now()
	}
}

// NodeJoined implements taskSink.
func (js *jobs) NodeJoined(node, bootID string, held []api.TaskStatus) {
	boot := shortBoot(bootID)
	holds := map[api.TaskRef]bool{}
	for _, h := range held {
		holds[h.TaskRef] = true
	}
	js.mu.Lock()
	u := js.use(node)
	u.boot = boot
	for k := range u.tasks {
		j := js.jobs[k.job]
		t := &j.tasks[k.index]
		ref := api.TaskRef{Job: k.job, Index: k.index, Epoch: t.epoch}
		// A task without a boot id was placed between the approval of the node
		// and its first join with the rights of one.
		if t.boot == boot || t.boot == "" || holds[ref] {
			if try := js.starting[k]; try != nil {
				try.next = time.Time{}
				js.sendStart(k, js.cfg.Now())
			}
			continue
		}
		js.loseLocked(j, k.index, fmt.Sprintf("node lost: %s was restarted", node))
	}
	js.mu.Unlock()
	js.NodeHeard(node, held)
	js.wakePlace()
}

// loseLocked ends a task that its node has lost. A start that surely never
// reached the node goes back to the queue instead. js.mu is held.
func (js *jobs) loseLocked(j *job, i int, why string) {
	t := &j.tasks[i]
	try := js.starting[logKey{j.id, i}]
	if t.phase == phasePlaced && !t.sent && (try == nil || !try.flying) && !j.canceling && !j.spec.EachNode {
		js.mutate(j, i, func() bool { return j.unplace(i) })
		js.waiting = append(js.waiting, j)
		js.sortWaiting()
		return
	}
	now := js.cfg.Now().UTC()
	written, _ := js.out.peek(j.id, i)
	js.cfg.Log.Error("task lost", "job", j.id, "task", i, "node", t.node, "why", why)
	if js.mutate(j, i, func() bool { return j.lose(i, why, written, now) }) {
		js.rec.now()
	}
}

// NodeHeard implements taskSink.
func (js *jobs) NodeHeard(node string, held []api.TaskStatus) {
	now := js.cfg.Now()
	js.mu.Lock()
	defer js.mu.Unlock()
	u := js.use(node)
	seen := make(map[logKey]struct{}, len(held))
	for _, h := range held {
		k := logKey{h.Job, h.Index}
		j, t := js.task(node, h.TaskRef)
		switch {
		case j == nil || t.phase == phaseQueued:
			js.unwanted(node, h)
		case t.phase == phaseEnded:
			if !h.State.Ended() {
				js.unwanted(node, h)
			} else {
				js.forgetIfComplete(k)
			}
		default:
			seen[k] = struct{}{}
			t.used = h.MemMiB
			if t.detail != h.Detail || t.stops != h.Stops {
				t.detail, t.stops = h.Detail, h.Stops
				j.feed.changed()
			}
			if !h.State.Ended() {
				t.missing = 0
				js.runs(j, h.Index, now)
			} else if t.missing++; t.phase == phaseRunning && t.missing >= endedReports {
				js.loseLocked(j, h.Index, fmt.Sprintf("node lost: %s says that the task has ended, not how", node))
			}
		}
	}
	for k := range u.tasks {
		if _, ok := seen[k]; ok {
			continue
		}
		j := js.jobs[k.job]
		t := &j.tasks[k.index]
		if t.phase == phasePlaced {
			continue // its start is sent until it is answered
		}
		if t.missing++; t.missing >= missingReports {
			js.loseLocked(j, k.index, fmt.Sprintf("node lost: %s does not know the task any more", node))
		}
	}
}

// unwanted ends a task that a node holds and that this head does not want.
func (js *jobs) unwanted(node string, h api.TaskStatus) {
	if h.State.Ended() {
		js.forgetAt(node, h.TaskRef)
	} else {
		js.killAt(node, h.TaskRef)
	}
}

// NodeRemoved implements taskSink.
func (js *jobs) NodeRemoved(node string) {
	js.mu.Lock()
	defer js.mu.Unlock()
	u := js.nodes[node]
	if u == nil {
		return
	}
	for k := range u.tasks {
		js.loseLocked(js.jobs[k.job], k.index, fmt.Sprintf("node lost: %s was removed", node))
	}
	delete(js.nodes, node)
}

// NodeRenamed implements taskSink.
func (js *jobs) NodeRenamed(from, to string) {
	js.mu.Lock()
	defer js.mu.Unlock()
	if u := js.nodes[from]; u != nil {
		js.nodes[to] = u
		delete(js.nodes, from)
	}
	for _, j := range js.jobs {
		for i := range j.tasks {
			if j.tasks[i].node == from {
				j.tasks[i].node = to
				js.rec.note(j, i)
			}
		}
	}
	js.rec.now()
}

// JobFile implements taskSink.
func (js *jobs) JobFile(ctx context.Context, node string, req api.FileRequest) ([]byte, error) {
	js.mu.Lock()
	j := js.jobs[req.Job]
	allowed := false
	if j != nil {
		for _, f := range j.spec.Files {
			allowed = allowed || f.SHA256 == req.SHA256
		}
		here := false
		for i := range j.tasks {
			here = here || j.tasks[i].active() && j.tasks[i].node == node
		}
		allowed = allowed && here
	}
	js.mu.Unlock()
	if !allowed {
		return nil, &api.Error{Code: api.CodeForbidden, Msg: fmt.Sprintf("node %s runs no task of job %d with file %.12s", node, req.Job, req.SHA256)}
	}
	return js.blobs.read(req.SHA256, req.Offset, api.MaxChunk)
}
