package headnode

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"path"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"muster/api"
	"muster/headnode/shares"
)

// Folders of the head are shares whose server is the head itself: its keeper serves them
// (headnode/shares), and here is decided which, and to whom.

// Times of what is served here.
const (
	localEvery = 500 * time.Millisecond // a look at which nodes have which addresses
	localAgain = 5 * time.Second        // a look at whether all is served, and a try of what is not
	leaveFor   = 10 * time.Second       // nodes have to unmount a share before it is taken from them
)

// localShares is what is served of the head's folders.
type localShares struct {
	serving sync.Mutex // through a change of what is served; before Shares.mu

	// The rest is guarded by Shares.mu.
	known   bool                  // what is served was asked for since the start
	taken   shares.Wanted         // as the keeper took it last
	tried   time.Time             // when
	addrs   map[string]netip.Addr // of nodes by name, as they were heard last
	leaving []leavingShare

	kick chan struct{} // gets a token when a node may have another address

	userlands servedUserlands
}

type leavingShare struct {
	shareRecord
	until time.Time
}

func newLocalShares() localShares {
	return localShares{addrs: map[string]netip.Addr{}, kick: make(chan struct{}, 1)}
}

// located has the folders of the head served to a node that has just joined.
func (s *Shares) located() {
	select {
	case s.local.kick <- struct{}{}:
	default:
	}
}

// leave serves a share that was removed until its nodes have unmounted it.
func (l *localShares) leave(rec shareRecord, now time.Time) {
	l.leaving = append(l.leaving, leavingShare{rec, now.Add(leaveFor)})
}

func (r *shareRecord) isLocal() bool { return r.Dir != "" }

// source is where the files of a share are.
func (r *shareRecord) source() string {
	if r.isLocal() {
		return r.Dir
	}
	return r.Server + ":" + r.Export
}

// localRecord makes a record of a folder of the head. The caller holds s.write.
func (s *Shares) localRecord(ctx context.Context, rec shareRecord, req api.ShareRequest) (shareRecord, shares.Folder, error) {
	if s.cfg.Desk == nil {
		return rec, shares.Folder{}, &api.Error{Code: api.CodeUnavailable, Msg: "this head does not serve folders of its own", Hint: "add a server that exists: muster share add HOST:/EXPORT"}
	}
	s.mu.Lock()
	inUse := s.engineInUse()
	s.mu.Unlock()
	folder, err := s.cfg.Desk.Look(ctx, path.Clean(req.Source), inUse)
	if err != nil {
		return rec, folder, err
	}
	rec.Driver, rec.Dir, rec.Mount, rec.NoRootSquash = folder.Driver, folder.Dir, folder.Mount, req.NoRootSquash
	rec.Path = cmp.Or(req.At, folder.Dir)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range s.list {
		if o.Dir == rec.Dir {
			return rec, folder, &api.Error{Code: api.CodeConflict, Msg: fmt.Sprintf("%s is shared already, at %s", rec.Dir, o.Path), Hint: "to have it elsewhere, remove that first: muster share remove " + o.Path}
		}
	}
	return rec, folder, checkSharePath(rec.Path)
}

// limits says what a folder of the head cannot do.
func (sh *share) limits() []string {
	var list []string
	switch sh.Driver {
	case api.ShareGanesha:
		list = append(list,
			"a lock that has to wait for another node may fail with an input/output error (flock without -n, F_SETLKW; nfs-ganesha 6.5 and nodes with Linux 6.12, while 4.3 waits); locks that do not wait are right, so try again in the program, or install nfs-kernel-server",
			"no ACLs, extended attributes or reflinks")
		if !sh.folder.Durable {
			list = append(list, "files made, renamed or removed in the last seconds before a power cut of the head may be lost, what is in files that were synced is not"+durableHint[sh.folder.Type])
		}
	case api.ShareKernel:
		list = append(list,
			"a lock that waits for a program on another node may be had only 30 seconds after it is free",
			"after a restart of the NFS server, who writes waits up to its grace time, 90 seconds as Debian has it")
	}
	if !sh.NoRootSquash {
		list = append(list, "root of a node is nobody here; jobs of root need --no-root-squash")
	}
	if len(sh.folder.Below) > 0 {
		if sh.Driver == api.ShareKernel {
			list = append(list, "file systems mounted in it are served with it: "+strings.Join(sh.folder.Below, ", "))
		} else {
			list = append(list, "file systems mounted in it are not served with it, nodes see empty folders; share them too: "+strings.Join(sh.folder.Below, ", "))
		}
	}
	return list
}

// durableHint is the way out, by file system.
var durableHint = map[string]string{"ext4": "; mount its file system with dirsync", "xfs": "; mount its file system with wsync"}

// lookLocal looks at a folder again.
func (s *Shares) lookLocal(ctx context.Context, sh *share) {
	if s.cfg.Desk == nil {
		return
	}
	folder, err := s.cfg.Desk.Look(ctx, sh.Dir, sh.Driver)
	if err != nil {
		return // why it is not served is said by what serves it
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	sh.folder = folder
}

// runLocal has the folders of the head served to the nodes that may have them, until ctx is done.
func (s *Shares) runLocal(ctx context.Context) error {
	tick := time.NewTicker(localEvery)
	defer tick.Stop()
	for {
		s.serveLocal(ctx, false)
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-s.local.kick:
		}
	}
}

// serveLocal has what shall be served now served, if that has changed, or was looked at a while ago.
func (s *Shares) serveLocal(ctx context.Context, now bool) {
	if s.cfg.Desk == nil {
		return
	}
	s.local.serving.Lock()
	defer s.local.serving.Unlock()
	nodes, strangers := s.cfg.Nodes.shareNodes(), s.cfg.Nodes.strangers()
	s.mu.Lock()
	known := s.local.known
	idle := !now && known && s.cfg.Now().Sub(s.local.tried) < localAgain
	s.mu.Unlock()
	if !known {
		// A node that was not heard since this start has the address that it had before.
		st, err := s.cfg.Desk.Status(ctx)
		if err != nil {
			s.setLocal(nil, err)
			return
		}
		s.mu.Lock()
		s.local.known, s.local.taken = true, st.Wanted
		s.local.userlands.restore(st.Wanted)
		for _, e := range st.Wanted.Exports {
			for _, c := range e.Clients {
				s.local.addrs[c.Node] = c.Addr
			}
		}
		s.mu.Unlock()
	}
	s.needUserlands(ctx, nodes)
	s.mu.Lock()
	want := s.wanted(nodes, strangers)
	same := reflect.DeepEqual(want, s.local.taken)
	skip := same && (len(want.Exports) == 0 || idle)
	s.mu.Unlock()
	if skip {
		return
	}
	st, err := s.cfg.Desk.Serve(ctx, want)
	if ctx.Err() != nil {
		return
	}
	s.mu.Lock()
	s.local.tried = s.cfg.Now()
	if err == nil {
		s.local.taken = want
	}
	s.mu.Unlock()
	s.setLocal(st.Failed, err)
	if !same {
		s.cfg.Nodes.configure()
	}
}

// setLocal says how the folders of the head are served.
func (s *Shares) setLocal(failed map[uint16]string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if u := &s.local.userlands; u.folder.Driver != "" {
		u.failed = failed[shares.UserlandsID]
		if err != nil {
			u.failed = err.Error()
		}
	}
	for _, sh := range s.list {
		if !sh.isLocal() {
			continue
		}
		state, reason := shareServed, ""
		if err != nil {
			state, reason = shareFailed, err.Error()
		} else if why := failed[sh.ID]; why != "" {
			state, reason = shareFailed, why
		}
		if sh.state != state && state == shareFailed {
			s.cfg.Log.Warn("share", "path", sh.Path, "state", state, "why", reason)
		}
		sh.state, sh.reason = state, reason
	}
}

// wanted is what shall be served, and to whom. The caller holds s.mu.
func (s *Shares) wanted(nodes []shareNode, strangers map[string]bool) shares.Wanted {
	now := s.cfg.Now()
	s.local.leaving = slices.DeleteFunc(s.local.leaving, func(l leavingShare) bool {
		return now.After(l.until) || !slices.ContainsFunc(nodes, func(n shareNode) bool { return n.up && n.mounts != nil && hasMount(n, l.ID) })
	})
	nodes = s.local.located(nodes, strangers)
	var w shares.Wanted
	add := func(r *shareRecord, may func(shareNode) bool) {
		e := shares.Export{ID: r.ID, Dir: r.Dir, Mount: r.Mount, ReadOnly: r.ReadOnly, NoRootSquash: r.NoRootSquash}
		for _, n := range nodes {
			if a, err := netip.ParseAddr(n.ip); err == nil && may(n) {
				e.Clients = append(e.Clients, shares.Client{Node: n.name, Addr: a})
			}
		}
		w.Driver = r.Driver
		w.Exports = append(w.Exports, e)
	}
	for _, sh := range s.list {
		if sh.isLocal() {
			add(&sh.shareRecord, sh.meant)
		}
	}
	for _, l := range s.local.leaving {
		if !slices.ContainsFunc(w.Exports, func(e shares.Export) bool { return e.Dir == l.Dir }) {
			add(&l.shareRecord, func(n shareNode) bool { return l.meant(n) && hasMount(n, l.ID) })
		}
	}
	if e, driver, ok := s.local.userlands.export(nodes); ok && (w.Driver == "" || w.Driver == driver) {
		w.Driver, w.Exports = driver, append(w.Exports, e)
	}
	return w
}

func hasMount(n shareNode, id uint16) bool {
	return slices.ContainsFunc(n.mounts, func(m api.MountStatus) bool { return m.ID == id })
}

// located gives nodes that are not heard now the address that they had: their tasks go on. One that
// another machine has now is taken from them.
func (l *localShares) located(nodes []shareNode, strangers map[string]bool) []shareNode {
	nodes = slices.Clone(nodes)
	addrs, up := map[string]netip.Addr{}, map[netip.Addr]bool{}
	for _, n := range nodes {
		if a, err := netip.ParseAddr(n.ip); err == nil && n.up {
			addrs[n.name], up[a.Unmap()] = a.Unmap(), true
		}
	}
	for i := range nodes {
		n := &nodes[i]
		if a, ok := addrs[n.name]; ok {
			n.ip = a.String()
			continue
		}
		n.ip = ""
		if a, ok := l.addrs[n.name]; ok && !up[a] && !strangers[a.String()] {
			addrs[n.name], n.ip = a, a.String()
		}
	}
	l.addrs = addrs
	return nodes
}

// localMount is how a node mounts a folder of the head, once it may. The caller holds s.mu.
func (s *Shares) localMount(sh *share, n shareNode) (api.NodeMount, bool) {
	m := api.NodeMount{ID: sh.ID, Path: sh.Path, Server: n.headIP, Export: sh.Export, ReadOnly: sh.ReadOnly}
	if sh.Driver == api.ShareGanesha {
		m.Minor = 1 // it speaks no other, and a try of 2 takes time
		if s.cfg.Port != nfsPort {
			m.Port = s.cfg.Port
		}
	}
	if n.headIP == "" {
		return m, false
	}
	if !s.local.known || hasMount(n, sh.ID) {
		return m, true // it may have it mounted
	}
	served := slices.ContainsFunc(s.local.taken.Exports, func(e shares.Export) bool {
		return e.ID == sh.ID && slices.ContainsFunc(e.Clients, func(c shares.Client) bool { return c.Addr.String() == n.ip })
	})
	return m, served
}
