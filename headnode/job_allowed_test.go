package headnode

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"muster/api"
)

func TestCheckAllowed(t *testing.T) {
	alice := api.Owner{User: "alice", UID: 1000}
	root := api.Owner{User: "root"}
	containers := api.JobSpec{Argv: []string{"a"}, Containers: true}
	for name, c := range map[string]struct {
		owner api.Owner
		spec  api.JobSpec
		on    []string
		want  []string // of the error; none: it is allowed
	}{
		"a user":                   {owner: alice},
		"root":                     {owner: root, want: []string{"no jobs of root", "setting root-jobs is off", "muster config set root-jobs on"}},
		"root by another name":     {owner: api.Owner{User: "toor"}, want: []string{"root-jobs"}},
		"root, allowed":            {owner: root, on: []string{"root-jobs"}},
		"containers":               {owner: alice, spec: containers, want: []string{"setting containers is off", "muster config set containers on"}},
		"containers, allowed":      {owner: alice, spec: containers, on: []string{"containers"}},
		"containers, root allowed": {owner: alice, spec: containers, on: []string{"root-jobs"}, want: []string{"containers"}},
		"root's containers":        {owner: root, spec: containers, on: []string{"containers"}, want: []string{"root-jobs"}},
	} {
		err := checkAllowed(c.owner, c.spec, func(s string) bool { return slices.Contains(c.on, s) })
		if (err == nil) != (c.want == nil) {
			t.Errorf("%s: checkAllowed() = %v, want an error with %q", name, err, c.want)
		}
		for _, text := range c.want {
			if err != nil && (!strings.Contains(err.Error(), text) || api.CodeOf(err) != api.CodeForbidden) {
				t.Errorf("%s: checkAllowed() = %v, want it to say %q", name, err, text)
			}
		}
	}
	if err := checkAllowed(root, api.JobSpec{}, nil); err == nil {
		t.Error("without settings root's jobs are allowed")
	}
}

// jobRoutes are all requests of the API that are about one job, as "METHOD PATH".
func jobRoutes(s *httpServer) []string {
	var found []string
	for path, item := range s.api.OpenAPI().Paths {
		for method, there := range map[string]bool{
			"GET": item.Get != nil, "POST": item.Post != nil, "PUT": item.Put != nil, "DELETE": item.Delete != nil, "PATCH": item.Patch != nil,
		} {
			if there && strings.HasPrefix(path, "/v1/jobs/{id}") {
				found = append(found, method+" "+path)
			}
		}
	}
	for _, pattern := range s.streamed {
		if strings.Contains(pattern, "/v1/jobs/{id}") {
			found = append(found, pattern)
		}
	}
	slices.Sort(found)
	return found
}

// TestJobsOfOthers goes through every request that there is about a job: whoever is not its
// owner is told whose it is, the owner and administrators get on.
func TestJobsOfOthers(t *testing.T) {
	const alice, bob, admin = 4000001, 4000002, 0
	r := newRig(t, "n1")
	s := testServer(t, r, nil)
	routes := jobRoutes(s)
	for _, want := range []string{"GET /v1/jobs/{id}", "POST /v1/jobs/{id}/cancel", "POST /v1/jobs/{id}/signal", "GET /v1/jobs/{id}/logs", "GET /v1/jobs/{id}/stream"} {
		if !slices.Contains(routes, want) {
			t.Errorf("%s is not among the requests that were found: %q", want, routes)
		}
	}
	submit := func() api.Job {
		var j api.Job
		w := ask(s, alice, "POST", "/v1/jobs", `{"argv":["sleep"],"detached":true}`)
		if err := json.Unmarshal(w.Body.Bytes(), &j); err != nil || w.Code != 200 {
			t.Fatalf("submitting = %d %s", w.Code, w.Body)
		}
		return j
	}
	for _, route := range routes {
		method, path, _ := strings.Cut(route, " ")
		for _, uid := range []uint32{bob, alice, admin} {
			j := submit()
			body := ""
			if method != "GET" {
				body = "{}"
			}
			w := ask(s, uid, method, strings.NewReplacer("{id}", jobID(j.ID), "{task}", "0", "{index}", "0").Replace(path), body)
			refused := fmt.Sprintf("job %d belongs to %d: user %d may not ", j.ID, alice, uid)
			e := api.DecodeError(w.Body.Bytes())
			switch is := e != nil && e.Code == api.CodeForbidden && strings.HasPrefix(e.Msg, refused); {
			case uid == bob && !is:
				t.Errorf("another user: %s = %d %s, want %q", route, w.Code, w.Body, refused)
			case uid != bob && w.Code == api.CodeForbidden.HTTPStatus():
				t.Errorf("user %d: %s = %d %s", uid, route, w.Code, w.Body)
			}
		}
	}
	for uid, sees := range map[uint32]bool{alice: true, bob: false, admin: true} {
		if w := ask(s, uid, "GET", "/v1/jobs", ""); strings.Contains(w.Body.String(), `"sleep"`) != sees {
			t.Errorf("user %d: the listing shows the jobs: %v, want %v", uid, !sees, sees)
		}
	}
}

// TestEventsOfOthers: who watches is told of changes of jobs that one may see.
func TestEventsOfOthers(t *testing.T) {
	const alice, bob = 4000001, 4000002
	events := &fakeEvents{}
	events.Publish(api.Event{Kind: "job", Job: &api.Job{ID: 17, Owner: api.Owner{User: "alice", UID: alice}, Spec: api.JobSpec{Env: []string{"SECRET=1"}}}})
	events.Publish(api.Event{Kind: "node", Node: &api.Node{Name: "n1"}})
	s := testServer(t, newRig(t, "n1"), func(c *httpConfig) { c.Events = events })
	for uid, sees := range map[uint32]bool{alice: true, bob: false, 0: true} {
		ctx, cancel := context.WithCancel(context.WithValue(t.Context(), peerKey{}, peer{uid: uid, gid: uid}))
		w := &watcher{ResponseRecorder: httptest.NewRecorder(), until: "event: node", done: cancel}
		s.users.ServeHTTP(w, httptest.NewRequest("GET", "/v1/events?since=0", nil).WithContext(ctx))
		text := w.Body.String()
		if strings.Contains(text, "event: job") != sees || !strings.Contains(text, "event: node") || strings.Contains(text, "SECRET") {
			t.Errorf("user %d is told, want the job %v:\n%s", uid, sees, text)
		}
	}
}

// watcher ends a request when it was told a text.
type watcher struct {
	*httptest.ResponseRecorder
	until string
	done  func()
}

func (w *watcher) Flush() {
	w.ResponseRecorder.Flush()
	if strings.Contains(w.Body.String(), w.until) {
		w.done()
	}
}
