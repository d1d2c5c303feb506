package headnode

import (
	"fmt"
	"strings"

	"muster/api"
	"muster/images"
)

// imageUsers tells who keeps an image from being removed. *Nodes implements it.
type imageUsers interface {
	running(imageID string) []string  // nodes that run it now
	assigned(imageID string) []string // machines whose own image it is
}

var _ nodeImages = (*Images)(nil)

// forNode implements nodeImages.
func (im *Images) forNode(ref string) (images.Manifest, bool) {
	im.mu.Lock()
	defer im.mu.Unlock()
	id := im.names.Default
	switch {
	case isSHA256(ref):
		id = ref
	case ref != "":
		id = im.names.Names[ref]
	}
	p, ok := im.all[id]
	return p.Manifest, ok
}

// nameOf implements nodeImages.
func (im *Images) nameOf(id string) (string, bool) {
	im.mu.Lock()
	defer im.mu.Unlock()
	p, ok := im.all[id]
	return p.Name, ok
}

// whileKept implements nodeImages. A name is kept as it is, so that the node follows
// it to what is published under it later; an ID or a beginning of one pins.
func (im *Images) whileKept(ref string, f func(m images.Manifest, kept string) error) error {
	im.write.Lock()
	defer im.write.Unlock()
	p, err := im.find(ref)
	if err != nil {
		return err
	}
	kept := p.ID
	im.mu.Lock()
	if im.names.Names[ref] == p.ID {
		kept = ref
	}
	im.mu.Unlock()
	return f(p.Manifest, kept)
}

// withUsers adds to an image who uses it.
func (im *Images) withUsers(v api.Image) api.Image {
	v.Nodes, v.Assigned = im.users.running(v.ID), im.users.assigned(v.ID)
	return v
}

// checkUnused says who keeps an image from being removed.
func (im *Images) checkUnused(p published) error {
	var why []string
	if nodes := im.users.running(p.ID); len(nodes) > 0 {
		why = append(why, "runs on "+api.FormatHostList(nodes))
	}
	if nodes := im.users.assigned(p.ID); len(nodes) > 0 {
		why = append(why, "is the one of "+api.FormatHostList(nodes))
	}
	if len(why) > 0 {
		return &api.Error{
			Code: api.CodeConflict, Msg: fmt.Sprintf("image %s (%s) %s", p.Name, shortID(p.ID), strings.Join(why, " and ")),
			Hint: "give those nodes another first (muster node image NODE IMAGE) and reboot them",
		}
	}
	return nil
}

// latestNamed is the ID of the image of a name that was published last, but for one;
// "" when there is no other.
func (im *Images) latestNamed(name, but string) string {
	im.mu.Lock()
	defer im.mu.Unlock()
	var best published
	for id, p := range im.all {
		if p.Name == name && id != but && (best.ID == "" || p.when.After(best.when) || p.when.Equal(best.when) && id < best.ID) {
			best = p
		}
	}
	return best.ID
}
