package headnode

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"muster/api"
	"muster/headnode/store"
)

const (
	mac1 = "52:54:00:00:00:01"
	mac2 = "52:54:00:00:00:02"
	mac3 = "52:54:00:00:00:03"
)

// run starts the watch over a world's nodes; it ends with the test.
func (w *world) run() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.nodes.Run(ctx) }()
	w.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Error(err)
		}
	})
}

func TestApproval(t *testing.T) {
	w := newWorld(t)
	a, b := w.agent(mac1), w.agent(mac2)
	r := w.join(a)
	if r.State != api.JoinPending || r.Message != "waits for approval" {
		t.Errorf("first join = %+v, want pending and waiting for approval", r)
	}
	w.wantState(mac1, api.NodePending)
	if w.heartbeat(a) {
		t.Error("the heartbeat of a pending machine counts")
	}
	if len(w.nodes.Snapshot()) != 0 {
		t.Error("the scheduler sees a pending machine")
	}
	w.join(b)
	n := w.approve(a, "")
	if n.Name != "n1" || n.State != api.NodeBooting || n.Stage != "joining" {
		t.Errorf("approved machine is %s and %s, want n1 and booting until it joined", n.Name, n.State)
	}
	if s := w.nodes.Snapshot(); len(s) != 1 || s[0].Ready {
		t.Errorf("Snapshot() = %+v, want no node that takes tasks before it joined", s)
	}
	if p := w.wire.lastPush(a.key); p.State != api.JoinApproved || p.Name != "n1" || !p.Reconnect {
		t.Errorf("pushed %+v, want approved as n1 with a new connection", p)
	}
	if r := w.join(a); r.State != api.JoinApproved || r.Reconnect || r.Name != "n1" || r.Heartbeat != api.Duration(time.Second) {
		t.Errorf("join of the node = %+v", r)
	}
	if !w.heartbeat(a) {
		t.Error("the heartbeat of a node does not count")
	}
	w.wantState("n1", api.NodeReady)
	if s := w.nodes.Snapshot(); len(s) != 1 || !s[0].Ready || s[0].Cores != 4 || s[0].Speed != 1.5 || s[0].MemFree != 1500 || s[0].Weight != 100 {
		t.Errorf("Snapshot() = %+v", s)
	}
	if _, err := w.nodes.Approve(context.Background(), "root", api.ApproveRequest{Machines: []string{"n1"}}); api.CodeOf(err) != api.CodeConflict {
		t.Errorf("approving a node = %v, want a conflict", err)
	}
	// Records outlive the head.
	w.restart()
	w.nodes.tick(context.Background())
	w.wantState("n1", api.NodeLate)
	if r := w.join(a); r.State != api.JoinApproved || r.Reconnect {
		t.Errorf("join at a head that started anew = %+v, want approved", r)
	}
	w.heartbeat(a)
	w.wantState("n1", api.NodeReady)
	if got := len(w.nodes.List()); got != 1 {
		t.Errorf("%d machines at a head that started anew, want the node alone", got)
	}
}

func TestNames(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	var agents []agent
	for i := range 6 {
		a := w.agent(fmt.Sprintf("52:54:00:00:01:%02x", i))
		agents = append(agents, a)
		w.join(a)
	}
	w.approve(agents[3], "n2")
	if _, err := w.nodes.Approve(ctx, "root", api.ApproveRequest{Machines: []string{agents[0].mac}, Names: "n2"}); api.CodeOf(err) != api.CodeExists {
		t.Errorf("a taken name = %v, want exists", err)
	}
	if _, err := w.nodes.Approve(ctx, "root", api.ApproveRequest{All: true, Names: "n[1-5]"}); api.CodeOf(err) != api.CodeInvalid {
		t.Errorf("four free names for five machines = %v, want invalid", err)
	}
	if _, err := w.nodes.Approve(ctx, "root", api.ApproveRequest{All: true, Machines: []string{mac1}}); api.CodeOf(err) != api.CodeInvalid {
		t.Errorf("all and some = %v, want invalid", err)
	}
	nodes, err := w.nodes.Approve(ctx, "root", api.ApproveRequest{All: true, Names: "n[1-24]"})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, n := range nodes {
		got = append(got, n.Name+" "+n.MAC[15:])
	}
	if diff := cmp.Diff([]string{"n1 00", "n3 01", "n4 02", "n5 04", "n6 05"}, got); diff != "" {
		t.Errorf("names in order of arrival differ (-want +got):\n%s", diff)
	}
	if _, err := w.nodes.Approve(ctx, "root", api.ApproveRequest{All: true}); api.CodeOf(err) != api.CodeNotFound {
		t.Errorf("approving all of none = %v, want not found", err)
	}
	var names []string
	for _, n := range w.nodes.List() {
		names = append(names, n.Name)
	}
	if got := api.FormatHostList(names); got != "n[1-6]" {
		t.Errorf("nodes are %s, want n[1-6]", got)
	}
	expanded, err := w.nodes.Expand("n5,n[1-2]," + agents[4].mac)
	if err != nil || len(expanded) != 3 || expanded[2].Name != "n2" { // whose MAC stands there too
		t.Errorf("Expand = %v, %v", expanded, err)
	}
	_, err = w.nodes.Expand("n1,n77")
	if want := "no machine or node is called n77; the nearest name is n1"; err == nil || !strings.HasPrefix(err.Error(), "no machine or node is called n77; the nearest name is n") {
		t.Errorf("Expand of an unknown node = %v, want like %q", err, want)
	}
	// Rename.
	if _, err := w.nodes.Rename(ctx, "root", "n1", "n2"); api.CodeOf(err) != api.CodeExists {
		t.Errorf("renaming to a taken name = %v", err)
	}
	if _, err := w.nodes.Rename(ctx, "root", "n1", "Bad.Name"); api.CodeOf(err) != api.CodeInvalid {
		t.Errorf("renaming to a bad name = %v", err)
	}
	if _, err := w.nodes.Rename(ctx, "root", "n1", "fast1"); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"n1 fast1"}, w.sink.renamed); diff != "" {
		t.Errorf("renames differ (-want +got):\n%s", diff)
	}
	if p := w.wire.lastPush(agents[0].key); p.Name != "fast1" || p.Reconnect {
		t.Errorf("pushed %+v, want the new name", p)
	}
	// Remove frees the name.
	if _, err := w.nodes.Remove(ctx, "root", "n3"); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"n3"}, w.sink.removed); diff != "" {
		t.Errorf("removed nodes differ (-want +got):\n%s", diff)
	}
	if r := w.join(agents[1]); r.State != api.JoinPending {
		t.Errorf("join of a removed node = %+v, want pending", r)
	}
	if n := w.approve(agents[1], ""); n.Name != "n1" {
		t.Errorf("new name = %s, want n1, the lowest free", n.Name)
	}
}

func TestFind(t *testing.T) {
	w := newWorld(t)
	a, b := w.agent("52:54:00:ab:cd:ef"), w.agent(mac2)
	w.join(a)
	w.join(b)
	v := w.find("52:54:00:ab:cd:ef")
	for _, ref := range []string{"52-54-00-AB-CD-EF", "525400abcdef", "5254.00ab.cdef", v.Fingerprint, v.Fingerprint[:6], v.ID, " " + v.ID} {
		if got := w.find(ref); got.ID != v.ID {
			t.Errorf("Find(%q) found %s", ref, got.MAC)
		}
	}
	for _, ref := range []string{"", "n1", "zzzz-zzzz", mac3, v.Fingerprint[:2], "\x1b[31m"} {
		if _, err := w.nodes.Find(ref); api.CodeOf(err) != api.CodeNotFound {
			t.Errorf("Find(%q) = %v, want not found", ref, err)
		} else if strings.Contains(err.Error(), "\x1b") {
			t.Errorf("Find(%q) = %q repeats control characters", ref, err)
		}
	}
}

func TestReject(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	a := w.agent(mac1)
	w.join(a)
	if _, err := w.nodes.Reject(ctx, "root", mac1); err != nil {
		t.Fatal(err)
	}
	w.wantState(mac1, api.NodeRejected)
	if r := w.join(a); r.State != api.JoinRejected {
		t.Errorf("join of a rejected machine = %+v", r)
	}
	// It is recognized after a boot, also by a head that started anew.
	w.restart()
	anew := w.agent(mac1)
	if r := w.join(anew); r.State != api.JoinRejected {
		t.Errorf("join of a rejected machine that booted anew = %+v", r)
	}
	if got := len(w.nodes.List()); got != 1 {
		t.Errorf("%d machines, want the rejected one alone", got)
	}
	if n := w.approve(anew, ""); n.Name != "n1" {
		t.Errorf("approving it after all = %+v", n)
	}
	if r := w.join(anew); r.State != api.JoinApproved {
		t.Errorf("join after that = %+v", r)
	}
	if _, err := w.nodes.Reject(ctx, "root", "n1"); api.CodeOf(err) != api.CodeConflict {
		t.Errorf("rejecting a node = %v, want a conflict", err)
	}
}

func TestDeclare(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	if _, err := w.nodes.Declare(ctx, "root", api.DeclareRequest{MAC: "5254.0000.0001", Name: "fast", IP: "10.0.0.7"}); err != nil {
		t.Fatal(err)
	}
	uuid := "4c4c4544-0051-3610-8052-b4c04f4a3132"
	if _, err := w.nodes.Declare(ctx, "root", api.DeclareRequest{UUID: strings.ToUpper(uuid)}); err != nil {
		t.Fatal(err)
	}
	w.wantState(mac1, api.NodeDeclared)
	for name, req := range map[string]api.DeclareRequest{
		"again": {MAC: mac1}, "name taken": {MAC: mac2, Name: "fast"}, "address taken": {MAC: mac2, IP: "10.0.0.7"},
		"nothing": {Name: "x"}, "no MAC": {MAC: "hello"}, "shared UUID": {UUID: "03000200-0400-0500-0006-000700080009"},
		"bad name": {MAC: mac2, Name: "-"}, "bad address": {MAC: mac2, IP: "10.0.0"},
	} {
		if _, err := w.nodes.Declare(ctx, "root", req); err == nil {
			t.Errorf("%s: Declare(%+v) succeeded", name, req)
		}
	}
	a, b := w.agent(mac1), w.agent(mac2)
	b.uuid = uuid
	if r := w.join(a); r.State != api.JoinApproved || r.Name != "fast" || !r.Reconnect {
		t.Errorf("join of a declared machine = %+v, want approved as fast", r)
	}
	if r := w.join(b); r.State != api.JoinApproved || r.Name != "n1" {
		t.Errorf("join of a machine declared by UUID = %+v, want approved as n1", r)
	}
	if got := len(w.nodes.List()); got != 2 {
		t.Errorf("%d machines, want 2", got)
	}
	// Declaring a machine that waits approves it.
	c := w.agent(mac3)
	w.join(c)
	n, err := w.nodes.Declare(ctx, "root", api.DeclareRequest{MAC: mac3, Name: "late1"})
	if err != nil || n.State != api.NodeBooting || n.Name != "late1" {
		t.Errorf("declaring a pending machine = %+v, %v", n, err)
	}
}

func TestRejoin(t *testing.T) {
	t.Run("policy address", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			w.policy = rejoinAddress
			w.run()
			a := w.agent(mac1)
			w.join(a)
			w.approve(a, "")
			w.join(a)
			w.heartbeat(a)
			// A machine that claims the address of a node that is heard waits.
			anew := w.agent(mac1)
			if r := w.join(anew); r.State != api.JoinPending || !strings.Contains(r.Message, "still heard") {
				t.Errorf("join with the address of a live node = %+v, want pending", r)
			}
			w.wantState("n1", api.NodeReady)
			// It is let in by itself when the former one is silent.
			time.Sleep(12 * time.Second)
			synctest.Wait()
			if p := w.wire.lastPush(anew.key); p.State != api.JoinApproved || p.Name != "n1" || !p.Reconnect {
				t.Errorf("pushed %+v, want approved as n1", p)
			}
			if w.heartbeat(a) {
				t.Error("the former session still counts")
			}
			if r := w.join(anew); r.State != api.JoinApproved || r.Name != "n1" {
				t.Errorf("join = %+v", r)
			}
			w.disconnect(a)
			if r := w.join(a); r.State != api.JoinPending {
				t.Errorf("join of the former session = %+v, want pending", r)
			}
		})
	})
	t.Run("policy approve", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			a := w.agent(mac1)
			w.join(a)
			w.approve(a, "mine")
			w.disconnect(a)
			time.Sleep(time.Minute)
			anew := w.agent(mac1)
			if r := w.join(anew); r.State != api.JoinPending || !strings.Contains(r.Message, "rejoin is approve") {
				t.Errorf("join = %+v, want pending", r)
			}
			if n := w.approve(anew, ""); n.Name != "mine" {
				t.Errorf("approved as %s, want the name that it had", n.Name)
			}
			if got := len(w.nodes.List()); got != 1 {
				t.Errorf("%d machines, want one", got)
			}
		})
	})
	t.Run("other UUID", func(t *testing.T) {
		w := newWorld(t)
		w.policy = rejoinAddress
		a := w.agent(mac1)
		a.uuid = "4c4c4544-0051-3610-8052-b4c04f4a3132"
		w.join(a)
		w.approve(a, "")
		b := w.agent(mac1)
		b.uuid = "4c4c4544-0051-3610-8052-b4c04f4a3133"
		if r := w.join(b); r.State != api.JoinPending {
			t.Errorf("a network card that moved to another machine = %+v, want pending", r)
		}
	})
}

func TestLinkOverTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.run()
		a := w.agent(mac1)
		w.join(a)
		w.approve(a, "")
		w.join(a)
		from := w.events.Revision()
		for range 5 {
			w.heartbeat(a)
			time.Sleep(time.Second)
		}
		time.Sleep(30 * time.Second)
		w.heartbeat(a)
		events, err := w.events.Next(context.Background(), from, 100)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		start := events[0].Time
		for _, ev := range events {
			if ev.Kind == "node" {
				got = append(got, fmt.Sprintf("%s by %s at %v", ev.Node.State, ev.Actor, ev.Time.Sub(start).Round(time.Second)))
			}
		}
		want := []string{"late by head at 0s", "unreachable by head at 7s", "ready by n1 at 28s"}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("states over time differ (-want +got):\n%s", diff)
		}
		if s := w.nodes.Snapshot(); !s[0].Ready {
			t.Errorf("node that came back is not ready: %s", s[0].Reason)
		}
	})
}

func TestForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.run()
		a, b := w.agent(mac1), w.agent(mac2)
		w.join(a)
		w.join(b)
		w.disconnect(a)
		w.nodes.BootSeen(api.BootEvent{MAC: mac3, Stage: api.StageDHCP, Client: "bios"})
		time.Sleep(pendingForgotten - 2*time.Second)
		w.wantState(mac1, api.NodePending)
		time.Sleep(4 * time.Second)
		if _, err := w.nodes.Find(mac1); err == nil {
			t.Error("a pending machine that went away is remembered")
		}
		w.wantState(mac2, api.NodePending) // it is connected
		w.wantState(mac3, api.NodeBooting)
		time.Sleep(bootingForgotten)
		if _, err := w.nodes.Find(mac3); err == nil {
			t.Error("a boot that stopped long ago is remembered")
		}
	})
}

func TestBootSeen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.run()
		see := func(mac string, stage api.BootStage, client string) {
			w.nodes.BootSeen(api.BootEvent{MAC: mac, Stage: stage, Client: client, Detail: "x"})
		}
		see(mac1, api.StageRefused, "bios")
		w.wantState(mac1, api.NodeUnanswered)
		if v := w.find(mac1); v.Hint != "muster node add "+mac1+", or muster enroll open 30m" {
			t.Errorf("hint = %s", v.Hint)
		}
		see(mac1, api.StageDHCP, "bios")
		see(mac1, api.StageKernel, "ipxe")
		w.wantState(mac1, api.NodeBooting)
		a := w.agent(mac1)
		w.join(a)
		w.wantState(mac1, api.NodePending)
		if got := len(w.nodes.List()); got != 1 {
			t.Errorf("%d machines, want one", got)
		}
		w.approve(a, "")
		w.join(a)
		w.heartbeat(a)
		see(mac1, api.StageDHCP, "os")
		w.wantState("n1", api.NodeReady) // it renewed its address
		time.Sleep(500 * time.Millisecond)
		ip := w.find("n1").IP
		w.nodes.BootSeen(api.BootEvent{MAC: mac1, Stage: api.StageDHCP, Client: "uefi", IP: "10.77.0.66"})
		w.wantState("n1", api.NodeBooting)
		if got := w.find("n1").IP; got != ip { // anybody may have said so, and shares are served to addresses
			t.Errorf("a boot event moved node n1 from %q to %q", ip, got)
		}
		if s := w.nodes.Snapshot(); s[0].Ready || s[0].Reason != "booting" {
			t.Errorf("Snapshot() = %+v, want booting", s)
		}
		w.heartbeat(a) // it was no boot, or a stranger's packet
		w.wantState("n1", api.NodeReady)
		// Strangers cannot fill the memory.
		for i := range maxBooting + 100 {
			see(fmt.Sprintf("02:00:00:00:%02x:%02x", i>>8, i&255), api.StageDHCP, "bios")
		}
		if got := len(w.nodes.List()); got > maxBooting+1 {
			t.Errorf("%d machines are remembered", got)
		}
		w.wantState("n1", api.NodeReady)
	})
}

func TestAdmin(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	a := w.agent(mac1)
	w.join(a)
	if _, err := w.nodes.SetAdmin(ctx, "root", mac1, api.AdminPaused); api.CodeOf(err) != api.CodeConflict {
		t.Errorf("pausing a pending machine = %v", err)
	}
	w.approve(a, "")
	w.join(a)
	w.heartbeat(a)
	for _, to := range []api.AdminState{api.AdminDraining, api.AdminPaused, api.AdminReady, api.AdminPaused} {
		n, err := w.nodes.SetAdmin(ctx, "root", "n1", to)
		if err != nil || n.Admin != to || string(n.State) != string(to) {
			t.Errorf("SetAdmin(%s) = %s, %v", to, n.State, err)
		}
	}
	if _, err := w.nodes.SetAdmin(ctx, "root", "n1", api.AdminDraining); api.CodeOf(err) != api.CodeConflict {
		t.Errorf("draining a paused node = %v, want a conflict", err)
	}
	if s := w.nodes.Snapshot(); s[0].Ready {
		t.Error("a paused node takes tasks")
	}
	w.wire.reply = func(key, verb string, _ []byte) ([]byte, error) {
		if key != a.key || verb != api.VerbReboot {
			return nil, errors.New("wrong request")
		}
		return []byte(`{}`), nil
	}
	if err := w.nodes.Reboot(ctx, "root", "n1"); err != nil {
		t.Errorf("Reboot = %v", err)
	}
	w.wire.reply = func(string, string, []byte) ([]byte, error) { return nil, errors.New("its agent is not connected") }
	if err := w.nodes.Reboot(ctx, "root", "n1"); api.CodeOf(err) != api.CodeUnreachable {
		t.Errorf("Reboot of a node that is gone = %v, want unreachable", err)
	}
}

func TestFullDiskChangesNothing(t *testing.T) {
	w := newWorld(t)
	a := w.agent(mac1)
	w.join(a)
	w.store.Fail(fmt.Errorf("writing: %w", store.ErrFull))
	_, err := w.nodes.Approve(context.Background(), "root", api.ApproveRequest{All: true})
	if api.CodeOf(err) != api.CodeDiskFull {
		t.Errorf("Approve on a full disk = %v, want disk full", err)
	}
	w.wantState(mac1, api.NodePending)
	w.store.Fail(nil)
	w.approve(a, "")
}

func TestOldAgent(t *testing.T) {
	w := newWorld(t)
	a := w.agent(mac1)
	req := a.request()
	for _, p := range []int{0, -1, api.Protocol + 1} {
		req.Software.Protocol = p
		if _, err := w.nodes.Join(context.Background(), a.key, agentSession{ip: "10.0.0.9", node: false}, req); api.CodeOf(err) != api.CodeInvalid {
			t.Errorf("join with protocol %d = %v, want invalid", p, err)
		}
	}
	if _, err := w.nodes.Join(context.Background(), "not a key", agentSession{ip: "10.0.0.9", node: false}, a.request()); err == nil {
		t.Error("join with no key succeeded")
	}
}

func TestKernelLog(t *testing.T) {
	w := newWorld(t)
	a := w.agent(mac1)
	w.join(a)
	w.nodes.kernelLines(a.key, []api.KernelLine{{Text: "from a stranger"}})
	w.approve(a, "")
	long := strings.Repeat("x", 5000)
	for i := range 3000 {
		w.nodes.kernelLines(a.key, []api.KernelLine{{Micro: int64(i), Text: fmt.Sprint(i, " ", long)}})
	}
	lines, err := w.nodes.KernelLog("n1")
	if err != nil {
		t.Fatal(err)
	}
	size := 0
	for _, l := range lines {
		size += len(l.Text)
	}
	if size > maxLogBytes || len(lines) == 0 || lines[len(lines)-1].Micro != 2999 {
		t.Errorf("%d lines of %d bytes are kept", len(lines), size)
	}
}
