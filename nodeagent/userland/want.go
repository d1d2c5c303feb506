package userland

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"muster/api"
)

const (
	// maxFile bounds the description of a userland: a piece takes 67 bytes of it.
	maxFile = 16 << 20
	// maxChunk bounds a piece: it is held in memory until it is checked.
	maxChunk = 16 << 20
)

// Read reads the description of a userland, [api.UserlandFile] on a node.
// ok is false where there is no such file: the image has no userland.
func Read(file string) (u api.Userland, ok bool, err error) {
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return u, false, nil
	}
	if err != nil {
		return u, true, fmt.Errorf("reading what userland the image has: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(b) > maxFile {
		err = fmt.Errorf("it has more than %d bytes", maxFile)
	}
	if err == nil {
		u, err = parse(b)
	}
	if err != nil {
		return u, true, fmt.Errorf("reading what userland the image has: %s: %w", file, err)
	}
	return u, true, nil
}

// parse reads a description and checks that it can be worked with.
func parse(b []byte) (api.Userland, error) {
	var u api.Userland
	if err := json.Unmarshal(b, &u); err != nil {
		return u, err
	}
	switch {
	case !isSHA256(u.SHA256):
		return u, errors.New("sha256 is not 64 hexadecimal digits")
	case u.Size <= 0:
		return u, errors.New("size is not a number of bytes")
	case u.Chunk <= 0 || u.Chunk > maxChunk:
		return u, fmt.Errorf("chunk is %d bytes, want 1 to %d", u.Chunk, maxChunk)
	case int64(len(u.Chunks)) != (u.Size-1)/u.Chunk+1:
		return u, fmt.Errorf("there are %d chunks of %d bytes, which are not the %d bytes that size says", len(u.Chunks), u.Chunk, u.Size)
	}
	for i, c := range u.Chunks {
		if !isSHA256(c) {
			return u, fmt.Errorf("chunk %d is not 64 hexadecimal digits", i)
		}
	}
	return u, nil
}

// isSHA256 accepts lower case only: texts are compared.
func isSHA256(s string) bool {
	b, err := hex.DecodeString(s)
	return err == nil && len(b) == 32 && hex.EncodeToString(b) == s
}
