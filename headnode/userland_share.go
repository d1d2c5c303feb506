package headnode

import (
	"context"
	"net/netip"
	"path"
	"strings"
	"sync"
	"time"

	"muster/api"
	"muster/images"
)

// userlandFileSuffix is behind the hash in the name of a userland in a folder that is not the head's.
const userlandFileSuffix = ".sqfs"

// userlandExporter serves userlands, each a file named by its SHA-256, to nodes by NFS. [Shares] is one. Everybody on the boot
// network can fetch these files by HTTP as well, and nodes check what they read.
type userlandExporter interface {
	// userlandFor returns where a node can read its userland. Nil: nowhere; soon: it will be served in a moment.
	userlandFor(n shareNode) (from *api.UserlandSource, soon bool)
}

// userlandOffers knows from where nodes can read the userlands of their images.
type userlandOffers struct {
	images   *Images
	exporter userlandExporter
	lookUp   func(ctx context.Context, host string) (netip.Addr, error)

	mu    sync.Mutex
	addrs map[string]string // of hosts in settings
}

func newUserlandOffers(im *Images) *userlandOffers {
	return &userlandOffers{images: im, lookUp: addressOf, addrs: map[string]string{}}
}

// Run looks up the hosts of settings until ctx is done; changed is called when one has another address.
func (o *userlandOffers) Run(ctx context.Context, changed func()) error {
	tick := time.NewTicker(shareLookEvery)
	defer tick.Stop()
	for {
		if o.look(ctx) {
			changed()
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-o.images.shareSet:
		}
	}
}

// look looks up all hosts and tells whether an address is new. A name that cannot be looked up for a moment keeps
// the one that it had.
func (o *userlandOffers) look(ctx context.Context) (changed bool) {
	for _, setting := range o.images.userlandShares() {
		host, _, ok := cutSource(setting)
		if !ok {
			continue
		}
		ctx, cancel := context.WithTimeout(ctx, shareLookFor)
		addr, err := o.lookUp(ctx, host)
		cancel()
		if err != nil {
			continue
		}
		o.mu.Lock()
		changed = changed || o.addrs[host] != addr.String()
		o.addrs[host] = addr.String()
		o.mu.Unlock()
	}
	return changed
}

// of returns where a node that mounts these shares can read its userland. Nil: nowhere; soon: not yet.
func (o *userlandOffers) of(n shareNode, mounts []api.NodeMount) (from *api.UserlandSource, soon bool) {
	userland := n.runs.UserlandWanted
	if userland == "" {
		return nil, false
	}
	name, _ := o.images.nameOf(n.runs.ImageID)
	setting := o.images.userlandShare(name)
	if host, folder, ok := cutSource(setting); ok {
		addr := o.address(host)
		if addr == "" {
			return nil, false
		}
		return &api.UserlandSource{Server: addr, Export: path.Clean(folder), File: userland + userlandFileSuffix}, false
	}
	if setting != "" {
		return inMounts(setting, userland, mounts), false
	}
	if o.exporter == nil || n.headIP == "" {
		return nil, false
	}
	return o.exporter.userlandFor(n)
}

// needed tells of nodes which userland they are to read from the head: those that do already, from the export of
// that name, and those that have none yet, whose image wants it or that are too small, where nothing else is set.
func (o *userlandOffers) needed(nodes []shareNode, export string) map[string]string {
	need := map[string]string{}
	for _, n := range nodes {
		m, ok := o.images.forNode(n.runs.ImageID)
		u, has := m.Userland()
		if !ok || !has || n.runs.ImageID == "" || u.SHA256 != n.runs.UserlandWanted || u.VerityRoot == "" {
			continue
		}
		if _, have := o.images.HasBlob(u.SHA256); !have {
			continue
		}
		reads := n.runs.UserlandIn == api.UserlandShare && strings.HasSuffix(n.runs.UserlandFrom, ":"+export)
		lacks := n.runs.UserlandIn == "" && o.images.userlandShare(m.Name) == ""
		if reads || lacks && wantsShare(u, n.memoryMiB) {
			need[n.name] = u.SHA256
		}
	}
	return need
}

// wantsShare tells whether a machine may want to read a userland from a share, which it decides itself by what it
// knows better (nodeagent/userland): it has a little more memory than its kernel says.
func wantsShare(u images.Userland, memoryMiB int64) bool {
	switch u.In {
	case images.UserlandShare:
		return true
	case images.UserlandAuto:
		return u.Size*4 > memoryMiB<<20 || u.MemoryMiB > memoryMiB
	}
	return false
}

// address is that of a host, "" as long as it is not known.
func (o *userlandOffers) address(host string) string {
	if a, err := netip.ParseAddr(host); err == nil {
		return a.Unmap().String()
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.addrs[host]
}

// inMounts returns what a folder of a share is to a node that mounts it; nil: the node does not.
func inMounts(folder, userland string, mounts []api.NodeMount) *api.UserlandSource {
	var best *api.NodeMount
	for i, m := range mounts {
		if (folder == m.Path || strings.HasPrefix(folder, m.Path+"/")) && (best == nil || len(m.Path) > len(best.Path)) {
			best = &mounts[i]
		}
	}
	if best == nil {
		return nil
	}
	return &api.UserlandSource{
		Server: best.Server, Port: best.Port, Export: path.Join(best.Export, strings.TrimPrefix(folder, best.Path)), File: userland + userlandFileSuffix,
	}
}

// userlandShare is what is set for images of a name; "": nothing.
func (im *Images) userlandShare(name string) string {
	im.mu.Lock()
	defer im.mu.Unlock()
	return im.names.UserlandShares[name]
}

// userlandShares are all that are set.
func (im *Images) userlandShares() []string {
	im.mu.Lock()
	defer im.mu.Unlock()
	var list []string
	for _, s := range im.names.UserlandShares {
		list = append(list, s)
	}
	return list
}

// imageUserland is the API's view of the userland of an image; nil: it has none.
func (im *Images) imageUserland(m images.Manifest) *api.ImageUserland {
	u, ok := m.Userland()
	if !ok {
		return nil
	}
	v := &api.ImageUserland{
		SHA256: u.SHA256, Bytes: u.Size, In: api.UserlandIn(u.In), MemoryMiB: u.MemoryMiB, Share: im.names.UserlandShares[m.Name],
		Blob: im.blobs.path(u.SHA256),
	}
	if v.In == "" {
		v.In = api.UserlandMemory
	}
	if u.VerityRoot != "" {
		v.File = u.SHA256 + userlandFileSuffix
	}
	return v
}

// checkUserlandShare checks what a person sets: HOST:/FOLDER, or a folder of a share.
func checkUserlandShare(s string) error {
	if _, folder, ok := cutSource(s); ok && path.IsAbs(folder) {
		return nil
	}
	if path.IsAbs(s) && s == path.Clean(s) && s == cleanText(s) {
		return nil
	}
	return invalid("name a folder of an NFS server, as nas1:/tank/images, or one in a share of the cluster, as /data/images; or none",
		"%q is no place for a userland", cleanText(s))
}
