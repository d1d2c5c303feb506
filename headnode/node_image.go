package headnode

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"muster/api"
	"muster/headnode/store"
	"muster/images"
)

// nodeImages is what nodes need of the image store. *Images implements it. All but the last
// may be called while Nodes is locked.
type nodeImages interface {
	// forNode is the image that ref stands for: a name, an image ID, or "" for the
	// default. false: there is none.
	forNode(ref string) (images.Manifest, bool)
	// nameOf is the name of a published image.
	nameOf(id string) (string, bool)
	// kexecPolicy is which machines start a published image when they join with another one.
	kexecPolicy(id string) api.KexecPolicy
	// whileKept calls f with the image that a person's ref names, and with what of it
	// is kept in a node's record. The image is not removed meanwhile.
	whileKept(ref string, f func(m images.Manifest, kept string) error) error
}

// imageOf is what a machine runs and what it boots next.
func (n *Nodes) imageOf(m *machine) api.NodeImage {
	v := api.NodeImage{Assigned: m.Image}
	if n.images == nil {
		return v
	}
	runs := m.runs.ImageID
	if runs != "" {
		name, ok := n.images.nameOf(runs)
		v.Name, v.Unknown = name, !ok
	}
	if !m.isNode() && m.State != api.NodeDeclared {
		return v
	}
	next, ok := n.images.forNode(m.Image)
	v.Missing = !ok && m.Image != ""
	if ok && next.ID != runs {
		v.Next, v.NextID = next.Name, next.ID
	}
	return v
}

// imageHint is what takes a node further that runs an image which is not this
// head's, or whose own image is gone; "" for others.
func imageHint(v api.Node) string {
	what := cmp.Or(v.Name, v.MAC)
	switch {
	case v.Kexec != nil && v.Kexec.Error != "":
		return fmt.Sprintf("image %s was not started by kexec: %s; it goes on with the one of its medium", shortID(v.Kexec.ImageID), v.Kexec.Error)
	case v.Image.Missing:
		return fmt.Sprintf("its image %s is not published: publish it (muster image publish DIR), or choose another: muster node image %s IMAGE",
			shortID(v.Image.Assigned), what)
	case v.Image.Unknown && v.Admin != "":
		way := "reboot it into one of this head's (muster node reboot " + what + ")"
		switch v.Software.Medium {
		case "iso", "usb":
			way = "take its medium out and " + way
		case "uki": // which firmware also boots over the network
			way = "take its stick out, if it has one, and " + way
		}
		return fmt.Sprintf("it runs image %s, which this head does not have: publish that (muster image publish DIR), or %s",
			shortID(v.Software.ImageID), way)
	}
	return ""
}

// shortID is the beginning of an image ID, enough for people; a name stays as
// it is.
func shortID(ref string) string {
	if isSHA256(ref) {
		return ref[:12]
	}
	return ref
}

// assigned are the machines whose own image is the one with this ID.
func (n *Nodes) assigned(imageID string) []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	names := []string{}
	for _, m := range n.machines {
		if m.Image == "" || n.images == nil {
			continue
		}
		if own, ok := n.images.forNode(m.Image); ok && own.ID == imageID {
			names = append(names, cmp.Or(m.Name, m.mac(), m.id))
		}
	}
	slices.SortFunc(names, api.CompareNames)
	return names
}

// AssignImage implements nodeAdmin.
func (n *Nodes) AssignImage(ctx context.Context, actor string, req api.AssignImageRequest) ([]api.Node, error) {
	if len(req.Nodes) == 0 {
		return nil, &api.Error{Code: api.CodeInvalid, Msg: "no node is named", Hint: "as in: muster node image n7 compute"}
	}
	if req.Image == "" {
		return n.assign(ctx, actor, req.Nodes, images.Manifest{}, "")
	}
	if n.images == nil {
		return nil, errNoImage
	}
	var nodes []api.Node
	err := n.images.whileKept(req.Image, func(m images.Manifest, kept string) (err error) {
		nodes, err = n.assign(ctx, actor, req.Nodes, m, kept)
		return err
	})
	return nodes, err
}

// assign gives machines an image of their own, all or none.
func (n *Nodes) assign(ctx context.Context, actor string, refs []string, image images.Manifest, kept string) ([]api.Node, error) {
	nodes, err := n.recordAll(ctx, actor, func() ([]*machine, error) { return n.imageTargets(refs, image) },
		func(rec *machineRecord) { rec.Image = kept })
	for _, v := range nodes {
		n.cfg.Log.Info("image of a node changed", "node", v.Name, "mac", v.MAC, "image", cmp.Or(kept, "default"), "actor", actor)
	}
	return nodes, err
}

// recordAll changes the records of machines, all or none, and returns them. find chooses them
// and may refuse; n.mu is held while it runs.
func (n *Nodes) recordAll(ctx context.Context, actor string, find func() ([]*machine, error), edit func(*machineRecord)) ([]api.Node, error) {
	n.changes.Lock()
	defer n.changes.Unlock()
	n.mu.Lock()
	targets, err := find()
	if err != nil {
		n.mu.Unlock()
		return nil, err
	}
	recs := make([]machineRecord, len(targets))
	ops := make([]store.Op, len(targets))
	for i, m := range targets {
		recs[i] = m.machineRecord
		edit(&recs[i])
		if ops[i], err = machineOp(m.id, recs[i], m.rev); err != nil {
			n.mu.Unlock()
			return nil, err
		}
	}
	n.mu.Unlock()
	last, err := n.cfg.Store.Commit(ctx, ops...)
	if err != nil {
		return nil, recordError(err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	nodes := make([]api.Node, len(targets))
	for i, m := range targets {
		since := m.Since // may have changed meanwhile, and is no news of this
		m.machineRecord, m.rev = recs[i], last-uint64(len(ops)-1-i)
		m.Since = since
		n.announce(m, actor)
		nodes[i] = n.view(m)
	}
	return nodes, nil
}

// checkImage tells whether there is an image that ref names; "" is the default.
func (n *Nodes) checkImage(ref string) error {
	if ref == "" || n.images == nil {
		return nil
	}
	return n.images.whileKept(ref, func(images.Manifest, string) error { return nil })
}

// imageTargets are the machines that may have an image of their own, each
// once; n.mu is held.
func (n *Nodes) imageTargets(refs []string, image images.Manifest) ([]*machine, error) {
	var targets []*machine
	for _, ref := range refs {
		m, err := n.find(ref)
		if err != nil {
			return nil, err
		}
		what := cmp.Or(m.Name, m.mac(), m.id)
		switch {
		case !m.isNode() && m.State != api.NodeDeclared:
			v := n.view(m)
			return nil, &api.Error{Code: api.CodeConflict, Msg: fmt.Sprintf("machine %s is %s: only nodes and declared machines have an image of their own", what, v.State), Hint: v.Hint}
		case image.Arch != "" && m.Hardware.Arch != "" && image.Arch != m.Hardware.Arch:
			return nil, &api.Error{Code: api.CodeInvalid, Msg: fmt.Sprintf("image %s is for %s and %s is %s", image.Name, image.Arch, what, m.Hardware.Arch)}
		}
		if !slices.Contains(targets, m) {
			targets = append(targets, m)
		}
	}
	return targets, nil
}
