package pxe

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// recorder keeps events.
type recorder struct{ events []Event }

func (r *recorder) Observe(e Event) { r.events = append(r.events, e) }

func (r *recorder) stages() string {
	var s []string
	for _, e := range r.events {
		s = append(s, string(e.Stage))
	}
	return strings.Join(s, " ")
}

func TestWatchLoops(t *testing.T) {
	type step struct {
		after  time.Duration
		stage  Stage
		detail string
	}
	fetch := func(after time.Duration) step { return step{after, StageLoader, "undionly.kpxe"} }
	tests := map[string]struct {
		steps []step
		want  string
	}{
		"a normal boot": {
			[]step{{0, StageDHCP, ""}, fetch(1), {1, StageDHCP, ""}, {1, StageScript, ""}},
			"dhcp loader dhcp script",
		},
		"the fourth fetch in two minutes": {
			[]step{fetch(0), fetch(20 * time.Second), fetch(20 * time.Second), fetch(20 * time.Second), fetch(20 * time.Second)},
			"loader loader loader loader stuck loader",
		},
		"the script was asked for in between": {
			[]step{fetch(0), fetch(1), fetch(1), {1, StageScript, ""}, fetch(1), fetch(1)},
			"loader loader loader script loader loader",
		},
		"somebody who resets it now and then": {
			[]step{fetch(0), fetch(time.Minute), fetch(time.Minute), fetch(time.Minute), fetch(time.Minute)},
			"loader loader loader loader loader",
		},
		"another loader begins anew": {
			[]step{fetch(0), fetch(1), fetch(1), {1, StageLoader, "snponly.efi"}, fetch(1)},
			"loader loader loader loader loader",
		},
		"stuck is told again after it went well once": {
			[]step{fetch(0), fetch(1), fetch(1), fetch(1), {1, StageScript, ""}, fetch(1), fetch(1), fetch(1), fetch(1)},
			"loader loader loader loader stuck script loader loader loader loader stuck",
		},
		"refused once a minute": {
			[]step{{0, StageRefused, ""}, {30 * time.Second, StageRefused, ""}, {31 * time.Second, StageRefused, ""}},
			"refused refused",
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var r recorder
			w := newWatch(&r, time.Now)
			now := time.Unix(1e9, 0)
			for _, s := range tt.steps {
				now = now.Add(s.after)
				w.Observe(Event{Time: now, MAC: testMAC, Stage: s.stage, Detail: s.detail})
			}
			if got := r.stages(); got != tt.want {
				t.Errorf("events: %s\n  want: %s", got, tt.want)
			}
			if diff := cmp.Diff(r.events, w.timeline(testMAC), cmpopts.EquateComparable(netip.Addr{})); diff != "" {
				t.Errorf("the timeline differs from what was told:\n%s", diff)
			}
		})
	}
}

func TestWatchStuckText(t *testing.T) {
	var r recorder
	w := newWatch(&r, time.Now)
	for i := range 4 {
		w.Observe(Event{Time: time.Unix(int64(i)*10, 0), MAC: testMAC, Stage: StageLoader, Detail: "undionly.kpxe", Bytes: 7})
	}
	last := r.events[len(r.events)-1]
	if want := "fetched undionly.kpxe 4 times in 30s and never asked for the script"; last.Stage != StageStuck || last.Detail != want || last.Bytes != 0 {
		t.Errorf("last event %+v, want stuck: %s", last, want)
	}
}

func TestWatchIsBounded(t *testing.T) {
	w := newWatch(nil, time.Now)
	start := time.Unix(1e9, 0)
	for i := range 3 * watchedMachines {
		mac := machine(i)
		w.Observe(Event{Time: start.Add(time.Duration(i) * time.Second), MAC: mac[:], Stage: StageDHCP})
	}
	if n := len(w.machines); n > watchedMachines {
		t.Errorf("%d machines are remembered, want %d at most", n, watchedMachines)
	}
	last := machine(3*watchedMachines - 1)
	for range 2 * timelineLength {
		w.Observe(Event{MAC: last[:], Stage: StageDHCP})
	}
	if n := len(w.timeline(last[:])); n != timelineLength {
		t.Errorf("a timeline of %d events, want %d", n, timelineLength)
	}
	if got := w.timeline(nil); got != nil {
		t.Errorf("timeline of nobody: %v", got)
	}
	w.Observe(Event{Stage: StageKernel}) // of a machine that is not known
}
