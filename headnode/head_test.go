package headnode

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"muster/api"
	"muster/api/client"
)

// headState makes this test binary a head with the named state folder, whose
// sockets for agents and users are descriptors 3 and 4.
const headState = "MUSTER_TEST_HEAD_STATE"

func TestMain(m *testing.M) {
	if dir := os.Getenv(headState); dir != "" {
		if err := headMain(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func headMain(dir string) error {
	cfg := Config{State: dir, HeadUID: uint32(os.Getuid()), Version: "test", Log: slog.New(slog.NewTextHandler(os.Stderr, nil))}
	for fd, to := range map[uintptr]*net.Listener{3: &cfg.Agents, 4: &cfg.Users} {
		l, err := net.FileListener(os.NewFile(fd, "socket"))
		if err != nil {
			return err
		}
		*to = l
	}
	head, err := New(context.Background(), cfg)
	if err != nil {
		return err
	}
	return head.Run(context.Background(), func() { fmt.Println("ready") })
}

// headProcess is a head in a process of its own, with sockets that outlive
// it, as its keeper would hold them.
type headProcess struct {
	t       *testing.T
	dir     string
	sockets []*os.File
	agents  string // address
	users   string // path
	cmd     *exec.Cmd
	log     bytes.Buffer
}

func newHeadProcess(t *testing.T) *headProcess {
	t.Helper()
	h := &headProcess{t: t, dir: t.TempDir()}
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h.agents = tcp.Addr().String()
	sock, err := os.MkdirTemp("", "head")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(sock) })
	h.users = filepath.Join(sock, "head.sock")
	unix, err := net.Listen("unix", h.users)
	if err != nil {
		t.Fatal(err)
	}
	unix.(*net.UnixListener).SetUnlinkOnClose(false)
	for _, l := range []interface{ File() (*os.File, error) }{tcp.(*net.TCPListener), unix.(*net.UnixListener)} {
		f, err := l.File()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		h.sockets = append(h.sockets, f)
	}
	tcp.Close()
	unix.Close()
	t.Cleanup(func() {
		h.kill()
		if t.Failed() {
			t.Logf("head:\n%s", h.log.String())
		}
	})
	return h
}

// start runs the head and returns when it serves.
func (h *headProcess) start() {
	h.t.Helper()
	h.cmd = exec.Command(os.Args[0])
	h.cmd.Env = append(os.Environ(), headState+"="+h.dir)
	h.cmd.ExtraFiles = h.sockets
	h.cmd.Stderr = &h.log
	out, err := h.cmd.StdoutPipe()
	if err != nil {
		h.t.Fatal(err)
	}
	if err := h.cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	if _, err := io.ReadFull(out, make([]byte, len("ready\n"))); err != nil {
		h.cmd.Wait()
		h.cmd = nil
		h.t.Fatalf("head did not start: %v\n%s", err, h.log.String())
	}
}

func (h *headProcess) kill() {
	if h.cmd != nil {
		h.cmd.Process.Kill()
		h.cmd.Wait()
		h.cmd = nil
	}
}

// liveAgent joins, again and again, and sends heartbeats, until ctx is done.
func liveAgent(ctx context.Context, e *testPeer, addr, pin string, joins *atomic.Int64) {
	p := &port{addr: addr, id: &Identity{Pin: pin}}
	for ctx.Err() == nil {
		e.session(ctx, p, joins)
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

func (e *testPeer) session(ctx context.Context, p *port, joins *atomic.Int64) {
	closed := make(chan struct{})
	c, err := e.dial(p, make(chan error, 1), nats.ClosedHandler(func(*nats.Conn) { close(closed) }))
	if err != nil {
		return
	}
	defer c.Close()
	state, err := c.SubscribeSync(api.InboxPrefix + e.key + ".state")
	if err != nil {
		return
	}
	var config atomic.Uint64
	if _, err := c.Subscribe(api.SubjectNode+e.key+"."+api.VerbConfig, func(m *nats.Msg) {
		var cfg api.NodeConfig
		if json.Unmarshal(m.Data, &cfg) == nil && m.Respond([]byte("{}")) == nil {
			config.Store(cfg.Version)
		}
	}); err != nil {
		return
	}
	r, err := e.join(c)
	if err != nil || r.Reconnect {
		return
	}
	joins.Add(1)
	for {
		if r.State == api.JoinApproved {
			hb, _ := json.Marshal(api.Heartbeat{BootID: e.boot, ConfigVersion: config.Load()})
			if err := c.Publish(api.SubjectHB+e.key, hb); err != nil {
				return
			}
		}
		select {
		case <-closed:
			return
		case <-ctx.Done():
			return
		default:
		}
		if m, err := state.NextMsg(300 * time.Millisecond); err == nil {
			return // a new state: a new connection
		} else if !errors.Is(err, nats.ErrTimeout) {
			_ = m
			return
		}
	}
}

func TestHeadIsKilled(t *testing.T) {
	h := newHeadProcess(t)
	h.start()
	cl, err := client.New("unix://" + h.users)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	st, err := cl.Status(ctx)
	if err != nil {
		t.Fatal(err)
	}
	const count = 20
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	var joins atomic.Int64
	for i := range count {
		e := newPeer(t, fmt.Sprintf("52:54:00:00:02:%02x", i))
		wg.Go(func() { liveAgent(ctx, e, h.agents, st.Pin, &joins) })
	}
	states := func() map[api.NodeState]int {
		st, err := cl.Status(ctx)
		if err != nil {
			return nil
		}
		return st.Nodes
	}
	eventually(t, "all are pending", func() bool { return states()[api.NodePending] == count })
	nodes, err := cl.Approve(ctx, api.ApproveRequest{All: true})
	if err != nil || len(nodes) != count {
		t.Fatalf("Approve = %d nodes, %v", len(nodes), err)
	}
	eventually(t, "all are ready", func() bool { return states()[api.NodeReady] == count })
	for round := range 3 {
		before := joins.Load()
		h.kill()
		start := time.Now()
		h.start()
		up := time.Since(start)
		eventually(t, "all are ready again", func() bool { return joins.Load() >= before+count && states()[api.NodeReady] == count })
		t.Logf("round %d: head serves after %v, all nodes ready after %v", round, up.Round(time.Millisecond), time.Since(start).Round(time.Millisecond))
	}
	list, err := cl.Nodes(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, n := range list.Items {
		names = append(names, n.Name)
	}
	if got := api.FormatHostList(names); got != "n[1-20]" {
		t.Errorf("nodes are %s, want n[1-20]", got)
	}
}

func TestHeadRefusesToStart(t *testing.T) {
	dir := t.TempDir()
	h, err := New(context.Background(), Config{State: dir})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := New(context.Background(), Config{State: dir}); err == nil || !strings.Contains(err.Error(), "in use by another head") {
		t.Errorf("a second head = %v, want an error that says so", err)
	}
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	h, err = New(context.Background(), Config{State: dir})
	if err != nil {
		t.Fatalf("after the first was closed: %v", err)
	}
	h.Close()
}

func TestBoot(t *testing.T) {
	ctx := context.Background()
	h, err := New(ctx, Config{State: t.TempDir(), AgentsPort: 7421})
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	q := api.BootQuery{MAC: "52-54-00-00-00-01", Arch: "i386", Client: "bios"}
	if d := h.BootDecision(q); d.Answer || !strings.Contains(d.Reason, "muster node add "+mac1) {
		t.Errorf("an unknown machine beside another server = %+v", d)
	}
	h.ObserveBoot(api.BootEvent{MAC: mac1, Stage: api.StageRefused, Detail: "enrollment is closed", Client: "bios"})
	if v, err := h.Nodes.Find(mac1); err != nil || v.State != api.NodeUnanswered {
		t.Errorf("Find = %+v, %v, want unanswered", v, err)
	}
	if l, err := h.BootLog(mac1); err != nil || len(l.Events) != 1 || !strings.Contains(l.Advice, "not answered") {
		t.Errorf("BootLog = %+v, %v", l, err)
	}
	q.OwnsLAN = true
	if d := h.BootDecision(q); d.Answer || !strings.Contains(d.Reason, "muster image publish") {
		t.Errorf("no image = %+v", d)
	}
	manifest, content, m := build("compute", "1")
	putAll(t, h.Images, content)
	if _, err := h.Images.Publish(ctx, "root", manifest, nil); err != nil {
		t.Fatal(err)
	}
	d := h.BootDecision(q)
	want := "quiet muster.head={host}:7421 muster.pin=" + h.Identity.Pin + " muster.image=" + m.ID
	if !d.Answer || d.Cmdline != want || d.Kernel.SHA256 != m.Artifacts[0].SHA256 || d.Initramfs.Name != "initramfs.zst" ||
		len(d.Loaders) != 1 || d.Loaders[0].Name != "undionly.kpxe" || d.Loaders[0].Client != "bios" {
		t.Errorf("BootDecision = %+v, want cmdline %q", d, want)
	}
	if _, err := h.Nodes.Declare(ctx, "root", api.DeclareRequest{MAC: mac1, Name: "first", IP: "10.0.0.7"}); err != nil {
		t.Fatal(err)
	}
	q.OwnsLAN = false
	if d := h.BootDecision(q); !d.Answer || d.HostName != "first" || d.FixedIP != "10.0.0.7" {
		t.Errorf("a declared machine = %+v", d)
	}
	if d := h.BootDecision(api.BootQuery{MAC: "junk"}); d.Answer {
		t.Error("a machine without address is answered")
	}
	// Who owns a network decides how known machines come back.
	h.SetBootInterfaces([]api.BootInterface{{Name: "eth1", Addr: "10.7.0.1/24", DHCP: "full"}, {Name: "eth0", Addr: "192.168.1.2/24", DHCP: "proxy"}})
	for ip, want := range map[string]rejoinPolicy{"10.7.0.9": rejoinAddress, "::ffff:10.7.0.9": rejoinAddress, "192.168.1.9": rejoinApprove, "junk": rejoinApprove} {
		if got := h.rejoin(ip); got != want {
			t.Errorf("policy for %s = %s, want %s", ip, got, want)
		}
	}
	if _, err := h.Settings.Set(ctx, "root", "rejoin", "approve"); err != nil {
		t.Fatal(err)
	}
	if got := h.rejoin("10.7.0.9"); got != rejoinApprove {
		t.Errorf("policy that was set = %s", got)
	}
	if st := h.Status(); !st.Enrollment.Open || st.Image != "compute" || st.Fingerprint != h.Identity.Fingerprint || len(st.Boot) != 2 {
		t.Errorf("Status = %+v", st)
	}
}
