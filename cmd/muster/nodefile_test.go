package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"muster/api"
	"muster/images"

	"github.com/google/go-cmp/cmp"
)

// What a build writes into an initramfs is what PID 1 and agents read.
func TestNodeFileIsOneFormat(t *testing.T) {
	if images.NodeFile != api.NodeFile {
		t.Errorf("builders write %s, agents read %s", images.NodeFile, api.NodeFile)
	}
	file := filepath.Join(t.TempDir(), "node.yaml")
	if err := os.WriteFile(file, []byte(`
name: node
from: mini
sysctls: {vm/swappiness: 10}
services:
- {name: x, command: [a, b], check: c d, every: 1500ms, timeout: 2s, restart: on-failure, in: initramfs, required: true}
`), 0o600); err != nil {
		t.Fatal(err)
	}
	d, err := images.Load(file)
	if err != nil {
		t.Fatal(err)
	}
	var read api.NodeSetup
	dec := json.NewDecoder(bytes.NewReader(d.Node().JSON()))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&read); err != nil {
		t.Fatalf("%s: %v", d.Node().JSON(), err)
	}
	want := api.NodeSetup{
		Sysctls: []api.NodeSysctl{{Name: "vm.swappiness", Value: "10"}},
		Services: []api.NodeService{{
			Name: "x", Command: []string{"a", "b"}, Check: []string{"/bin/sh", "-c", "c d"},
			Every: api.Duration(1500 * time.Millisecond), Timeout: api.Duration(2 * time.Second),
			Restart: "on-failure", In: "initramfs", Required: true,
		}},
	}
	if diff := cmp.Diff(want, read); diff != "" {
		t.Errorf("node.json (-want +got):\n%s", diff)
	}
	back, err := json.Marshal(read)
	if err != nil {
		t.Fatal(err)
	}
	var one, other any
	if err := json.Unmarshal(back, &one); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(d.Node().JSON(), &other); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(other, one); diff != "" {
		t.Errorf("agents write something else (-want +got):\n%s", diff)
	}
}
