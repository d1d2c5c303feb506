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
	written := images.Artifact{
		SHA256: "aa", Size: 1, ChunksSHA256: []string{"bb"}, In: images.UserlandShare, Verity: &images.Verity{Root: "cc", Blocks: 2},
	}.Userland()
	written.Modules = &images.UserlandModules{SHA256: "dd", Size: 3, Pieces: []images.UserlandModule{{Path: "x.ko", Offset: 4, Size: 5, SHA256: "ee"}}}
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
	again, err := json.Marshal(read)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(text), string(again)); diff != "" {
		t.Error(diff)
	}
}
