package headnode

import (
	"context"

	"muster/api"
)

func (s *httpServer) routeCluster() {
	route(s, "GET", "/v1/status", "get-status", "The head and its cluster at a glance",
		func(ctx context.Context, _ *struct{}) (api.Status, error) {
			st := s.cfg.Status()
			st.Jobs, st.CoresBusy = s.cfg.Jobs.Counts()
			return st, nil
		})
	route(s, "GET", "/v1/whoami", "whoami", "Who the head takes the caller for",
		func(ctx context.Context, _ *struct{}) (api.Caller, error) {
			c := callerOf(ctx)
			return api.Caller{Owner: c.owner, Admin: c.admin, NoAccount: c.noAccount}, nil
		})

	route(s, "GET", "/v1/enrollment", "get-enrollment", "Whether unknown machines are answered",
		func(ctx context.Context, _ *struct{}) (api.Enrollment, error) { return s.cfg.Enroll.Get(), nil })
	admin(s, "PUT", "/v1/enrollment", "set-enrollment", "open or close enrollment",
		func(ctx context.Context, who string, in *struct{ Body api.EnrollmentRequest }) (api.Enrollment, error) {
			return s.cfg.Enroll.Set(ctx, who, in.Body)
		})

	route(s, "GET", "/v1/boot/{ref}", "get-boot-log", "The timeline of a machine's latest boots",
		func(ctx context.Context, in *refPath) (api.BootLog, error) { return s.cfg.Boot.BootLog(in.Ref) })

	route(s, "GET", "/v1/images", "list-images", "List published images",
		func(ctx context.Context, _ *struct{}) (api.List[api.Image], error) {
			return listOf(s.cfg.Images.List(), s.cfg.Events.Revision()), nil
		})
	route(s, "GET", "/v1/images/{ref}/manifest", "get-image-manifest", "Show the manifest of a published image",
		func(ctx context.Context, in *imagePath) (api.ImageManifest, error) {
			text, err := s.cfg.Images.Manifest(in.Ref)
			return api.ImageManifest{Manifest: text}, err
		})
	admin(s, "POST", "/v1/images", "publish-image", "publish images",
		func(ctx context.Context, who string, in *struct{ Body api.PublishRequest }) (api.Image, error) {
			return s.cfg.Images.Publish(ctx, who, in.Body.Manifest, in.Body.Default)
		})
	admin(s, "POST", "/v1/images/{ref}/default", "set-default-image", "choose the default image",
		func(ctx context.Context, who string, in *imagePath) (api.Image, error) {
			return s.cfg.Images.SetDefault(ctx, who, in.Ref)
		})
	admin(s, "PUT", "/v1/images/{ref}/settings", "set-image", "change settings of images",
		func(ctx context.Context, who string, in *struct {
			Ref  string `path:"ref" doc:"name or ID of an image, or an unambiguous beginning of its ID"`
			Body api.ImageSettings
		},
		) (api.Image, error) {
			return s.cfg.Images.Set(ctx, who, in.Ref, in.Body)
		})
	admin(s, "DELETE", "/v1/images/{ref}", "remove-image", "remove images",
		func(ctx context.Context, who string, in *imagePath) (empty, error) {
			return empty{}, s.cfg.Images.Remove(ctx, who, in.Ref)
		})

	route(s, "GET", "/v1/config", "list-settings", "List the cluster's settings",
		func(ctx context.Context, _ *struct{}) (api.List[api.Setting], error) {
			return listOf(s.cfg.Settings.List(), s.cfg.Events.Revision()), nil
		})
	route(s, "GET", "/v1/config/{key}", "get-setting", "Show a setting",
		func(ctx context.Context, in *settingPath) (api.Setting, error) { return s.cfg.Settings.Get(in.Key) })
	admin(s, "PUT", "/v1/config/{key}", "set-setting", "change settings",
		func(ctx context.Context, who string, in *struct {
			Key  string `path:"key" doc:"name of the setting"`
			Body api.SettingRequest
		},
		) (api.Setting, error) {
			return s.cfg.Settings.Set(ctx, who, in.Key, in.Body.Value)
		})
	route(s, "GET", "/v1/config-document", "export-config", "Settings and declared machines as one YAML document",
		func(ctx context.Context, _ *struct{}) (api.ConfigDocument, error) {
			b, err := s.cfg.Settings.Export()
			return api.ConfigDocument{YAML: string(b)}, err
		})
	admin(s, "PUT", "/v1/config-document", "import-config", "import settings",
		func(ctx context.Context, who string, in *struct{ Body api.ConfigDocument }) (empty, error) {
			return empty{}, s.cfg.Settings.Import(ctx, who, []byte(in.Body.YAML))
		})
}

type imagePath struct {
	Ref string `path:"ref" doc:"name or ID of an image, or an unambiguous beginning of its ID"`
}

type settingPath struct {
	Key string `path:"key" doc:"name of the setting"`
}
