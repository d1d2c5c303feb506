package nodeagent

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"muster/api"
	"muster/nodeagent/service"
)

// A node is not fit before its services are, and says which one it waits for.
func TestNodeWaitsForItsServices(t *testing.T) {
	dir := runDir(t)
	ready := filepath.Join(dir, "ready")
	services, err := service.New(service.Config{RunDir: filepath.Join(dir, "services"), Services: []api.NodeService{{
		Name: "gate", Command: []string{"/bin/sh", "-c", "echo opened >" + filepath.Join(dir, "ran")}, Restart: "never", In: "initramfs",
		Check: []string{"/bin/sh", "-c", "test -e " + ready + " || { echo not open; exit 4; }"},
		Every: api.Duration(time.Second), Timeout: api.Duration(5 * time.Second),
	}}})
	if err != nil {
		t.Fatal(err)
	}
	n := newNode(t, func(c *Config) { c.Services = services })
	told := func(stage string) func() bool {
		return func() bool {
			return slices.ContainsFunc(n.beats, func(hb api.Heartbeat) bool { return hb.Stage == stage })
		}
	}
	n.wait("the stage of the service", told("service gate: check failed: exit status 4: not open"))
	if n.agent.Status().Stage == "" {
		t.Error("the screen says nothing of the service")
	}
	if err := os.WriteFile(ready, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	n.wait("a node that is fit", func() bool { return n.beats[len(n.beats)-1].Stage == "" })
}

// A machine that is not a node starts nothing.
func TestPendingMachineStartsNoServices(t *testing.T) {
	dir := runDir(t)
	services, err := service.New(service.Config{RunDir: filepath.Join(dir, "services"), Services: []api.NodeService{{
		Name: "early", Command: []string{"/bin/true"}, Restart: "never", In: "initramfs",
	}}})
	if err != nil {
		t.Fatal(err)
	}
	a := &Agent{cfg: Config{Services: services}}
	a.startServices()
	if got := a.stage(); got != "service early: waiting" {
		t.Errorf("stage() = %q", got)
	}
}
