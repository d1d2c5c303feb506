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
	"muster/nodeagent/verity"
)

const (
	// maxFile bounds the description of a userland: a piece takes 67 bytes of it.
	maxFile = 16 << 20
	// maxChunk bounds a piece: it is held in memory until it is checked.
	maxChunk = 16 << 20
	// maxModule bounds a module, likewise.
	maxModule = 64 << 20
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
	return u, checkShared(u)
}

// checkShared checks what it takes to read a userland from a share.
func checkShared(u api.Userland) error {
	switch u.In {
	case "", api.UserlandMemory, api.UserlandShare, api.UserlandAuto:
	default:
		return fmt.Errorf("in is %q, want memory, share or auto", u.In)
	}
	if u.VerityRoot != "" && (!isSHA256(u.VerityRoot) || u.VerityBlocks <= 0 || u.VerityBlocks >= u.Size/verity.BlockSize) {
		return fmt.Errorf("verity_root %.80q with %d blocks is no hash tree in %d bytes", u.VerityRoot, u.VerityBlocks, u.Size)
	}
	if u.Modules == nil {
		return nil
	}
	if !isSHA256(u.Modules.SHA256) {
		return errors.New("sha256 of modules is not 64 hexadecimal digits")
	}
	for _, m := range u.Modules.Pieces {
		if !isSHA256(m.SHA256) || m.Size <= 0 || m.Size > maxModule || m.Offset < 0 || m.Offset > u.Modules.Size-m.Size || m.Path == "" {
			return fmt.Errorf("module %q is no piece of a file with %d bytes", m.Path, u.Modules.Size)
		}
	}
	return nil
}

// isSHA256 accepts lower case only: texts are compared.
func isSHA256(s string) bool {
	b, err := hex.DecodeString(s)
	return err == nil && len(b) == 32 && hex.EncodeToString(b) == s
}
