package headnode

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"muster/api"
	"muster/images"
)

// imageWorld is a head with two images of each of two names, the first of
// which is the default, and a node n1 that runs it.
type imageWorld struct {
	*testing.T
	h   *Head
	ids map[string]string // as published: compute1, compute2, gpu1, gpu2
}

func newImageWorld(t *testing.T) *imageWorld {
	t.Helper()
	h, err := New(t.Context(), Config{State: t.TempDir(), AgentsPort: 7421, NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	// What the head pushes to agents has nowhere to go here.
	h.Nodes.wire = &fakeWire{connected: map[string]bool{}, pushed: map[string][]api.JoinReply{}}
	w := &imageWorld{T: t, h: h, ids: map[string]string{}}
	for _, name := range []string{"compute1", "gpu1"} {
		w.publish(name)
	}
	w.join(mac1, w.ids["compute1"])
	return w
}

// publish publishes the build of a name with a digit at its end.
func (w *imageWorld) publish(build1 string) {
	w.Helper()
	manifest, content, m := build(build1[:len(build1)-1], build1)
	putAll(w.T, w.h.Images, content)
	if _, err := w.h.Images.Publish(context.Background(), "root", manifest, nil); err != nil {
		w.Fatal(err)
	}
	w.ids[build1] = m.ID
}

// join lets a machine in that runs an image.
func (w *imageWorld) join(mac, imageID string) agent {
	w.Helper()
	world := &world{t: w.T, nodes: w.h.Nodes, wire: w.h.Nodes.wire.(*fakeWire)}
	a := world.agent(mac)
	world.enter(a, &api.Software{Protocol: api.Protocol, ImageID: imageID}, "")
	world.beat(a, "", nil)
	return a
}

func (w *imageWorld) assign(image string, nodes ...string) error {
	_, err := w.h.Nodes.AssignImage(context.Background(), "root", api.AssignImageRequest{Nodes: nodes, Image: image})
	return err
}

func (w *imageWorld) mustAssign(image string, nodes ...string) {
	w.Helper()
	if err := w.assign(image, nodes...); err != nil {
		w.Fatalf("AssignImage(%s, %v) = %v", image, nodes, err)
	}
}

// boots is what the machine with a MAC is given, by the name of its build, or
// why it is given nothing.
func (w *imageWorld) boots(mac string) string {
	w.Helper()
	d := w.h.BootDecision(api.BootQuery{MAC: mac, Arch: "amd64", Client: "ipxe"})
	for name, id := range w.ids {
		if d.Answer && d.ImageID == id {
			if !strings.HasSuffix(d.Cmdline, " muster.image="+id) {
				w.Errorf("cmdline of %s is %q", name, d.Cmdline)
			}
			return name
		}
	}
	return d.Reason
}

func (w *imageWorld) wantBoot(mac, want string) {
	w.Helper()
	if got := w.boots(mac); got != want {
		w.Errorf("%s boots %s, want %s", mac, got, want)
	}
}

func (w *imageWorld) image(ref string) api.NodeImage {
	w.Helper()
	v, err := w.h.Nodes.Find(ref)
	if err != nil {
		w.Fatal(err)
	}
	return v.Image
}

func TestAssignImage(t *testing.T) {
	w := newImageWorld(t)
	if d := cmp.Diff(api.NodeImage{Name: "compute"}, w.image("n1")); d != "" {
		t.Errorf("image of a node that runs the default (-want +got):\n%s", d)
	}
	w.wantBoot(mac1, "compute1")

	// By name: what is published under it later.
	w.mustAssign("gpu", "n1")
	w.wantBoot(mac1, "gpu1")
	if d := cmp.Diff(api.NodeImage{Name: "compute", Assigned: "gpu", Next: "gpu", NextID: w.ids["gpu1"]}, w.image("n1")); d != "" {
		t.Errorf("image of a node that boots another next (-want +got):\n%s", d)
	}
	w.publish("gpu2")
	w.wantBoot(mac1, "gpu2")

	// By ID: this one, whatever is published.
	w.mustAssign(w.ids["gpu1"][:10], "n1")
	w.publish("gpu2")
	w.wantBoot(mac1, "gpu1")
	if got := w.image("n1"); got.Assigned != w.ids["gpu1"] {
		t.Errorf("assigned = %s, want the whole ID", got.Assigned)
	}

	// The default of all others is one image, and moves by command alone.
	w.publish("compute2")
	w.mustAssign("", mac1)
	w.wantBoot(mac1, "compute1")
	if _, err := w.h.Images.SetDefault(t.Context(), "root", "compute"); err != nil {
		t.Fatal(err)
	}
	w.wantBoot(mac1, "compute2")
	if got := w.image("n1"); got.Name != "compute" || got.Next != "compute" || got.NextID != w.ids["compute2"] {
		t.Errorf("image of a node whose default is newer = %+v", got)
	}

	// Machines that were made known boot theirs when they come.
	if _, err := w.h.Nodes.Declare(t.Context(), "root", api.DeclareRequest{MAC: mac2}); err != nil {
		t.Fatal(err)
	}
	w.mustAssign("gpu", "n1", mac2, "n1")
	w.wantBoot(mac2, "gpu2")
	w.join(mac2, w.ids["gpu2"])
	if got := w.image("n2"); got != (api.NodeImage{Name: "gpu", Assigned: "gpu"}) {
		t.Errorf("image of a machine that came = %+v", got)
	}

	byID := map[string]api.Image{}
	for _, im := range w.h.Images.List() {
		byID[im.ID] = im
	}
	if c, g := byID[w.ids["compute1"]], byID[w.ids["gpu2"]]; api.FormatHostList(c.Nodes) != "n1" || api.FormatHostList(g.Nodes) != "n2" || api.FormatHostList(g.Assigned) != "n[1-2]" {
		t.Errorf("compute1 is run by %v, gpu2 by %v and assigned to %v", c.Nodes, g.Nodes, g.Assigned)
	}
}

// TestAssignImageOutlives: the record outlives the head, a rename, and a boot
// with another key.
func TestAssignImageOutlives(t *testing.T) {
	w := newWorld(t)
	im := newTestImages(t, w)
	w.policy = rejoinAddress
	a := w.agent(mac1)
	w.join(a)
	w.approve(a, "")
	w.join(a)
	if _, err := w.nodes.AssignImage(t.Context(), "root", api.AssignImageRequest{Nodes: []string{"n1"}, Image: "gpu"}); err != nil {
		t.Fatal(err)
	}
	w.restart()
	w.nodes.images = im
	if _, err := w.nodes.Rename(t.Context(), "root", "n1", "x7"); err != nil {
		t.Fatal(err)
	}
	if v := w.find("x7"); v.Image.Assigned != "gpu" {
		t.Errorf("image after a restart = %+v", v.Image)
	}
	// Approved again as the machine that it was.
	w.policy = rejoinApprove
	b := w.agent(mac1)
	w.join(b)
	w.approve(b, "")
	if v := w.find("x7"); v.Image.Assigned != "gpu" {
		t.Errorf("image after it was approved again = %+v", v.Image)
	}
}

// newTestImages is a store with the images compute and gpu, which nodes know.
func newTestImages(t *testing.T, w *world) *Images {
	t.Helper()
	im, err := openImages(t.TempDir(), w.nodes.cfg.Now, w.nodes, w.nodes.cfg.Log)
	if err != nil {
		t.Fatal(err)
	}
	w.nodes.images = im
	for _, name := range []string{"compute", "gpu"} {
		manifest, content, _ := build(name, "1")
		putAll(t, im, content)
		if _, err := im.Publish(t.Context(), "root", manifest, nil); err != nil {
			t.Fatal(err)
		}
	}
	return im
}

func TestAssignImageRefuses(t *testing.T) {
	w := newImageWorld(t)
	w.publish("gpu2")
	stranger := (&world{t: t, nodes: w.h.Nodes, wire: w.h.Nodes.wire.(*fakeWire)})
	stranger.join(stranger.agent(mac3))
	_, content, m := build("arm", "1")
	m.Arch = "arm64"
	arm, _ := json.Marshal(m)
	putAll(t, w.h.Images, content)
	if _, err := w.h.Images.Publish(t.Context(), "root", arm, nil); err != nil {
		t.Fatal(err)
	}
	for _, salt := range []string{"1", "2"} {
		_, content, m := build("twin"+salt, salt)
		m.ID = "abcdef" + strings.Repeat(salt, 58)
		manifest, _ := json.Marshal(m)
		putAll(t, w.h.Images, content)
		if _, err := w.h.Images.Publish(t.Context(), "root", manifest, nil); err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]struct {
		image string
		nodes []string
		code  api.Code
		want  string
	}{
		"unknown image":     {"gqu", []string{"n1"}, api.CodeNotFound, "no image is called gqu; the nearest name is gpu"},
		"too short an ID":   {w.ids["gpu1"][:3], []string{"n1"}, api.CodeNotFound, "no image is called"},
		"may be two":        {"abcdef", []string{"n1"}, api.CodeInvalid, "the IDs of 2 images begin with abcdef; write more of it"},
		"no node":           {"gpu", nil, api.CodeInvalid, "no node is named"},
		"unknown node":      {"gpu", []string{"n1", "n9"}, api.CodeNotFound, "n9"},
		"a pending machine": {"gpu", []string{"n1", mac3}, api.CodeConflict, "is pending: only nodes and declared machines"},
		"another processor": {"arm", []string{"n1"}, api.CodeInvalid, "image arm is for arm64 and n1 is amd64"},
		"default, no node":  {"", []string{"n9"}, api.CodeNotFound, "n9"},
		"control bytes":     {"\x1b[31m", []string{"n1"}, api.CodeNotFound, "no image is called [31m"},
	} {
		err := w.assign(c.image, c.nodes...)
		if api.CodeOf(err) != c.code || err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: AssignImage = %v (%s), want %s: %s", name, err, api.CodeOf(err), c.code, c.want)
		}
	}
	if got := w.image("n1"); got.Assigned != "" {
		t.Errorf("a request that was refused gave n1 the image %s", got.Assigned)
	}
}

func TestRemoveImageInUse(t *testing.T) {
	w := newImageWorld(t)
	w.publish("gpu2")
	remove := func(name string) error { return w.h.Images.Remove(t.Context(), "root", w.ids[name]) }
	w.mustAssign("gpu", "n1")
	if err := remove("gpu2"); api.CodeOf(err) != api.CodeConflict || !strings.Contains(err.Error(), "is the one of n1; give those nodes another first") {
		t.Errorf("removing an image that n1 follows by name = %v", err)
	}
	if _, err := w.h.Images.SetDefault(t.Context(), "root", "gpu"); err != nil {
		t.Fatal(err)
	}
	w.mustAssign(w.ids["compute1"], "n1")
	if err := remove("compute1"); api.CodeOf(err) != api.CodeConflict || !strings.Contains(err.Error(), "runs on n1 and is the one of n1") {
		t.Errorf("removing an image that n1 runs and shall boot = %v", err)
	}
	// The name goes back to what had it before.
	if _, err := w.h.Images.SetDefault(t.Context(), "root", "compute"); err != nil {
		t.Fatal(err)
	}
	if err := remove("gpu2"); err != nil {
		t.Fatal(err)
	}
	w.mustAssign("gpu", "n1")
	w.wantBoot(mac1, "gpu1")
}

// TestAssignAndRemove: whoever is first wins, and the other is refused; no node
// is left with an image that is gone.
func TestAssignAndRemove(t *testing.T) {
	w := newImageWorld(t)
	for range 20 {
		w.publish("gpu2")
		var wg sync.WaitGroup
		var assigned, removed error
		wg.Go(func() { assigned = w.assign(w.ids["gpu2"], "n1") })
		wg.Go(func() { removed = w.h.Images.Remove(t.Context(), "root", w.ids["gpu2"]) })
		wg.Wait()
		if (assigned == nil) == (removed == nil) {
			t.Fatalf("assigning = %v, removing = %v; want one of them", assigned, removed)
		}
		if got := w.image("n1"); got.Missing {
			t.Fatalf("n1 has an image that is gone: %+v", got)
		}
		w.mustAssign("", "n1")
	}
}

// TestImageIsGone: an image that somebody took out of the folder is not
// replaced by another in silence.
func TestImageIsGone(t *testing.T) {
	w := newImageWorld(t)
	w.mustAssign("gpu", "n1")
	w.h.Images.mu.Lock()
	delete(w.h.Images.all, w.ids["gpu1"])
	w.h.Images.mu.Unlock()
	if got := w.boots(mac1); !strings.Contains(got, "its image gpu is not published any more; publish it, or choose another: muster node image n1 IMAGE") {
		t.Errorf("n1 boots %s", got)
	}
	v, err := w.h.Nodes.Find("n1")
	if err != nil || !v.Image.Missing || !strings.HasPrefix(v.Hint, "its image gpu is not published") {
		t.Errorf("n1 is %+v with hint %q", v.Image, v.Hint)
	}
}

// TestForeignImage: a node that runs what this head does not have says so, and
// the way out.
func TestForeignImage(t *testing.T) {
	w := newImageWorld(t)
	w.h.Nodes.mountsOf = nil // nobody sends configurations here, so none is waited for
	world := &world{t: t, nodes: w.h.Nodes, wire: w.h.Nodes.wire.(*fakeWire)}
	for mac, medium := range map[string]string{mac2: "pxe", mac3: "usb", "52:54:00:00:00:05": "uki"} {
		a := world.agent(mac)
		world.enter(a, &api.Software{Protocol: api.Protocol, ImageID: userland1, Medium: medium}, "")
		world.beat(a, "", nil)
		v, err := w.h.Nodes.Find(mac)
		if err != nil {
			t.Fatal(err)
		}
		want := "it runs image 111111111111, which this head does not have: publish that (muster image publish DIR), or reboot it into one of this head's (muster node reboot " + v.Name + ")"
		switch medium {
		case "usb":
			want = strings.Replace(want, "reboot it", "take its medium out and reboot it", 1)
		case "uki":
			want = strings.Replace(want, "reboot it", "take its stick out, if it has one, and reboot it", 1)
		}
		if v.State != api.NodeReady || !v.Image.Unknown || v.Image.Next != "compute" || v.Hint != want {
			t.Errorf("%s is %s with %+v and hint %q, want %q", medium, v.State, v.Image, v.Hint, want)
		}
	}
	// An agent that runs from no image is nobody else's.
	a := world.agent("52:54:00:00:00:04")
	world.enter(a, &api.Software{Protocol: api.Protocol}, "")
	world.beat(a, "", nil)
	if v, err := w.h.Nodes.Find(a.mac); err != nil || v.Image.Unknown || v.Hint != "" {
		t.Errorf("an agent without image: %+v, %q, %v", v.Image, v.Hint, err)
	}
}

// TestUserlandIsPublished: an image comes whole, its userland with it, and
// keeps that.
func TestUserlandIsPublished(t *testing.T) {
	w := newWorld(t)
	im := newTestImages(t, w)
	_, content, m := build("big", "1")
	data := bytes.Repeat([]byte("userland"), 1000)
	_, more, _ := build("x", string(data)) // for a blob with some hash
	var sum string
	for s, d := range more {
		if bytes.Contains(d, data) {
			sum, data = s, d
			break
		}
	}
	m.Artifacts = append(m.Artifacts, images.Artifact{
		Kind: images.KindUserland, Name: "userland.sqfs", Size: int64(len(data)), SHA256: sum, ChunksSHA256: []string{sum},
	})
	manifest, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	putAll(t, im, content)
	if _, err := im.Publish(t.Context(), "root", manifest, nil); api.CodeOf(err) != api.CodeNotFound || !strings.Contains(err.Error(), "artifact userland.sqfs of image big was not uploaded") {
		t.Errorf("publishing without the userland = %v, want an error that names it", err)
	}
	if err := im.PutBlob(t.Context(), sum, bytes.NewReader(data)); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(im.blobs.path(sum), 10); err != nil {
		t.Fatal(err)
	}
	if _, err := im.Publish(t.Context(), "root", manifest, nil); api.CodeOf(err) != api.CodeInvalid || !strings.Contains(err.Error(), "userland.sqfs of image big: blob") {
		t.Errorf("publishing with half a userland = %v, want an error that names it", err)
	}
	if err := im.PutBlob(t.Context(), sum, bytes.NewReader(data)); err != nil {
		t.Fatal(err)
	}
	if _, err := im.Publish(t.Context(), "root", manifest, nil); err != nil {
		t.Fatal(err)
	}
	if !im.used("")[sum] {
		t.Error("the userland of a published image counts as unused")
	}
}

// TestConfigHasImages: export and import carry which image is a machine's own.
func TestConfigHasImages(t *testing.T) {
	w := newImageWorld(t)
	w.mustAssign("gpu", "n1")
	doc, err := w.h.Settings.Export()
	if err != nil || !strings.Contains(string(doc), "image: gpu") {
		t.Fatalf("Export = %s, %v", doc, err)
	}
	other := newImageWorld(t)
	if _, err := other.h.Nodes.Remove(t.Context(), "root", "n1"); err != nil {
		t.Fatal(err)
	}
	bad := strings.Replace(string(doc), "image: gpu", "image: nosuch", 1)
	err = other.h.Settings.Import(t.Context(), "root", []byte(bad))
	if api.CodeOf(err) != api.CodeInvalid || !strings.Contains(err.Error(), "machine 1 of the configuration: no image is called nosuch; publish that image first") {
		t.Errorf("importing an unknown image = %v", err)
	}
	if got := len(other.h.Nodes.List()); got != 0 {
		t.Errorf("an import that was refused left %d machines", got)
	}
	if err := other.h.Settings.Import(t.Context(), "root", doc); err != nil {
		t.Fatal(err)
	}
	if v, err := other.h.Nodes.Find("n1"); err != nil || v.State != api.NodeDeclared || v.Image.Assigned != "gpu" {
		t.Errorf("the imported machine is %+v, %v", v, err)
	}
	other.wantBoot(mac1, "gpu1")
}
