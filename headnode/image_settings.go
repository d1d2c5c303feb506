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
	case "":
		if s.UserlandShare == nil {
			return api.Image{}, invalid("say kexec or userland_share", "nothing is set")
		}
	default:
		return api.Image{}, &api.Error{
			Code: api.CodeInvalid, Msg: fmt.Sprintf("kexec cannot be %q", cleanText(string(s.Kexec))),
			Hint: "media (machines booted from a CD or stick), always or never",
		}
	}
	if s.UserlandShare != nil && *s.UserlandShare != "" {
		if err := checkUserlandShare(*s.UserlandShare); err != nil {
			return api.Image{}, err
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
	if s.Kexec != "" {
		if names.Kexec == nil {
			names.Kexec = map[string]api.KexecPolicy{}
		}
		names.Kexec[p.ID] = s.Kexec
	}
	if s.UserlandShare != nil {
		if err := names.setUserlandShare(p, *s.UserlandShare); err != nil {
			return api.Image{}, err
		}
	}
	if err := im.writeNames(names); err != nil {
		return api.Image{}, err
	}
	im.log.Info("image set", "image", p.Name, "id", p.ID, "kexec", im.kexecPolicy(p.ID), "userland-share", im.userlandShare(p.Name), "actor", actor)
	if s.UserlandShare != nil {
		select {
		case im.shareSet <- struct{}{}:
		default: // it is looked at in a moment
		}
	}
	im.mu.Lock()
	v := im.view(p)
	im.mu.Unlock()
	return im.withUsers(v), nil
}

// setUserlandShare sets where nodes read the userland of images of that name; "": nowhere.
func (n *imageNames) setUserlandShare(p published, share string) error {
	if u, ok := p.Userland(); share != "" && (!ok || u.VerityRoot == "") {
		return &api.Error{
			Code: api.CodeInvalid, Msg: fmt.Sprintf("image %s has no userland that nodes can read from a share", p.Name),
			Hint: "build it with this muster, with packages: in its definition",
		}
	}
	if n.UserlandShares == nil {
		n.UserlandShares = map[string]string{}
	}
	if n.UserlandShares[p.Name] = share; share == "" {
		delete(n.UserlandShares, p.Name)
	}
	return nil
}
