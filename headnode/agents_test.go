package headnode

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"muster/api"
	"muster/headnode/store"
)

// port is a node side with a real port for agents and a real store.
type port struct {
	t      testing.TB
	dir    string
	id     *Identity
	agents *Agents
	nodes  *Nodes
	sink   *fakeSink
	store  *store.Store
	addr   string
	stop   func()

	mu    sync.Mutex
	warns []string
}

func openPort(t testing.TB, dir string, limits AgentLimits) *port {
	t.Helper()
	p := &port{t: t, dir: dir, sink: &fakeSink{}}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p.addr = l.Addr().String()
	if p.id, err = OpenIdentity(dir + "/identity"); err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	p.agents = newAgents(agentsConfig{Listener: l, Identity: p.id, Limits: limits, Log: log, Warn: func(_, text string) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.warns = append(p.warns, text)
	}})
	p.store, err = store.Open(context.Background(), store.Config{
		Dir: dir + "/nats", Server: p.agents.options(), BeforeStart: p.agents.beforeStart,
	})
	if err != nil {
		t.Fatal(err)
	}
	p.nodes, err = newNodes(nodesConfig{
		Store: p.store, Events: newEvents(time.Now), BootLogs: newBootLogs(), Now: time.Now,
		Rejoin: func(string) rejoinPolicy { return rejoinApprove }, FilesPort: 7480,
	})
	if err != nil {
		t.Fatal(err)
	}
	p.nodes.wire, p.nodes.sink = p.agents, p.sink
	p.agents.use(p.nodes)
	if err := p.agents.start(p.sink); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { p.agents.Run(ctx) })
	wg.Go(func() { p.nodes.Run(ctx) })
	p.stop = sync.OnceFunc(func() {
		cancel()
		wg.Wait()
		p.store.Close()
	})
	t.Cleanup(p.stop)
	return p
}

// testPeer is the agent's end of a connection.
type testPeer struct {
	t    testing.TB
	key  string
	pair nkeys.KeyPair
	mac  string
	boot string
}

func newPeer(t testing.TB, mac string) *testPeer {
	t.Helper()
	pair, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	key, err := pair.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	return &testPeer{t: t, key: key, pair: pair, mac: mac, boot: key[:12]}
}

// pinned is what an agent checks of the head.
func pinned(pin string) *tls.Config {
	return &tls.Config{
		InsecureSkipVerify: true, MinVersion: tls.VersionTLS13,
		VerifyConnection: func(cs tls.ConnectionState) error {
			if got := api.Pin(cs.PeerCertificates[0].RawSubjectPublicKeyInfo); got != pin {
				return fmt.Errorf("the head's key has pin %s, want %s", got, pin)
			}
			return nil
		},
	}
}

// dial connects; refused permissions are sent to violations.
func (e *testPeer) dial(p *port, violations chan<- error, more ...nats.Option) (*nats.Conn, error) {
	opts := append([]nats.Option{
		nats.Secure(pinned(p.id.Pin)), nats.Nkey(e.key, e.pair.Sign),
		nats.CustomInboxPrefix(strings.TrimSuffix(api.InboxPrefix, ".") + "." + e.key),
		nats.NoReconnect(), nats.Timeout(10 * time.Second),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			select {
			case violations <- err:
			default:
			}
		}),
	}, more...)
	return nats.Connect("tls://"+p.addr, opts...)
}

// connect connects as an agent does: a connection in favor of which an earlier
// one was ended is refused until the head has noticed that end.
func (e *testPeer) connect(p *port) *nats.Conn {
	e.t.Helper()
	var c *nats.Conn
	eventually(e.t, "the peer is let in", func() bool {
		var err error
		if c, err = e.dial(p, make(chan error, 16)); err != nil && !errors.Is(err, nats.ErrAuthorization) {
			e.t.Fatal(err)
		}
		return err == nil
	})
	e.t.Cleanup(c.Close)
	return c
}

func (e *testPeer) request() api.JoinRequest {
	return api.JoinRequest{
		Key: e.key, BootID: e.boot,
		Hardware: api.Hardware{MACs: []string{e.mac}, Arch: "amd64", Cores: 2, MemoryMiB: 1024},
		Software: api.Software{Protocol: api.Protocol},
	}
}

func (e *testPeer) join(c *nats.Conn) (r api.JoinReply, err error) {
	data, err := json.Marshal(e.request())
	if err != nil {
		return r, err
	}
	m, err := c.Request(api.SubjectJoin+e.key, data, 10*time.Second)
	if err != nil {
		return r, err
	}
	if e := api.DecodeError(m.Data); e != nil {
		return r, e
	}
	return r, json.Unmarshal(m.Data, &r)
}

func (e *testPeer) mustJoin(c *nats.Conn, want api.JoinState) api.JoinReply {
	e.t.Helper()
	r, err := e.join(c)
	if err != nil || r.State != want {
		e.t.Fatalf("join = %+v, %v, want %s", r, err, want)
	}
	return r
}

// approvedPeer is a node that is connected with its rights.
func approvedPeer(t testing.TB, p *port, mac string) (*testPeer, *nats.Conn) {
	t.Helper()
	e := newPeer(t, mac)
	c := e.connect(p)
	e.mustJoin(c, api.JoinPending)
	if _, err := p.nodes.Approve(context.Background(), "root", api.ApproveRequest{Machines: []string{mac}}); err != nil {
		t.Fatal(err)
	}
	c.Close()
	c = e.connect(p)
	e.mustJoin(c, api.JoinApproved)
	return e, c
}

func (e *testPeer) publish(c *nats.Conn, subject string, v any) {
	e.t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		e.t.Fatal(err)
	}
	if err := c.Publish(subject, data); err != nil {
		e.t.Fatal(err)
	}
}

// eventually waits for a condition that another goroutine makes true.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !cond() {
		if time.Now().After(deadline) {
			t.Fatalf("it did not happen that %s", what)
		}
		<-time.After(5 * time.Millisecond)
	}
}

func TestAgentLife(t *testing.T) {
	p := openPort(t, t.TempDir(), AgentLimits{})
	e := newPeer(t, mac1)
	c := e.connect(p)
	state, err := c.SubscribeSync(api.InboxPrefix + e.key + ".state")
	if err != nil {
		t.Fatal(err)
	}
	if r := e.mustJoin(c, api.JoinPending); r.Files != "" {
		t.Errorf("a machine that waits is told of files at %s", r.Files)
	}
	if v, err := p.nodes.Find(mac1); err != nil || v.IP != "127.0.0.1" {
		t.Errorf("Find = %+v, %v", v, err)
	}
	start := time.Now()
	if _, err := p.nodes.Approve(context.Background(), "root", api.ApproveRequest{All: true}); err != nil {
		t.Fatal(err)
	}
	m, err := state.NextMsg(5 * time.Second)
	if err != nil {
		t.Fatalf("nothing was pushed at approval: %v", err)
	}
	var r api.JoinReply
	if err := json.Unmarshal(m.Data, &r); err != nil || r.State != api.JoinApproved || !r.Reconnect || r.Name != "n1" || r.Files != "http://127.0.0.1:7480" {
		t.Fatalf("pushed %s", m.Data)
	}
	c.Close()
	c = e.connect(p)
	if r := e.mustJoin(c, api.JoinApproved); r.Reconnect || r.Files != "http://127.0.0.1:7480" {
		t.Errorf("join with the new connection = %+v, want the rights of a node and where files are", r)
	}
	t.Logf("approval to joined: %v", time.Since(start).Round(time.Millisecond))

	// What goes up.
	e.publish(c, api.SubjectHB+e.key, api.Heartbeat{BootID: e.boot, Seq: 1})
	eventually(t, "a heartbeat is heard", func() (ok bool) {
		p.sink.note(func() { ok = p.sink.heard["n1"] > 0 })
		return ok
	})
	ref := api.TaskRef{Job: 7, Index: 0, Epoch: 1}
	ack := func(subject string, body []byte) (a api.Ack) {
		t.Helper()
		m, err := c.Request(subject, body, 5*time.Second)
		if err != nil {
			t.Fatalf("%s: %v", subject, err)
		}
		if err := json.Unmarshal(m.Data, &a); err != nil {
			t.Fatal(err)
		}
		return a
	}
	ev, _ := json.Marshal(api.TaskEvent{TaskRef: ref, State: api.JobRunning})
	if a := ack(api.SubjectEvent+e.key, ev); a.Err != nil {
		t.Errorf("event acknowledged with %v", a.Err)
	}
	p.sink.note(func() {
		p.sink.onEvent = func(api.TaskEvent) error { return &api.Error{Code: api.CodeDiskFull, Msg: "full"} }
	})
	if a := ack(api.SubjectEvent+e.key, ev); a.Err == nil || a.Err.Code != api.CodeDiskFull {
		t.Errorf("event that cannot be kept acknowledged with %v", a.Err)
	}
	frame := api.AppendFrame(nil, api.Frame{Type: api.FrameOutput, Stream: api.Stdout, Data: []byte("hello")})
	if a := ack(api.SubjectOut+e.key+"."+ref.String(), frame); a.Err != nil || a.Offset != 5 {
		t.Errorf("output acknowledged with %+v", a)
	}
	for name, bad := range map[string][]byte{"junk": []byte("junk"), "ping": api.AppendFrame(nil, api.Frame{Type: api.FramePing})} {
		if a := ack(api.SubjectOut+e.key+"."+ref.String(), bad); a.Err == nil {
			t.Errorf("%s is taken for output", name)
		}
	}
	if a := ack(api.SubjectOut+e.key+".7-0", frame); a.Err == nil {
		t.Error("output of no task is taken")
	}
	req, _ := json.Marshal(api.FileRequest{Job: 7, SHA256: "abc"})
	if m, err := c.Request(api.SubjectFile+e.key, req, 5*time.Second); err != nil || string(m.Data) != "content of abc" {
		t.Errorf("file = %v, %v", m, err)
	}
	if m, err := c.Request(api.SubjectFile+e.key, []byte("{}"), 5*time.Second); err != nil || m.Header.Get(api.HeaderError) == "" || api.DecodeError(m.Data).Code != api.CodeNotFound {
		t.Errorf("missing file = %v, %v", m, err)
	}
	e.publish(c, api.SubjectLog+e.key, api.KernelLog{Lines: []api.KernelLine{{Text: "line"}}})
	eventually(t, "a kernel line is kept", func() bool { l, err := p.nodes.KernelLog("n1"); return err == nil && len(l) == 1 })

	// What goes down.
	for node, code := range map[string]api.Code{"n1": api.CodeUnreachable, "n2": api.CodeNotFound} {
		_, err := p.nodes.Request(context.Background(), node, api.VerbStart, []byte("{}"))
		if api.CodeOf(err) != code || !errors.Is(err, errNotDelivered) {
			t.Errorf("request to %s, which does not listen = %v", node, err)
		}
	}
	sub, err := c.Subscribe(api.SubjectNode+e.key+".*", func(m *nats.Msg) { m.Respond([]byte(`{"offset":9}`)) })
	if err != nil {
		t.Fatal(err)
	}
	c.Flush()
	if b, err := p.nodes.Request(context.Background(), "n1", api.VerbStart, []byte("{}")); err != nil || string(b) != `{"offset":9}` {
		t.Errorf("request = %s, %v", b, err)
	}
	sub.Unsubscribe()

	// Removal ends the connection and the rights.
	closed := make(chan struct{})
	c.SetClosedHandler(func(*nats.Conn) { close(closed) })
	if _, err := p.nodes.Remove(context.Background(), "root", "n1"); err != nil {
		t.Fatal(err)
	}
	select {
	case <-closed:
	case <-time.After(10 * time.Second):
		t.Fatal("a removed node stays connected")
	}
	c = e.connect(p)
	e.mustJoin(c, api.JoinPending)
}

func TestApprovalWithoutReconnect(t *testing.T) {
	p := openPort(t, t.TempDir(), AgentLimits{})
	e := newPeer(t, mac1)
	c := e.connect(p)
	closed := make(chan struct{})
	c.SetClosedHandler(func(*nats.Conn) { close(closed) })
	e.mustJoin(c, api.JoinPending)
	if _, err := p.nodes.Approve(context.Background(), "root", api.ApproveRequest{All: true}); err != nil {
		t.Fatal(err)
	}
	select {
	case <-closed: // an agent that missed the push gets its rights all the same
	case <-time.After(15 * time.Second):
		t.Fatal("a connection with outdated rights stays")
	}
}

func TestAttacks(t *testing.T) {
	p := openPort(t, t.TempDir(), AgentLimits{})
	good, goodConn := approvedPeer(t, p, mac1)
	sub, err := goodConn.SubscribeSync(api.SubjectNode + good.key + ".*")
	if err != nil {
		t.Fatal(err)
	}
	goodConn.Flush()

	mallory := newPeer(t, mac2)
	nodeMallory, _ := approvedPeer(t, p, mac3)
	for name, who := range map[string]*testPeer{"pending": mallory, "node": nodeMallory} {
		t.Run(name, func(t *testing.T) {
			if s, ok := p.agents.auth.session(who.key); ok { // one connection a key
				p.agents.auth.cut(s.id)
				eventually(t, "the first connection ends", func() bool { return !p.agents.Connected(who.key) })
			}
			violations := make(chan error, 1)
			c, err := who.dial(p, violations)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			attacks := map[string]func() error{
				"read another's requests": func() error { _, err := c.SubscribeSync(api.SubjectNode + good.key + ".>"); return err },
				"read everything":         func() error { _, err := c.SubscribeSync(">"); return err },
				"read a level":            func() error { _, err := c.SubscribeSync("*." + good.key); return err },
				"read another's inbox":    func() error { _, err := c.SubscribeSync(api.InboxPrefix + good.key + ".>"); return err },
				"read the head's inbox":   func() error { _, err := c.SubscribeSync(api.InboxPrefix + "head.>"); return err },
				"read system events":      func() error { _, err := c.SubscribeSync("$SYS.>"); return err },
				"read joins":              func() error { _, err := c.SubscribeSync(api.SubjectJoin + "*"); return err },
				"join the head's queue":   func() error { _, err := c.QueueSubscribeSync(api.SubjectHB+"*", "q"); return err },
				"another's heartbeat":     func() error { return c.Publish(api.SubjectHB+good.key, []byte("{}")) },
				"another's join":          func() error { return c.Publish(api.SubjectJoin+good.key, []byte("{}")) },
				"a command":               func() error { return c.Publish(api.SubjectNode+good.key+".start", []byte("{}")) },
				"a command to itself":     func() error { return c.Publish(api.SubjectNode+who.key+".start", []byte("{}")) },
				"the stream API":          func() error { return c.Publish("$JS.API.STREAM.NAMES", nil) },
				"a record":                func() error { return c.Publish("v1.slot.1", []byte("{}")) },
				"a KV record":             func() error { return c.Publish("$KV.jobs.1", []byte("{}")) },
				"an answer to the head":   func() error { return c.Publish(api.InboxPrefix+"head.abc", []byte("{}")) },
				"its own state":           func() error { return c.Publish(api.InboxPrefix+who.key+".state", []byte("{}")) },
				"a system request":        func() error { return c.Publish("$SYS.REQ.SERVER.PING", nil) },
			}
			if name == "pending" {
				attacks["a heartbeat"] = func() error { return c.Publish(api.SubjectHB+who.key, []byte("{}")) }
				attacks["output"] = func() error { return c.Publish(api.SubjectOut+who.key+".1-0-1", nil) }
				attacks["a file"] = func() error { return c.Publish(api.SubjectFile+who.key, []byte("{}")) }
				attacks["its commands"] = func() error { _, err := c.SubscribeSync(api.SubjectNode + who.key + ".*"); return err }
			}
			for attack, try := range attacks {
				if err := try(); err != nil {
					t.Fatalf("%s: %v", attack, err)
				}
				c.Flush()
				select {
				case err := <-violations:
					if !errors.Is(err, nats.ErrPermissionViolation) {
						t.Errorf("%s = %v, want a permissions violation", attack, err)
					}
				case <-time.After(5 * time.Second):
					t.Errorf("%s was not refused", attack)
				}
			}
			// The head answers only into the asker's own inbox.
			m := nats.NewMsg(api.SubjectJoin + who.key)
			m.Reply = api.SubjectNode + good.key + ".start"
			m.Data, _ = json.Marshal(who.request())
			c.PublishMsg(m)
			c.Flush()
			if _, err := who.join(c); err != nil { // comes after it in the same subscription
				t.Fatal(err)
			}
		})
	}
	goodConn.Flush()
	if n, _, _ := sub.Pending(); n > 0 {
		m, _ := sub.NextMsg(time.Second)
		t.Errorf("a node got %s from a stranger: %s", m.Subject, m.Data)
	}
	if jobs := p.store.List("job"); len(jobs) > 0 {
		t.Errorf("a stranger wrote records: %v", jobs)
	}
}

func TestRefused(t *testing.T) {
	p := openPort(t, t.TempDir(), AgentLimits{})
	e := newPeer(t, mac1)
	other := newPeer(t, mac2)
	for name, opts := range map[string][]nats.Option{
		"no key":                nil,
		"a password":            {nats.UserInfo(agentsAccount, p.agents.auth.token)},
		"the store's account":   {nats.UserInfo("RECORDS", "x")},
		"the system account":    {nats.UserInfo("SYS", "")},
		"another's private key": {nats.Nkey(e.key, other.pair.Sign)},
		"a bad signature":       {nats.Nkey(e.key, func([]byte) ([]byte, error) { return []byte("junk"), nil })},
	} {
		c, err := nats.Connect("tls://"+p.addr, append(opts, nats.Secure(pinned(p.id.Pin)), nats.NoReconnect())...)
		if err == nil {
			c.Close()
			t.Errorf("%s was let in", name)
		}
	}
	if c, err := nats.Connect("nats://"+p.addr, nats.Nkey(e.key, e.pair.Sign), nats.NoReconnect()); err == nil && c.TLSRequired() {
		c.Close() // nats.go starts TLS when the server asks; its default check must then fail
		t.Error("a client that does not know the head's key connected")
	}
	_, err := nats.Connect("tls://"+p.addr, nats.Secure(pinned(strings.Repeat("0", 64))), nats.Nkey(e.key, e.pair.Sign), nats.NoReconnect())
	if err == nil || !strings.Contains(err.Error(), "the head's key has pin "+p.id.Pin) {
		t.Errorf("connecting with a wrong pin = %v", err)
	}
	old := pinned(p.id.Pin)
	old.MinVersion, old.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	if c, err := nats.Connect("tls://"+p.addr, nats.Secure(old), nats.Nkey(e.key, e.pair.Sign), nats.NoReconnect()); err == nil {
		c.Close()
		t.Error("TLS 1.2 was accepted")
	}
}

func TestTwoConnectionsOneKey(t *testing.T) {
	p := openPort(t, t.TempDir(), AgentLimits{})
	e, c := approvedPeer(t, p, mac1)
	if second, err := e.dial(p, make(chan error, 1)); err == nil {
		second.Close()
		t.Fatal("a second connection with a key was let in")
	}
	if !c.IsConnected() {
		t.Error("the first connection was cut")
	}
	p.mu.Lock()
	if len(p.warns) != 1 || !strings.Contains(p.warns[0], "second connection") {
		t.Errorf("warnings = %q, want one about the second connection", p.warns)
	}
	p.mu.Unlock()
	c.Close()
	e.connect(p) // the first is gone: at once
}

func TestGarbage(t *testing.T) {
	p := openPort(t, t.TempDir(), AgentLimits{})
	e, c := approvedPeer(t, p, mac1)
	junk := make([]byte, 64<<10)
	rand.Read(junk)
	for name, data := range map[string][]byte{
		"nothing": nil, "random": junk, "http": []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"), "ssh": []byte("SSH-2.0-x\r\n"),
		"nats without TLS": []byte("CONNECT {\"verbose\":true}\r\nPING\r\nSUB > 1\r\n"),
		"half a hello":     {0x16, 3, 1, 2, 0, 1, 0}, "long line": []byte(strings.Repeat("A", 1<<20)),
	} {
		conn, err := net.Dial("tcp", p.addr)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		conn.Write(data)
		if name == "half a hello" {
			defer conn.Close()
			continue
		}
		conn.(*net.TCPConn).CloseWrite()
		conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		io.Copy(io.Discard, conn)
		conn.Close()
	}
	// Behind TLS, before a key is proved.
	for _, line := range []string{"CONNECT {\"nkey\":\"x\",\"sig\":\"y\"}\r\n", "PUB a 5\r\nhello\r\n", "{}\r\n", "CONNECT " + strings.Repeat("{", 3000) + "\r\n"} {
		conn, err := net.Dial("tcp", p.addr)
		if err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 4096)
		conn.Read(buf) // INFO
		tc := tls.Client(conn, pinned(p.id.Pin))
		if err := tc.Handshake(); err != nil {
			t.Fatal(err)
		}
		io.WriteString(tc, line)
		tc.CloseWrite()
		tc.SetReadDeadline(time.Now().Add(10 * time.Second))
		io.Copy(io.Discard, tc)
		conn.Close()
	}
	// Behind a node's rights.
	for _, subject := range []string{api.SubjectHB + e.key, api.SubjectLog + e.key, api.SubjectEvent + e.key, api.SubjectFile + e.key, api.SubjectPut + e.key, api.SubjectOut + e.key + ".x", api.SubjectJoin + e.key} {
		for _, data := range [][]byte{nil, junk, []byte("{}"), []byte("[]"), []byte(`{"tasks":null,"load":{"runnable":-1e300}}`), []byte(strings.Repeat("[", 10000))} {
			if err := c.Publish(subject, data); err != nil {
				t.Fatal(err)
			}
		}
	}
	e.mustJoin(c, api.JoinApproved)
}

func TestUnprovedConnectionsAreLimited(t *testing.T) {
	p := openPort(t, t.TempDir(), AgentLimits{UnprovedPerIP: 5})
	var idle []net.Conn
	for range 20 {
		c, err := net.Dial("tcp", p.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		idle = append(idle, c)
	}
	open := 0
	for _, c := range idle {
		c.SetReadDeadline(time.Now().Add(5 * time.Second))
		if n, err := c.Read(make([]byte, 64)); err == nil && n > 0 {
			open++
		}
	}
	if open != 5 {
		t.Errorf("%d connections without a key are open, want 5", open)
	}
	for _, c := range idle {
		c.Close()
	}
	e := newPeer(t, mac1)
	eventually(t, "there is room again", func() bool {
		c, err := e.dial(p, make(chan error, 1))
		if err != nil {
			return false
		}
		c.Close()
		return true
	})
}

func TestStrangersSayLittle(t *testing.T) {
	p := openPort(t, t.TempDir(), AgentLimits{})
	e := newPeer(t, mac1)
	c := e.connect(p)
	req := e.request()
	req.Hardware.Product = strings.Repeat("x", strangerBoxes.bytes)
	data, err := json.Marshal(req)
	if err != nil {
		t.Fatal(err)
	}
	m, err := c.Request(api.SubjectJoin+e.key, data, 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if got := api.DecodeError(m.Data); got == nil || got.Code != api.CodeTooLarge {
		t.Errorf("a join request of %d bytes is answered with %s", len(data), m.Data)
	}
	e.mustJoin(c, api.JoinPending)
}

func TestPendingAreLimited(t *testing.T) {
	p := openPort(t, t.TempDir(), AgentLimits{PendingPerIP: 3})
	var conns []*nats.Conn
	for i := range 6 {
		c, err := newPeer(t, fmt.Sprintf("52:54:00:00:00:%02x", i)).dial(p, make(chan error, 1))
		if err != nil {
			continue
		}
		conns = append(conns, c)
		defer c.Close()
	}
	if len(conns) != 3 {
		t.Errorf("%d pending connections from one address, want 3", len(conns))
	}
	conns[0].Close()
	e := newPeer(t, "52:54:00:00:01:01")
	eventually(t, "there is room again", func() bool {
		c, err := e.dial(p, make(chan error, 1))
		if err != nil {
			return false
		}
		c.Close()
		return true
	})
}

func TestHeadRestart(t *testing.T) {
	dir := t.TempDir()
	p := openPort(t, dir, AgentLimits{})
	e, _ := approvedPeer(t, p, mac1)
	pin := p.id.Pin
	p.stop()
	p = openPort(t, dir, AgentLimits{})
	if p.id.Pin != pin {
		t.Errorf("the head's key changed")
	}
	c := e.connect(p)
	if r := e.mustJoin(c, api.JoinApproved); r.Name != "n1" || r.Reconnect {
		t.Errorf("join at the head that started anew = %+v", r)
	}
	e.publish(c, api.SubjectHB+e.key, api.Heartbeat{BootID: e.boot})
	eventually(t, "the node is ready again", func() bool { v, err := p.nodes.Find("n1"); return err == nil && v.State == api.NodeReady })
}

func TestUseListener(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv, err := server.NewServer(&server.Options{Port: server.RANDOM_PORT, NoSigs: true, NoLog: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := useListener(srv, l); err != nil {
		t.Fatal(err)
	}
	srv.Start()
	defer srv.Shutdown()
	c, err := nats.Connect("nats://" + l.Addr().String())
	if err != nil {
		t.Fatalf("the server does not accept from its listener: %v", err)
	}
	c.Close()
}

// BenchmarkJoin1000 lets 1,000 known agents connect and join a head that
// has just started.
func BenchmarkJoin1000(b *testing.B) {
	const count = 1000
	p := openPort(b, b.TempDir(), AgentLimits{PendingPerIP: 2 * count, UnprovedPerIP: 2 * count})
	peers := make([]*testPeer, count)
	for i := range peers {
		peers[i] = newPeer(b, fmt.Sprintf("52:54:00:00:%02x:%02x", i>>8, i&255))
	}
	all := func(want api.JoinState) {
		conns := make([]*nats.Conn, count)
		var wg sync.WaitGroup
		for i, e := range peers {
			wg.Go(func() {
				c, err := e.dial(p, make(chan error, 1), nats.Timeout(60*time.Second))
				if err != nil {
					b.Errorf("connecting: %v", err)
					return
				}
				conns[i] = c
				if r, err := e.join(c); err != nil || r.State != want {
					b.Errorf("join = %+v, %v, want %s", r, err, want)
				}
			})
		}
		wg.Wait()
		b.StopTimer()
		for _, c := range conns {
			if c != nil {
				c.Close()
			}
		}
		b.StartTimer()
	}
	start := time.Now()
	all(api.JoinPending)
	pending := time.Since(start)
	start = time.Now()
	if _, err := p.nodes.Approve(context.Background(), "root", api.ApproveRequest{All: true}); err != nil {
		b.Fatal(err)
	}
	approve := time.Since(start)
	for b.Loop() {
		all(api.JoinApproved)
	}
	b.ReportMetric(pending.Seconds(), "s/1000-pending")
	b.ReportMetric(approve.Seconds(), "s/1000-approved")
}
