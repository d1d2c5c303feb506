package headnode

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"muster/api"
)

// AgentLimits bounds what strangers on the agents' port can use up. Zero
// values are replaced by the defaults.
type AgentLimits struct {
	Pending       int // machines that wait for approval; 0: 4096
	PendingPerIP  int // from one address; 0: 64
	Unproved      int // connections that have not proved a key; 0: 8192
	UnprovedPerIP int // from one address; 0: 256
	Connections   int // of all agents; 0: 20000
}

func (l *AgentLimits) setDefaults() {
	for _, d := range []struct {
		p *int
		v int
	}{{&l.Pending, maxPending}, {&l.PendingPerIP, 64}, {&l.Unproved, 8192}, {&l.UnprovedPerIP, 256}, {&l.Connections, 20_000}} {
		if *d.p == 0 {
			*d.p = d.v
		}
	}
}

// agentsConfig is what [newAgents] needs.
type agentsConfig struct {
	Listener net.Listener // nil: agents cannot connect
	Identity *Identity
	Nodes    *Nodes // may come later, by use
	Limits   AgentLimits
	Warn     func(key, text string) // something an administrator should look at
	Log      *slog.Logger
}

// Agents speaks with the agents: it decides who may connect, hands
// their messages on, and carries the head's requests.
//
// Messages of one agent are handled one after the other, those of different
// agents at the same time. Heartbeats are looked at as they come, so that
// slow work for a node does not make it look dead.
type Agents struct {
	cfg       agentsConfig
	auth      *agentAuth
	listener  *agentListener
	server    *server.Server
	conn      *nats.Conn
	sink      taskSink
	work      sync.WaitGroup
	boxes     boxes // messages of nodes that wait
	strangers boxes // and those of other machines
}

var _ agentWire = (*Agents)(nil)

// Limits of a connection.
const (
	handshakeTime = 60 * time.Second // for TLS and for the proof of a key: storms are slow
	pingEvery     = 5 * time.Second
	pingsMissed   = 2
	writeTime     = 10 * time.Second // to an agent that does not read
	maxPayload    = 1 << 20
	maxWaiting    = 256 << 20 // bytes for one connection that does not read
	maxAgentSubs  = 64
)

func newAgents(cfg agentsConfig) *Agents {
	cfg.Limits.setDefaults()
	a := &Agents{cfg: cfg}
	a.boxes.init(nodeBoxes)
	a.strangers.init(strangerBoxes)
	a.auth = &agentAuth{
		token: rand.Text(), nodes: cfg.Nodes, limits: cfg.Limits, log: cfg.Log, warn: cfg.Warn,
		conns:  map[string]agentSession{},
		proved: func(string) {},
		cut:    func(id uint64) { go a.server.DisconnectClientByID(id) },
		alive:  func(id uint64) bool { return a.server.GetClient(id) != nil },
	}
	if cfg.Listener != nil {
		a.listener = newAgentListener(cfg.Listener, cfg.Limits.UnprovedPerIP, cfg.Limits.Unproved)
		a.auth.proved, a.auth.local = a.listener.proved, a.listener.local
	}
	return a
}

// use names the nodes, before agents are let in.
func (a *Agents) use(nodes *Nodes) {
	a.cfg.Nodes, a.auth.nodes = nodes, nodes
}

// options is the configuration of the NATS server as far as agents need it.
func (a *Agents) options() *server.Options {
	return &server.Options{
		ServerName: "muster", Port: server.RANDOM_PORT, DontListen: a.listener == nil,
		Accounts:                   []*server.Account{server.NewAccount(agentsAccount)},
		CustomClientAuthentication: a.auth,
		AlwaysEnableNonce:          true,
		TLSConfig:                  a.cfg.Identity.TLS(),
		TLSTimeout:                 handshakeTime.Seconds(),
		AuthTimeout:                handshakeTime.Seconds() + 1, // a warning of the server wants it above TLSTimeout
		PingInterval:               pingEvery,
		MaxPingsOut:                pingsMissed,
		DisableShortFirstPing:      true,
		WriteDeadline:              writeTime,
		MaxPayload:                 maxPayload,
		MaxPending:                 maxWaiting,
		MaxControlLine:             4096,
		MaxConn:                    a.cfg.Limits.Connections,
		MaxSubs:                    maxAgentSubs,
	}
}

// beforeStart hands the listener to the server.
func (a *Agents) beforeStart(srv *server.Server) error {
	a.server = srv
	account, err := srv.LookupAccount(agentsAccount)
	if err != nil {
		return fmt.Errorf("configuring the agents' account: %w", err)
	}
	a.auth.account = func() *server.Account { return account }
	if a.listener == nil {
		return nil
	}
	return useListener(srv, a.listener)
}

// start connects the head's side and lets agents in.
func (a *Agents) start(sink taskSink) error {
	a.sink = sink
	conn, err := nats.Connect("", nats.InProcessServer(a.server), nats.UserInfo(agentsAccount, a.auth.token),
		nats.Name("head"), nats.NoReconnect(), nats.CustomInboxPrefix(api.InboxPrefix+"head"),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			a.cfg.Log.Warn("messages of agents were dropped", "err", err)
		}))
	if err != nil {
		return fmt.Errorf("connecting to the agents' account: %w", err)
	}
	a.conn = conn
	for subject, handle := range map[string]func(key, rest string, m *nats.Msg){
		api.SubjectJoin + "*":  a.onJoin,
		api.SubjectHB + "*":    a.onHeartbeat,
		api.SubjectEvent + "*": a.onEvent,
		api.SubjectOut + "*.*": a.onOutput,
		api.SubjectFile + "*":  a.onFile,
		api.SubjectLog + "*":   a.onLog,
		api.SubjectPut + "*":   a.onPut,
	} {
		sub, err := conn.Subscribe(subject, func(m *nats.Msg) {
			if key, rest, ok := cutSubject(m); ok {
				handle(key, rest, m)
			}
		})
		if err != nil {
			return fmt.Errorf("listening to agents: %w", err)
		}
		if err := sub.SetPendingLimits(1<<20, maxWaiting); err != nil {
			return fmt.Errorf("listening to agents: %w", err)
		}
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("listening to agents: %w", err)
	}
	if a.listener != nil {
		a.listener.open()
	}
	return nil
}

// Run cuts connections that do not take their new rights, until ctx is done,
// and then waits for what is being handled.
func (a *Agents) Run(ctx context.Context) error {
	tick := time.NewTicker(2 * time.Second)
	defer tick.Stop()
	before := map[string]bool{}
	for {
		select {
		case <-ctx.Done():
			a.conn.Close()
			a.boxes.stop()
			a.strangers.stop()
			a.work.Wait()
			return nil
		case <-tick.C:
		}
		now := map[string]bool{}
		for _, key := range a.auth.outdated(a.cfg.Nodes.isApproved) {
			now[key] = true
			if before[key] {
				a.cut(key)
			}
		}
		before = now
	}
}

// cutSubject splits the subject of an agent's message. A message that asks
// for its answer anywhere but in its sender's inbox is dropped: the head
// would else send to other nodes in a stranger's name.
func cutSubject(m *nats.Msg) (key, rest string, ok bool) {
	_, tail, _ := strings.Cut(m.Subject, ".")
	key, rest, _ = strings.Cut(tail, ".")
	if m.Reply != "" && !strings.HasPrefix(m.Reply, api.InboxPrefix+key+".") {
		return "", "", false
	}
	return key, rest, true
}

// respond answers with a JSON body, or with an error.
func (a *Agents) respond(m *nats.Msg, v any, err error) {
	if m.Reply == "" {
		return
	}
	reply := nats.NewMsg(m.Reply)
	if err != nil {
		reply.Header.Set(api.HeaderError, "1")
		v = api.ErrorReply{Err: api.AsError(err)}
	}
	data, merr := json.Marshal(v)
	if merr != nil {
		a.cfg.Log.Error("answering an agent", "err", merr)
		return
	}
	reply.Data = data
	a.publish(reply)
}

func (a *Agents) publish(m *nats.Msg) {
	if err := a.conn.PublishMsg(m); err != nil && !errors.Is(err, nats.ErrConnectionClosed) {
		a.cfg.Log.Warn("sending to an agent", "err", err)
	}
}

func invalidMessage(what string, err error) error {
	return &api.Error{Code: api.CodeInvalid, Msg: fmt.Sprintf("reading %s: %v", what, err)}
}

func (a *Agents) onJoin(key, _ string, m *nats.Msg) {
	boxes := &a.boxes
	if !a.cfg.Nodes.isApproved(key) {
		boxes = &a.strangers
		if len(m.Data) > strangerBoxes.bytes {
			a.respond(m, nil, &api.Error{Code: api.CodeTooLarge, Msg: fmt.Sprintf("the join request has %d bytes, %d are taken", len(m.Data), strangerBoxes.bytes)})
			return
		}
	}
	boxes.put(&a.work, key, len(m.Data), func(ctx context.Context) {
		var req api.JoinRequest
		if err := json.Unmarshal(m.Data, &req); err != nil {
			a.respond(m, nil, invalidMessage("join request", err))
			return
		}
		s, ok := a.auth.session(key)
		if !ok {
			return
		}
		reply, err := a.cfg.Nodes.Join(ctx, key, s, req)
		if err != nil {
			a.cfg.Log.Warn("machine could not join", "ip", s.ip, "err", err)
			a.respond(m, nil, err)
			return
		}
		if reply.State == api.JoinApproved && s.node {
			a.sink.NodeJoined(reply.Name, cleanText(req.BootID), req.Tasks[:min(len(req.Tasks), maxHeldTasks)])
			a.cfg.Nodes.welcome(key)
		}
		a.respond(m, reply, nil)
	})
}

func (a *Agents) onHeartbeat(key, _ string, m *nats.Msg) {
	var hb api.Heartbeat
	if err := json.Unmarshal(m.Data, &hb); err != nil {
		a.cfg.Log.Debug("heartbeat not understood", "key", key, "err", err)
		return
	}
	name, ok := a.cfg.Nodes.Heard(key, hb)
	if !ok {
		return
	}
	held := hb.Tasks[:min(len(hb.Tasks), maxHeldTasks)]
	a.boxes.put(&a.work, key, len(m.Data), func(context.Context) { a.sink.NodeHeard(name, held) })
}

func (a *Agents) onEvent(key, _ string, m *nats.Msg) {
	name := a.cfg.Nodes.touch(key)
	if name == "" {
		return
	}
	a.boxes.put(&a.work, key, len(m.Data), func(ctx context.Context) {
		var ev api.TaskEvent
		if err := json.Unmarshal(m.Data, &ev); err != nil {
			a.respond(m, api.Ack{Err: api.AsError(invalidMessage("task event", err))}, nil)
			return
		}
		a.respond(m, api.Ack{Err: api.AsError(a.sink.TaskEvent(ctx, name, ev))}, nil)
	})
}

func (a *Agents) onOutput(key, task string, m *nats.Msg) {
	name := a.cfg.Nodes.touch(key)
	if name == "" {
		return
	}
	a.boxes.put(&a.work, key, len(m.Data), func(context.Context) {
		ref, err := api.ParseTaskRef(task)
		if err != nil {
			a.respond(m, api.Ack{Err: api.AsError(invalidMessage("task of output", err))}, nil)
			return
		}
		f, err := api.ParseFrame(m.Data)
		if err == nil && (f.Type != api.FrameOutput || len(f.Data) > api.MaxOutput) {
			err = fmt.Errorf("type %d with %d bytes is no chunk of output", f.Type, len(f.Data))
		}
		if err != nil {
			a.respond(m, api.Ack{Err: api.AsError(invalidMessage("output", err))}, nil)
			return
		}
		a.sink.TaskOutput(name, ref, f, func(acked int64, err error) {
			a.respond(m, api.Ack{Offset: acked, Err: api.AsError(err)}, nil)
		})
	})
}

func (a *Agents) onFile(key, _ string, m *nats.Msg) {
	name := a.cfg.Nodes.touch(key)
	if name == "" {
		return
	}
	a.boxes.put(&a.work, key, len(m.Data), func(ctx context.Context) {
		var req api.FileRequest
		if err := json.Unmarshal(m.Data, &req); err != nil {
			a.respond(m, nil, invalidMessage("file request", err))
			return
		}
		data, err := a.sink.JobFile(ctx, name, req)
		if err != nil {
			a.respond(m, nil, err)
			return
		}
		if m.Reply != "" {
			a.publish(&nats.Msg{Subject: m.Reply, Data: data})
		}
	})
}

func (a *Agents) onPut(key, _ string, m *nats.Msg) {
	name := a.cfg.Nodes.touch(key)
	if name == "" {
		return
	}
	a.boxes.put(&a.work, key, len(m.Data), func(ctx context.Context) {
		var p api.FilePut
		if err := json.Unmarshal(m.Data, &p); err != nil {
			a.respond(m, api.Ack{Err: api.AsError(invalidMessage("piece of a file", err))}, nil)
			return
		}
		next, err := a.sink.TaskFile(ctx, name, p)
		a.respond(m, api.Ack{Offset: next, Err: api.AsError(err)}, nil)
	})
}

func (a *Agents) onLog(key, _ string, m *nats.Msg) {
	var l api.KernelLog
	if err := json.Unmarshal(m.Data, &l); err != nil {
		a.cfg.Log.Debug("kernel log not understood", "key", key, "err", err)
		return
	}
	a.cfg.Nodes.kernelLines(key, l.Lines)
}

// Push implements agentWire.
func (a *Agents) Push(key string, r api.JoinReply) {
	data, err := json.Marshal(r)
	if err != nil {
		a.cfg.Log.Error("telling an agent its state", "err", err)
		return
	}
	a.publish(&nats.Msg{Subject: api.InboxPrefix + key + ".state", Data: data})
}

// kickAfter lets what was pushed before reach the agent.
const kickAfter = 200 * time.Millisecond

// Kick implements agentWire.
func (a *Agents) Kick(key string) {
	s, ok := a.auth.session(key)
	if !ok {
		return
	}
	time.AfterFunc(kickAfter, func() { a.auth.cut(s.id) })
}

// cut ends a connection at once.
func (a *Agents) cut(key string) {
	if s, ok := a.auth.session(key); ok {
		a.auth.cut(s.id)
	}
}

// Connected implements agentWire.
func (a *Agents) Connected(key string) bool {
	_, ok := a.auth.session(key)
	return ok
}

// requestTime bounds a request whose caller set no limit.
const requestTime = 10 * time.Second

// Request implements agentWire.
func (a *Agents) Request(ctx context.Context, key, verb string, body []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTime)
	defer cancel()
	m, err := a.conn.RequestWithContext(ctx, api.SubjectNode+key+"."+verb, body)
	switch {
	case errors.Is(err, nats.ErrNoResponders):
		return nil, fmt.Errorf("its agent is not connected: %w", errNotDelivered)
	case errors.Is(err, context.DeadlineExceeded):
		return nil, fmt.Errorf("no answer within %v", requestTime)
	case err != nil:
		return nil, err
	}
	return m.Data, nil
}
