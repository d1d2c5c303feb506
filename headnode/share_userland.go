package headnode

import (
	"context"
	"maps"
	"net/netip"
	"slices"
	"time"

	"muster/api"
	"muster/headnode/shares"
)

// servedUserlands is what is served of userlands to nodes that are too small to hold theirs, by the engine of the
// head's folders (headnode/shares/userlands.go). It is no share: nobody added it. [Shares].mu guards it.
type servedUserlands struct {
	need   map[string]string // which nodes need which, by its SHA-256
	folder shares.Folder     // where they are; its Driver is "" as long as nobody knows
	looked time.Time         // when that was asked for
	failed string            // why they are not served
}

// restore takes over what was served before the head started: nodes read from it.
func (u *servedUserlands) restore(w shares.Wanted) {
	for _, e := range w.Exports {
		if e.ID == shares.UserlandsID {
			u.folder = shares.Folder{Dir: e.Dir, Mount: e.Mount, Driver: w.Driver}
		}
	}
}

// name is what nodes mount.
func (u *servedUserlands) name() string {
	return shares.ExportPath(u.folder.Driver, shares.UserlandsID, u.folder.Dir)
}

// engineInUse is the engine that serves something already, which all else that is served has to have too. The caller holds s.mu.
func (s *Shares) engineInUse() api.ShareDriver {
	for _, o := range s.list {
		if o.isLocal() {
			return o.Driver
		}
	}
	if len(s.local.taken.Exports) > 0 {
		return s.local.taken.Driver
	}
	return ""
}

// needUserlands finds out which userlands nodes need, and where they would be served.
func (s *Shares) needUserlands(ctx context.Context, nodes []shareNode) {
	if s.cfg.Userlands == nil {
		return
	}
	s.mu.Lock()
	u, inUse := s.local.userlands, s.engineInUse()
	s.mu.Unlock()
	need, now := s.cfg.Userlands(nodes, u.name()), s.cfg.Now()
	if len(need) > 0 && (u.folder.Driver == "" || inUse != "" && u.folder.Driver != inUse) && now.Sub(u.looked) >= localAgain {
		folder, err := s.cfg.Desk.Look(ctx, shares.Userlands, inUse)
		failed := ""
		if err != nil {
			folder, failed = shares.Folder{}, err.Error()
		}
		if failed != "" && failed != u.failed {
			s.cfg.Log.Warn("nodes cannot read their userland from the head", "nodes", slices.Sorted(maps.Keys(need)), "why", failed)
		}
		u.folder, u.failed, u.looked = folder, failed, now
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	u.need = need
	s.local.userlands = u
}

// export is what is served, and by which engine.
func (u *servedUserlands) export(nodes []shareNode) (shares.Export, api.ShareDriver, bool) {
	e := shares.Export{ID: shares.UserlandsID, Dir: u.folder.Dir, Mount: u.folder.Mount, ReadOnly: true}
	for _, n := range nodes {
		sum, needs := u.need[n.name]
		if a, err := netip.ParseAddr(n.ip); needs && err == nil {
			e.Clients = append(e.Clients, shares.Client{Node: n.name, Addr: a})
			e.Userlands = append(e.Userlands, sum)
		}
	}
	slices.Sort(e.Userlands)
	e.Userlands = slices.Compact(e.Userlands)
	return e, u.folder.Driver, len(e.Clients) > 0 && u.folder.Driver != ""
}

// userlandFor implements userlandExporter.
func (s *Shares) userlandFor(n shareNode) (from *api.UserlandSource, soon bool) {
	if s.cfg.Desk == nil || s.cfg.Userlands == nil {
		return nil, false
	}
	s.mu.Lock()
	export := s.local.userlands.name()
	s.mu.Unlock()
	sum := s.cfg.Userlands([]shareNode{n}, export)[n.name] // it may have come since the last look
	s.mu.Lock()
	defer s.mu.Unlock()
	u := &s.local.userlands
	for _, e := range s.local.taken.Exports {
		if e.ID != shares.UserlandsID || sum == "" || u.failed != "" || u.folder.Driver == "" || !slices.Contains(e.Userlands, sum) ||
			!slices.ContainsFunc(e.Clients, func(c shares.Client) bool { return c.Addr.Unmap().String() == n.ip }) {
			continue
		}
		from = &api.UserlandSource{Server: n.headIP, Export: shares.ExportPath(u.folder.Driver, e.ID, e.Dir), File: sum}
		if u.folder.Driver == api.ShareGanesha && s.cfg.Port != nfsPort {
			from.Port = s.cfg.Port
		}
		return from, false
	}
	return nil, u.failed == "" && sum != ""
}
