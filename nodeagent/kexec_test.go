package nodeagent

import (
	"context"
	"errors"
	"strings"
	"testing"

	"muster/api"
)

// A machine that is told to start another image says what it does, and, where that fails, why; then it takes tasks.
func TestStartImageFails(t *testing.T) {
	h := newFakeHead(t)
	h.boot = &api.BootImage{ImageID: strings.Repeat("b", 64), Name: "newer", Cmdline: "x"}
	fail := make(chan error)
	told := make(chan api.BootImage, 1)
	a, s, _ := startAgent(t, Config{
		Head: h.addr, Pin: h.pin(),
		StartImage: func(ctx context.Context, b api.BootImage, _ string, stage func(string)) error {
			told <- b
			stage("40 %")
			select {
			case err := <-fail:
				return err
			case <-ctx.Done():
				return ctx.Err()
			}
		},
	})
	s.wait(t, "pending", inPhase(PhasePending))
	h.approve(a.key.public)
	if b := <-told; b.Name != "newer" || b.ImageID != strings.Repeat("b", 64) {
		t.Errorf("it was told to start %+v", b)
	}
	s.wait(t, "how far it is", func(st Status) bool { return st.Stage == "kexec: image newer 40 %" })
	h.wait("a heartbeat with the stage", func() bool {
		return len(h.beats) > 0 && h.beats[len(h.beats)-1].Stage == "kexec: image newer 40 %"
	})
	fail <- errors.New("no room for it")
	h.wait("a report", func() bool {
		k := h.joins[len(h.joins)-1].Kexec
		return k != nil && k.ImageID == strings.Repeat("b", 64) && k.Error == "no room for it" && h.joins[len(h.joins)-1].Stage == ""
	})
	s.wait(t, "why it did not", func(st Status) bool {
		return st.Stage == "" && st.Phase == PhaseReady && strings.Contains(st.Notice, "was not started: no room for it")
	})
}

// A start is given up with the connection: the head may give the node tasks in the next one.
func TestStartImageEndsWithSession(t *testing.T) {
	h := newFakeHead(t)
	h.boot = &api.BootImage{ImageID: strings.Repeat("b", 64), Name: "newer"}
	ended := make(chan error, 1)
	begun := make(chan struct{})
	a, s, _ := startAgent(t, Config{
		Head: h.addr, Pin: h.pin(),
		StartImage: func(ctx context.Context, _ api.BootImage, _ string, _ func(string)) error {
			close(begun)
			<-ctx.Done()
			ended <- ctx.Err()
			return ctx.Err()
		},
	})
	s.wait(t, "pending", inPhase(PhasePending))
	h.approve(a.key.public)
	<-begun
	h.stop()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("the start ended with %v, want it canceled", err)
	}
}

// An agent on a system that muster did not boot may not.
func TestStartImageNotHere(t *testing.T) {
	h := newFakeHead(t)
	h.boot = &api.BootImage{ImageID: strings.Repeat("b", 64), Name: "newer"}
	a, s, _ := startAgent(t, Config{Head: h.addr, Pin: h.pin(), Kexeced: &api.KexecReport{ImageID: "earlier"}})
	s.wait(t, "pending", inPhase(PhasePending))
	h.approve(a.key.public)
	h.wait("a report", func() bool {
		k := h.joins[len(h.joins)-1].Kexec
		return k != nil && strings.Contains(k.Error, "does not run as the machine's own system")
	})
	if k := h.joins[0].Kexec; k == nil || k.ImageID != "earlier" {
		t.Errorf("the first join says %+v of how the machine came here", k)
	}
}
