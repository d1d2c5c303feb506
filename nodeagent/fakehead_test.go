package nodeagent

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/big"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"muster/api"
)

// fakeHead is a NATS server and as much of a head as an agent can see.
type fakeHead struct {
	t      testing.TB
	srv    *server.Server
	nc     *nats.Conn
	pub    []byte // as pin and fingerprint are made of it
	priv   ed25519.PrivateKey
	addr   string
	secret string

	mu           sync.Mutex
	changed      *sync.Cond
	approved     map[string]bool
	rejected     map[string]bool
	connected    map[string]uint64 // client id by key
	joins        []api.JoinRequest
	beats        []api.Heartbeat
	events       map[string][]api.TaskEvent
	out          map[string]*output
	files        map[string][]byte
	logs         []api.KernelLine
	deaf         bool // output is not acknowledged
	refuseAll    bool
	boot         *api.BootImage // that a machine is told to start when it joins with its rights
	silentFiles  bool           // files are not sent
	blobs        string         // where files by hash are
	fileRequests int
	repeated     int // bytes of output that came again
}

// output is what a task wrote, as the head has it.
type output struct {
	stdout, stderr []byte
	all            int64
	stdoutSink     func([]byte) // nil: bytes are kept
}

func newFakeHead(t testing.TB) *fakeHead {
	t.Helper()
	key, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	pub, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	h := &fakeHead{
		t: t, pub: pub, priv: priv, secret: "head-" + rand.Text(),
		approved: map[string]bool{}, rejected: map[string]bool{}, connected: map[string]uint64{},
		events: map[string][]api.TaskEvent{}, out: map[string]*output{}, files: map[string][]byte{},
	}
	h.changed = sync.NewCond(&h.mu)
	h.start("127.0.0.1:0")
	t.Cleanup(h.stop)
	return h
}

func (h *fakeHead) pin() string { return api.Pin(h.pub) }

// free waits until nobody has the address: a process that the agent, which is in this one, has just started holds what
// was open here until it runs its program.
func (h *fakeHead) free(addr string) {
	h.t.Helper()
	for range 10_000 {
		l, err := net.Listen("tcp", addr)
		if err == nil {
			l.Close()
			return
		}
		pause(h.t.Context(), time.Millisecond)
	}
	h.t.Fatalf("%s is in use", addr)
}

// start runs the server; again after stop, at the same address.
func (h *fakeHead) start(addr string) {
	h.t.Helper()
	host, port, _ := net.SplitHostPort(addr)
	var n int
	fmt.Sscan(port, &n)
	if n == 0 {
		n = -1
	} else {
		h.free(addr)
	}
	srv, err := server.NewServer(&server.Options{
		Host: host, Port: n, NoSigs: true, NoLog: true,
		TLSConfig: &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{h.certificate()}},
		TLS:       true, TLSTimeout: 60, AuthTimeout: 60,
		AlwaysEnableNonce:          true,
		CustomClientAuthentication: h,
	})
	if err != nil {
		h.t.Fatal(err)
	}
	srv.Start()
	if !srv.ReadyForConnections(10 * time.Second) {
		h.t.Fatal("server of the fake head does not start")
	}
	h.srv, h.addr = srv, srv.Addr().String()
	h.nc, err = nats.Connect("tls://"+h.addr, nats.UserInfo("head", h.secret),
		nats.Secure(&tls.Config{InsecureSkipVerify: true}), nats.NoReconnect())
	if err != nil {
		h.t.Fatal(err)
	}
	for subject, f := range map[string]nats.MsgHandler{
		api.SubjectJoin + "*": h.onJoin, api.SubjectHB + "*": h.onBeat, api.SubjectEvent + "*": h.onEvent,
		api.SubjectOut + "*.*": h.onOutput, api.SubjectFile + "*": h.onFile, api.SubjectLog + "*": h.onLog,
	} {
		if _, err := h.nc.Subscribe(subject, f); err != nil {
			h.t.Fatal(err)
		}
	}
	if err := h.nc.Flush(); err != nil {
		h.t.Fatal(err)
	}
}

func (h *fakeHead) stop() {
	h.nc.Close()
	h.srv.Shutdown()
	h.srv.WaitForShutdown()
}

func (h *fakeHead) certificate() tls.Certificate {
	// The dates are long gone, on purpose: only the key counts.
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1, 0)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, h.priv.Public(), h.priv)
	if err != nil {
		h.t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: h.priv}
}

// Check implements server.Authentication.
func (h *fakeHead) Check(c server.ClientAuthentication) bool {
	o := c.GetOpts()
	if o.Username == "head" && o.Password == h.secret {
		return true
	}
	pub, err := nkeys.FromPublicKey(o.Nkey)
	if err != nil {
		return false
	}
	sig, err := base64.RawURLEncoding.DecodeString(o.Sig)
	if err != nil || pub.Verify(c.GetNonce(), sig) != nil {
		return false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if id, ok := h.connected[o.Nkey]; ok && h.srv.GetClient(id) != nil || h.refuseAll {
		return false
	}
	h.connected[o.Nkey] = c.GetID()
	key := o.Nkey
	allow := &server.Permissions{
		Publish:   &server.SubjectPermission{Allow: []string{"join." + key}},
		Subscribe: &server.SubjectPermission{Allow: []string{"_INBOX." + key + ".>"}},
	}
	if h.approved[key] {
		allow.Publish.Allow = append(allow.Publish.Allow, "hb."+key, "ev."+key, "out."+key+".*", "file."+key, "log."+key)
		allow.Subscribe.Allow = append(allow.Subscribe.Allow, "node."+key+".>")
		allow.Response = &server.ResponsePermission{MaxMsgs: 1, Expires: 30 * time.Second}
	}
	c.RegisterUser(&server.User{Username: key, Permissions: allow})
	return true
}

func (h *fakeHead) reply(key string) api.JoinReply {
	r := api.JoinReply{State: api.JoinPending, Message: "type: muster node approve", Clock: time.Now()}
	switch {
	case h.rejected[key]:
		r.State, r.Message = api.JoinRejected, "a person rejected this machine"
	case h.approved[key]:
		r = api.JoinReply{State: api.JoinApproved, Name: "n1", Heartbeat: api.Duration(200 * time.Millisecond), Clock: time.Now()}
	}
	return r
}

func (h *fakeHead) onJoin(msg *nats.Msg) {
	var req api.JoinRequest
	if err := json.Unmarshal(msg.Data, &req); err != nil {
		h.t.Errorf("join request: %v", err)
	}
	h.mu.Lock()
	h.joins = append(h.joins, req)
	h.changed.Broadcast()
	r := h.reply(req.Key)
	if r.State == api.JoinApproved {
		r.Files = h.blobs
	}
	r.Boot, h.boot = h.boot, nil
	if r.State != api.JoinApproved {
		r.Boot, h.boot = nil, r.Boot
	}
	h.mu.Unlock()
	respond(msg, r)
}

// approve lets a machine in, as a head does: it tells it to come again.
func (h *fakeHead) approve(key string) {
	h.mu.Lock()
	h.approved[key] = true
	r := h.reply(key)
	r.Reconnect = true
	h.mu.Unlock()
	b, _ := json.Marshal(r)
	h.nc.Publish(api.InboxPrefix+key+".state", b)
}

func (h *fakeHead) reject(key string) {
	h.mu.Lock()
	h.rejected[key] = true
	r := h.reply(key)
	h.mu.Unlock()
	b, _ := json.Marshal(r)
	h.nc.Publish(api.InboxPrefix+key+".state", b)
}

func (h *fakeHead) onBeat(msg *nats.Msg) {
	var b api.Heartbeat
	if err := json.Unmarshal(msg.Data, &b); err != nil {
		h.t.Errorf("heartbeat: %v", err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.beats = append(h.beats, b)
	h.changed.Broadcast()
}

func (h *fakeHead) onEvent(msg *nats.Msg) {
	var ev api.TaskEvent
	if err := json.Unmarshal(msg.Data, &ev); err != nil {
		h.t.Errorf("event: %v", err)
	}
	h.mu.Lock()
	h.events[ev.TaskRef.String()] = append(h.events[ev.TaskRef.String()], ev)
	h.changed.Broadcast()
	h.mu.Unlock()
	respond(msg, api.Ack{})
}

func (h *fakeHead) onOutput(msg *nats.Msg) {
	f, err := api.ParseFrame(msg.Data)
	if err != nil {
		h.t.Errorf("output: %v", err)
		return
	}
	name := msg.Subject[strings.LastIndexByte(msg.Subject, '.')+1:]
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.deaf {
		return
	}
	o := h.outputOf(name)
	have := o.all
	switch end := f.Offset + int64(len(f.Data)); {
	case f.Offset > have || end <= have: // a gap, or known
		h.repeated += int(min(have-f.Offset, int64(len(f.Data))))
	default:
		h.repeated += int(have - f.Offset)
		data := f.Data[have-f.Offset:]
		o.all = end
		switch {
		case f.Stream == api.Stderr:
			o.stderr = append(o.stderr, data...)
		case o.stdoutSink != nil:
			o.stdoutSink(data)
		default:
			o.stdout = append(o.stdout, data...)
		}
	}
	h.changed.Broadcast()
	respond(msg, api.Ack{Offset: o.all})
}

// outputOf returns the output of a task. h.mu is held.
func (h *fakeHead) outputOf(name string) *output {
	o := h.out[name]
	if o == nil {
		o = &output{}
		h.out[name] = o
	}
	return o
}

func (h *fakeHead) onFile(msg *nats.Msg) {
	var req api.FileRequest
	if err := json.Unmarshal(msg.Data, &req); err != nil {
		h.t.Errorf("file request: %v", err)
	}
	h.mu.Lock()
	b, ok := h.files[req.SHA256]
	h.fileRequests++
	silent := h.silentFiles
	h.changed.Broadcast()
	h.mu.Unlock()
	if silent {
		return
	}
	if !ok {
		m := nats.NewMsg(msg.Reply)
		m.Header.Set(api.HeaderError, "1")
		m.Data, _ = json.Marshal(api.ErrorReply{Err: &api.Error{Code: api.CodeNotFound, Msg: "no such file"}})
		msg.RespondMsg(m)
		return
	}
	b = b[min(req.Offset, int64(len(b))):]
	msg.Respond(b[:min(len(b), api.MaxChunk)])
}

func (h *fakeHead) onLog(msg *nats.Msg) {
	var l api.KernelLog
	if err := json.Unmarshal(msg.Data, &l); err != nil {
		h.t.Errorf("kernel log: %v", err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.logs = append(h.logs, l.Lines...)
	h.changed.Broadcast()
}

func respond(msg *nats.Msg, v any) {
	b, _ := json.Marshal(v)
	msg.Respond(b)
}

// wait blocks until done, which is called with h.mu held, is true.
func (h *fakeHead) wait(what string, done func() bool) {
	h.t.Helper()
	expired := false
	timer := time.AfterFunc(60*time.Second, func() {
		h.mu.Lock()
		expired = true
		h.changed.Broadcast()
		h.mu.Unlock()
	})
	defer timer.Stop()
	h.mu.Lock()
	defer h.mu.Unlock()
	for !done() {
		if expired {
			h.t.Fatalf("waited 60 s for %s", what)
		}
		h.changed.Wait()
	}
}

// ask sends a request to an agent.
func (h *fakeHead) ask(key, verb string, v any) api.Ack {
	h.t.Helper()
	ack, err := h.tryAsk(key, verb, v, 10*time.Second)
	if err != nil {
		h.t.Fatalf("asking the agent to %s: %v", verb, err)
	}
	return ack
}

func (h *fakeHead) tryAsk(key, verb string, v any, timeout time.Duration) (api.Ack, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return api.Ack{}, err
	}
	msg, err := h.nc.Request(api.SubjectNode+key+"."+verb, b, timeout)
	if err != nil {
		return api.Ack{}, err
	}
	var ack api.Ack
	return ack, json.Unmarshal(msg.Data, &ack)
}

// end waits for the end of a task and for all of its output.
func (h *fakeHead) end(ref api.TaskRef) api.TaskEvent {
	h.t.Helper()
	var ev api.TaskEvent
	h.wait("the end of task "+ref.String(), func() bool {
		for _, e := range h.events[ref.String()] {
			if e.State.Ended() {
				ev = e
				return h.outputOf(ref.String()).all >= e.Output
			}
		}
		return false
	})
	return ev
}

func (h *fakeHead) texts(ref api.TaskRef) (stdout, stderr string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	o := h.outputOf(ref.String())
	return string(o.stdout), string(o.stderr)
}
