package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"muster/internal/vm"
)

// TestVMShareTime measures how soon a node has a share: one that is added while it works, the first and the next, and one
// that is there when it is approved. What the node's agent took for modules and mount is in its log.
func TestVMShareTime(t *testing.T) {
	if os.Getenv("MUSTER_LONG") != "1" {
		t.Skip("only in make test-vm: needs an NFS server on this system")
	}
	if _, err := exec.LookPath("ganesha.nfsd"); err != nil {
		t.Skip("only in make test-vm after: apt install nfs-ganesha nfs-ganesha-vfs")
	}
	c := startCluster(t, "--dhcp=full")
	top, err := os.MkdirTemp("/srv", "muster-share-time-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(top) })
	folder := func(name string) string {
		dir := filepath.Join(top, name)
		if err := os.Mkdir(dir, 0o777); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	const most = 20 * time.Second // on a computer that does much else
	mounted := func(dir, node string) {
		t.Helper()
		c.eventually(most, node+" has mounted "+dir, func(ctx context.Context) (bool, error) {
			s, err := c.client.Share(ctx, dir)
			if err != nil {
				return false, nil
			}
			for _, m := range s.Mounts {
				if m.Node == node && m.State == "mounted" {
					return true, nil
				}
			}
			return false, nil
		})
	}
	add := func(what, node string) {
		t.Helper()
		dir := folder(what)
		begin := time.Now()
		if r := c.muster("", "share", "add", dir); r.status != 0 {
			t.Fatalf("%+v", r)
		}
		served := time.Since(begin)
		mounted(dir, node)
		t.Logf("%s share: served after %v, mounted after %v", what, served.Round(time.Millisecond), time.Since(begin).Round(time.Millisecond))
	}
	one := c.ready(c.boot(vm.Config{Name: "one", Firmware: vm.BIOS}, nil)).Name
	add("first", one)
	add("second", one)
	add("third", one)
	// A machine that comes later has them all when it is ready.
	g := c.boot(vm.Config{Name: "two", Firmware: vm.BIOS}, nil)
	two := c.ready(g)
	for _, what := range []string{"first", "second", "third"} {
		s, err := c.client.Share(t.Context(), filepath.Join(top, what))
		if err != nil || len(s.Mounts) != 2 || s.Mounts[1].State != "mounted" {
			t.Errorf("a node is ready without its share: %+v, %v", s.Mounts, err)
		}
	}
	for line := range strings.Lines(c.muster("", "boot", "log", two.Name).stdout) {
		if strings.Contains(line, "approved") || strings.Contains(line, "userland") || strings.Contains(line, "ready") || strings.Contains(line, "share") {
			t.Log(strings.TrimSpace(line))
		}
	}
	for line := range strings.Lines(c.muster("", "node", "log", two.Name).stdout) {
		if strings.Contains(line, "share mounted") {
			t.Log(strings.TrimSpace(line))
		}
	}
	for line := range strings.Lines(c.muster("", "node", "log", one).stdout) {
		if strings.Contains(line, "share") || strings.Contains(line, "nfs") || strings.Contains(line, "NFS") {
			t.Log(strings.TrimSpace(line))
		}
	}
}
