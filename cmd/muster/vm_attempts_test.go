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

	"muster/api"
	"muster/internal/need"
	"muster/internal/vm"
)

// attackedDefinition is an image whose machines run a test of nodeagent.
const attackedDefinition = `name: attacked
from: compute-vm
media: [netboot]
files:
- from: ./tree
  to: /opt/attempts
  in: initramfs
services:
- name: attempts
  in: initramfs
  restart: never
  timeout: 10m
  command:
  - /opt/attempts/busybox
  - sh
  - -c
  - |
    mkdir -p /srv /var/tmp
    cd /opt/attempts
    MUSTER_NEED=all MUSTER_ATTEMPTS=/opt/attempts TMPDIR=/srv PATH=/opt/attempts:$PATH ./nodeagent.test -test.count=1 -test.v -test.run 'TestAttempts$' >/dev/console 2>&1
    echo "attempts have ended: $?" >/dev/console
`

// TestVMAttempts makes the attempts of nodeagent's TestAttempts on a node with Debian's kernel, which has
// what the machine of the tests may lack: controllers, modules, kexec, and root with all capabilities.
func TestVMAttempts(t *testing.T) {
	if os.Getenv("MUSTER_LONG") != "1" {
		t.Skip("only in make test-vm: builds and boots an image that attacks itself")
	}
	bin := need.File(t, os.Getenv("MUSTER_BIN"), "run the tests with make, which builds bin/muster")
	busybox := need.Program(t, "busybox", "busybox-static")
	dir := t.TempDir()
	tree, image := filepath.Join(dir, "tree"), filepath.Join(dir, "image")
	lock, err := os.ReadFile(filepath.Join(os.Getenv("MUSTER_IMAGE"), "lock.json"))
	if err != nil {
		need.Missing(t, "the image of the tests: %v", err)
	}
	if err := errors.Join(
		os.MkdirAll(tree, 0o755), os.MkdirAll(image, 0o755),
		os.WriteFile(filepath.Join(dir, "attacked.yaml"), []byte(attackedDefinition), 0o644),
		os.WriteFile(filepath.Join(image, "lock.json"), lock, 0o644),
	); err != nil {
		t.Fatal(err)
	}
	run := func(in string, env []string, name string, args ...string) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), name, args...)
		cmd.Dir, cmd.Env = in, append(os.Environ(), env...)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s %q: %v\n%s", name, args, err, out)
		}
	}
	program := filepath.Join(tree, "nodeagent.test")
	run(".", []string{"CGO_ENABLED=0"}, "go", "test", "-c", "-ldflags=-s -w", "-o", program, "muster/nodeagent")
	run("../../nodeagent", []string{"MUSTER_ATTEMPTS_OUT=" + tree}, program, "-test.run", "TestBuildAttempts$")
	run(".", nil, "cp", busybox, filepath.Join(tree, "busybox"))
	run(dir, nil, bin, "build", "attacked.yaml", "--output", image, "--locked")

	c := startClusterOf(t, image, "--dhcp=full")
	g := c.boot(vm.Config{Name: "attacked", Firmware: vm.BIOS, MemMiB: 2048}, nil)
	// It is ready once it has made them, which may take longer than other machines.
	n := c.waitState(g, api.NodePending)
	if _, err := c.client.Approve(t.Context(), api.ApproveRequest{Machines: []string{n.Fingerprint}}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	end, err := g.WaitFor(ctx, regexp.MustCompile(`attempts have ended: \d+`))
	if err != nil {
		t.Fatalf("%v\n%s", err, g.ConsoleTail(4000))
	}
	raw, err := os.ReadFile(g.ConsoleFile())
	if err != nil {
		t.Fatal(err)
	}
	text := strings.ReplaceAll(string(raw), "\r", "")
	if i := strings.Index(text, "attempts; each protection holds alone"); i > 0 {
		text = text[strings.LastIndexByte(text[:i], '\n')+1:]
	}
	t.Logf("%s", text)
	if !strings.HasSuffix(end, ": 0") {
		t.Errorf("the attempts end with %s", end)
	}
}
