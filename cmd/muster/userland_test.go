package main

import (
	"bytes"
	"encoding/json"
	"testing"

	"muster/api"
	"muster/images"

	"github.com/google/go-cmp/cmp"
)

// What a build writes into an initramfs is what agents read: both sides have the type, as
// neither may import the other.
func TestUserlandFileIsOneFormat(t *testing.T) {
	if images.UserlandFile != api.UserlandFile || images.ChunkSize != 1<<20 {
		t.Errorf("builders write %s, agents read %s", images.UserlandFile, api.UserlandFile)
	}
	written := images.Artifact{SHA256: "aa", Size: 1, ChunksSHA256: []string{"bb"}}.Userland()
	text, err := json.Marshal(written)
	if err != nil {
		t.Fatal(err)
	}
	var read api.Userland
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&read); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	if diff := cmp.Diff(written, images.Userland(read)); diff != "" {
		t.Error(diff)
	}
}
