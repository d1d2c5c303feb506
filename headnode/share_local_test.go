package headnode

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"muster/api"
	"muster/headnode/shares"
	"muster/headnode/store/storetest"
)

// fakeDesk serves nothing and remembers what it was asked to.
type fakeDesk struct {
	status shares.Status
	err    error
	calls  int
	fail   map[uint16]string
}

func (d *fakeDesk) Look(_ context.Context, dir string, inUse api.ShareDriver) (shares.Folder, error) {
	if strings.HasPrefix(dir, "/link") {
		dir = "/srv" + strings.TrimPrefix(dir, "/link")
	}
	if inUse == "" {
		inUse = api.ShareGanesha
	}
	return shares.Folder{Dir: dir, Mount: "/", Type: "ext4", Below: []string{dir + "/disk"}, Driver: inUse}, d.err
}

func (d *fakeDesk) Serve(_ context.Context, w shares.Wanted) (shares.Status, error) {
	d.calls++
	if d.err != nil {
		return shares.Status{}, d.err
	}
	d.status = shares.Status{Wanted: w, Failed: d.fail}
	return d.status, nil
}

func (d *fakeDesk) Status(context.Context) (shares.Status, error) { return d.status, d.err }

// served are the addresses that a share is served to.
func (d *fakeDesk) served(id uint16) string {
	var list []string
	for _, e := range d.status.Wanted.Exports {
		if e.ID == id {
			for _, c := range e.Clients {
				list = append(list, c.Node+"="+c.Addr.String())
			}
		}
	}
	return strings.Join(list, " ")
}

// localRig is the share side of a head with nodes that a test moves.
type localRig struct {
	*Shares
	desk  *fakeDesk
	nodes *Nodes
	store *storetest.Mem
	users []uint64
}

func newLocalRig(t *testing.T, mem *storetest.Mem, desk *fakeDesk) *localRig {
	t.Helper()
	r := &localRig{desk: desk, store: mem, nodes: &Nodes{machines: map[string]*machine{}, configs: make(chan struct{}, 1)}}
	var err error
	r.Shares, err = newShares(sharesConfig{Store: mem, Nodes: r.nodes, Desk: desk, Now: time.Now, Users: func(string) []uint64 { return r.users }})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// node says where a node is; without an address it is not heard.
func (r *localRig) node(name, ip string) *machine {
	m := r.nodes.machines[name]
	if m == nil {
		m = &machine{id: name, machineRecord: machineRecord{State: api.NodeReady, Name: name}}
		r.nodes.machines[name] = m
	}
	m.ip, m.headIP, m.joined, m.link = ip, "10.1.0.1", ip != "", api.LinkUp
	if ip == "" {
		m.link = api.LinkUnreachable
	}
	return m
}

func (r *localRig) mounts(m *machine) string {
	var list []string
	mounts, _ := r.mountsOf(shareNode{name: m.Name, ip: m.ip, up: m.joined, mounts: m.mounts, headIP: m.headIP})
	for _, n := range mounts {
		list = append(list, fmt.Sprintf("%s:%s at %s", n.Server, n.Export, n.Path))
	}
	return strings.Join(list, ", ")
}

// TestLocalShares follows folders of the head through the life of nodes and heads.
func TestLocalShares(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newLocalRig(t, &storetest.Mem{}, &fakeDesk{})
		n1 := r.node("n1", "10.1.0.11")
		r.node("n2", "10.1.0.12")
		add := func(req api.ShareRequest) api.Share {
			t.Helper()
			s, err := r.Add(t.Context(), "root", req)
			if err != nil {
				t.Fatal(err)
			}
			return s
		}
		served := func(when string, id uint16, want string) {
			t.Helper()
			r.serveLocal(t.Context(), false)
			if got := r.desk.served(id); got != want {
				t.Errorf("%s: share %d is served to %q, want %q", when, id, got, want)
			}
		}
		s := add(api.ShareRequest{Source: "/link/data/", To: []string{"n1"}, NoRootSquash: true})
		if s.Path != "/srv/data" || s.Source != "/srv/data" || s.State != "served" || s.Driver != api.ShareGanesha || s.ID != 1 || len(s.Allow) > 0 || len(s.Mounts) != 1 {
			t.Errorf("added: %+v", s)
		}
		if text := strings.Join(s.Limits, "\n"); !strings.Contains(text, "input/output error") || !strings.Contains(text, "power cut") || !strings.Contains(text, "dirsync") || !strings.Contains(text, "share them too: /srv/data/disk") {
			t.Errorf("limits: %s", text)
		}
		served("at first", 1, "n1=10.1.0.11")
		if got := r.mounts(n1); got != "10.1.0.1:/share-1 at /srv/data" {
			t.Errorf("n1 mounts %q", got)
		}
		all := add(api.ShareRequest{Source: "/srv/data/sub", At: "/sub", ReadOnly: true})
		served("a share in a share", all.ID, "n1=10.1.0.11 n2=10.1.0.12")
		for source, want := range map[string]string{"/srv/data": "is shared already, at /srv/data", "/link/data": "is shared already, at /srv/data", "/srv/x": "there is a share at /sub already"} {
			if _, err := r.Add(t.Context(), "root", api.ShareRequest{Source: source, At: "/sub"}); err == nil || !strings.Contains(err.Error(), want) || api.CodeOf(err) != api.CodeConflict {
				t.Errorf("%s: %v, want %q", source, err, want)
			}
		}
		if _, err := r.Add(t.Context(), "root", api.ShareRequest{Source: "/usr/local"}); err == nil || !strings.Contains(err.Error(), "tasks have /usr") {
			t.Errorf("/usr/local: %v", err)
		}

		// A node that is approved has it served before it is told to mount it.
		n3 := r.node("n3", "10.1.0.13")
		if got := r.mounts(n3); got != "" {
			t.Errorf("n3 is to mount %q before it may", got)
		}
		served("n3 was approved", all.ID, "n1=10.1.0.11 n2=10.1.0.12 n3=10.1.0.13")
		if got := r.mounts(n3); got != "10.1.0.1:/share-2 at /sub" {
			t.Errorf("n3 mounts %q", got)
		}
		// One that is not heard keeps its address until another machine has it; one that moved has the new one only.
		r.node("n2", "")
		served("n2 is away", all.ID, "n1=10.1.0.11 n2=10.1.0.12 n3=10.1.0.13")
		r.node("n3", "10.1.0.99")
		served("n3 moved", all.ID, "n1=10.1.0.11 n2=10.1.0.12 n3=10.1.0.99")
		r.nodes.machines["stranger"] = &machine{id: "stranger", ip: "10.1.0.12", machineRecord: machineRecord{State: api.NodePending}}
		served("a stranger has the address of n2", all.ID, "n1=10.1.0.11 n3=10.1.0.99")
		r.node("n2", "10.1.0.12")
		served("n2 is back", all.ID, "n1=10.1.0.11 n2=10.1.0.12 n3=10.1.0.99")
		delete(r.nodes.machines, "n3")
		served("n3 was removed", all.ID, "n1=10.1.0.11 n2=10.1.0.12")

		// Nothing is asked for again until it is time.
		calls := r.desk.calls
		served("nothing changed", 1, "n1=10.1.0.11")
		if r.desk.calls != calls {
			t.Error("it was served again without a change")
		}
		time.Sleep(localAgain)
		r.desk.fail = map[uint16]string{1: "its disk is gone"}
		served("later", 1, "n1=10.1.0.11")
		if s, err := r.Show("/srv/data"); err != nil || s.State != "failed" || s.Reason != "its disk is gone" {
			t.Errorf("a folder fails: %+v, %v", s, err)
		}
		if s, err := r.Show("/sub"); err != nil || s.State != "served" {
			t.Errorf("the other: %+v, %v", s, err)
		}
		r.desk.fail = nil

		// A head that starts again knows where nodes were, and takes nothing from them that it has not heard.
		r2 := newLocalRig(t, r.store, r.desk)
		n1 = r2.node("n1", "")
		r2.node("n2", "10.1.0.12")
		if got := r2.mounts(n1); got != "10.1.0.1:/share-1 at /srv/data, 10.1.0.1:/share-2 at /sub" {
			t.Errorf("before the keeper was asked, n1 mounts %q", got)
		}
		r = r2
		served("the head started again", 1, "n1=10.1.0.11")
		if s, err := r.Show("/srv/data"); err != nil || s.State != "served" || !s.NoRootSquash {
			t.Errorf("the head started again: %+v, %v", s, err)
		}

		// A share that was removed is served until its nodes have unmounted it, for a while at most.
		n1 = r.node("n1", "10.1.0.11")
		n1.mounts = []api.MountStatus{{ID: 1, State: "mounted"}, {ID: 2, State: "mounted"}}
		r.users = []uint64{4}
		if err := r.Remove(t.Context(), "root", "/srv/data"); api.CodeOf(err) != api.CodeConflict {
			t.Errorf("removing what a job uses: %v", err)
		}
		r.users = nil
		for _, at := range []string{"/srv/data", "/sub"} {
			if err := r.Remove(t.Context(), "root", at); err != nil {
				t.Fatal(err)
			}
		}
		served("share 1 was removed and is mounted", 1, "n1=10.1.0.11")
		n1.mounts = n1.mounts[1:]
		served("share 1 was unmounted", 1, "")
		served("share 2 was not", 2, "n1=10.1.0.11")
		time.Sleep(leaveFor + time.Second)
		served("share 2 was not, too long", 2, "")
		if got := r.desk.status.Wanted; len(got.Exports) > 0 || got.Driver != "" {
			t.Errorf("all are removed, and served is %+v", got)
		}
		// Its number is not used again: nodes may still have handles made of it.
		if s := add(api.ShareRequest{Source: "/srv/data"}); s.ID != 3 {
			t.Errorf("the next share has number %d", s.ID)
		}
	})
}

func TestLocalShareWithoutEngine(t *testing.T) {
	r := newLocalRig(t, &storetest.Mem{}, &fakeDesk{err: &api.Error{Code: api.CodeUnavailable, Msg: "no server", Hint: "apt install nfs-kernel-server"}})
	if _, err := r.Add(t.Context(), "root", api.ShareRequest{Source: "/srv/data"}); api.CodeOf(err) != api.CodeUnavailable || !strings.Contains(err.Error(), "apt install") {
		t.Errorf("no engine: %v", err)
	}
	r.cfg.Desk = nil
	if _, err := r.Add(t.Context(), "root", api.ShareRequest{Source: "/srv/data"}); api.CodeOf(err) != api.CodeUnavailable {
		t.Errorf("no keeper: %v", err)
	}
	r.serveLocal(t.Context(), true) // does nothing
	if got := r.List(); len(got) != 0 {
		t.Errorf("shares: %+v", got)
	}
}

func TestLocated(t *testing.T) {
	l := newLocalShares()
	at := func(list []shareNode, strangers ...string) map[string]string {
		foreign := map[string]bool{}
		for _, s := range strangers {
			foreign[s] = true
		}
		got := map[string]string{}
		for _, n := range l.located(list, foreign) {
			got[n.name] = n.ip
		}
		return got
	}
	// An address by which a machine boots is not yet that of its node.
	if diff := cmp.Diff(map[string]string{"n1": "", "n2": "10.1.0.2"}, at([]shareNode{{name: "n1", ip: "10.1.0.1"}, {name: "n2", ip: "::ffff:10.1.0.2", up: true}})); diff != "" {
		t.Error(diff)
	}
	// Two nodes of one address: the one that is heard has it.
	if diff := cmp.Diff(map[string]string{"n1": "10.1.0.2", "n2": ""}, at([]shareNode{{name: "n1", ip: "10.1.0.2", up: true}, {name: "n2"}})); diff != "" {
		t.Error(diff)
	}
	if want := netip.MustParseAddr("10.1.0.2"); len(l.addrs) != 1 || l.addrs["n1"] != want {
		t.Errorf("addresses: %v", l.addrs)
	}
	if diff := cmp.Diff(map[string]string{"n1": ""}, at([]shareNode{{name: "n1"}}, "10.1.0.2")); diff != "" {
		t.Error(diff)
	}
}
