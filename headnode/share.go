package headnode

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"path"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"muster/api"
	"muster/headnode/shares"
	"muster/headnode/store"
)

// kindShare are the records of shares, by number.
const kindShare = "share"

// shareNumbersID is the setting that holds the last number that a share got. Numbers are never
// used again: handles that clients hold are made of them.
const shareNumbersID = "share-numbers"

const (
	maxShares   = 256
	shareSchema = 1
)

// shareRecord is what is durable of a share.
type shareRecord struct {
	Schema   int             `json:"schema"`
	ID       uint16          `json:"id"`
	Path     string          `json:"path"`
	Driver   api.ShareDriver `json:"driver"`
	Server   string          `json:"server"` // host of an external server
	Export   string          `json:"export"`
	ReadOnly bool            `json:"read_only,omitempty"`
	To       []string        `json:"to,omitempty"`
	// Of a folder of the head: which, on what file system, and whether root of a node is root in it.
	Dir          string `json:"dir,omitempty"`
	Mount        string `json:"mount,omitempty"`
	NoRootSquash bool   `json:"no_root_squash,omitempty"`

	Added time.Time `json:"added"`
	By    string    `json:"by"`
}

type numbersRecord struct {
	Schema int    `json:"schema"`
	Last   uint16 `json:"last"`
}

// share is a share as the head knows it now.
type share struct {
	shareRecord
	rev    uint64
	addr   string // of the server, as nodes mount it; "": not known
	state  string
	reason string
	folder shares.Folder // of the head, as it was looked at last
}

// States of a share.
const (
	shareServed      = "served"
	shareStarting    = "starting"
	shareFailed      = "failed"
	shareUnreachable = "unreachable"
)

// sharesConfig is what [newShares] needs; all is required but Log.
type sharesConfig struct {
	Store store.Interface
	Nodes *Nodes
	// Users tells how many tasks work in a share, and of which jobs.
	Users func(path string) []uint64
	// Desk serves folders of the head. Nil: this head cannot.
	Desk shares.Desk
	// Userlands tells of these nodes which are to read their userland from the head, and which that
	// is, by its SHA-256; export is where they read it if they do already. Nil: none are.
	Userlands func(nodes []shareNode, export string) map[string]string
	Port      int // where it serves them by nfs-ganesha; 0: 2049
	Now       clock
	Log       *slog.Logger
}

// Shares knows the directories that nodes mount.
type Shares struct {
	cfg sharesConfig

	write sync.Mutex // through a change that is recorded; taken before mu
	mu    sync.Mutex
	list  []*share // by path
	last  uint16   // number

	local localShares
}

func newShares(cfg sharesConfig) (*Shares, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	cfg.Port = cmp.Or(cfg.Port, nfsPort)
	s := &Shares{cfg: cfg, local: newLocalShares()}
	if r, ok := cfg.Store.Get(kindSetting, shareNumbersID); ok {
		var n numbersRecord
		if err := json.Unmarshal(r.Data, &n); err != nil {
			return nil, fmt.Errorf("reading numbers of shares: %w", err)
		}
		s.last = n.Last
	}
	for _, r := range cfg.Store.List(kindShare) {
		sh := &share{rev: r.Rev, state: shareStarting}
		if err := json.Unmarshal(r.Data, &sh.shareRecord); err != nil {
			return nil, fmt.Errorf("reading record of share %s: %w", r.ID, err)
		}
		s.list = append(s.list, sh)
	}
	s.sort()
	return s, nil
}

func (s *Shares) sort() {
	slices.SortFunc(s.list, func(a, b *share) int { return strings.Compare(a.Path, b.Path) })
}

// Paths lists where nodes mount shares.
func (s *Shares) Paths() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	paths := make([]string, len(s.list))
	for i, sh := range s.list {
		paths[i] = sh.Path
	}
	return paths
}

// Writable tells whether nodes mount a share for writing.
func (s *Shares) Writable(at string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, sh := range s.list {
		if sh.Path == at {
			return !sh.ReadOnly
		}
	}
	return false
}

// List implements shareAdmin.
func (s *Shares) List() []api.Share {
	nodes := s.cfg.Nodes.shareNodes()
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]api.Share, len(s.list))
	for i, sh := range s.list {
		list[i] = sh.view(nodes)
	}
	return list
}

// Show implements shareAdmin.
func (s *Shares) Show(at string) (api.Share, error) {
	for _, v := range s.List() {
		if v.Path == at || v.Path == path.Clean(at) {
			return v, nil
		}
	}
	return api.Share{}, s.noShare(at)
}

func (s *Shares) noShare(at string) error {
	hint := "see the shares with: muster share list"
	if near := nearest(at, s.Paths()); near != "" {
		hint = "did you mean " + near + "? " + hint
	}
	return &api.Error{Code: api.CodeNotFound, Msg: fmt.Sprintf("there is no share %s", at), Hint: hint}
}

// view is the API's view of a share.
func (sh *share) view(nodes []shareNode) api.Share {
	v := api.Share{
		ID: sh.ID, Path: sh.Path, Driver: sh.Driver, Source: sh.source(), ReadOnly: sh.ReadOnly, To: sh.To, NoRootSquash: sh.NoRootSquash,
		State: sh.state, Reason: sh.reason, Added: sh.Added, Mounts: []api.ShareMount{},
		Limits: []string{
			"who may do what is the server's affair: it sees the user and group numbers of the tasks",
			"quota and snapshots are the server's",
		},
	}
	if sh.isLocal() {
		v.Limits = sh.limits()
	}
	for _, n := range nodes {
		if !sh.meant(n) {
			continue
		}
		if n.ip != "" && !sh.isLocal() {
			v.Allow = append(v.Allow, n.ip)
		}
		m := api.ShareMount{Node: n.name, State: "mounting"}
		if i := slices.IndexFunc(n.mounts, func(m api.MountStatus) bool { return m.ID == sh.ID }); i >= 0 {
			m.State, m.Reason = n.mounts[i].State, n.mounts[i].Reason
		}
		if !n.up {
			m.State, m.Reason = "away", "the node is not heard"
		}
		v.Mounts = append(v.Mounts, m)
	}
	return v
}

// Add implements shareAdmin.
func (s *Shares) Add(ctx context.Context, actor string, req api.ShareRequest) (api.Share, error) {
	s.write.Lock()
	defer s.write.Unlock()
	rec, folder, err := s.record(ctx, req)
	if err != nil {
		return api.Share{}, err
	}
	s.mu.Lock()
	taken := slices.ContainsFunc(s.list, func(o *share) bool { return o.Path == rec.Path })
	count, last := len(s.list), s.last
	s.mu.Unlock()
	switch {
	case taken:
		return api.Share{}, &api.Error{Code: api.CodeConflict, Msg: fmt.Sprintf("there is a share at %s already", rec.Path), Hint: "choose another path with --at, or remove it first: muster share remove " + rec.Path}
	case count >= maxShares:
		return api.Share{}, tooLarge("share a folder above some of them", "there are %d shares already", count)
	case last >= shares.UserlandsID-1:
		return api.Share{}, &api.Error{Code: api.CodeUnavailable, Msg: "all numbers of shares are used up"}
	}
	rec.ID, rec.Added, rec.By = last+1, stamp(s.cfg.Now()), actor
	if rec.isLocal() {
		rec.Export = shares.ExportPath(rec.Driver, rec.ID, rec.Dir)
	}
	var numbersRev uint64
	if r, ok := s.cfg.Store.Get(kindSetting, shareNumbersID); ok {
		numbersRev = r.Rev
	}
	rev, err := s.cfg.Store.Commit(ctx,
		store.Op{Kind: kindSetting, ID: shareNumbersID, Expect: numbersRev, Data: mustJSON(numbersRecord{shareSchema, rec.ID})},
		store.Op{Kind: kindShare, ID: fmt.Sprint(rec.ID), Data: mustJSON(rec)})
	if err != nil {
		return api.Share{}, recordError(err)
	}
	sh := &share{shareRecord: rec, rev: rev, state: shareStarting, folder: folder}
	if !rec.isLocal() {
		s.look(ctx, sh)
	}
	s.mu.Lock()
	s.last = rec.ID
	s.list = append(s.list, sh)
	s.sort()
	s.mu.Unlock()
	s.cfg.Log.Info("share added", "path", rec.Path, "from", rec.source(), "by", actor)
	if rec.isLocal() {
		s.serveLocal(ctx, true)
	}
	s.cfg.Nodes.configure()
	return s.Show(rec.Path)
}

// Remove implements shareAdmin.
func (s *Shares) Remove(ctx context.Context, actor, at string) error {
	s.write.Lock()
	defer s.write.Unlock()
	s.mu.Lock()
	i := slices.IndexFunc(s.list, func(o *share) bool { return o.Path == at || o.Path == path.Clean(at) })
	var sh *share
	if i >= 0 {
		sh = s.list[i]
	}
	s.mu.Unlock()
	if sh == nil {
		return s.noShare(at)
	}
	if jobs := s.cfg.Users(sh.Path); len(jobs) > 0 {
		names := make([]string, min(len(jobs), 5))
		for i := range names {
			names[i] = jobID(jobs[i])
		}
		return &api.Error{
			Code: api.CodeConflict, Msg: fmt.Sprintf("share %s is in use by %d jobs: %s", sh.Path, len(jobs), strings.Join(names, ", ")),
			Hint: "wait for them, or end them: muster job cancel " + names[0],
		}
	}
	if _, err := s.cfg.Store.Commit(ctx, store.Op{Kind: kindShare, ID: fmt.Sprint(sh.ID), Expect: sh.rev}); err != nil {
		return recordError(err)
	}
	s.mu.Lock()
	s.list = slices.DeleteFunc(s.list, func(o *share) bool { return o == sh })
	if sh.isLocal() {
		s.local.leave(sh.shareRecord, s.cfg.Now())
	}
	s.mu.Unlock()
	s.cfg.Log.Info("share removed", "path", sh.Path, "by", actor)
	s.cfg.Nodes.configure()
	return nil
}

// known refuses a server whose name cannot be looked up: nodes could not mount from it.
func (s *Shares) known(ctx context.Context, host string) error {
	ctx, cancel := context.WithTimeout(ctx, shareLookFor)
	defer cancel()
	_, err := addressOf(ctx, host)
	return err
}

// taskFolders are what tasks have at these paths; a share there would take it from them.
var taskFolders = []string{
	"/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/libx32", "/proc", "/root", "/run", "/sbin", "/sys", "/tmp", "/usr", "/var", "/bbin", "/init",
}

// record makes a record of what was asked for.
func (s *Shares) record(ctx context.Context, req api.ShareRequest) (shareRecord, shares.Folder, error) {
	rec := shareRecord{Schema: shareSchema, Driver: api.ShareExternal, ReadOnly: req.ReadOnly, To: req.To}
	var folder shares.Folder
	for _, to := range req.To {
		if err := checkTo(to); err != nil {
			return rec, folder, err
		}
	}
	if path.IsAbs(req.Source) {
		return s.localRecord(ctx, rec, req)
	}
	if req.NoRootSquash {
		return rec, folder, invalid("set it at that server", "whether root of a node is root on a share of another server is that server's affair")
	}
	var ok bool
	if rec.Server, rec.Export, ok = cutSource(req.Source); !ok {
		return rec, folder, invalid("name an NFS server and what it exports, as in: muster share add nas1:/tank/home --at /home; or a folder of the head, from /",
			"%q is not HOST:/EXPORT", req.Source)
	}
	if clean := path.Clean(rec.Export); rec.Export != clean {
		if strings.TrimRight(rec.Export, "/") != clean {
			return rec, folder, invalid("name it as the server exports it, without . and ..", "%q is not clean", rec.Export)
		}
		rec.Export = clean
	}
	rec.Path = cmp.Or(req.At, rec.Export)
	if rec.Path != "/" {
		rec.Path = strings.TrimRight(rec.Path, "/")
	}
	if err := checkSharePath(rec.Path); err != nil {
		return rec, folder, err
	}
	if err := s.known(ctx, rec.Server); err != nil {
		return rec, folder, invalid("give its address, or have the head's resolver know the name (/etc/hosts)", "%v", err)
	}
	return rec, folder, nil
}

// cutSource splits HOST:/EXPORT; an IPv6 address stands in brackets.
func cutSource(source string) (host, export string, ok bool) {
	i := strings.Index(source, ":/")
	if i <= 0 {
		return "", "", false
	}
	host, export = source[:i], source[i+1:]
	if inner, is := strings.CutPrefix(host, "["); is {
		host, is = strings.CutSuffix(inner, "]")
		if a, err := netip.ParseAddr(host); !is || err != nil || !a.Is6() {
			return "", "", false
		}
	} else if strings.ContainsAny(host, ": \t\n/\x00") || !utf8.ValidString(host) || len(host) > 253 {
		return "", "", false
	}
	return host, export, plainText(export) && len(export) <= maxPath
}

// plainText tells whether s is text without control characters.
func plainText(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, unicode.IsControl)
}

// CheckSharePath says why nodes cannot mount a share at a path; nil: they can.
func CheckSharePath(at string) error { return checkSharePath(at) }

func checkSharePath(at string) error {
	switch {
	case !path.IsAbs(at) || at != path.Clean(at):
		return invalid("name it from / on, without . and ..", "%q cannot be where nodes mount a share", at)
	case at == "/":
		return invalid("choose a folder with --at", "a share cannot be the root of the tasks")
	case !plainText(at) || len(at) > 1024:
		return invalid("choose a path of at most 1024 bytes without control characters with --at", "%q cannot be where nodes mount a share", at)
	}
	for _, f := range taskFolders {
		if at == f || strings.HasPrefix(at, f+"/") {
			return invalid("choose another path with --at, as /home, /srv or /data", "tasks have %s of their own: no share can be at %s", f, at)
		}
	}
	return nil
}

// checkTo checks whom a share is for: a network or a node list.
func checkTo(to string) error {
	if strings.Contains(to, "/") {
		if _, err := netip.ParsePrefix(to); err != nil {
			return invalid("write a network as 10.1.0.0/16", "--to %s: %v", to, err)
		}
		return nil
	}
	if _, err := api.ParseNodeList(to); err != nil {
		return invalid("write nodes as n1,n4, n[1-10] or label:gpu, and a network as 10.1.0.0/16", "--to %s: %v", to, err)
	}
	return nil
}

// meant tells whether a node is to mount a share.
func (sh *shareRecord) meant(n shareNode) bool {
	if len(sh.To) == 0 {
		return true
	}
	for _, to := range sh.To {
		if strings.Contains(to, "/") {
			p, err1 := netip.ParsePrefix(to)
			a, err2 := netip.ParseAddr(n.ip)
			if err1 == nil && err2 == nil && p.Contains(a.Unmap()) {
				return true
			}
			continue
		}
		items, err := api.ParseNodeList(to)
		if err == nil && slices.ContainsFunc(items, func(item string) bool {
			label, ok := api.CutLabel(item)
			return item == n.name || ok && slices.Contains(n.labels, label)
		}) {
			return true
		}
	}
	return false
}

// shareNode is what the share side needs of a node.
type shareNode struct {
	name, ip string
	labels   []string
	up       bool
	mounts   []api.MountStatus

	headIP    string // address of the head that it knows
	runs      api.Software
	memoryMiB int64
}

// mountsOf are the shares that a node is to mount. whole is false while there are some that it cannot mount yet, because their
// server was not found or told of the node; what failed is not waited for.
func (s *Shares) mountsOf(n shareNode) (list []api.NodeMount, whole bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	whole = true
	for _, sh := range s.list {
		switch {
		case !sh.meant(n):
		case sh.isLocal():
			if m, ok := s.localMount(sh, n); ok {
				list = append(list, m)
			} else if sh.state != shareFailed && n.headIP != "" {
				whole = false
			}
		case sh.addr != "":
			list = append(list, api.NodeMount{ID: sh.ID, Path: sh.Path, Server: sh.addr, Export: sh.Export, ReadOnly: sh.ReadOnly})
		case sh.state == shareStarting:
			whole = false
		}
	}
	return list, whole
}
