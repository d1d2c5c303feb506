package main

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"muster/api"
	"muster/images"
	"muster/internal/need"
	"muster/internal/vm"
)

// TestVMNodeImage: a node fetches its userland before it takes tasks; given
// an image of its own, without a userland, it boots that the next time, and
// takes only tasks that name it.
func TestVMNodeImage(t *testing.T) {
	if os.Getenv("MUSTER_LONG") == "" {
		t.Skip("only in make test-vm: boots a machine twice")
	}
	mini := filepath.Join(filepath.Dir(os.Getenv("MUSTER_IMAGE")), "mini")
	need.File(t, filepath.Join(mini, "manifest.json"), "make build/mini/manifest.json builds it")
	c := startCluster(t, "--dhcp=full")
	must := func(args ...string) string {
		t.Helper()
		r := c.muster("", args...)
		if r.status != 0 {
			t.Fatalf("muster %s ends with %d: %s", strings.Join(args, " "), r.status, r.stderr)
		}
		return r.stdout
	}
	must("image", "publish", mini)
	m := readTestManifest(t, c.image)
	userland, ok := m.File(images.KindUserland)
	if !ok {
		t.Fatalf("image %s has no userland", m.Name)
	}

	g := c.boot(vm.Config{Name: "own-image", Firmware: vm.BIOS}, nil)
	n := c.ready(g)
	if n.Image.Name != m.Name || n.Image.Next != "" || n.Software.Userland != userland.SHA256 {
		t.Errorf("%s runs %+v with userland %s, want %s with %s", n.Name, n.Image, n.Software.Userland, m.Name, userland.SHA256)
	}
	var stages []string
	for _, e := range c.stages(g) {
		stages = append(stages, string(e.Stage))
	}
	if got := strings.Join(slices.Compact(stages), " "); !strings.HasSuffix(got, "agent pending approved userland ready") {
		t.Errorf("its timeline is %s", got)
	}
	if got := must("run", "python3", "-c", "print(6*7)"); got != "42\n" {
		t.Errorf("a task from the userland prints %q", got)
	}

	must("node", "image", n.Name, "mini")
	if got := must("node", "list"); !strings.Contains(got, m.Name+", next mini") {
		t.Errorf("node list says:\n%s", got)
	}
	if r := c.muster("", "image", "remove", "mini"); r.status != 1 || !strings.Contains(r.stderr, "is the one of "+n.Name) {
		t.Errorf("removing the image that %s boots next ends with %d: %s", n.Name, r.status, r.stderr)
	}
	must("node", "reboot", n.Name)
	c.eventually(bootTime, n.Name+" runs mini", func(ctx context.Context) (bool, error) {
		v, err := c.client.Node(ctx, n.Name)
		return err == nil && v.Image.Name == "mini" && v.State == api.NodeReady, nil
	})
	job := strings.TrimSpace(must("run", "-d", "true"))
	want := n.Name + " has no userland: only tasks that name it (--on " + n.Name + ") run there"
	c.eventually(jobTime, "the job says why it waits", func(context.Context) (bool, error) {
		return strings.Contains(must("job", "show", job, "--json"), want), nil
	})
	if got := must("run", "--on", n.Name, "hostname"); got != n.Name+"\n" {
		t.Errorf("a task that names the node prints %q", got)
	}
	if got := must("exec", "--all", "hostname"); got != n.Name+": "+n.Name+"\n" {
		t.Errorf("a command on every node prints %q", got)
	}
	if got := must("node", "show", n.Name); !strings.Contains(got, "none: only tasks that name it") {
		t.Errorf("node show says:\n%s", got)
	}
}
