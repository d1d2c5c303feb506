package headnode

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"muster/api"
)

// jobFilter selects jobs; empty fields select all.
type jobFilter struct {
	States []api.JobState
	User   string
	Node   string
	Name   string
	Sees   func(api.Owner) bool // whose jobs; nil: everybody's
}

func (f jobFilter) match(v *api.Job) bool {
	return (f.Sees == nil || f.Sees(v.Owner)) && (len(f.States) == 0 || slices.Contains(f.States, v.State)) &&
		(f.User == "" || f.User == v.Owner.User) && (f.Name == "" || f.Name == v.Name) &&
		(f.Node == "" || slices.ContainsFunc(v.Tasks, func(t api.Task) bool { return t.Node == f.Node }))
}

// maxPage is the most jobs on one page of a listing.
const maxPage = 1000

// List gives the jobs that match, newest first, n at most, without their
// environment. page continues an earlier listing.
func (js *jobs) List(ctx context.Context, f jobFilter, page string, n int) (items []api.Job, next string, err error) {
	if n <= 0 || n > maxPage {
		n = maxPage
	}
	below, rev, err := parsePage(page)
	if err != nil {
		return nil, "", err
	}
	if rev == 0 {
		var more bool
		if items, more = js.listMemory(f, below, n); more {
			return items, "j" + jobID(items[len(items)-1].ID), nil
		}
		if rev = js.oldestRev(); rev == 0 {
			return items, "", nil
		}
	}
	for len(items) < n {
		recs, err := js.cfg.Store.History(ctx, historyJobs, rev, 500)
		if err != nil {
			return nil, "", fmt.Errorf("reading the history of jobs: %w", err)
		}
		if len(recs) == 0 {
			return items, "", nil
		}
		for _, r := range recs {
			rev = r.Rev
			e, err := parseEnded(r)
			if err != nil || js.inMemory(e.ID) {
				continue
			}
			if v := e.job(); f.match(&v) {
				if items = append(items, v); len(items) == n {
					break
				}
			}
		}
	}
	return items, "h" + strconv.FormatUint(rev, 10), nil
}

// parsePage reads what List gave as next: jID for what is in memory, hREV
// for the history in the store.
func parsePage(page string) (below, rev uint64, err error) {
	if page == "" {
		return ^uint64(0), 0, nil
	}
	n, err := strconv.ParseUint(page[1:], 10, 64)
	switch {
	case err == nil && page[0] == 'j':
		return n, 0, nil
	case err == nil && page[0] == 'h' && n > 0:
		return 0, n, nil
	}
	return 0, 0, invalid("pass what the page before gave as next", "page %.40q is not one of this listing", page)
}

// listMemory lists the matching jobs that are in memory with an id under
// below; more tells whether some were left out.
func (js *jobs) listMemory(f jobFilter, below uint64, n int) (items []api.Job, more bool) {
	js.mu.Lock()
	defer js.mu.Unlock()
	ids := make([]uint64, 0, len(js.jobs)+len(js.history.recent))
	for id := range js.jobs {
		ids = append(ids, id)
	}
	for id := range js.history.byID {
		if js.jobs[id] == nil {
			ids = append(ids, id)
		}
	}
	slices.SortFunc(ids, func(a, b uint64) int {
		if a > b {
			return -1
		}
		return 1
	})
	for _, id := range ids {
		if id >= below {
			continue
		}
		var v api.Job
		if j := js.jobs[id]; j != nil {
			v = js.viewLocked(j)
		} else {
			v = js.history.byID[id].job()
		}
		v.Spec.Env = nil
		if !f.match(&v) {
			continue
		}
		if len(items) == n {
			return items, true
		}
		items = append(items, v)
	}
	return items, false
}

// oldestRev is the revision from which on memory holds all ended jobs, 0 when
// it holds all there are.
func (js *jobs) oldestRev() uint64 {
	js.mu.Lock()
	defer js.mu.Unlock()
	switch {
	case len(js.history.recent) < recentJobs:
		return 0
	case js.history.recent[0].rev == 0: // archived since the start: not known
		return ^uint64(0)
	}
	return js.history.recent[0].rev
}

func (js *jobs) inMemory(id uint64) bool {
	js.mu.Lock()
	defer js.mu.Unlock()
	return js.jobs[id] != nil || js.history.byID[id] != nil
}

// Counts tells how many jobs are in each state, and how many cores running
// tasks have asked for.
func (js *jobs) Counts() (byState map[api.JobState]int, cores int) {
	js.mu.Lock()
	defer js.mu.Unlock()
	byState = map[api.JobState]int{}
	for _, j := range js.jobs {
		byState[j.state]++
	}
	for _, e := range js.history.recent {
		if js.jobs[e.ID] == nil {
			byState[e.State]++
		}
	}
	for _, u := range js.nodes {
		cores += u.cores
	}
	return byState, cores
}

// parseStates reads a comma-separated list of job states.
func parseStates(s string) ([]api.JobState, error) {
	var out []api.JobState
	for w := range strings.SplitSeq(s, ",") {
		switch st := api.JobState(w); st {
		case "":
		case "active":
			out = append(out, api.JobQueued, api.JobRunning)
		case api.JobQueued, api.JobRunning, api.JobFinished, api.JobFailed, api.JobCanceled:
			out = append(out, st)
		default:
			return nil, invalid("states are queued, running, finished, failed, canceled, and active for the first two", "%.40q is not a state of a job", w)
		}
	}
	return out, nil
}
