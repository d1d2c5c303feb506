package headnode

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"muster/api"
	"muster/headnode/shares"
	"muster/headnode/store/storetest"
	"muster/images"
)

// TestServedUserlands follows the userland of a node that is too small through its life and that of the head.
func TestServedUserlands(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		need := map[string]string{}
		rig := func(desk *fakeDesk) *localRig {
			r := newLocalRig(t, &storetest.Mem{}, desk)
			r.cfg.Userlands = func(nodes []shareNode, _ string) map[string]string {
				got := map[string]string{}
				for _, n := range nodes {
					if sum := need[n.name]; sum != "" {
						got[n.name] = sum
					}
				}
				return got
			}
			return r
		}
		desk := &fakeDesk{}
		r := rig(desk)
		r.node("n1", "10.1.0.11")
		r.node("n2", "10.1.0.12")
		from := func(node, ip string) (string, bool) {
			s, soon := r.userlandFor(shareNode{name: node, ip: ip, headIP: "10.1.0.1"})
			if s == nil {
				return "", soon
			}
			return s.Server + ":" + s.Export + "/" + s.File, soon
		}
		check := func(when, node, ip, want string, wantSoon bool) {
			t.Helper()
			if got, soon := from(node, ip); got != want || soon != wantSoon {
				t.Errorf("%s: %s reads from %q, soon %v; want %q, %v", when, node, got, soon, want, wantSoon)
			}
		}
		r.serveLocal(t.Context(), false)
		if desk.calls != 0 {
			t.Errorf("nobody needs one, and %d times something was served", desk.calls)
		}
		need["n1"] = "aa"
		check("before it is served", "n1", "10.1.0.11", "", true)
		check("which does not need one", "n2", "10.1.0.12", "", false)
		r.serveLocal(t.Context(), false)
		check("served", "n1", "10.1.0.11", "10.1.0.1:/share-65535/aa", false)
		check("from another address", "n1", "10.1.0.13", "", true)
		want := shares.Wanted{Driver: api.ShareGanesha, Exports: []shares.Export{{
			ID: shares.UserlandsID, Dir: "userlands", Mount: "/", ReadOnly: true, Clients: desk.status.Wanted.Exports[0].Clients, Userlands: []string{"aa"},
		}}}
		if diff := cmp.Diff(want, desk.status.Wanted, cmp.Comparer(func(a, b []shares.Client) bool { return len(a) == len(b) })); diff != "" || desk.served(shares.UserlandsID) != "n1=10.1.0.11" {
			t.Errorf("served (-want +got):\n%s", diff)
		}
		if len(r.List()) != 0 || len(r.Paths()) != 0 {
			t.Errorf("it is listed as a share: %+v", r.List())
		}

		// The head starts again, and the node is not heard yet: nothing is taken from it.
		r = rig(desk)
		r.node("n1", "")
		r.serveLocal(t.Context(), false)
		if got := desk.served(shares.UserlandsID); got != "n1=10.1.0.11" {
			t.Errorf("after a start of the head it is served to %q", got)
		}
		delete(need, "n1")
		r.serveLocal(t.Context(), false)
		if got := desk.status.Wanted; len(got.Exports) > 0 {
			t.Errorf("nobody needs it any more, and served is %+v", got)
		}

		// Without an engine nobody waits for one; when there is one it is found.
		desk = &fakeDesk{err: &api.Error{Code: api.CodeUnavailable, Msg: "no server"}}
		r = rig(desk)
		r.node("n1", "10.1.0.11")
		need["n1"] = "aa"
		r.serveLocal(t.Context(), false)
		r.local.known = true
		r.serveLocal(t.Context(), false)
		check("no engine", "n1", "10.1.0.11", "", false)
		desk.err = nil
		time.Sleep(localAgain)
		r.serveLocal(t.Context(), false)
		check("an engine came", "n1", "10.1.0.11", "10.1.0.1:/share-65535/aa", false)
		r.cfg.Desk = nil
		check("a head that serves nothing", "n1", "10.1.0.11", "", false)
	})
}

func TestNeededUserlands(t *testing.T) {
	w := newWorld(t)
	im := newTestImages(t, w)
	a := publishUserland(t, im, "big", "1")
	m, _ := im.forNode("big")
	o := newUserlandOffers(im)
	node := func(change func(*shareNode)) shareNode {
		n := shareNode{name: "n1", memoryMiB: 200, runs: api.Software{ImageID: m.ID, UserlandWanted: a.SHA256}}
		change(&n)
		return n
	}
	for name, c := range map[string]struct {
		n    shareNode
		want bool
	}{
		"a small machine":   {node(func(*shareNode) {}), true},
		"one with room":     {node(func(n *shareNode) { n.memoryMiB = 4096 }), false},
		"one that holds it": {node(func(n *shareNode) { n.runs.UserlandIn = api.UserlandMemory }), false},
		"one that reads it here": {node(func(n *shareNode) {
			n.runs.UserlandIn, n.runs.UserlandFrom = api.UserlandShare, "10.0.0.1:/share-65535"
		}), true},
		"one that reads it there":    {node(func(n *shareNode) { n.runs.UserlandIn, n.runs.UserlandFrom = api.UserlandShare, "10.0.0.9:/x" }), false},
		"another image":              {node(func(n *shareNode) { n.runs.ImageID = "other" }), false},
		"a userland that is not its": {node(func(n *shareNode) { n.runs.UserlandWanted = hashText("other") }), false},
	} {
		if got := o.needed([]shareNode{c.n}, "/share-65535"); (got["n1"] == a.SHA256) != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
	set := "nas1:/x"
	if _, err := im.Set(t.Context(), "root", "big", api.ImageSettings{UserlandShare: &set}); err != nil {
		t.Fatal(err)
	}
	if got := o.needed([]shareNode{node(func(*shareNode) {})}, "/share-65535"); len(got) > 0 {
		t.Errorf("a server is set, and needed is %v", got)
	}
	for in, want := range map[images.UserlandIn]bool{images.UserlandShare: true, images.UserlandMemory: false, "": false} {
		if got := wantsShare(images.Userland{In: in, Size: 1 << 30, MemoryMiB: 2048}, 4096); got != want {
			t.Errorf("userland-in %q: %v", in, got)
		}
	}
}
