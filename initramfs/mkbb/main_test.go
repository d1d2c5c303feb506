package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/klauspost/compress/zstd"
)

func TestCurrent(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	zst, meta := filepath.Join(dir, "sub", "bb.zst"), filepath.Join(dir, "sub", "bb.json")
	bin := bytes.Repeat([]byte("busybox "), 1000)
	packed, err := writePacked(zst, bin)
	if err != nil {
		t.Fatal(err)
	}
	if current(zst, meta, "inputs") {
		t.Error("without bb.json it counts as up to date")
	}
	text, err := json.Marshal(result{Packed: packed, Inputs: "inputs"})
	if err != nil {
		t.Fatal(err)
	}
	if err := writeFile(meta, text); err != nil {
		t.Fatal(err)
	}
	if !current(zst, meta, "inputs") {
		t.Error("what was just written counts as old")
	}
	if current(zst, meta, "other inputs") {
		t.Error("with other inputs it counts as up to date")
	}

	file, err := os.ReadFile(zst)
	if err != nil {
		t.Fatal(err)
	}
	z, err := zstd.NewReader(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	if got, err := z.DecodeAll(file, nil); err != nil || !bytes.Equal(got, bin) {
		t.Errorf("bb.zst unpacks to %d bytes, %v, want %d", len(got), err, len(bin))
	}

	if err := os.WriteFile(zst, file[:len(file)-1], 0o644); err != nil {
		t.Fatal(err)
	}
	if current(zst, meta, "inputs") {
		t.Error("with a damaged bb.zst it counts as up to date")
	}
	left, err := filepath.Glob(filepath.Join(dir, "sub", ".mkbb-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("temporary files were left: %v %v", left, err)
	}
}
