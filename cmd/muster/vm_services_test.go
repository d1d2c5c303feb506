package main

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"muster/internal/need"
	"muster/internal/vm"
)

// servingDefinition has everything that a node does beside joining.
const servingDefinition = `name: serving
from: compute-vm
media: [netboot]
modules:
  options: {loop: max_loop=3}
groups:
- {name: hpc, gid: 2000}
users:
- {name: ada, uid: 2001, gid: 2000, groups: [video]}
sysctls:
  vm.swappiness: 11
  net/ipv4/conf/all/rp_filter: 2
  vm.no_such_setting: 1
files:
- from: ./tree
  to: /
- path: /etc/rack
  content: |
    rack B
services:
- name: early
  command: echo early >/run/early
  in: initramfs
  restart: on-failure
- name: gate
  command: while sleep 1; do date >>/run/beacon; done
  check: test -s /run/beacon && test "$(/opt/site/where)" = "rack B" || { echo not yet; exit 3; }
`

// TestVMServices boots an image with services, settings of the kernel, parameters of modules,
// users and files: the node is ready once its services are, and tasks see the rest.
func TestVMServices(t *testing.T) {
	if os.Getenv("MUSTER_LONG") != "1" {
		t.Skip("only in make test-vm: builds and boots an image with services")
	}
	bin := need.File(t, os.Getenv("MUSTER_BIN"), "run the tests with make, which builds bin/muster")
	dir := t.TempDir()
	image := filepath.Join(dir, "image")
	lock, err := os.ReadFile(filepath.Join(os.Getenv("MUSTER_IMAGE"), "lock.json"))
	if err != nil {
		need.Missing(t, "the image of the tests: %v", err)
	}
	if err := errors.Join(
		os.MkdirAll(filepath.Join(dir, "tree/opt/site"), 0o755), os.MkdirAll(image, 0o755),
		os.WriteFile(filepath.Join(dir, "serving.yaml"), []byte(servingDefinition), 0o644),
		os.WriteFile(filepath.Join(dir, "tree/opt/site/where"), []byte("#!/bin/sh\ncat /etc/rack\n"), 0o755),
		os.WriteFile(filepath.Join(image, "lock.json"), lock, 0o644),
	); err != nil {
		t.Fatal(err)
	}
	build := exec.CommandContext(t.Context(), bin, "build", "serving.yaml", "--output", image, "--locked")
	build.Dir = dir
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building: %v\n%s", err, out)
	}
	c := startClusterOf(t, image, "--dhcp=full")
	g := c.boot(vm.Config{Name: "serving", Firmware: vm.BIOS}, nil)
	node := c.ready(g)
	// The screen says what the node waited for, and what the kernel does not have.
	for _, want := range []string{
		`muster: why service gate: `,
		`muster: problem: setting vm\.no_such_setting: this kernel has no such setting`,
	} {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := g.WaitFor(ctx, regexp.MustCompile(want)); err != nil {
			t.Errorf("the screen does not say %q: %v\n%s", want, err, g.ConsoleTail(4000))
		}
	}
	r := c.muster("", "run", "--on", node.Name, "--", "sh", "-c",
		`cat /proc/sys/vm/swappiness /proc/sys/net/ipv4/conf/all/rp_filter /sys/module/loop/parameters/max_loop; /opt/site/where
		ls /run/beacon 2>/dev/null || echo private; stat -c %u:%g /home/ada`)
	if want := "11\n2\n3\nrack B\nprivate\n2001:2000\n"; r.stdout != want || r.status != 0 {
		t.Errorf("the task says %q, status %d (%s), want %q", r.stdout, r.status, r.stderr, want)
	}
	if r := c.muster("", "node", "show", node.Name); !strings.Contains(r.stdout, "ready") {
		t.Errorf("node show: %q %q", r.stdout, r.stderr)
	}
}
