package headnode

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"muster/api"
	"muster/headnode/scheduler"
)

// Limits of a job.
const (
	maxJobTasks  = 10000
	maxTaskCores = 4096
	maxStrings   = 512 << 10 // bytes of argv and env together: they travel in one message
	maxSpec      = 900 << 10 // bytes of the whole specification as JSON
	maxString    = 128 << 10 // of one of them: MAX_ARG_STRLEN of Linux
	maxJobFiles  = 1000
	maxName      = 128
	maxFileSize  = 4 << 30
	maxPath      = 4095 // PATH_MAX without its zero byte
	maxLimits    = 16   // RLIM_NLIMITS
)

func tooLarge(hint, format string, args ...any) error {
	return &api.Error{Code: api.CodeTooLarge, Msg: fmt.Sprintf(format, args...), Hint: hint}
}

func invalid(hint, format string, args ...any) error {
	return &api.Error{Code: api.CodeInvalid, Msg: fmt.Sprintf(format, args...), Hint: hint}
}

// checkSpec says what is wrong with a specification, and returns it with the
// defaults filled in and the nodes that it names.
func checkSpec(s api.JobSpec) (api.JobSpec, []string, error) {
	if len(s.Argv) == 0 || s.Argv[0] == "" {
		return s, nil, invalid("name a program: muster run PROGRAM ARGS", "the job has no program")
	}
	if s.Tasks == 0 {
		s.Tasks = 1
	}
	s.Cores = max(s.Cores, 1)
	switch {
	case s.Tasks < 0 || s.Tasks > maxJobTasks:
		return s, nil, tooLarge("split it into several jobs", "%d tasks; a job has 1 to %d", s.Tasks, maxJobTasks)
	case s.Cores > maxTaskCores:
		return s, nil, invalid("", "%d cores for a task; at most %d can be asked for", s.Cores, maxTaskCores)
	case s.MemMiB < 0:
		return s, nil, invalid("", "memory of %d MiB", s.MemMiB)
	case len(s.Name) > maxName:
		return s, nil, tooLarge("", "the name has %d bytes; at most %d are kept", len(s.Name), maxName)
	case len(s.RequestID) > maxName:
		return s, nil, tooLarge("", "the request id has %d bytes; at most %d are kept", len(s.RequestID), maxName)
	case s.Terminal != nil && s.Tasks > 1:
		return s, nil, invalid("leave out -t, or ask for one task", "%d tasks with one terminal", s.Tasks)
	case s.Terminal != nil && s.Output != "":
		return s, nil, invalid("leave out one of them", "output goes to a terminal or to a file, not to both")
	case len(s.Limits) > maxLimits:
		return s, nil, invalid("", "%d resource limits; Linux has %d", len(s.Limits), maxLimits)
	case slices.ContainsFunc(s.Limits, func(l api.Limit) bool { return !l.OfUsers() }):
		return s, nil, invalid("leave it out", "a resource limit that is the node's to set")
	case s.Stdin && s.Detached:
		return s, nil, invalid("leave out --detach, or redirect the input from a file that the task can read",
			"a detached job has nobody who sends its input")
	}
	if err := checkStrings(s); err != nil {
		return s, nil, err
	}
	if err := checkFiles(s.Files); err != nil {
		return s, nil, err
	}
	if err := checkPaths(s); err != nil {
		return s, nil, err
	}
	if err := checkFetch(s); err != nil {
		return s, nil, err
	}
	on, err := parseOn(s.On)
	if err != nil {
		return s, nil, invalid("write nodes as n1,n4, n[1-10] or label:gpu", "%v", err)
	}
	if s.Name == "" {
		s.Name = path.Base(api.DecodeText(s.Argv[0]))
		s.Name = strings.ToValidUTF8(s.Name[:min(len(s.Name), maxName)], "")
	}
	return s, on, nil
}

// parseOn reads the node list of a job; none stands for every node.
func parseOn(list string) ([]string, error) {
	if list == "" {
		return nil, nil
	}
	return api.ParseNodeList(list)
}

func checkStrings(s api.JobSpec) error {
	total := 0
	largest := ""
	for i, v := range append(slices.Clone(s.Argv), s.Env...) {
		what := "an argument"
		if i >= len(s.Argv) {
			what = "an environment variable"
			if k := strings.IndexByte(api.DecodeText(v), '='); k <= 0 {
				return invalid("", "environment entry %.40q is not KEY=value", v)
			}
		}
		if strings.IndexByte(api.DecodeText(v), 0) >= 0 {
			return invalid("", "%s holds a zero byte: %.40q", what, v)
		}
		if !utf8.ValidString(v) {
			return invalid("write it as U+0000 and its base64", "%s is not UTF-8: %.40q", what, v)
		}
		if len(v) > maxString {
			return tooLarge("put it into a file and send that: --send FILE", "%s has %d bytes; Linux takes at most %d", what, len(v), maxString)
		}
		total += len(v) + 1
		if len(v) > len(largest) {
			largest = v
		}
	}
	if total > maxStrings {
		most := ""
		if len(largest) > 4<<10 { // else none of them is to blame
			most = fmt.Sprintf(", %.20q... alone %d", api.DecodeText(largest), len(largest))
		}
		return tooLarge("send long lists in a file (--send FILE), or run with a smaller environment: env -u NAME, or env -i",
			"arguments and environment have %d bytes together%s; at most %d are taken", total, most, maxStrings)
	}
	return nil
}

// checkPaths refuses paths that are none, and one file for the output of several tasks.
func checkPaths(s api.JobSpec) error {
	for _, p := range []struct{ what, path string }{{"working directory", s.Dir}, {"output file", s.Output}, {"file for errors", s.Errors}} {
		at := api.DecodeText(p.path)
		switch {
		case p.path == "":
		case len(at) > maxPath:
			return tooLarge("", "the path of the %s has %d bytes; Linux takes at most %d", p.what, len(at), maxPath)
		case !path.IsAbs(at) || at != path.Clean(at) || strings.IndexByte(at, 0) >= 0:
			return invalid("name it from / on", "%s %q is not a clean absolute path", p.what, at)
		case p.path != s.Dir && s.Tasks > 1 && taskFile(p.path, 1, 0) == taskFile(p.path, 1, 1):
			return invalid("put the task's number into its name: -o out-%t", "%d tasks would write over each other in %s", s.Tasks, at)
		}
	}
	return nil
}

// settleDir decides where a job works: in its user's folder, where a share has that. In a
// cluster without shares every job works in private folders.
func settleDir(s api.JobSpec, shares []string) (api.JobSpec, error) {
	for _, p := range []struct{ flag, path string }{{"-o", s.Output}, {"-e", s.Errors}} {
		if at := api.DecodeText(p.path); at != "" && !inShare(at, shares) {
			return s, invalid(
				"name a file on a share (muster share list); without "+p.flag+" the head keeps the output of a detached job: muster job logs",
				"%s %s: no share has that folder, so no node can write there", p.flag, at)
		}
	}
	if s.Private || s.Dir == "" || len(shares) == 0 {
		s.Private = true
		return s, nil
	}
	if dir := api.DecodeText(s.Dir); !inShare(dir, shares) {
		return s, invalid(
			"cd to a folder on a share ("+strings.Join(shares[:min(len(shares), 4)], ", ")+"), let an administrator have nodes mount this one from an NFS server (muster share add HOST:/EXPORT --at "+dir+
				"), send the files that it needs (--send FILE), or do without this folder (--private)",
			"%s is in no share, so the command would not find this folder on a node", dir)
	}
	return s, nil
}

// inShare tells whether one of the shares has a path.
func inShare(path string, shares []string) bool { return shareOf(path, shares) != "" }

// shareOf is the share that a path lies in, the innermost one; "": none.
func shareOf(path string, shares []string) string {
	found := ""
	for _, s := range shares {
		if (path == s || strings.HasPrefix(path, s+"/")) && len(s) > len(found) {
			found = s
		}
	}
	return found
}

// sharesOf are the shares that the tasks of a job work in.
func (js *jobs) sharesOf(j *job) []string {
	if js.cfg.Shares == nil {
		return nil
	}
	var places, found []string
	if !j.spec.Private {
		places = append(places, j.spec.Dir)
	}
	all := js.cfg.Shares()
	for _, p := range append(places, j.spec.Output, j.spec.Errors) {
		if s := shareOf(api.DecodeText(p), all); s != "" && !slices.Contains(found, s) {
			found = append(found, s)
		}
	}
	return found
}

// usersOf are the jobs that have not ended and work in a share, by number.
func (js *jobs) usersOf(share string) []uint64 {
	js.mu.Lock()
	defer js.mu.Unlock()
	var ids []uint64
	for id, j := range js.jobs {
		if !j.state.Ended() && slices.Contains(js.sharesOf(j), share) {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

func checkFiles(files []api.SentFile) error {
	if len(files) > maxJobFiles {
		return tooLarge("pack them into an archive", "%d files; at most %d travel with a job", len(files), maxJobFiles)
	}
	seen := map[string]bool{}
	for _, f := range files {
		f.Path = api.DecodeText(f.Path)
		switch {
		case f.Path == "" || f.Path != path.Clean(f.Path) || path.IsAbs(f.Path) || f.Path == ".." || f.Path == "." || strings.HasPrefix(f.Path, "../") || strings.IndexByte(f.Path, 0) >= 0:
			return invalid("name files below the working directory", "file path %q is not a clean relative path", f.Path)
		case seen[f.Path]:
			return invalid("", "file %q is sent twice", f.Path)
		case f.Size < 0 || f.Size > maxFileSize:
			return tooLarge("put it on a share", "file %q has %d bytes; at most %d travel with a job", f.Path, f.Size, int64(maxFileSize))
		case !isSHA256(f.SHA256):
			return invalid("", "file %q: %.80q is not a SHA-256 in hexadecimal", f.Path, f.SHA256)
		case f.Mode&^0o777 != 0:
			return invalid("", "file %q: mode %o has more than permission bits", f.Path, f.Mode)
		}
		seen[f.Path] = true
	}
	return nil
}

// isSHA256 tells whether s is a SHA-256 in lower-case hexadecimal.
func isSHA256(s string) bool {
	b, err := hex.DecodeString(s)
	return err == nil && len(b) == sha256.Size && s == strings.ToLower(s)
}

// Submit accepts a job for owner: when it returns without error the job is
// durable. A request id that the same user sent before gives that job again.
func (js *jobs) Submit(ctx context.Context, owner api.Owner, spec api.JobSpec) (api.Job, error) {
	nodes := js.cfg.Fleet.Snapshot()
	spec, each, err := everyNode(spec, nodes)
	if err != nil {
		return api.Job{}, err
	}
	spec, on, err := checkSpec(spec)
	if err != nil {
		return api.Job{}, err
	}
	if err := checkAllowed(owner, spec, js.cfg.Allows); err != nil {
		return api.Job{}, err
	}
	var shares []string
	if js.cfg.Shares != nil {
		shares = js.cfg.Shares()
	}
	if spec, err = settleDir(spec, shares); err != nil {
		return api.Job{}, err
	}
	spec = autoOutput(spec, shares, js.cfg.Writable)
	if len(spec.Fetch) > 0 && !spec.Private {
		return api.Job{}, invalid("leave fetch out, or work in a private folder (private)",
			"files are fetched from a private folder; those of %s are in a share already", api.DecodeText(spec.Dir))
	}
	if err := checkNodes(nodes, on, spec); err != nil {
		return api.Job{}, err
	}
	if n := len(mustJSON(spec)); n > maxSpec {
		return api.Job{}, tooLarge("send long lists in a file (--send FILE)", "the job has %d bytes as JSON; at most %d are taken", n, maxSpec)
	}

	js.mu.Lock()
	if v, b, ok := js.submitted(owner, spec.RequestID); ok {
		js.mu.Unlock()
		return v, b.wait(ctx)
	}
	if err := js.blobs.hold(owner.UID, spec.Files); err != nil {
		js.mu.Unlock()
		return api.Job{}, err
	}
	js.lastID++
	j := newJob(js.lastID, owner, spec, on, js.cfg.Now().UTC())
	js.equip(j)
	js.jobs[j.id] = j
	if spec.RequestID != "" {
		js.requests[requestKey{owner.UID, spec.RequestID}] = j.id
	}
	js.rec.note(j, -1)
	if spec.EachNode {
		js.placeEach(j, each)
	} else {
		js.waiting = append(js.waiting, j)
		js.placeQueued(nodes) // so that job and placement are one sync
	}
	v := js.viewLocked(j)
	b := js.rec.now()
	js.mu.Unlock()
	if err := b.wait(ctx); err != nil {
		return api.Job{}, err
	}
	js.cfg.Log.Info("job accepted", "job", v.ID, "user", owner.User, "tasks", spec.Tasks)
	return v, nil
}

// submitted finds the job of an earlier submission with the same request id.
// js.mu is held.
func (js *jobs) submitted(owner api.Owner, request string) (api.Job, *commitBatch, bool) {
	if request == "" {
		return api.Job{}, nil, false
	}
	id, ok := js.requests[requestKey{owner.UID, request}]
	if !ok {
		return api.Job{}, nil, false
	}
	b := js.rec.now()
	if j := js.jobs[id]; j != nil {
		return js.viewLocked(j), b, true
	}
	if e := js.history.byID[id]; e != nil {
		return e.job(), b, true
	}
	return api.Job{}, nil, false
}

// checkNodes refuses what can never run on the nodes that there are.
func checkNodes(nodes []scheduler.Node, on []string, spec api.JobSpec) error {
	if spec.EachNode {
		return nil // the nodes are chosen, whatever they have left
	}
	if err := checkNames(nodes, on); err != nil {
		return err
	}
	idx := make([]int, spec.Tasks)
	why := scheduler.Unsatisfiable(nodes, scheduler.Request{
		Tasks: idx, Cores: spec.Cores, MemMiB: spec.MemMiB, Spread: spec.Spread, On: onNodes(on, nodes),
	})
	if why != "" {
		return &api.Error{Code: api.CodeUnsatisfiable, Msg: why, Hint: "ask for less, or add nodes: muster node list"}
	}
	return nil
}

// checkNames refuses a node list with nodes and labels that there are not.
func checkNames(nodes []scheduler.Node, on []string) error {
	known := map[string]bool{}
	names := make([]string, 0, len(nodes))
	for _, n := range nodes {
		known[n.Name] = true
		names = append(names, n.Name)
	}
	var missing, labels []string
	for _, n := range nodes {
		labels = append(labels, n.Labels...)
	}
	for _, n := range on {
		if label, ok := api.CutLabel(n); ok && !slices.Contains(labels, label) {
			return noLabel(label, labels)
		} else if !ok && !known[n] {
			missing = append(missing, n)
		}
	}
	if len(missing) > 0 {
		hint := "see the nodes with: muster node list"
		if near := nearest(missing[0], names); near != "" {
			hint = "did you mean " + near + "? " + hint
		}
		return &api.Error{Code: api.CodeNotFound, Msg: fmt.Sprintf("there is no node %s", api.FormatHostList(missing)), Hint: hint}
	}
	return nil
}

// nearest is the name that differs least from s, or "" when none is close.
func nearest(s string, names []string) string {
	best, dist := "", 3
	for _, n := range names {
		if d := editDistance(s, n); d < dist {
			best, dist = n, d
		}
	}
	return best
}

func editDistance(a, b string) int {
	if len(a) > 64 || len(b) > 64 {
		return 64
	}
	row := make([]int, len(b)+1)
	for i := range row {
		row[i] = i
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for k := range len(b) {
			cost := diagonal
			if a[i] != b[k] {
				cost++
			}
			diagonal = row[k+1]
			row[k+1] = min(cost, row[k]+1, diagonal+1)
		}
	}
	return row[len(b)]
}

// Get returns a job that the head still remembers.
func (js *jobs) Get(ctx context.Context, id uint64) (api.Job, error) {
	js.mu.Lock()
	if j := js.jobs[id]; j != nil {
		v := js.viewLocked(j)
		js.mu.Unlock()
		return v, nil
	}
	e := js.history.byID[id]
	last := js.lastID
	js.mu.Unlock()
	if e == nil && id <= last {
		var err error
		if e, err = findInHistory(ctx, js.cfg.Store, id); err != nil {
			return api.Job{}, err
		}
	}
	if e != nil {
		return e.job(), nil
	}
	return api.Job{}, noJob(id)
}

func noJob(id uint64) error {
	return &api.Error{Code: api.CodeNotFound, Msg: fmt.Sprintf("there is no job %d", id), Hint: "see the jobs with: muster job list"}
}

// inputWaits is the reason of a job whose tasks read all of its input and do not all run yet.
const inputWaits = "its input waits until every task has started, as each reads all of it; run fewer tasks at a time, or give it to the first one alone: --stdin first"

// viewLocked is the API's view of j. js.mu is held.
func (js *jobs) viewLocked(j *job) api.Job {
	full := false
	v := j.view(func(i int) int64 {
		w, f := js.out.peek(j.id, i)
		full = full || f
		return w
	}, js.cfg.NodeTrouble)
	if v.State == api.JobRunning && v.Reason == "" && j.queued > 0 && j.relay != nil && j.relay.full() {
		v.Reason = inputWaits
	}
	if full {
		v.Reason = "waits for room on the head's disk: its output cannot be kept"
	}
	return v
}

// Cancel ends a job: its tasks get TERM, and KILL some seconds later. Tasks on
// a node that does not answer count as ended at once; what still runs there is
// killed when the node is heard again.
func (js *jobs) Cancel(ctx context.Context, id uint64, why string) (api.Job, error) {
	js.mu.Lock()
	j := js.jobs[id]
	if j == nil {
		js.mu.Unlock()
		v, err := js.Get(ctx, id)
		if err != nil {
			return v, err
		}
		return v, alreadyEnded(v)
	}
	if j.state.Ended() {
		v := js.viewLocked(j)
		js.mu.Unlock()
		return v, alreadyEnded(v)
	}
	js.cancelLocked(j, why, js.cfg.Now())
	b := js.rec.now()
	js.mu.Unlock()
	if err := b.wait(ctx); err != nil {
		return api.Job{}, err
	}
	return js.Get(ctx, id)
}

func alreadyEnded(v api.Job) error {
	return &api.Error{Code: api.CodeConflict, Msg: fmt.Sprintf("job %d has ended: it is %s", v.ID, v.State)}
}

// cancelLocked begins the end of j. js.mu is held.
func (js *jobs) cancelLocked(j *job, why string, now time.Time) {
	if j.canceling || j.state.Ended() {
		return
	}
	var queued []int
	for i := range j.tasks {
		if j.tasks[i].phase == phaseQueued {
			queued = append(queued, i)
		}
	}
	j.cancel(why, now)
	j.killAt = now.Add(js.cfg.KillAfter)
	js.rec.note(j, -1)
	for _, i := range queued {
		js.rec.note(j, i)
		js.rec.batch.ended = append(js.rec.batch.ended, logKey{j.id, i})
		if j.relay != nil {
			j.relay.shut(i)
		}
	}
	js.sortWaiting()
	js.rec.now()
	js.signalRunning(j, sigTerm)
}

// Signal sends a signal to every task of a job that runs.
func (js *jobs) Signal(ctx context.Context, id uint64, signal int) error {
	if signal < 1 || signal > 64 {
		return invalid("", "%d is not a signal; signals are 1 to 64", signal)
	}
	js.mu.Lock()
	j := js.jobs[id]
	if j == nil || j.state.Ended() {
		js.mu.Unlock()
		v, err := js.Get(ctx, id)
		if err != nil {
			return err
		}
		return alreadyEnded(v)
	}
	if j.live == j.queued {
		js.mu.Unlock()
		return &api.Error{Code: api.CodeConflict, Msg: fmt.Sprintf("no task of job %d runs: %s", id, j.waits), Hint: fmt.Sprintf("end it with: muster job cancel %d", id)}
	}
	n := js.signalRunning(j, signal)
	js.mu.Unlock()
	var failed []string
	var first error
	for range cap(n) {
		select {
		case r := <-n:
			if r.err != nil {
				failed = append(failed, r.node)
				first = r.err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if first != nil {
		e := *api.AsError(first)
		e.Msg = fmt.Sprintf("signal %d did not reach the tasks of job %d on %s: %s", signal, id, api.FormatHostList(failed), e.Msg)
		return &e
	}
	return nil
}

// Heard notes that a client of the job is there.
func (js *jobs) Heard(id uint64) {
	js.mu.Lock()
	defer js.mu.Unlock()
	if j := js.jobs[id]; j != nil {
		j.heard = js.cfg.Now()
	}
}

func (js *jobs) sortWaiting() {
	js.waiting = slices.DeleteFunc(js.waiting, func(j *job) bool { return j.queued == 0 })
	slices.SortFunc(js.waiting, func(a, b *job) int {
		if a.id < b.id {
			return -1
		}
		return 1
	})
}

func deleteJob(list []*job, j *job) []*job {
	return slices.DeleteFunc(list, func(x *job) bool { return x == j })
}
