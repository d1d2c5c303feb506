package headnode

import (
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nkeys"

	"muster/api"
)

// agentsAccount is the NATS account of agents and of the head's side of their
// talk. Records are in another one, which no agent can reach.
const agentsAccount = "AGENTS"

// replyTime is how long an agent may take to answer a request of the head.
const replyTime = 2 * time.Minute

// agentPermissions is what a connection may do: what api/agent.go lists for
// its key, and nothing else.
func agentPermissions(key string, node bool) *server.Permissions {
	p := &server.Permissions{
		Publish:   &server.SubjectPermission{Allow: []string{api.SubjectJoin + key}},
		Subscribe: &server.SubjectPermission{Allow: []string{api.InboxPrefix + key + ".>"}},
	}
	if node {
		p.Publish.Allow = append(p.Publish.Allow,
			api.SubjectHB+key, api.SubjectEvent+key, api.SubjectOut+key+".*", api.SubjectFile+key, api.SubjectLog+key, api.SubjectPut+key)
		p.Subscribe.Allow = append(p.Subscribe.Allow, api.SubjectNode+key+".*")
		p.Response = &server.ResponsePermission{MaxMsgs: 1, Expires: replyTime}
	}
	return p
}

// agentAuth decides which connections are let in and what they may do. It
// implements server.Authentication; Check runs in each connection's own
// goroutine.
type agentAuth struct {
	token   string // of the head's own connections, which never leave the process
	nodes   *Nodes
	limits  AgentLimits
	log     *slog.Logger
	proved  func(remote string)
	local   func(remote string) string // the head's address that a connection came to; nil: not known
	cut     func(id uint64)            // ends a connection
	alive   func(id uint64) bool       // tells whether a connection is still there
	account func() *server.Account
	warn    func(key, text string)

	mu      sync.Mutex
	conns   map[string]agentSession // by key
	pending int                     // sessions without the rights of a node
}

// agentSession is the connection of an agent.
type agentSession struct {
	id    uint64 // of the connection, in the NATS server
	ip    string
	local string // address of the head that it connected to, "" when not known
	node  bool   // it has the rights of a node
	// anyone tells that every program of that computer may have opened it, a task too: it comes from a
	// port of 1024 or above.
	anyone bool
	since  time.Time
}

// Check implements server.Authentication.
func (a *agentAuth) Check(c server.ClientAuthentication) bool {
	opts := c.GetOpts()
	remote := c.RemoteAddress()
	if remote == nil {
		return false
	}
	if remote.Network() == "pipe" {
		if opts.Username != agentsAccount || subtle.ConstantTimeCompare([]byte(opts.Password), []byte(a.token)) != 1 {
			return false
		}
		c.RegisterUser(&server.User{Username: agentsAccount, Account: a.account()})
		return true
	}
	if c.Kind() != server.CLIENT || c.GetTLSConnectionState() == nil {
		return false
	}
	if err := checkProof(opts.Nkey, opts.Sig, c.GetNonce()); err != nil {
		a.log.Info("agent refused", "ip", remote.String(), "err", err)
		return false
	}
	from, err := netip.ParseAddrPort(remote.String())
	if err != nil {
		return false
	}
	host := from.Addr().String()
	node := a.nodes.isApproved(opts.Nkey)
	s := agentSession{id: c.GetID(), ip: host, node: node, anyone: anyonesPort(from.Port()), since: time.Now()}
	if a.local != nil {
		s.local = a.local(remote.String())
	}
	if err := a.admit(opts.Nkey, s); err != nil {
		a.log.Info("agent refused", "ip", host, "err", err)
		return false
	}
	a.proved(remote.String())
	c.RegisterUser(&server.User{Username: opts.Nkey, Account: a.account(), Permissions: agentPermissions(opts.Nkey, node)})
	return true
}

// anyonesPort tells whether a program without root's rights can send from a port. What does is
// not taken for the computer that it runs on.
func anyonesPort(port uint16) bool { return port >= 1024 }

// checkProof checks that the sender of sig has the private part of key.
func checkProof(key, sig string, nonce []byte) error {
	if key == "" {
		return fmt.Errorf("it shows no key")
	}
	if !nkeys.IsValidPublicUserKey(key) {
		return fmt.Errorf("%q is no public key of a machine", cleanText(key))
	}
	raw, err := base64.RawURLEncoding.DecodeString(sig)
	if err != nil {
		if raw, err = base64.StdEncoding.DecodeString(sig); err != nil {
			return fmt.Errorf("reading its signature: %w", err)
		}
	}
	pub, err := nkeys.FromPublicKey(key)
	if err != nil {
		return err
	}
	if len(nonce) == 0 {
		return fmt.Errorf("the server gave no nonce")
	}
	if err := pub.Verify(nonce, raw); err != nil {
		return fmt.Errorf("it does not have the key that it shows: %w", err)
	}
	return nil
}

// admit takes a session in, or says why not. A second connection with a key
// is refused while the first is alive: two machines with one key would
// be one node. A first that was not heard for a while is cut.
func (a *agentAuth) admit(key string, s agentSession) error {
	silent := a.nodes.silentFor(key)
	a.mu.Lock()
	defer a.mu.Unlock()
	if first, ok := a.conns[key]; ok {
		if first.id != s.id && a.alive(first.id) {
			quiet := silent >= silence && time.Since(first.since) >= silence
			if !quiet {
				a.warn(key, fmt.Sprintf("a second connection with its key came from %s and was refused; the first is from %s", s.ip, first.ip))
				return fmt.Errorf("its key is in use by a connection from %s", first.ip)
			}
			a.cut(first.id)
		}
		a.drop(key)
	}
	if !s.node {
		if a.pending >= a.limits.Pending/2 {
			a.prune()
		}
		fromThere := 0
		for _, o := range a.conns {
			if !o.node && o.ip == s.ip && o.anyone == s.anyone {
				fromThere++
			}
		}
		if a.pending >= a.limits.Pending {
			return fmt.Errorf("%d machines wait for approval already", a.pending)
		}
		if fromThere >= a.limits.PendingPerIP {
			a.pruneIP(s.ip)
			return fmt.Errorf("%d machines from its address wait for approval already", fromThere)
		}
		a.pending++
	}
	a.conns[key] = s
	return nil
}

// drop forgets a session; a.mu is held.
func (a *agentAuth) drop(key string) {
	if s, ok := a.conns[key]; ok {
		delete(a.conns, key)
		if !s.node {
			a.pending--
		}
	}
}

// prune forgets the sessions whose connection is gone; a.mu is held.
func (a *agentAuth) prune() {
	for key, s := range a.conns {
		if !a.alive(s.id) {
			a.drop(key)
		}
	}
}

func (a *agentAuth) pruneIP(ip string) {
	for key, s := range a.conns {
		if s.ip == ip && !a.alive(s.id) {
			a.drop(key)
		}
	}
}

// session returns the connection of a key, if it is alive.
func (a *agentAuth) session(key string) (agentSession, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	s, ok := a.conns[key]
	return s, ok && a.alive(s.id)
}

// outdated are the connections that have not taken the rights of their
// machine's new state since before.
func (a *agentAuth) outdated(approved func(key string) bool) []string {
	a.mu.Lock()
	a.prune()
	sessions := make(map[string]agentSession, len(a.conns))
	for key, s := range a.conns {
		sessions[key] = s
	}
	a.mu.Unlock()
	var keys []string
	for key, s := range sessions {
		if s.node != approved(key) {
			keys = append(keys, key)
		}
	}
	return keys
}
