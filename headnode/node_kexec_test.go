package headnode

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"muster/api"
)

func TestDecideKexec(t *testing.T) {
	now := time.Unix(100_000, 0)
	base := kexecView{first: true, runs: "A", assigned: "B", archFits: true, medium: "usb", policy: api.KexecMedia, now: now}
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	record := func(image string, tries int, why string, last time.Time) *kexecRecord {
		return &kexecRecord{Image: image, Tries: tries, Error: why, Last: last}
	}
	for name, c := range map[string]struct {
		change func(*kexecView)
		start  bool
		record *kexecRecord
	}{
		"a stick of another image": {func(v *kexecView) {}, true, record("B", 1, "", now)},
		"a CD":                     {func(v *kexecView) { v.medium = "iso" }, true, record("B", 1, "", now)},
		"runs it":                  {func(v *kexecView) { v.runs, v.record = "B", record("B", 1, "", now) }, false, nil},
		"there is none":            {func(v *kexecView) { v.assigned = "" }, false, nil},
		"by network":               {func(v *kexecView) { v.medium = "pxe" }, false, nil},
		"by network, always":       {func(v *kexecView) { v.medium, v.policy = "pxe", api.KexecAlways }, true, record("B", 1, "", now)},
		"never":                    {func(v *kexecView) { v.policy = api.KexecNever }, false, nil},
		"another architecture":     {func(v *kexecView) { v.archFits = false }, false, nil},
		"later in its boot":        {func(v *kexecView) { v.first = false }, false, nil},
		"with tasks":               {func(v *kexecView) { v.tasks = 1 }, false, nil},
		"it failed": {func(v *kexecView) {
			v.first = false
			v.report = &api.KexecReport{ImageID: "B", Error: "no room"}
			v.record = record("B", 1, "", ago(time.Second))
		}, false, record("B", 1, "no room", ago(time.Second))},
		"it came up as something else": {func(v *kexecView) {
			v.report = &api.KexecReport{ImageID: "B"}
			v.record = record("B", 1, "", ago(time.Minute))
		}, false, record("B", 1, "another image than that came up", ago(time.Minute))},
		"it failed with another image":   {func(v *kexecView) { v.report = &api.KexecReport{ImageID: "C", Error: "no room"} }, true, record("B", 1, "", now)},
		"it was not heard of once":       {func(v *kexecView) { v.record = record("B", 1, "", ago(time.Minute)) }, true, record("B", 2, "", now)},
		"it was not heard of twice":      {func(v *kexecView) { v.record = record("B", 2, "", ago(time.Minute)) }, false, record("B", 2, "it was not heard of after 2 starts", ago(time.Minute))},
		"twice, with another image":      {func(v *kexecView) { v.record = record("C", 2, "", ago(time.Minute)) }, true, record("B", 1, "", now)},
		"twice, long ago":                {func(v *kexecView) { v.record = record("B", 2, "", ago(kexecForget)) }, true, record("B", 1, "", now)},
		"a report after the head forgot": {func(v *kexecView) { v.report = &api.KexecReport{ImageID: "B", Error: "no room"} }, false, record("B", 1, "no room", now)},
	} {
		v := base
		c.change(&v)
		start, rec := decideKexec(v)
		if start != c.start {
			t.Errorf("%s: start = %v, want %v", name, start, c.start)
		}
		if d := cmp.Diff(c.record, rec); d != "" {
			t.Errorf("%s: %s", name, d)
		}
	}
}

// TestKexec takes a machine from a stick through a start that fails, one that is not heard of, and one that works.
func TestKexec(t *testing.T) {
	w := newWorld(t)
	im := newTestImages(t, w)
	w.nodes.images = im
	w.nodes.cfg.FilesPort = 7480
	w.nodes.cfg.BootCmdline = func(image, id string) string {
		return strings.TrimSpace(image + " muster.head={host}:7421 muster.image=" + id)
	}
	def, ok := im.Default()
	if !ok {
		t.Fatal("there is no default image")
	}
	a := w.agent(mac1)
	enter := func(report *api.KexecReport, image string) api.JoinReply {
		t.Helper()
		req := a.request()
		req.Software.ImageID, req.Software.Medium, req.Kexec = image, "usb", report
		w.wire.connected[a.key] = true
		r, err := w.nodes.Join(context.Background(), a.key, agentSession{ip: "10.0.0.9", local: "10.0.0.1", node: w.nodes.isApproved(a.key)}, req)
		if err != nil {
			t.Fatal(err)
		}
		if r.State == api.JoinApproved && !r.Reconnect {
			w.nodes.welcome(a.key)
		}
		return r
	}
	enter(nil, "old")
	w.approve(a, "")
	r := enter(nil, "old")
	if r.Boot == nil || r.Boot.ImageID != def.ID || r.Boot.Kernel.SHA256 == "" || r.Boot.Initramfs.Size == 0 ||
		!strings.Contains(r.Boot.Cmdline, "muster.head=10.0.0.1:7421 muster.image="+def.ID) {
		t.Fatalf("reply %+v, boot %+v, want the image %s", r, r.Boot, def.ID)
	}
	n := w.find(mac1)
	if n.State != api.NodeBooting || n.Stage != "kexec: image "+def.Name {
		t.Errorf("the node is %s (%s), want booting with what it starts", n.State, n.Stage)
	}
	// It could not.
	if r := enter(&api.KexecReport{ImageID: def.ID, From: "old", Error: "not enough memory\x1b[2J"}, "old"); r.Boot != nil {
		t.Error("it is told again in the same boot")
	}
	n = w.find(mac1)
	if n.State != api.NodeReady || n.Kexec == nil || n.Kexec.Error != "not enough memory[2J" || !strings.Contains(n.Hint, "was not started by kexec: not enough memory") {
		t.Errorf("the node is %s, kexec %+v, hint %q", n.State, n.Kexec, n.Hint)
	}
	// Booted anew from the stick, it tries again, and is not heard of.
	a.boot = "boot-2"
	if r := enter(nil, "old"); r.Boot == nil {
		t.Fatal("it is not told at its next boot")
	}
	a.boot = "boot-3"
	if r := enter(nil, "old"); r.Boot != nil {
		t.Error("it is told a third time, after two starts in vain")
	}
	w.wantState(mac1, api.NodeReady)
	if n := w.find(mac1); n.Kexec == nil || n.Kexec.Tries != 2 {
		t.Errorf("kexec %+v, want 2 tries", n.Kexec)
	}
	// The record outlives the head; another image is another matter.
	w.restart()
	w.nodes.images = im
	w.nodes.cfg.FilesPort = 7480
	a.boot = "boot-4"
	if r := enter(nil, "old"); r.Boot != nil {
		t.Error("a head that started anew has forgotten the starts in vain")
	}
	a.boot = "boot-5"
	if r := enter(&api.KexecReport{ImageID: def.ID, From: "old"}, def.ID); r.Boot != nil {
		t.Error("it is told to start what it runs")
	}
	if n := w.find(mac1); n.Kexec != nil || n.State != api.NodeReady {
		t.Errorf("the node is %s, kexec %+v, after it came up with its image", n.State, n.Kexec)
	}
}

func TestImageSettings(t *testing.T) {
	w := newWorld(t)
	im := newTestImages(t, w)
	def, _ := im.Default()
	if v := im.List()[0]; v.Kexec != api.KexecMedia {
		t.Errorf("kexec is %q at first, want media", v.Kexec)
	}
	v, err := im.Set(t.Context(), "root", def.Name, api.ImageSettings{Kexec: api.KexecNever})
	if err != nil || v.Kexec != api.KexecNever {
		t.Fatalf("Set = %+v, %v", v, err)
	}
	again, err := openImages(im.dir, w.nodes.cfg.Now, w.nodes, w.nodes.cfg.Log)
	if err != nil {
		t.Fatal(err)
	}
	if got := again.kexecPolicy(def.ID); got != api.KexecNever {
		t.Errorf("a head that started anew has kexec %q, want never", got)
	}
	var e *api.Error
	if _, err := im.Set(t.Context(), "root", def.Name, api.ImageSettings{Kexec: "sometimes"}); !errors.As(err, &e) || e.Code != api.CodeInvalid {
		t.Errorf("Set(sometimes) = %v, want an error of code invalid", err)
	}
	if _, err := im.Set(t.Context(), "root", "nosuch", api.ImageSettings{Kexec: api.KexecNever}); !errors.As(err, &e) || e.Code != api.CodeNotFound {
		t.Errorf("Set of no image = %v, want not found", err)
	}
}
