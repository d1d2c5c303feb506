package headnode

import (
	"context"

	"muster/api"
)

type refPath struct {
	Ref string `path:"ref" doc:"name, id, MAC or fingerprint of a machine, or an unambiguous beginning of one"`
}

func listOf[T any](items []T, rev uint64) api.List[T] {
	if items == nil {
		items = []T{}
	}
	return api.List[T]{Items: items, Revision: rev}
}

func (s *httpServer) routeNodes() {
	n := s.cfg.Nodes
	route(s, "GET", "/v1/nodes", "list-nodes", "List machines and nodes",
		func(ctx context.Context, in *struct {
			On string `query:"on" doc:"host list, also with labels as label:gpu; absent: all"`
		},
		) (api.List[api.Node], error) {
			rev := s.cfg.Events.Revision()
			if in.On == "" {
				return listOf(n.List(), rev), nil
			}
			items, err := n.Expand(in.On)
			return listOf(items, rev), err
		})
	route(s, "GET", "/v1/nodes/{ref}", "get-node", "Show a machine or node",
		func(ctx context.Context, in *refPath) (api.Node, error) { return n.Find(in.Ref) })
	route(s, "GET", "/v1/nodes/{ref}/log", "get-node-log", "The end of a node's kernel log",
		func(ctx context.Context, in *refPath) (api.KernelLog, error) {
			lines, err := n.KernelLog(in.Ref)
			if lines == nil {
				lines = []api.KernelLine{}
			}
			return api.KernelLog{Lines: lines}, err
		})
	admin(s, "POST", "/v1/nodes/approve", "approve-nodes", "approve nodes",
		func(ctx context.Context, who string, in *struct{ Body api.ApproveRequest }) (api.List[api.Node], error) {
			items, err := n.Approve(ctx, who, in.Body)
			return listOf(items, s.cfg.Events.Revision()), err
		})
	admin(s, "POST", "/v1/nodes/image", "assign-image", "choose what nodes boot",
		func(ctx context.Context, who string, in *struct{ Body api.AssignImageRequest }) (api.List[api.Node], error) {
			items, err := n.AssignImage(ctx, who, in.Body)
			return listOf(items, s.cfg.Events.Revision()), err
		})
	admin(s, "POST", "/v1/nodes/labels", "label-nodes", "change the labels of nodes",
		func(ctx context.Context, who string, in *struct{ Body api.LabelRequest }) (api.List[api.Node], error) {
			items, err := n.Label(ctx, who, in.Body)
			return listOf(items, s.cfg.Events.Revision()), err
		})
	admin(s, "POST", "/v1/nodes", "declare-node", "declare nodes",
		func(ctx context.Context, who string, in *struct{ Body api.DeclareRequest }) (api.Node, error) {
			return n.Declare(ctx, who, in.Body)
		})
	admin(s, "POST", "/v1/nodes/{ref}/reject", "reject-node", "reject machines",
		func(ctx context.Context, who string, in *refPath) (api.Node, error) {
			return n.Reject(ctx, who, in.Ref)
		})
	admin(s, "DELETE", "/v1/nodes/{ref}", "remove-node", "remove nodes",
		func(ctx context.Context, who string, in *refPath) (api.Node, error) {
			return n.Remove(ctx, who, in.Ref)
		})
	admin(s, "POST", "/v1/nodes/{ref}/rename", "rename-node", "rename nodes",
		func(ctx context.Context, who string, in *struct {
			Ref  string `path:"ref" doc:"name, id, MAC or fingerprint of a machine"`
			Body api.RenameRequest
		},
		) (api.Node, error) {
			return n.Rename(ctx, who, in.Ref, in.Body.Name)
		})
	admin(s, "POST", "/v1/nodes/{ref}/admin", "set-node-admin", "change the state of nodes",
		func(ctx context.Context, who string, in *struct {
			Ref  string `path:"ref" doc:"name, id, MAC or fingerprint of a machine"`
			Body api.AdminRequest
		},
		) (api.Node, error) {
			return n.SetAdmin(ctx, who, in.Ref, in.Body.Admin)
		})
	admin(s, "POST", "/v1/nodes/{ref}/reboot", "reboot-node", "reboot nodes",
		func(ctx context.Context, who string, in *refPath) (empty, error) {
			return empty{}, n.Reboot(ctx, who, in.Ref)
		})
}

// admin registers an operation for administrators; what completes "user x
// may not ...".
func admin[I, O any](s *httpServer, method, path, id, what string, f func(ctx context.Context, who string, in *I) (O, error)) {
	route(s, method, path, id, "Administrators "+what, func(ctx context.Context, in *I) (O, error) {
		if err := mustAdmin(ctx, what); err != nil {
			var none O
			return none, err
		}
		return f(ctx, callerOf(ctx).owner.User, in)
	})
}
