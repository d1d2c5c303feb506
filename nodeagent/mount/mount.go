package mount

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"muster/api"
	"muster/nodeagent/task"
)

// Config is what a [Mounter] needs. Dir is required.
type Config struct {
	Dir string // folder for mounts and trees, on the same kind of file system as RunDir
	// Modprobe loads a kernel module, if it is not there yet; one call at a time. Nil: it is there.
	Modprobe func(name string) error
	Log      *slog.Logger // nil: no log

	mount   func(ctx context.Context, m api.NodeMount, dir string) error // nil: mount(2); tests have another
	unmount func(dir string) error                                       // nil: umount(2)
}

// States of a mount, as heads and people see them.
const (
	Mounted  = "mounted"
	Mounting = "mounting"
	Failed   = "failed"  // tried again
	Stalled  = "stalled" // mounted, and its server does not answer
	Leaving  = "leaving" // not wanted any more, and still in use
)

// Times between tries, and of a look at servers.
const (
	retryFirst = 500 * time.Millisecond
	retryMost  = 10 * time.Second
	lookEvery  = 5 * time.Second
	lookFor    = 4 * time.Second
)

// Mounter keeps the shares of a node. Make one with [New]; its methods may be called from any
// goroutine.
type Mounter struct {
	cfg  Config
	log  *slog.Logger
	wake chan struct{}

	loading sync.Mutex // through a call of Modprobe

	mu      sync.Mutex
	ahead   bool // the NFS client is to be loaded, though no share asks for it
	changed func()
	given   bool // a list has come
	want    []api.NodeMount
	have    map[uint16]*mounted
}

// mounted is a share that is mounted, or that is to be.
type mounted struct {
	api.NodeMount
	dir     string
	state   string
	reason  string
	busy    bool // it is being mounted
	tries   int
	next    time.Time     // of the next try
	looking chan struct{} // closed when the server has answered; nil: nobody asked
}

// New returns a mounter that knows what an earlier agent has mounted.
func New(cfg Config) (*Mounter, error) {
	if cfg.Dir == "" {
		return nil, errors.New("mount: Config.Dir is missing")
	}
	if cfg.Modprobe == nil {
		cfg.Modprobe = func(string) error { return nil }
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.mount == nil {
		cfg.mount = mountNFS
	}
	if cfg.unmount == nil {
		cfg.unmount = func(dir string) error { return unix.Unmount(dir, unix.UMOUNT_NOFOLLOW) }
	}
	if err := os.MkdirAll(cfg.Dir, 0o711); err != nil {
		return nil, fmt.Errorf("making the folder of shares: %w", err)
	}
	m := &Mounter{cfg: cfg, log: cfg.Log, wake: make(chan struct{}, 1), have: map[uint16]*mounted{}, changed: func() {}}
	return m, m.adopt()
}

// adopt finds what an earlier agent has mounted. Its options are not known until the
// head sends its list; what differs then is mounted anew.
func (m *Mounter) adopt() error {
	points, err := mountPoints(m.cfg.Dir)
	if err != nil {
		return err
	}
	for dir, p := range points {
		id, err := strconv.ParseUint(filepath.Base(dir), 10, 16)
		if err != nil || filepath.Dir(dir) != m.cfg.Dir {
			continue
		}
		server, export, _ := strings.Cut(p.source, ":")
		m.have[uint16(id)] = &mounted{
			NodeMount: api.NodeMount{ID: uint16(id), Server: server, Export: export, ReadOnly: p.readOnly},
			dir:       dir, state: Mounted,
		}
	}
	return nil
}

// Tell has f called, from any goroutine, when [Mounter.Status] says something else.
func (m *Mounter) Tell(f func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.changed = f
}

func (m *Mounter) tell() {
	m.mu.Lock()
	f := m.changed
	m.mu.Unlock()
	f()
}

// Retry tries at once what has failed, as if it had not been tried: something has changed on this node.
func (m *Mounter) Retry() {
	m.mu.Lock()
	m.ahead = true
	for _, h := range m.have {
		if h.state == Failed {
			h.state, h.reason, h.next = Mounting, "", time.Time{}
		}
	}
	m.mu.Unlock()
	m.poke()
}

// Set makes list what the node shall have.
func (m *Mounter) Set(list []api.NodeMount) {
	m.mu.Lock()
	m.given, m.want = true, slices.Clone(list)
	for _, w := range m.want {
		if h := m.have[w.ID]; h != nil && same(h.NodeMount, w) {
			h.NodeMount, h.next = w, time.Time{} // adopted ones do not know their path
		}
	}
	m.mu.Unlock()
	m.poke()
}

// same tells whether two mounts are one as far as the kernel is concerned.
func same(a, b api.NodeMount) bool {
	return a.ID == b.ID && a.Server == b.Server && a.Export == b.Export && a.ReadOnly == b.ReadOnly &&
		cmp.Or(a.Port, nfsPort) == cmp.Or(b.Port, nfsPort)
}

func (m *Mounter) poke() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// Run does the work until ctx is done. What is mounted then stays.
func (m *Mounter) Run(ctx context.Context) error {
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	for {
		m.preload()
		next := m.step(ctx)
		timer := time.NewTimer(next)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-m.wake:
		case <-timer.C:
		case <-look.C:
			m.look(ctx)
		}
		timer.Stop()
	}
}

// Preload has the NFS client loaded, so that the first share need not wait for it: on an emulated machine that takes seconds.
func (m *Mounter) Preload() {
	m.mu.Lock()
	m.ahead = true
	m.mu.Unlock()
	m.poke()
}

// preload does what Preload asked for.
func (m *Mounter) preload() {
	m.mu.Lock()
	due := m.ahead
	m.ahead = false
	m.mu.Unlock()
	if due {
		go m.load()
	}
}

func (m *Mounter) load() error {
	m.loading.Lock()
	defer m.loading.Unlock()
	err := m.cfg.Modprobe("nfsv4")
	if err == nil {
		// The kernel looks for it at the first mount from each server, whether it is used or not.
		_ = m.cfg.Modprobe("rpcsec_gss_krb5")
	}
	return err
}

// step does what can be done now and returns when to try again. Shares are mounted beside each other: one whose
// server hangs keeps no other waiting.
func (m *Mounter) step(ctx context.Context) time.Duration {
	for _, h := range m.unwanted() {
		m.leave(h)
	}
	wait := time.Hour
	for _, w := range m.missing() {
		if ctx.Err() != nil {
			break
		}
		go m.enter(ctx, w)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, h := range m.have {
		if !h.busy && !h.next.IsZero() {
			wait = min(wait, max(time.Until(h.next), 10*time.Millisecond))
		}
	}
	return wait
}

// unwanted returns the mounts that shall go, those below others first.
func (m *Mounter) unwanted() []*mounted {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.given {
		return nil
	}
	var list []*mounted
	for _, h := range m.have {
		if !h.busy && !slices.ContainsFunc(m.want, func(w api.NodeMount) bool { return same(w, h.NodeMount) }) {
			list = append(list, h)
		}
	}
	slices.SortFunc(list, func(a, b *mounted) int { return strings.Compare(b.Path, a.Path) })
	return list
}

// missing returns the mounts that are wanted, not there, and due, as ones that are being mounted.
func (m *Mounter) missing() []*mounted {
	m.mu.Lock()
	defer m.mu.Unlock()
	var list []*mounted
	for _, w := range m.want {
		h := m.have[w.ID]
		if h == nil {
			h = &mounted{NodeMount: w, dir: filepath.Join(m.cfg.Dir, strconv.Itoa(int(w.ID))), state: Mounting}
			m.have[w.ID] = h
		}
		if same(h.NodeMount, w) && !h.busy && (h.state == Mounting || h.state == Failed) && !time.Now().Before(h.next) {
			h.busy = true
			list = append(list, h)
		}
	}
	return list
}

// leave unmounts a share, unless a task uses it.
func (m *Mounter) leave(h *mounted) {
	if h.state == Mounting || h.state == Failed {
		m.drop(h)
		return
	}
	// Tasks that run with it keep it in their own namespaces.
	err := m.cfg.unmount(h.dir)
	if err != nil && !errors.Is(err, unix.EINVAL) { // EINVAL: it is not mounted
		m.set(h, Leaving, fmt.Sprintf("unmounting: %v", err))
		return
	}
	m.drop(h)
}

func (m *Mounter) drop(h *mounted) {
	os.Remove(h.dir)
	m.mu.Lock()
	delete(m.have, h.ID)
	m.mu.Unlock()
	m.log.Info("share unmounted", "path", h.Path)
	m.tell()
	m.poke()
}

// enter mounts a share, which missing gave.
func (m *Mounter) enter(ctx context.Context, h *mounted) {
	defer m.poke()
	m.mu.Lock()
	n := h.NodeMount
	m.mu.Unlock()
	begin := time.Now()
	err := os.MkdirAll(h.dir, 0o755)
	if err == nil {
		err = m.load()
	}
	loaded := time.Now()
	if err == nil {
		err = m.cfg.mount(ctx, n, h.dir)
	}
	m.mu.Lock()
	h.busy = false
	if err != nil {
		h.tries++
		h.next = time.Now().Add(min(retryFirst<<min(h.tries-1, 10), retryMost))
	} else {
		h.tries, h.next = 0, time.Time{}
	}
	m.mu.Unlock()
	if err != nil {
		m.set(h, Failed, reason(n, err))
		return
	}
	m.log.Info("share mounted", "path", n.Path, "from", n.Server+":"+n.Export, "dur", time.Since(begin).Round(time.Millisecond), "modules", loaded.Sub(begin).Round(time.Millisecond))
	m.set(h, Mounted, "")
}

// set changes what is said of a mount.
func (m *Mounter) set(h *mounted, state, why string) {
	m.mu.Lock()
	news := h.state != state || h.reason != why
	h.state, h.reason = state, why
	if state == Leaving {
		h.next = time.Now().Add(time.Second)
	}
	m.mu.Unlock()
	if news {
		if why != "" {
			m.log.Warn("share", "path", h.Path, "state", state, "why", why)
		}
		m.tell()
	}
}

// look asks the servers of what is mounted for a sign of life. One that does not answer keeps
// a goroutine waiting, and no second one.
func (m *Mounter) look(ctx context.Context) {
	m.mu.Lock()
	var list []*mounted
	for _, h := range m.have {
		if h.state == Mounted || h.state == Stalled {
			list = append(list, h)
		}
	}
	m.mu.Unlock()
	for _, h := range list {
		if h.looking == nil {
			done := make(chan struct{})
			h.looking = done
			go func() {
				defer close(done)
				var st unix.Statfs_t
				_ = unix.Statfs(h.dir, &st) // its answer does not matter, that there is one does
			}()
		}
	}
	timer := time.NewTimer(lookFor)
	defer timer.Stop()
	late := timer.C
	for _, h := range list {
		select {
		case <-ctx.Done():
			return
		case <-h.looking:
			h.looking = nil
			m.set(h, Mounted, "")
		case <-late:
			closed := make(chan time.Time)
			close(closed)
			late = closed
			m.set(h, Stalled, h.Server+" does not answer; who reads or writes waits until it does")
		}
	}
}

// Status lists the shares, by path.
func (m *Mounter) Status() []api.MountStatus {
	m.mu.Lock()
	defer m.mu.Unlock()
	var list []api.MountStatus
	for _, h := range m.have {
		list = append(list, api.MountStatus{ID: h.ID, Path: h.Path, State: h.state, Reason: h.reason})
	}
	slices.SortFunc(list, func(a, b api.MountStatus) int { return strings.Compare(a.Path, b.Path) })
	return list
}

// Waiting says what has to be mounted before tasks can come, "" when nothing. What has failed is not waited for: tasks that
// need it go elsewhere.
func (m *Mounter) Waiting() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, w := range m.want {
		if h := m.have[w.ID]; h == nil || !same(h.NodeMount, w) || h.state == Mounting {
			return "share " + w.Path
		}
	}
	return ""
}

// Shares are what tasks see, those above others first.
func (m *Mounter) Shares() []task.Share {
	m.mu.Lock()
	defer m.mu.Unlock()
	var list []task.Share
	for _, w := range m.want {
		if h := m.have[w.ID]; h != nil && same(h.NodeMount, w) && (h.state == Mounted || h.state == Stalled) {
			list = append(list, task.Share{From: h.dir, To: w.Path, ReadOnly: w.ReadOnly})
		}
	}
	slices.SortFunc(list, func(a, b task.Share) int { return strings.Compare(a.To, b.To) })
	return list
}

const nfsPort = 2049

// mountNFS mounts with mount(2); there is no mount.nfs on a node. The newest version of NFS that the
// server speaks is used; before 4.1 locks and retries are of another kind.
func mountNFS(ctx context.Context, n api.NodeMount, dir string) error {
	if err := reach(ctx, n); err != nil {
		return err
	}
	versions := []string{"4.2", "4.1"}
	if n.Minor == 1 {
		slices.Reverse(versions)
	}
	err := mountVersion(n, dir, versions[0])
	if errors.Is(err, unix.EPROTONOSUPPORT) {
		err = mountVersion(n, dir, versions[1])
	}
	return err
}

// mountVersion mounts by one version. The server is an address, since nobody would look a name up.
func mountVersion(n api.NodeMount, dir, version string) error {
	options := "vers=" + version + ",hard,addr=" + n.Server
	if n.Port != 0 && n.Port != nfsPort {
		options += ",port=" + strconv.Itoa(n.Port)
	}
	flags := uintptr(unix.MS_NODEV | unix.MS_NOSUID)
	if n.ReadOnly {
		flags |= unix.MS_RDONLY
	}
	server := n.Server
	if ip := net.ParseIP(server); ip != nil && ip.To4() == nil {
		server = "[" + server + "]"
	}
	return unix.Mount(server+":"+n.Export, dir, "nfs", flags, options)
}

// reason says for people why a share is not mounted.
func reason(n api.NodeMount, err error) string {
	from := n.Server + ":" + n.Export
	switch {
	case errors.Is(err, unix.ECONNREFUSED):
		return n.Server + " runs no NFS server, or one on another port"
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return fmt.Sprintf("%s does not let this node mount %s, or has no such export (%v)", n.Server, n.Export, err)
	case errors.Is(err, unix.EPROTONOSUPPORT):
		return n.Server + " does not speak NFS 4.1"
	case errors.Is(err, unix.ETIMEDOUT), errors.Is(err, unix.EHOSTUNREACH), errors.Is(err, unix.ENETUNREACH):
		return fmt.Sprintf("%s cannot be reached (%v)", n.Server, err)
	case errors.Is(err, unix.ENODEV):
		return "the kernel of this node has no NFS client; its image needs the module nfsv4"
	}
	return fmt.Sprintf("mounting %s: %v", from, err)
}
