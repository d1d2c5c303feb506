package headnode

import (
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"muster/api"
	"muster/headnode/scheduler"
)

func TestEveryNode(t *testing.T) {
	nodes := []scheduler.Node{{Name: "n1", Labels: []string{"gpu"}}, {Name: "n2", Reason: "paused"}, {Name: "n3", Labels: []string{"gpu"}}}
	for on, want := range map[string]string{"": "n1 n2 n3", "n2": "n2", "n3,n1": "n1 n3", "label:gpu,n2": "n1 n2 n3"} {
		spec, names, err := everyNode(api.JobSpec{EachNode: true, On: on, Tasks: 99, MemMiB: 5}, nodes)
		if got := strings.Join(names, " "); err != nil || got != want {
			t.Errorf("on %q: %q, %v, want %q", on, got, err, want)
		}
		if spec.Tasks != len(names) || !spec.Private || spec.MemMiB != 0 {
			t.Errorf("on %q the specification is %+v", on, spec)
		}
	}
	for name, c := range map[string]struct {
		spec api.JobSpec
		code api.Code
	}{
		"no such node":  {api.JobSpec{On: "n9"}, api.CodeNotFound},
		"no such label": {api.JobSpec{On: "label:cpu"}, api.CodeNotFound},
		"no list":       {api.JobSpec{On: "n["}, api.CodeInvalid},
		"terminal":      {api.JobSpec{Terminal: &api.Window{}}, api.CodeInvalid},
		"input":         {api.JobSpec{Stdin: true}, api.CodeInvalid},
	} {
		c.spec.EachNode = true
		if _, _, err := everyNode(c.spec, nodes); api.CodeOf(err) != c.code {
			t.Errorf("%s: %v, want %s", name, err, c.code)
		}
	}
	if _, _, err := everyNode(api.JobSpec{EachNode: true}, nil); api.CodeOf(err) != api.CodeUnsatisfiable {
		t.Errorf("without nodes: %v", err)
	}
	plain := api.JobSpec{On: "n9", Tasks: 3}
	if got, names, err := everyNode(plain, nodes); err != nil || names != nil || cmp.Diff(plain, got) != "" {
		t.Errorf("another job became %+v, %q, %v", got, names, err)
	}
}

// TestEachNode: a job for each node runs on paused and full ones and takes nothing of them, says which
// nodes are not heard, and does not wait for one that is lost on the way.
func TestEachNode(t *testing.T) {
	r := newStoppedRig(t, "n1", "n2", "n3")
	var mu sync.Mutex
	trouble := map[string]string{"n3": "n3 is unreachable since 10:00:00"}
	r.change = func(c *jobsConfig) {
		c.NodeTrouble = func(node string) string {
			mu.Lock()
			defer mu.Unlock()
			return trouble[node]
		}
	}
	r.startHead()
	t.Cleanup(r.stopHead)
	full := r.submit(api.JobSpec{Argv: []string{"sleep"}, Cores: 4, On: "n1", Detached: true})
	r.running(full.ID)
	r.fleet.set("n2", func(n *scheduler.Node) { n.Ready, n.Reason = false, "paused" })

	j := r.submit(api.JobSpec{Argv: []string{"true"}, EachNode: true, Detached: true})
	j = r.ended(j.ID)
	var got []string
	for _, k := range j.Tasks {
		got = append(got, k.Node+" "+string(k.State)+" "+k.Error)
	}
	want := []string{"n1 finished ", "n2 finished ", "n3 failed n3 is unreachable since 10:00:00"}
	if diff := cmp.Diff(want, got); diff != "" || j.ExitCode != exitLost {
		t.Errorf("exit status %d, tasks (-want +got):\n%s", j.ExitCode, diff)
	}

	j = r.submit(api.JobSpec{Argv: []string{"sleep"}, EachNode: true, On: "n[1-2]", Detached: true})
	r.until(j.ID, "running everywhere", func(j api.Job) bool {
		return j.Tasks[0].State == api.JobRunning && j.Tasks[1].State == api.JobRunning
	})
	if _, cores := r.js.Counts(); cores != 4 {
		t.Errorf("%d cores are taken, want the 4 of the other job", cores)
	}
	mu.Lock()
	trouble["n2"] = "n2 is unreachable since 10:00:01"
	mu.Unlock()
	j = r.until(j.ID, "without n2", func(j api.Job) bool { return j.Tasks[1].State.Ended() })
	if j.Tasks[1].Error != "n2 is unreachable since 10:00:01" || j.Tasks[0].State != api.JobRunning {
		t.Errorf("tasks are %+v", j.Tasks)
	}
	if _, err := r.client.Cancel(t.Context(), j.ID); err != nil {
		t.Fatal(err)
	}
	r.ended(j.ID)

	// The records are as good as those of every other job.
	r.restartHead()
	if j := r.ended(j.ID); len(j.Tasks) != 2 || j.State != api.JobCanceled {
		t.Errorf("after a restart the job is %+v", j)
	}
}

// TestEachNodeIsForAdministrators: and runs also where root's jobs are not allowed.
func TestEachNodeIsForAdministrators(t *testing.T) {
	r := newStoppedRig(t, "n1")
	r.change = func(c *jobsConfig) { c.Allows = nil }
	r.startHead()
	t.Cleanup(r.stopHead)
	s := testServer(t, r, nil)
	body := `{"argv":["true"],"each_node":true,"detached":true}`
	if w := ask(s, 4000001, "POST", "/v1/jobs", body); w.Code != 403 || !strings.Contains(w.Body.String(), "may not run commands on every node") {
		t.Errorf("a user: %d %s", w.Code, w.Body)
	}
	if w := ask(s, 0, "POST", "/v1/jobs", body); w.Code != 200 {
		t.Errorf("root: %d %s", w.Code, w.Body)
	}
	if w := ask(s, 0, "POST", "/v1/jobs", `{"argv":["true"],"detached":true}`); w.Code != 403 {
		t.Errorf("root's own job: %d %s", w.Code, w.Body)
	}
}
