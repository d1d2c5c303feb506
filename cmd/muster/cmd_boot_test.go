package main

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"muster/api"
)

// TestBootLog: a boot goes from DHCP to ready, however long a person takes to
// approve; the next DHCP begins another.
func TestBootLog(t *testing.T) {
	start := time.Date(2026, 1, 2, 3, 4, 5, 0, time.Local)
	at := func(secs float64, stage api.BootStage) api.BootEvent {
		return api.BootEvent{Time: start.Add(time.Duration(secs * float64(time.Second))), Stage: stage}
	}
	var b strings.Builder
	err := writeBootLog(&b, api.BootLog{Name: "n1", Events: []api.BootEvent{
		at(0, api.StageDHCP), at(1.5, api.StageDHCP), at(5, api.StageAgent), at(5, api.StagePending), at(900, api.StageReady),
		at(910, api.StageDHCP), at(920.25, api.StageReady),
	}})
	if err != nil {
		t.Fatal(err)
	}
	want := `2026-01-02 03:04:05  boot of n1
    0.00s  dhcp
    1.50s  dhcp
    5.00s  agent
    5.00s  pending
  900.00s  ready
2026-01-02 03:19:15  boot of n1
    0.00s  dhcp
   10.25s  ready
`
	if d := cmp.Diff(want, b.String()); d != "" {
		t.Errorf("boot log differs (-want +got):\n%s", d)
	}
}

func TestBootText(t *testing.T) {
	for _, c := range []struct {
		e    api.BootEvent
		want string
	}{
		{api.BootEvent{Stage: api.StageUserland, Detail: "userland 40 %"}, "userland  40 %"},
		{api.BootEvent{Stage: api.StageUserland, Detail: "userland: mounting"}, "userland  mounting"},
		{api.BootEvent{Stage: api.StageUserland, Detail: "needs a larger machine"}, "userland  needs a larger machine"},
		{api.BootEvent{Stage: api.StageUserland, Detail: "userland"}, "userland"},
		{api.BootEvent{Stage: api.StageReady, Detail: "as n1"}, "ready     as n1"},
	} {
		if got := bootText(c.e); got != c.want {
			t.Errorf("bootText(%+v) = %q, want %q", c.e, got, c.want)
		}
	}
}
