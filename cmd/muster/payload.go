package main

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"

	"github.com/klauspost/compress/zstd"
)

// payloadFiles is what an image needs of us, put there by make.
//
//go:embed payload
var payloadFiles embed.FS

// payload returns a program that is carried inside muster, by its name
// without ".zst".
func payload(name string) ([]byte, error) {
	packed, err := payloadFiles.ReadFile("payload/" + name + ".zst")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("this muster was built without %s; run make in its source folder and use bin/muster", name)
	}
	if err != nil {
		return nil, err
	}
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1))
	if err != nil {
		return nil, err
	}
	defer dec.Close()
	raw, err := dec.DecodeAll(packed, nil)
	if err != nil {
		return nil, fmt.Errorf("unpacking the embedded %s: %w", name, err)
	}
	return raw, nil
}
