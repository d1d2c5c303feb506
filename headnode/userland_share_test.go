package headnode

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"muster/api"
	"muster/images"
)

// publishUserland publishes an image with a userland that nodes can read from a share.
func publishUserland(t *testing.T, im *Images, name, salt string) images.Artifact {
	t.Helper()
	_, content, m := build(name, salt)
	data := strings.Repeat(salt, 3*4096)
	a := images.Artifact{
		Kind: images.KindUserland, Name: "userland.sqfs", Size: int64(len(data)), SHA256: hashText(data), ChunksSHA256: []string{hashText(data)},
		In: images.UserlandAuto, Verity: &images.Verity{Root: strings.Repeat("ab", 32), Blocks: 1},
	}
	content[a.SHA256] = []byte(data)
	m.Artifacts = append(m.Artifacts, a)
	manifest, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	putAll(t, im, content)
	if _, err := im.Publish(t.Context(), "root", manifest, nil); err != nil {
		t.Fatal(err)
	}
	return a
}

func hashText(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

// engine serves userlands, or is about to.
type engine struct{ export string }

func (e engine) userlandFor(n shareNode) (*api.UserlandSource, bool) {
	if e.export == "" {
		return nil, true
	}
	return &api.UserlandSource{Server: n.headIP, Port: 20049, Export: e.export, File: n.runs.UserlandWanted}, false
}

func TestUserlandOffers(t *testing.T) {
	w := newWorld(t)
	im := newTestImages(t, w)
	a := publishUserland(t, im, "big", "1")
	big, _ := im.forNode("big")
	o := newUserlandOffers(im)
	known := map[string]string{"nas1": "10.0.0.9"}
	o.lookUp = func(_ context.Context, host string) (netip.Addr, error) {
		if known[host] == "" {
			return netip.Addr{}, errors.New("not known")
		}
		return netip.ParseAddr(known[host])
	}
	node := shareNode{name: "n1", runs: api.Software{ImageID: big.ID, UserlandWanted: a.SHA256}, headIP: "10.0.0.1"}
	mounts := []api.NodeMount{
		{Path: "/data", Server: "10.0.0.3", Export: "/tank", Port: 7}, {Path: "/data/deep", Server: "10.0.0.4", Export: "/deep"}, {Path: "/da", Server: "10.0.0.5"},
	}
	set := func(share string) {
		t.Helper()
		if _, err := im.Set(t.Context(), "root", "big", api.ImageSettings{UserlandShare: &share}); err != nil {
			t.Fatal(err)
		}
	}
	file := a.SHA256 + ".sqfs"
	for _, c := range []struct {
		name, set string
		engine    userlandExporter
		node      shareNode
		want      *api.UserlandSource
	}{
		{"nothing", "", nil, node, nil},
		{"a server", "nas1:/tank/images/", nil, node, &api.UserlandSource{Server: "10.0.0.9", Export: "/tank/images", File: file}},
		{"an address", "[fd00::9]:/x", nil, node, &api.UserlandSource{Server: "fd00::9", Export: "/x", File: file}},
		{"a name that is not known", "nas2:/x", nil, node, nil},
		{"a folder of a share", "/data/images", nil, node, &api.UserlandSource{Server: "10.0.0.3", Port: 7, Export: "/tank/images", File: file}},
		{"a share in a share", "/data/deep", nil, node, &api.UserlandSource{Server: "10.0.0.4", Export: "/deep", File: file}},
		{"a share that the node does not mount", "/home", nil, node, nil},
		{"an engine", "", engine{"/muster"}, node, &api.UserlandSource{Server: "10.0.0.1", Port: 20049, Export: "/muster", File: a.SHA256}},
		{"an engine that does not serve", "", engine{}, node, nil},
		{"what is set comes first", "10.0.0.9:/x", engine{"/muster"}, node, &api.UserlandSource{Server: "10.0.0.9", Export: "/x", File: file}},
		{"an image without userland", "10.0.0.9:/x", engine{"/muster"}, shareNode{runs: api.Software{ImageID: big.ID}, headIP: "10.0.0.1"}, nil},
		{"an image of another name", "10.0.0.9:/x", nil, shareNode{runs: api.Software{ImageID: "other", UserlandWanted: a.SHA256}}, nil},
	} {
		set(c.set)
		o.exporter = c.engine
		o.look(t.Context())
		got, soon := o.of(c.node, mounts)
		if diff := cmp.Diff(c.want, got); diff != "" || soon != (c.engine == engine{} && c.set == "") {
			t.Errorf("%s: soon %v (-want +got):\n%s", c.name, soon, diff)
		}
	}

	// A name that cannot be looked up for a moment keeps its address, and another one is told.
	set("nas1:/x")
	if o.look(t.Context()) {
		t.Error("an address that is the same is told as new")
	}
	at := func() string {
		from, _ := o.of(node, nil)
		return from.Server
	}
	known = nil
	if o.look(t.Context()) || at() != "10.0.0.9" {
		t.Error("the address was forgotten")
	}
	known = map[string]string{"nas1": "10.0.0.10"}
	if !o.look(t.Context()) || at() != "10.0.0.10" {
		t.Error("the new address is not told")
	}
}

func TestUserlandShareSetting(t *testing.T) {
	w := newWorld(t)
	im := newTestImages(t, w)
	a := publishUserland(t, im, "big", "1")
	share := func(s string) api.ImageSettings { return api.ImageSettings{UserlandShare: &s} }
	v, err := im.Set(t.Context(), "root", "big", share("nas1:/x"))
	want := &api.ImageUserland{
		SHA256: a.SHA256, Bytes: a.Size, In: api.UserlandAuto, MemoryMiB: 256, Share: "nas1:/x", File: a.SHA256 + ".sqfs", Blob: im.dir + "/blobs/" + a.SHA256,
	}
	if diff := cmp.Diff(want, v.Userland); err != nil || diff != "" || v.Kexec != api.KexecMedia {
		t.Errorf("%v, kexec %s (-want +got):\n%s", err, v.Kexec, diff)
	}
	// Another build of that name, and another head, have it too.
	publishUserland(t, im, "big", "2")
	again, err := openImages(im.dir, time.Now, w.nodes, w.nodes.cfg.Log)
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range again.List() {
		if (i.Name == "big") != (i.Userland != nil && i.Userland.Share == "nas1:/x") {
			t.Errorf("image %s has %+v", i.Name, i.Userland)
		}
	}
	if v, err := im.Set(t.Context(), "root", "big", share("")); err != nil || v.Userland.Share != "" {
		t.Errorf("taken back: %+v, %v", v.Userland, err)
	}
	for name, c := range map[string]struct {
		image string
		set   api.ImageSettings
		want  string
	}{
		"nothing":       {"big", api.ImageSettings{}, "nothing is set"},
		"no folder":     {"big", share("nas1"), `"nas1" is no place for a userland`},
		"a way up":      {"big", share("/data/../x"), "is no place for a userland"},
		"control codes": {"big", share("/data\x1b[2J"), "is no place for a userland"},
		"no userland":   {"gpu", share("nas1:/x"), "image gpu has no userland that nodes can read from a share"},
	} {
		if _, err := im.Set(t.Context(), "root", c.image, c.set); api.CodeOf(err) != api.CodeInvalid || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}
