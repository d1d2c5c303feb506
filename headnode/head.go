package headnode

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"muster/api"
	"muster/headnode/shares"
	"muster/headnode/store"
)

// Config is what a [Head] needs. The caller opens the sockets; the head
// closes them. A socket that is nil is not served.
type Config struct {
	State string // state folder, made if it is not there; used by this process alone

	Agents   net.Listener // agents: NATS over TLS, a TCP socket
	Users    net.Listener // users of this machine, by peer credentials
	UsersTCP net.Listener // users elsewhere, by token over TLS
	Internal net.Listener // the boot service: whoever reaches it is trusted

	// AgentsPort is the port that boot scripts name; 0: that of Agents.
	AgentsPort int
	FilesPort  int         // where nodes find contents by hash; 0: nowhere
	HeadUID    uint32      // administrator beside root and the group muster-admin
	Tokens     string      // file with the tokens of users elsewhere; "": there are none
	Version    string      // of this program
	Desk       shares.Desk // serves folders of the head; nil: it cannot
	NFSPort    int         // where nfs-ganesha serves them; 0: 2049
	Limits     AgentLimits // of strangers on the agents' port
	// NoSync does not wait for the disk: a power cut loses what was
	// acknowledged. For demos and the control of tests.
	NoSync bool
	Log    *slog.Logger // nil: no log
}

// Head is the head of a cluster.
type Head struct {
	Nodes    *Nodes
	Images   *Images
	Settings *Settings
	Enroll   *Enroll
	BootLogs *BootLogs
	Events   *Events
	Identity *Identity
	Shares   *Shares

	userlands *userlandOffers

	cfg     Config
	state   *store.State
	store   *store.Store
	agents  *Agents
	jobs    *jobs
	http    *httpServer
	started time.Time

	mu         sync.Mutex
	interfaces []api.BootInterface
	warnings   []warning
}

// warning is something that an administrator should look at.
type warning struct {
	text string
	when time.Time
}

// Limits of the warnings that Status shows.
const (
	maxWarnings = 20
	warningAge  = 15 * time.Minute
)

// New opens the state folder and reads everything in it. The head serves
// nobody before Run; the caller calls Run or Close. A state folder that is in
// use, unreadable or newer than this program is an error that says so.
func New(ctx context.Context, cfg Config) (*Head, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.AgentsPort == 0 && cfg.Agents != nil {
		if addr, ok := cfg.Agents.Addr().(*net.TCPAddr); ok {
			cfg.AgentsPort = addr.Port
		}
	}
	h := &Head{cfg: cfg, started: time.Now(), BootLogs: newBootLogs(), Events: newEvents(time.Now)}
	if err := h.open(ctx); err != nil {
		h.Close()
		return nil, err
	}
	return h, nil
}

// open fills in the parts in the order in which they need each other.
func (h *Head) open(ctx context.Context) (err error) {
	cfg := h.cfg
	if h.state, err = store.OpenState(cfg.State); err != nil {
		return err
	}
	if h.Identity, err = OpenIdentity(h.state.Path("identity")); err != nil {
		return err
	}
	h.agents = newAgents(agentsConfig{
		Listener: cfg.Agents, Identity: h.Identity, Limits: cfg.Limits, Warn: h.warnOfKey, Log: cfg.Log.With("part", "agents"),
	})
	h.store, err = store.Open(ctx, store.Config{
		Dir: h.state.Path("nats"), Server: h.agents.options(), BeforeStart: h.agents.beforeStart,
		NoSync: cfg.NoSync, Log: cfg.Log.With("part", "store"),
	})
	if err != nil {
		return err
	}
	if h.Settings, err = newSettings(h.store, cfg.Log.Info); err != nil {
		return err
	}
	if h.Enroll, err = newEnroll(h.store, time.Now, h.ownedInterfaces); err != nil {
		return err
	}
	h.Nodes, err = newNodes(nodesConfig{
		Store: h.store, Events: h.Events, BootLogs: h.BootLogs, Now: time.Now,
		Rejoin: h.rejoin, FilesPort: cfg.FilesPort, BootCmdline: h.bootCmdline, Log: cfg.Log.With("part", "nodes"),
	})
	if err != nil {
		return err
	}
	h.Settings.nodes = h.Nodes
	h.agents.use(h.Nodes)
	h.Images, err = openImages(h.state.Path("images"), time.Now, h.Nodes, cfg.Log.With("part", "images"))
	if err != nil {
		return err
	}
	h.userlands = newUserlandOffers(h.Images)
	h.Shares, err = newShares(sharesConfig{
		Store: h.store, Userlands: h.userlands.needed, Nodes: h.Nodes, Now: time.Now, Log: cfg.Log.With("part", "shares"),
		Users: func(path string) []uint64 { return h.jobs.usersOf(path) }, Desk: cfg.Desk, Port: cfg.NFSPort,
	})
	if err != nil {
		return err
	}
	h.Nodes.mountsOf, h.Nodes.located = h.Shares.mountsOf, h.Shares.located
	h.userlands.exporter = h.Shares
	h.Nodes.userlandOf = h.userlands.of
	h.jobs, err = newJobs(jobsConfig{
		Shares: h.Shares.Paths, Writable: h.Shares.Writable, Allows: h.Settings.allows,
		Store: h.store, Fleet: h.Nodes, Dir: h.state.Path("output"), Log: cfg.Log.With("part", "jobs"),
		Notify: func(ev api.Event) { h.Events.Publish(ev) }, NodeTrouble: h.Nodes.Trouble,
	})
	if err != nil {
		return err
	}
	h.Nodes.sink, h.Nodes.wire, h.Nodes.images = h.jobs, h.agents, h.Images
	h.http, err = newHTTP(httpConfig{
		Jobs: h.jobs, Nodes: h.Nodes, Images: h.Images, Shares: h.Shares, Settings: h.Settings, Enroll: h.Enroll, Boot: h, Events: h.Events,
		Status: h.Status, Unix: cfg.Users, TCP: cfg.UsersTCP, TLS: h.usersTLS(), Internal: cfg.Internal,
		HeadUID: cfg.HeadUID, Tokens: cfg.Tokens, Version: cfg.Version, Log: cfg.Log.With("part", "http"),
	})
	return err
}

func (h *Head) usersTLS() *tls.Config {
	return h.Identity.TLS()
}

// Run serves until ctx is done or a part fails, and closes the head. ready,
// when not nil, is called once when agents and users are let in.
func (h *Head) Run(ctx context.Context, ready func()) error {
	defer h.Close()
	g, ctx := errgroup.WithContext(ctx)
	// Jobs and agents end after the API, so that no request finds them gone.
	g.Go(func() error { return h.http.Run(ctx) })
	g.Go(func() error { return h.Nodes.Run(ctx) })
	g.Go(func() error { return h.Nodes.runConfigs(ctx) })
	g.Go(func() error { return h.Shares.Run(ctx) })
	g.Go(func() error { return h.Shares.runLocal(ctx) })
	g.Go(func() error { return h.userlands.Run(ctx, h.Nodes.configure) })
	g.Go(func() error { return h.jobs.Run(ctx) })
	if err := h.agents.start(h.jobs); err != nil {
		g.Go(func() error { return err })
	} else {
		g.Go(func() error { return h.agents.Run(ctx) })
	}
	g.Go(func() error {
		select {
		case <-h.store.Failed():
			return h.store.Err()
		case <-ctx.Done():
			return nil
		}
	})
	if ready != nil && ctx.Err() == nil {
		ready()
	}
	err := g.Wait()
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// Close gives everything free. It may be called more than once.
func (h *Head) Close() error {
	var err error
	if h.store != nil {
		// It closes the agents' socket itself: a server whose socket is closed
		// under it tries again and again.
		err = h.store.Close()
	}
	for _, l := range []net.Listener{h.cfg.Agents, h.cfg.Users, h.cfg.UsersTCP, h.cfg.Internal} {
		if l != nil {
			l.Close()
		}
	}
	if h.state != nil {
		err = errors.Join(err, h.state.Close())
		h.state = nil
	}
	return err
}

// Status is the head at a glance, but for its jobs.
func (h *Head) Status() api.Status {
	states, cores, mem := h.Nodes.counts()
	st := api.Status{
		Version: h.cfg.Version, Fingerprint: h.Identity.Fingerprint, Pin: h.Identity.Pin, Started: stamp(h.started),
		Nodes: states, Cores: cores, MemoryMiB: mem, Enrollment: h.Enroll.Get(),
	}
	if m, ok := h.Images.Default(); ok {
		st.Image = m.Name
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	st.Boot = slices.Clone(h.interfaces)
	for _, w := range h.warnings {
		if time.Since(w.when) < warningAge {
			st.Warnings = append(st.Warnings, w.text)
		}
	}
	return st
}

// warnOfKey shows something about a machine's key in Status.
func (h *Head) warnOfKey(key, text string) {
	fp, _ := keyFingerprint(key)
	text = fmt.Sprintf("machine %s: %s", fp, text)
	h.cfg.Log.Warn("machine is suspicious", "fingerprint", fp, "what", text)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.warnings = slices.DeleteFunc(h.warnings, func(w warning) bool { return w.text == text || time.Since(w.when) > warningAge })
	h.warnings = append(h.warnings, warning{text, time.Now()})
	if len(h.warnings) > maxWarnings {
		h.warnings = slices.Delete(h.warnings, 0, len(h.warnings)-maxWarnings)
	}
}

// SetBootInterfaces implements bootDesk.
func (h *Head) SetBootInterfaces(list []api.BootInterface) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.interfaces = slices.Clone(list)
}

// ownedInterfaces are those where muster gives out the addresses.
func (h *Head) ownedInterfaces() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var names []string
	for _, i := range h.interfaces {
		if i.DHCP == "full" {
			names = append(names, i.Name)
		}
	}
	return names
}

// ownsAddress tells whether muster gave out an address.
func (h *Head) ownsAddress(ip string) bool {
	addr, err := netip.ParseAddr(ip)
	if err != nil {
		return false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, i := range h.interfaces {
		if p, err := netip.ParsePrefix(i.Addr); err == nil && i.DHCP == "full" && p.Contains(addr.Unmap()) {
			return true
		}
	}
	return false
}

// rejoin is the policy for a known machine at an address.
func (h *Head) rejoin(ip string) rejoinPolicy {
	switch h.Settings.value("rejoin") {
	case string(rejoinAddress):
		return rejoinAddress
	case string(rejoinApprove):
		return rejoinApprove
	}
	if h.ownsAddress(ip) {
		return rejoinAddress
	}
	return rejoinApprove
}

// BootDecision implements bootDesk.
func (h *Head) BootDecision(q api.BootQuery) api.BootDecision {
	mac, ok := normalMAC(q.MAC)
	if !ok {
		return api.BootDecision{Reason: fmt.Sprintf("%q is no hardware address", cleanText(q.MAC))}
	}
	known := h.Nodes.bootState(mac, normalUUID(q.UUID))
	var d api.BootDecision
	if d.Answer, d.Reason = decideBoot(bootView{state: known.State, open: h.Enroll.openFor(q.OwnsLAN), mac: mac}); !d.Answer {
		return d
	}
	m, ok := h.Images.forNode(known.Image)
	if !ok {
		return api.BootDecision{Reason: noImageFor(known)}
	}
	if !archFits(q.Arch, m.Arch) {
		return api.BootDecision{Reason: fmt.Sprintf("its architecture is %s and image %s is for %s", cleanText(q.Arch), m.Name, m.Arch)}
	}
	bootFiles(&d, m)
	d.Cmdline = h.bootCmdline(d.Cmdline, m.ID)
	d.HostName, d.FixedIP = known.Name, known.FixedIP
	return d
}

// noImageFor says why there is nothing that a machine could boot.
func noImageFor(rec machineRecord) string {
	if rec.Image == "" {
		return errNoImage.Error()
	}
	return fmt.Sprintf("its image %s is not published any more; publish it, or choose another: muster node image %s IMAGE",
		shortID(rec.Image), cmp.Or(rec.Name, "MAC"))
}

// bootCmdline adds to an image's command line how its agent finds this head.
// The boot service puts its address in the place of {host}.
func (h *Head) bootCmdline(image, id string) string {
	own := fmt.Sprintf("muster.head={host}:%d muster.pin=%s muster.image=%s", h.cfg.AgentsPort, h.Identity.Pin, id)
	if image == "" {
		return own
	}
	return image + " " + own
}

// archFits tells whether firmware of an architecture can start an image.
// BIOS firmware says i386 on machines of 64 bits too.
func archFits(firmware, image string) bool {
	switch firmware {
	case "", image:
		return true
	case "i386":
		return image == "amd64"
	case "amd64", "arm64":
		return false
	}
	return true
}

// ObserveBoot implements bootDesk.
func (h *Head) ObserveBoot(ev api.BootEvent) {
	if ev.Time.IsZero() {
		ev.Time = time.Now().UTC()
	}
	h.BootLogs.add(ev)
	h.Nodes.BootSeen(ev)
	h.Events.Publish(api.Event{Kind: "boot", Actor: "boot", Boot: &ev})
}

// BootLog implements bootDesk.
func (h *Head) BootLog(ref string) (api.BootLog, error) {
	log := api.BootLog{}
	if mac, ok := normalMAC(ref); ok {
		log.MAC = mac
	}
	m, err := h.Nodes.Find(ref)
	if err == nil {
		log.MAC, log.Name = m.MAC, m.Name
		if mac, ok := normalMAC(ref); ok {
			log.MAC = mac
		}
	}
	log.Events = h.BootLogs.of(log.MAC)
	if len(log.Events) == 0 {
		if err != nil {
			return api.BootLog{}, err
		}
		log.Events = []api.BootEvent{}
	}
	log.Advice = adviceFor(log.Events, time.Now())
	return log, nil
}
