package headnode

import (
	"context"
	"fmt"
	"reflect"

	"muster/api"
)

func typeOf[T any]() reflect.Type { return reflect.TypeFor[T]() }

// empty is an answer without content: {}.
type empty struct{}

type jobPath struct {
	ID uint64 `path:"id" doc:"number of the job"`
}

func (s *httpServer) routeJobs() {
	js := s.cfg.Jobs
	route(s, "POST", "/v1/jobs", "submit-job", "Submit a job; it is durable when the answer comes",
		func(ctx context.Context, in *struct{ Body api.JobSpec }) (api.Job, error) {
			c := callerOf(ctx)
			if in.Body.EachNode {
				if err := mustAdmin(ctx, "run commands on every node"); err != nil {
					return api.Job{}, err
				}
			}
			if c.noAccount != "" {
				return api.Job{}, &api.Error{
					Code: api.CodeForbidden, Msg: fmt.Sprintf("user %s has no account on the head to run jobs as: %s", c.owner.User, c.noAccount),
					Hint: "make the account on the head, or use a token of a user that has one",
				}
			}
			j, err := js.Submit(ctx, c.owner, in.Body)
			return j, s.noNode(in.Body.On, err)
		})
	route(s, "GET", "/v1/jobs", "list-jobs", "List jobs, newest first: to users their own, to administrators all",
		func(ctx context.Context, in *struct {
			State string `query:"state" doc:"comma-separated states; active for queued and running"`
			User  string `query:"user"`
			Node  string `query:"node"`
			Name  string `query:"name"`
			Page  string `query:"page" doc:"next of the page before"`
			Limit int    `query:"limit" doc:"most jobs on a page, up to 1000"`
		},
		) (api.List[api.Job], error) {
			states, err := parseStates(in.State)
			if err != nil {
				return api.List[api.Job]{}, err
			}
			l := api.List[api.Job]{Revision: s.cfg.Events.Revision()}
			l.Items, l.Next, err = js.List(ctx, jobFilter{states, in.User, in.Node, in.Name, callerOf(ctx).sees}, in.Page, in.Limit)
			if l.Items == nil {
				l.Items = []api.Job{}
			}
			return l, err
		})
	route(s, "GET", "/v1/jobs/{id}", "get-job", "Show a job and its tasks",
		func(ctx context.Context, in *jobPath) (api.Job, error) {
			v, err := js.Get(ctx, in.ID)
			if err != nil {
				return v, err
			}
			if err := mustOwn(ctx, v.Owner, v.ID, "see"); err != nil {
				return api.Job{}, err
			}
			return v, nil
		})
	route(s, "POST", "/v1/jobs/{id}/cancel", "cancel-job", "End a job: TERM, and KILL five seconds later",
		func(ctx context.Context, in *jobPath) (api.Job, error) {
			v, err := js.Get(ctx, in.ID)
			if err != nil {
				return v, err
			}
			if err := mustOwn(ctx, v.Owner, v.ID, "cancel"); err != nil {
				return api.Job{}, err
			}
			return js.Cancel(ctx, in.ID, "canceled by "+callerOf(ctx).owner.User)
		})
	route(s, "POST", "/v1/jobs/{id}/signal", "signal-job", "Send a signal to every running task of a job",
		func(ctx context.Context, in *struct {
			ID   uint64 `path:"id" doc:"number of the job"`
			Body api.SignalRequest
		},
		) (empty, error) {
			v, err := js.Get(ctx, in.ID)
			if err != nil {
				return empty{}, err
			}
			if err := mustOwn(ctx, v.Owner, v.ID, "signal"); err != nil {
				return empty{}, err
			}
			return empty{}, js.Signal(ctx, in.ID, in.Body.Signal)
		})
}

// noNode says of a job that asks for machines that are no nodes what they are
// and what to do: the jobs themselves know only of nodes.
func (s *httpServer) noNode(on string, err error) error {
	if api.CodeOf(err) != api.CodeNotFound || on == "" || s.cfg.Nodes == nil {
		return err
	}
	nodes, why := s.cfg.Nodes.Expand(on)
	switch {
	case why != nil && api.CodeOf(why) != api.CodeNotFound:
		return why
	case why == nil: // by fingerprint or MAC, which another machine may have next year
		names := make([]string, len(nodes))
		for i, n := range nodes {
			names[i] = n.Name
		}
		return &api.Error{Code: api.CodeInvalid, Msg: fmt.Sprintf("a job asks for nodes by name, not by %s", on), Hint: "write --on " + api.FormatHostList(names)}
	}
	return err
}
