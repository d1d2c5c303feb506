package verity

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"slices"
)

const (
	// BlockSize is the size of a block, of data and of hashes.
	BlockSize = 4096

	perBlock = BlockSize / sha256.Size
)

// Tree says what [Append] wrote.
type Tree struct {
	Root   string // hash of the topmost block, in hexadecimal: who knows it can trust the rest
	Blocks int64  // of data; the superblock is the next one, and the hashes are behind it
	Size   int64  // of the whole file
}

// File is what [Append] works on.
type File interface {
	io.ReaderAt
	io.WriterAt
}

// Append writes zeros behind the first size bytes of f up to a whole block, and behind
// them superblock and hash tree. The bytes follow from the data alone.
func Append(ctx context.Context, f File, size int64) (Tree, error) {
	if size <= 0 {
		return Tree{}, fmt.Errorf("writing a hash tree: there are %d bytes of data", size)
	}
	blocks := (size + BlockSize - 1) / BlockSize
	if _, err := f.WriteAt(make([]byte, blocks*BlockSize-size), size); err != nil {
		return Tree{}, fmt.Errorf("filling up the last block: %w", err)
	}
	levels, root, err := hashes(ctx, io.NewSectionReader(f, 0, blocks*BlockSize), blocks)
	if err != nil {
		return Tree{}, err
	}
	w := bufio.NewWriterSize(io.NewOffsetWriter(f, blocks*BlockSize), 1<<20)
	w.Write(superblock(blocks, root)) // a bufio.Writer keeps its first error for Flush
	n := blocks + 1
	for i := len(levels) - 1; i >= 0; i-- { // the kernel looks for the topmost first
		w.Write(levels[i])
		n += int64(len(levels[i]) / BlockSize)
	}
	if err := w.Flush(); err != nil {
		return Tree{}, fmt.Errorf("writing a hash tree: %w", err)
	}
	return Tree{Root: hex.EncodeToString(root), Blocks: blocks, Size: n * BlockSize}, nil
}

// hashes returns the levels of the tree, each in whole blocks, the one that is of the data first.
func hashes(ctx context.Context, data io.Reader, blocks int64) (levels [][]byte, root []byte, err error) {
	r, block := bufio.NewReaderSize(data, 1<<20), make([]byte, BlockSize)
	level := make([]byte, 0, padded(blocks*sha256.Size))
	for i := range blocks {
		if i%1024 == 0 && ctx.Err() != nil {
			return nil, nil, ctx.Err()
		}
		if _, err := io.ReadFull(r, block); err != nil {
			return nil, nil, fmt.Errorf("reading block %d for its hash: %w", i, err)
		}
		sum := sha256.Sum256(block)
		level = append(level, sum[:]...)
	}
	for len(level) > sha256.Size {
		level = append(level, make([]byte, padded(int64(len(level)))-int64(len(level)))...)
		levels = append(levels, level)
		next := make([]byte, 0, len(level)/perBlock)
		for b := range slices.Chunk(level, BlockSize) {
			sum := sha256.Sum256(b)
			next = append(next, sum[:]...)
		}
		level = next
	}
	return levels, level, nil
}

func padded(n int64) int64 { return (n + BlockSize - 1) / BlockSize * BlockSize }

// superblock is what veritysetup reads (cryptsetup, lib/verity/verity.c); the kernel does
// not. Its UUID has to be some: the beginning of the root hash, marked as one of version 8, RFC 9562 5.8.
func superblock(blocks int64, root []byte) []byte {
	b := make([]byte, BlockSize)
	copy(b, "verity\x00\x00")
	binary.LittleEndian.PutUint32(b[8:], 1)  // version of the superblock
	binary.LittleEndian.PutUint32(b[12:], 1) // of the tree
	uuid := b[16:32]
	copy(uuid, root)
	uuid[6], uuid[8] = uuid[6]&0x0f|0x80, uuid[8]&0x3f|0x80
	copy(b[32:64], "sha256")
	binary.LittleEndian.PutUint32(b[64:], BlockSize) // of data
	binary.LittleEndian.PutUint32(b[68:], BlockSize) // of hashes
	binary.LittleEndian.PutUint64(b[72:], uint64(blocks))
	// From 80 on: length of the salt, padding, the salt.
	return b
}

// Check reads data and tree of f, which has size bytes, and compares them with what is known of
// them. An error says which block is wrong first.
func Check(ctx context.Context, f io.ReaderAt, size int64, want Tree) error {
	if want.Size != size || want.Blocks <= 0 || want.Blocks >= size/BlockSize {
		return fmt.Errorf("it has %d bytes, and its hash tree is of %d blocks in %d bytes", size, want.Blocks, want.Size)
	}
	levels, root, err := hashes(ctx, io.NewSectionReader(f, 0, want.Blocks*BlockSize), want.Blocks)
	if err != nil {
		return err
	}
	if got := hex.EncodeToString(root); got != want.Root {
		return fmt.Errorf("its root hash is %s, want %s", got, want.Root)
	}
	at, block := want.Blocks, make([]byte, BlockSize)
	tree := superblock(want.Blocks, root)
	for i := len(levels) - 1; i >= 0; i-- {
		tree = append(tree, levels[i]...)
	}
	for b := range slices.Chunk(tree, BlockSize) {
		if _, err := f.ReadAt(block, at*BlockSize); err != nil {
			return fmt.Errorf("reading its hash tree: %w", err)
		}
		if !bytes.Equal(b, block) {
			return fmt.Errorf("block %d, which is of its hash tree, is not what the data says", at)
		}
		at++
	}
	if at*BlockSize != size {
		return fmt.Errorf("its hash tree ends at %d of %d bytes", at*BlockSize, size)
	}
	return nil
}
