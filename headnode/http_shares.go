package headnode

import (
	"context"

	"muster/api"
)

type sharePath struct {
	Path string `path:"path" doc:"where nodes mount it, escaped: %2Fhome"`
}

func (s *httpServer) routeShares() {
	route(s, "GET", "/v1/shares", "list-shares", "List the directories that nodes mount",
		func(ctx context.Context, _ *struct{}) (api.List[api.Share], error) {
			return listOf(s.cfg.Shares.List(), s.cfg.Events.Revision()), nil
		})
	route(s, "GET", "/v1/shares/{path}", "get-share", "Show a share, and who mounts it",
		func(ctx context.Context, in *sharePath) (api.Share, error) { return s.cfg.Shares.Show(in.Path) })
	admin(s, "POST", "/v1/shares", "add-share", "add shares",
		func(ctx context.Context, who string, in *struct{ Body api.ShareRequest }) (api.Share, error) {
			return s.cfg.Shares.Add(ctx, who, in.Body)
		})
	admin(s, "DELETE", "/v1/shares/{path}", "remove-share", "remove shares",
		func(ctx context.Context, who string, in *sharePath) (empty, error) {
			return empty{}, s.cfg.Shares.Remove(ctx, who, in.Path)
		})
}
