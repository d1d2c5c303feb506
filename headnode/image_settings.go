package headnode

import (
	"cmp"
	"context"
	"fmt"

	"muster/api"
)

// kexecPolicy implements nodeImages.
func (im *Images) kexecPolicy(id string) api.KexecPolicy {
	im.mu.Lock()
	defer im.mu.Unlock()
	return im.names.kexecOf(id)
}

func (n imageNames) kexecOf(id string) api.KexecPolicy { return cmp.Or(n.Kexec[id], api.KexecMedia) }

// Set implements imageStore.
func (im *Images) Set(_ context.Context, actor, ref string, s api.ImageSettings) (api.Image, error) {
	switch s.Kexec {
	case api.KexecMedia, api.KexecAlways, api.KexecNever:
	default:
		return api.Image{}, &api.Error{
			Code: api.CodeInvalid, Msg: fmt.Sprintf("kexec cannot be %q", cleanText(string(s.Kexec))),
			Hint: "media (machines booted from a CD or stick), always or never",
		}
	}
	im.write.Lock()
	defer im.write.Unlock()
	p, err := im.find(ref)
	if err != nil {
		return api.Image{}, err
	}
	im.mu.Lock()
	names := im.names.clone()
	im.mu.Unlock()
	if names.Kexec == nil {
		names.Kexec = map[string]api.KexecPolicy{}
	}
	names.Kexec[p.ID] = s.Kexec
	if err := im.writeNames(names); err != nil {
		return api.Image{}, err
	}
	im.log.Info("image set", "image", p.Name, "id", p.ID, "kexec", s.Kexec, "actor", actor)
	im.mu.Lock()
	v := im.view(p)
	im.mu.Unlock()
	return im.withUsers(v), nil
}
