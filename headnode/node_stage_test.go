package headnode

import (
	"context"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"muster/api"
)

const (
	userland1 = "1111111111111111111111111111111111111111111111111111111111111111"
	userland2 = "2222222222222222222222222222222222222222222222222222222222222222"
)

// beat is a heartbeat with a stage and, when sw is not nil, software.
func (w *world) beat(a agent, stage string, sw *api.Software) {
	w.t.Helper()
	hb := api.Heartbeat{BootID: a.boot, Stage: stage, Software: sw, Load: api.Load{MemTotalMiB: 2000, MemFreeMiB: 1500}}
	if _, ok := w.nodes.Heard(a.key, hb); !ok {
		w.t.Fatalf("the heartbeat of %s does not count", a.mac)
	}
}

// software is what a machine with a userland says of itself.
func software(held, wanted string) *api.Software {
	return &api.Software{Protocol: api.Protocol, ImageID: "image", Agent: "test", Userland: held, UserlandWanted: wanted}
}

// enter lets an agent in whose join requests have a stage.
func (w *world) enter(a agent, sw *api.Software, stage string) {
	w.t.Helper()
	req := a.request()
	req.Software, req.Stage = *sw, stage
	w.wire.mu.Lock()
	w.wire.connected[a.key] = true
	w.wire.mu.Unlock()
	for _, rights := range []bool{false, true} {
		if rights && !w.nodes.isApproved(a.key) {
			w.approve(a, "")
		}
		if _, err := w.nodes.Join(context.Background(), a.key, agentSession{ip: "10.0.0.9", node: rights}, req); err != nil {
			w.t.Fatal(err)
		}
	}
	w.nodes.welcome(a.key)
}

// TestStages: a node that prepares is booting, with what it says, and takes no
// task until it says that it can.
func TestStages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.run()
		a := w.agent(mac1)
		w.enter(a, software("", userland1), "userland")
		from := w.events.Revision()
		check := func(state api.NodeState, stage, reason string) {
			t.Helper()
			v, s := w.find("n1"), w.nodes.Snapshot()[0]
			if v.State != state || v.Stage != stage || s.Reason != reason || s.Ready != (reason == "") {
				t.Errorf("n1 is %s (%s), ready %v because %q; want %s (%s), %q", v.State, v.Stage, s.Ready, s.Reason, state, stage, reason)
			}
		}
		check(api.NodeBooting, "userland", "booting (userland)")
		for _, stage := range []string{"userland 1 %", "userland 40 %", "userland 99 %"} {
			time.Sleep(time.Second)
			w.beat(a, stage, nil)
		}
		check(api.NodeBooting, "userland 99 %", "booting (userland)")
		time.Sleep(time.Second)
		w.beat(a, "", nil) // says that it can, and does not hold what its tasks need
		check(api.NodeBooting, "its userland is not there yet", "booting (its userland is not there yet)")
		w.beat(a, "service ntp", software(userland1, userland1))
		check(api.NodeBooting, "service ntp", "booting (service ntp)")
		time.Sleep(time.Second)
		w.beat(a, "", nil)
		check(api.NodeReady, "", "")

		events, err := w.events.Next(context.Background(), from, 100)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, ev := range events {
			if ev.Kind == "node" {
				got = append(got, strings.TrimSpace(string(ev.Node.State)+" "+ev.Node.Stage))
			}
		}
		want := []string{"booting userland 1 %", "booting its userland is not there yet", "booting service ntp", "ready"}
		if d := cmp.Diff(want, slices.Compact(got)); d != "" { // one more says that it was recorded
			t.Errorf("events differ (-want +got):\n%s", d)
		}
		var log []string
		start := w.nodes.cfg.BootLogs.of(mac1)[0].Time
		for _, ev := range w.nodes.cfg.BootLogs.of(mac1) {
			log = append(log, ev.Time.Sub(start).String()+" "+strings.TrimSpace(string(ev.Stage)+" "+ev.Detail))
		}
		want = []string{
			"0s agent", "0s pending", "0s approved as n1 by root", "0s userland userland", "1s userland userland 99 %",
			"4s preparing its userland is not there yet", "4s preparing service ntp", "5s ready as n1",
		}
		if d := cmp.Diff(want, log); d != "" {
			t.Errorf("timeline differs (-want +got):\n%s", d)
		}
	})
}

// TestStageAndSilence: a node that prepares and is not heard is unreachable as any
// other; one whose head starts anew goes on where it was.
func TestStageAndSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.run()
		a := w.agent(mac1)
		w.enter(a, software("", userland1), "userland 3 %")
		w.beat(a, "userland 4 %", nil)
		time.Sleep(5 * time.Second)
		w.wantState("n1", api.NodeBooting)
		time.Sleep(6 * time.Second)
		w.wantState("n1", api.NodeUnreachable)
		w.beat(a, "userland 70 %", nil)
		w.wantState("n1", api.NodeBooting)

		w.restart()
		w.wantState("n1", api.NodeLate)
		w.enter(a, software("", userland1), "userland 80 %")
		w.wantState("n1", api.NodeBooting)
		w.beat(a, "", software(userland1, userland1))
		w.wantState("n1", api.NodeReady)
		if got := w.nodes.cfg.BootLogs.of(mac1); len(got) != 2 || got[1].Stage != api.StageReady {
			t.Errorf("timeline at the head that started anew = %+v, want the userland and ready", got)
		}
	})
}

// TestSoftwareIsRecorded: the record follows what heartbeats say, not more
// often than it may, and no other change of the record takes it back.
func TestSoftwareIsRecorded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.run()
		a := w.agent(mac1)
		w.enter(a, software("", userland1), "userland")
		recorded := func() string {
			t.Helper()
			fresh, err := newNodes(nodesConfig{Store: w.store, Events: newEvents(time.Now), BootLogs: newBootLogs(), Now: time.Now})
			if err != nil {
				t.Fatal(err)
			}
			v, err := fresh.Find("n1")
			if err != nil {
				t.Fatal(err)
			}
			return v.Software.Userland
		}
		w.beat(a, "", software(userland1, userland1))
		w.wantState("n1", api.NodeReady) // before it is recorded
		if _, err := w.nodes.SetAdmin(context.Background(), "root", "n1", api.AdminPaused); err != nil {
			t.Fatal(err)
		}
		if v := w.find("n1"); v.Software.Userland != userland1 {
			t.Errorf("another change of the record made the userland %q", v.Software.Userland)
		}
		time.Sleep(1100 * time.Millisecond)
		if got := recorded(); got != userland1 {
			t.Errorf("recorded userland = %q", got)
		}
		// A node that says something else each second costs a commit in ten.
		saves, last := 0, recorded()
		for i := range 40 {
			u := userland1
			if i%2 == 0 {
				u = userland2
			}
			w.beat(a, "", software(u, u))
			time.Sleep(time.Second)
			if now := recorded(); now != last {
				saves, last = saves+1, now
			}
		}
		if saves > 4 {
			t.Errorf("40 changes in 40 s were recorded %d times", saves)
		}
		// A disk that is full loses nothing: it is tried again.
		w.store.Fail(&api.Error{Code: api.CodeDiskFull, Msg: "full"})
		w.beat(a, "", software("", userland1))
		time.Sleep(15 * time.Second)
		w.store.Fail(nil)
		w.beat(a, "", nil)
		time.Sleep(15 * time.Second)
		if got := recorded(); got != "" {
			t.Errorf("recorded userland after a full disk = %q, want none", got)
		}
	})
}

func TestStageTexts(t *testing.T) {
	for in, want := range map[string]string{
		"": "", "userland 40 %": "userland 40 %", "\x00\x01": "preparing", " \n ": "preparing", "a\x1b[31mred\n": "a[31mred",
		strings.Repeat("x", 5000): strings.Repeat("x", maxText),
	} {
		if got := cleanStage(in); got != want {
			t.Errorf("cleanStage(%q) = %q, want %q", in, got, want)
		}
	}
	for in, want := range map[string]string{
		"userland 40 %": "userland", "userland": "userland", "userland 12.5%": "userland", "50 %": "",
		"512 MiB of memory; its userland needs 800": "512 MiB of memory; its userland needs 800",
	} {
		if got := stageTopic(in); got != want {
			t.Errorf("stageTopic(%q) = %q, want %q", in, got, want)
		}
	}
	sw := api.Software{Userland: "../../etc", UserlandWanted: strings.ToUpper("abcdef" + userland1[6:]), Agent: "a\x07", Protocol: 1}
	cleanSoftware(&sw)
	if d := cmp.Diff(api.Software{Agent: "a", Protocol: 1}, sw); d != "" {
		t.Errorf("cleanSoftware leaves (-want +got):\n%s", d)
	}
}

func TestFilesURL(t *testing.T) {
	for _, c := range []struct {
		host string
		port int
		want string
	}{
		{"10.77.0.1", 7480, "http://10.77.0.1:7480"},
		{"fd00::1", 80, "http://[fd00::1]:80"},
		{"", 7480, ""},
		{"10.77.0.1", 0, ""},
	} {
		if got := filesURL(c.host, c.port); got != c.want {
			t.Errorf("filesURL(%q, %d) = %q, want %q", c.host, c.port, got, c.want)
		}
	}
}
