package headnode

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"muster/api"
	"muster/headnode/store/storetest"
	"muster/images"
)

func TestIdentity(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "identity")
	a, err := OpenIdentity(dir)
	if err != nil {
		t.Fatal(err)
	}
	b, err := OpenIdentity(dir)
	if err != nil {
		t.Fatal(err)
	}
	if a.Pin != b.Pin || len(a.Pin) != 64 || len(a.Fingerprint) != 19 {
		t.Errorf("pins are %s and %s, fingerprint %s", a.Pin, b.Pin, a.Fingerprint)
	}
	if a.Pin != api.Pin(a.Cert.Leaf.RawSubjectPublicKeyInfo) {
		t.Error("the pin is not that of the certificate's key")
	}
	for path, want := range map[string]os.FileMode{dir: 0o700, filepath.Join(dir, headKeyFile): 0o600} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != want {
			t.Errorf("mode of %s = %v, %v, want %v", path, info.Mode(), err, want)
		}
	}
	os.WriteFile(filepath.Join(dir, headKeyFile), []byte("junk"), 0o600)
	if _, err := OpenIdentity(dir); err == nil || !strings.Contains(err.Error(), "put it back from a backup") {
		t.Errorf("a broken key = %v, want an error with the way out", err)
	}
	if b, _ := os.ReadFile(filepath.Join(dir, headKeyFile)); string(b) != "junk" {
		t.Error("a key that cannot be read was replaced")
	}
}

func TestEventHub(t *testing.T) {
	e := newEvents(time.Now)
	ctx := context.Background()
	start := e.Revision()
	for range 3 {
		e.Publish(api.Event{Kind: "node"})
	}
	got, err := e.Next(ctx, start, 2)
	if err != nil || len(got) != 2 || got[0].Revision != start+1 || got[1].Revision != start+2 {
		t.Errorf("Next = %v, %v, want the first two", got, err)
	}
	woken := make(chan []api.Event, 1)
	go func() {
		evs, _ := e.Next(ctx, start+3, 10)
		woken <- evs
	}()
	e.Publish(api.Event{Kind: "job"})
	if evs := <-woken; len(evs) != 1 || evs[0].Kind != "job" {
		t.Errorf("a watcher was woken with %v", evs)
	}
	for range keepEvents + 5 {
		e.Publish(api.Event{})
	}
	for name, after := range map[string]uint64{"old": start, "from the future": e.Revision() + 1, "zero": 0} {
		if _, err := e.Next(ctx, after, 10); api.CodeOf(err) != api.CodeConflict {
			t.Errorf("Next after a revision that is %s = %v, want a conflict", name, err)
		}
	}
	if evs, err := e.Next(ctx, e.Revision()-keepEvents, keepEvents*2); err != nil || len(evs) != keepEvents {
		t.Errorf("%d events, %v, want all that are kept", len(evs), err)
	}
	done, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := e.Next(done, e.Revision(), 1); err != context.Canceled {
		t.Errorf("Next with a context that is done = %v", err)
	}
}

// build is a folder of artifacts in memory.
func build(name, salt string) (manifest []byte, content map[string][]byte, m images.Manifest) {
	content = map[string][]byte{}
	artifact := func(kind images.ArtifactKind, file, data string) images.Artifact {
		sum := sha256.Sum256([]byte(data))
		content[hex.EncodeToString(sum[:])] = []byte(data)
		return images.Artifact{Kind: kind, Name: file, Size: int64(len(data)), SHA256: hex.EncodeToString(sum[:])}
	}
	loader := artifact(images.KindLoader, "loaders/undionly.kpxe", "loader")
	loader.Client, loader.Arch = "bios", "amd64"
	id := sha256.Sum256([]byte(name + salt))
	m = images.Manifest{
		Schema: 1, ID: hex.EncodeToString(id[:]), Name: name, Arch: "amd64", Kernel: "6.12", Cmdline: "quiet",
		Artifacts: []images.Artifact{
			artifact(images.KindKernel, "vmlinuz", "kernel "+name+salt), artifact(images.KindInitramfs, "initramfs.zst", "initramfs "+salt), loader,
		},
	}
	manifest, _ = json.Marshal(m)
	return manifest, content, m
}

// fakeUsers are the users of images by ID.
type fakeUsers struct{ runs, own map[string][]string }

func (u fakeUsers) running(id string) []string  { return u.runs[id] }
func (u fakeUsers) assigned(id string) []string { return u.own[id] }

func putAll(t *testing.T, im *Images, content map[string][]byte) {
	t.Helper()
	for sum, data := range content {
		if err := im.PutBlob(context.Background(), sum, bytes.NewReader(data)); err != nil {
			t.Fatal(err)
		}
	}
}

func TestUploadsOfNoImageAreRemoved(t *testing.T) {
	dir, now := t.TempDir(), time.Now()
	open := func() *Images {
		im, err := openImages(dir, func() time.Time { return now }, fakeUsers{}, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		return im
	}
	im := open()
	first, content, m := build("compute", "1")
	putAll(t, im, content)
	if _, err := im.Publish(t.Context(), "root", first, nil); err != nil {
		t.Fatal(err)
	}
	_, content, other := build("compute", "2")
	putAll(t, im, content)
	there := func() (published, unpublished bool) {
		im = open()
		_, published = im.HasBlob(m.Artifacts[0].SHA256)
		_, unpublished = im.HasBlob(other.Artifacts[0].SHA256)
		return published, unpublished
	}
	if a, b := there(); !a || !b {
		t.Errorf("after a start at once there are %v, %v, want both", a, b)
	}
	now = now.Add(uploadGrace + time.Hour)
	if a, b := there(); !a || b {
		t.Errorf("after a start a day later there are %v, %v, want the published one", a, b)
	}
}

func TestImages(t *testing.T) {
	ctx := context.Background()
	dir := t.TempDir()
	running := map[string][]string{}
	own := map[string][]string{}
	open := func() *Images {
		im, err := openImages(dir, time.Now, fakeUsers{running, own}, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		return im
	}
	im := open()
	first, content, m1 := build("compute", "1")
	if _, err := im.Publish(ctx, "root", first, nil); api.CodeOf(err) != api.CodeNotFound {
		t.Errorf("publishing without artifacts = %v, want not found", err)
	}
	kernel := m1.Artifacts[0].SHA256
	if err := im.PutBlob(ctx, kernel, strings.NewReader("something else")); api.CodeOf(err) != api.CodeInvalid {
		t.Errorf("content with another hash = %v, want invalid", err)
	}
	for _, bad := range []string{"", "../../etc/passwd", strings.ToUpper(kernel), kernel[:63]} {
		if err := im.PutBlob(ctx, bad, strings.NewReader("x")); err == nil {
			t.Errorf("blob %q was stored", bad)
		}
		if _, err := im.OpenBlob(bad); err == nil {
			t.Errorf("blob %q was opened", bad)
		}
	}
	putAll(t, im, content)
	if n, ok := im.HasBlob(kernel); !ok || n != m1.Artifacts[0].Size {
		t.Errorf("HasBlob = %d, %v", n, ok)
	}
	v, err := im.Publish(ctx, "root", first, nil)
	if err != nil || !v.Default || v.Name != "compute" {
		t.Fatalf("Publish = %+v, %v, want the default", v, err)
	}
	second, content2, m2 := build("compute", "2")
	putAll(t, im, content2)
	if v, err := im.Publish(ctx, "root", second, nil); err != nil || v.Default {
		t.Errorf("publishing a second = %+v, %v, want it not to be the default", v, err)
	}
	if v, err := im.SetDefault(ctx, "root", m2.ID[:8]); err != nil || !v.Default {
		t.Errorf("SetDefault = %+v, %v", v, err)
	}
	if text, err := im.Manifest("compute"); err != nil || string(text) != string(second) {
		t.Errorf("Manifest() = %s, %v; want what was published", text, err)
	}
	if _, err := im.Manifest("nosuch"); api.CodeOf(err) != api.CodeNotFound {
		t.Errorf("the manifest of an unknown image = %v, want not found", err)
	}
	// A head that starts anew knows the same; what was cut off is gone.
	os.WriteFile(filepath.Join(dir, "blobs", ".upload.123"), []byte("half"), 0o600)
	im = open()
	if left, _ := filepath.Glob(filepath.Join(dir, "blobs", ".upload*")); len(left) > 0 {
		t.Errorf("%v is left of an upload", left)
	}
	if d, ok := im.Default(); !ok || d.ID != m2.ID {
		t.Errorf("default after opening again = %s, want %s", d.ID, m2.ID)
	}
	if got := len(im.List()); got != 2 {
		t.Errorf("%d images, want 2", got)
	}
	running[m1.ID] = []string{"n1", "n2"}
	if err := im.Remove(ctx, "root", m1.ID); err == nil || !strings.Contains(err.Error(), "runs on n[1-2]") {
		t.Errorf("removing an image that runs = %v", err)
	}
	if err := im.Remove(ctx, "root", "compute"); api.CodeOf(err) != api.CodeConflict {
		t.Errorf("removing the default = %v, want a conflict", err)
	}
	delete(running, m1.ID)
	own[m1.ID] = []string{"n3"}
	if err := im.Remove(ctx, "root", m1.ID); err == nil || !strings.Contains(err.Error(), "is the one of n3") {
		t.Errorf("removing an image that a node shall boot = %v", err)
	}
	if l := im.List(); len(l) != 2 || len(l[0].Assigned)+len(l[1].Assigned) != 1 {
		t.Errorf("List() = %+v, want the node whose own image one of them is", l)
	}
	delete(own, m1.ID)
	if err := im.Remove(ctx, "root", m1.ID); err != nil {
		t.Errorf("Remove = %v", err)
	}
	if _, ok := im.HasBlob(kernel); ok {
		t.Error("the kernel of a removed image is still there")
	}
	if _, ok := im.HasBlob(m1.Artifacts[2].SHA256); !ok {
		t.Error("the loader that another image has is gone")
	}
	if _, err := im.SetDefault(ctx, "root", "compite"); err == nil || !strings.Contains(err.Error(), "nearest name is compute") {
		t.Errorf("an unknown image = %v, want the nearest name", err)
	}
	// A disk that changes content is noticed when it is published.
	third, content3, m3 := build("other", "3")
	putAll(t, im, content3)
	path := filepath.Join(dir, "blobs", m3.Artifacts[0].SHA256)
	data, _ := os.ReadFile(path)
	data[0] ^= 1
	os.WriteFile(path, data, 0o644)
	if _, err := im.Publish(ctx, "root", third, nil); api.CodeOf(err) != api.CodeInvalid || !strings.Contains(err.Error(), "vmlinuz") {
		t.Errorf("publishing content that changed = %v, want an error that names the artifact", err)
	}
}

func TestBadManifests(t *testing.T) {
	good, _, _ := build("compute", "1")
	for name, edit := range map[string]func(*images.Manifest){
		"newer":            func(m *images.Manifest) { m.Schema = 99 },
		"no schema":        func(m *images.Manifest) { m.Schema = 0 },
		"no id":            func(m *images.Manifest) { m.ID = "../x" },
		"no name":          func(m *images.Manifest) { m.Name = "" },
		"a path as name":   func(m *images.Manifest) { m.Name = "a/b" },
		"a line break":     func(m *images.Manifest) { m.Cmdline = "a\nkernel http://evil" },
		"long":             func(m *images.Manifest) { m.Cmdline = strings.Repeat("x", 4000) },
		"no kernel":        func(m *images.Manifest) { m.Artifacts = m.Artifacts[1:] },
		"two kernels":      func(m *images.Manifest) { m.Artifacts = append(m.Artifacts, m.Artifacts[0]) },
		"a hash":           func(m *images.Manifest) { m.Artifacts[0].SHA256 = "x" },
		"a file elsewhere": func(m *images.Manifest) { m.Artifacts[0].Name = "../../etc/passwd" },
	} {
		var m images.Manifest
		if err := json.Unmarshal(good, &m); err != nil {
			t.Fatal(err)
		}
		edit(&m)
		b, _ := json.Marshal(m)
		if _, err := parseManifest(b); err == nil {
			t.Errorf("%s: the manifest was taken", name)
		}
	}
	if _, err := parseManifest(good); err != nil {
		t.Errorf("a good manifest = %v", err)
	}
}

func TestEnrollment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &storetest.Mem{}
		var owned []string
		open := func() *Enroll {
			e, err := newEnroll(s, time.Now, func() []string { return owned })
			if err != nil {
				t.Fatal(err)
			}
			return e
		}
		e := open()
		if e.Get().Open || e.openFor(false) || !e.openFor(true) {
			t.Error("the default is not closed beside another server and open on an own LAN")
		}
		owned = []string{"eth1"}
		if got := e.Get(); !got.Open || !strings.Contains(got.Policy, "eth1") {
			t.Errorf("Get() = %+v, want open on eth1", got)
		}
		owned = nil
		got, err := e.Set(context.Background(), "root", api.EnrollmentRequest{Open: true, ForSecs: 1800})
		if err != nil || !got.Open || !got.Until.Equal(time.Now().Add(30*time.Minute)) || got.Policy != "opened by root" {
			t.Errorf("Set = %+v, %v", got, err)
		}
		e = open() // it outlives the head
		time.Sleep(29 * time.Minute)
		if !e.openFor(false) {
			t.Error("closed before its time")
		}
		time.Sleep(time.Minute)
		if e.openFor(false) || e.Get().Open {
			t.Error("open after its time")
		}
		if _, err := e.Set(context.Background(), "root", api.EnrollmentRequest{Open: false}); err != nil || e.openFor(true) {
			t.Errorf("closed by a person = %v, %v", e.openFor(true), err)
		}
		if _, err := e.Set(context.Background(), "root", api.EnrollmentRequest{Open: true, ForSecs: -1}); api.CodeOf(err) != api.CodeInvalid {
			t.Errorf("opening for a negative time = %v", err)
		}
	})
}

func TestSettings(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	open := func() *Settings {
		c, err := newSettings(w.store, func(string, ...any) {})
		if err != nil {
			t.Fatal(err)
		}
		c.nodes = w.nodes
		return c
	}
	c := open()
	if s, err := c.Set(ctx, "root", "rejoin", "approve"); err != nil || s.Value != "approve" || s.Default != "auto" {
		t.Errorf("Set = %+v, %v", s, err)
	}
	c = open()
	if c.value("rejoin") != "approve" {
		t.Errorf("rejoin = %s, want approve", c.value("rejoin"))
	}
	if _, err := c.Set(ctx, "root", "rejoin", "maybe"); api.CodeOf(err) != api.CodeInvalid || !strings.Contains(err.Error(), "auto, address, approve") {
		t.Errorf("a wrong value = %v, want the choices", err)
	}
	if _, err := c.Set(ctx, "root", "rejon", "auto"); api.CodeOf(err) != api.CodeNotFound || !strings.Contains(err.Error(), "rejoin") {
		t.Errorf("a wrong key = %v, want the nearest", err)
	}
	for _, key := range []string{settingRootJobs, settingContainers} {
		if c.allows(key) {
			t.Errorf("%s is on from the start", key)
		}
		if _, err := c.Set(ctx, "root", key, "on"); err != nil || !c.allows(key) {
			t.Errorf("%s is not on after it was set: %v", key, err)
		}
		if _, err := c.Set(ctx, "root", key, ""); err != nil || c.allows(key) {
			t.Errorf("%s is on after it was set back: %v", key, err)
		}
	}
	if _, err := c.Set(ctx, "root", "root_jobs", "on"); api.CodeOf(err) != api.CodeNotFound || !strings.Contains(err.Error(), "root-jobs") {
		t.Errorf("a wrong key = %v, want the nearest", err)
	}
	a := w.agent(mac1)
	w.join(a)
	w.approve(a, "")
	if _, err := w.nodes.Declare(ctx, "root", api.DeclareRequest{MAC: mac2, Name: "n7", IP: "10.0.0.7"}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.nodes.Label(ctx, "root", api.LabelRequest{Nodes: []string{"n7"}, Add: []string{"gpu"}}); err != nil {
		t.Fatal(err)
	}
	doc, err := c.Export()
	if err != nil {
		t.Fatal(err)
	}
	want := `settings:
  containers: "off"
  rejoin: approve
  root-jobs: "off"
machines:
- name: n1
  mac: 52:54:00:00:00:01
- name: n7
  mac: 52:54:00:00:00:02
  ip: 10.0.0.7
  labels:
  - gpu
`
	if diff := cmp.Diff(want, string(doc)); diff != "" {
		t.Errorf("export differs (-want +got):\n%s", diff)
	}
	// Another head takes it over.
	w2 := newWorld(t)
	c2, _ := newSettings(w2.store, func(string, ...any) {})
	c2.nodes = w2.nodes
	for range 2 { // twice is as once
		if err := c2.Import(ctx, "root", doc); err != nil {
			t.Fatal(err)
		}
	}
	again, _ := c2.Export()
	if diff := cmp.Diff(want, string(again)); diff != "" {
		t.Errorf("export after import differs (-want +got):\n%s", diff)
	}
	for name, doc := range map[string]string{
		"unknown key": "setings:\n  rejoin: auto\n", "unknown setting": "settings:\n  colour: red\n", "wrong value": "settings:\n  root-jobs: maybe\n",
		"bad machine": "machines:\n- mac: hello\n", "bad label": "machines:\n- mac: 52:54:00:00:00:09\n  labels: [\"*\"]\n", "no YAML": "{{{", "a list": "- a\n",
	} {
		if err := c2.Import(ctx, "root", []byte(doc)); err == nil {
			t.Errorf("%s: the document was taken", name)
		}
	}
	if err := c2.Import(ctx, "root", nil); err != nil {
		t.Errorf("an empty document = %v", err)
	}
}
