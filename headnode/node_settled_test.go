package headnode

import (
	"context"
	"encoding/json"
	"testing"
	"testing/synctest"
	"time"

	"muster/api"
)

// TestReadyWithItsShares: a node that was let in is not ready before it has said that it has the configuration
// with the shares that it is to have, however early it says that it can take tasks. What fails on it does not keep it.
func TestReadyWithItsShares(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		var got []api.NodeConfig
		mount, whole := []api.NodeMount{{ID: 1, Path: "/home", Server: "10.0.0.1", Export: "/home"}}, true
		w.nodes.mountsOf = func(shareNode) ([]api.NodeMount, bool) { return mount, whole }
		w.wire.reply = func(_, verb string, body []byte) ([]byte, error) {
			var c api.NodeConfig
			if err := json.Unmarshal(body, &c); verb == api.VerbConfig && err == nil {
				got = append(got, c)
			}
			return []byte("{}"), nil
		}
		w.run()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go w.nodes.runConfigs(ctx)
		last := func() api.NodeConfig {
			t.Helper()
			synctest.Wait()
			if len(got) == 0 {
				t.Fatal("the node was sent no configuration")
			}
			return got[len(got)-1]
		}
		beat := func(a agent, version uint64, stage string, mounts ...api.MountStatus) {
			t.Helper()
			hb := api.Heartbeat{BootID: a.boot, Stage: stage, ConfigVersion: version, Mounts: mounts}
			if _, ok := w.nodes.Heard(a.key, hb); !ok {
				t.Fatal("the heartbeat does not count")
			}
		}
		from := w.events.Revision()
		a := w.agent(mac1)
		whole = false // the server was not told of the node yet
		w.join(a)
		w.approve(a, "")
		w.join(a)
		w.wantState("n1", api.NodeBooting)
		if v := w.find("n1"); v.Stage != "waiting for its configuration" {
			t.Errorf("stage %q", v.Stage)
		}
		beat(a, 0, "") // it knows of nothing that it has to do
		w.wantState("n1", api.NodeBooting)
		beat(a, last().Version, "")
		w.wantState("n1", api.NodeBooting)
		if s := w.nodes.Snapshot()[0]; s.Ready {
			t.Error("the node takes tasks without its configuration")
		}
		whole = true
		w.nodes.configure()
		version := last().Version
		// What changes on the way, as when another node joins, does not make what it has less.
		mount = append(mount, api.NodeMount{ID: 3, Path: "/opt", Server: "10.0.0.1", Export: "/opt"})
		w.nodes.configure()
		synctest.Wait()
		beat(a, version, "share /home")
		w.wantState("n1", api.NodeBooting)
		beat(a, version, "", api.MountStatus{ID: 1, Path: "/home", State: "failed", Reason: "10.0.0.1 runs no NFS server"})
		w.wantState("n1", api.NodeReady)
		// Another share does not take a node out of service.
		mount = append(mount, api.NodeMount{ID: 2, Path: "/data", Server: "10.0.0.1", Export: "/data"})
		w.nodes.configure()
		synctest.Wait()
		beat(a, version, "")
		w.wantState("n1", api.NodeReady)
		events, err := w.events.Next(t.Context(), from, 100)
		if err != nil {
			t.Fatal(err)
		}
		ready := 0
		for _, ev := range events {
			if ev.Kind == "node" && ev.Node.State == api.NodeReady {
				ready++
			}
		}
		if ready != 1 {
			t.Errorf("the node became ready %d times, want once", ready)
		}

		// A boot anew begins without; the head's memory of the boot before does not count.
		b := a
		b.boot = "another"
		w.join(b)
		w.wantState("n1", api.NodeBooting)
		beat(b, 0, "")
		w.wantState("n1", api.NodeBooting)
		beat(b, last().Version, "")
		w.wantState("n1", api.NodeReady)

		// An agent that never answers is waited for a while.
		c := b
		c.boot = "mute"
		synctest.Wait()
		w.wire.reply = func(string, string, []byte) ([]byte, error) { return nil, context.DeadlineExceeded }
		w.join(c)
		for range int(settleFor/time.Second) - 1 {
			time.Sleep(time.Second)
			beat(c, 0, "")
			w.wantState("n1", api.NodeBooting)
		}
		for range 3 {
			time.Sleep(time.Second)
			beat(c, 0, "")
		}
		w.wantState("n1", api.NodeReady)
	})
}
