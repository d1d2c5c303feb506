package squashfs

import (
	"cmp"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"path"
	"slices"
)

// uniqueFiles returns the files without those whose content an earlier one has too,
// and for each that was left out that earlier one. Only files of the same size are
// read for it.
func uniqueFiles(ctx context.Context, files []*node) (unique []*node, same map[*node]*node, err error) {
	sizes := make(map[int64]int)
	for _, n := range files {
		sizes[n.entry.Size]++
	}
	first := make(map[[sha256.Size]byte]*node)
	same = make(map[*node]*node)
	for _, n := range files {
		if err := ctx.Err(); err != nil {
			return nil, nil, err
		}
		if size := n.entry.Size; size > 0 && sizes[size] > 1 {
			sum, err := contentHash(n)
			if err != nil {
				return nil, nil, inFile(n, err)
			}
			if f := first[sum]; f != nil {
				same[n] = f
				continue
			}
			first[sum] = n
		}
		unique = append(unique, n)
	}
	return unique, same, nil
}

func contentHash(n *node) (sum [sha256.Size]byte, err error) {
	f, err := n.entry.Content()
	if err != nil {
		return sum, err
	}
	defer f.Close()
	h := sha256.New()
	got, err := io.Copy(h, f)
	switch {
	case err != nil:
		return sum, err
	case got < n.entry.Size:
		return sum, errShort(n.entry.Size)
	case got > n.entry.Size:
		return sum, errLong(n.entry.Size)
	}
	h.Sum(sum[:0])
	return sum, nil
}

// dataOrder is the order in which contents are stored. Files smaller than a block come last,
// those of one kind after each other: they share blocks, and what is alike packs
// better. Among themselves they stay in path order, as programs read them.
func dataOrder(files []*node, blockSize int) []*node {
	kind := func(n *node) string {
		if n.entry.Size >= int64(blockSize) {
			return ""
		}
		return "." + path.Ext(n.entry.Path)
	}
	files = slices.Clone(files)
	slices.SortStableFunc(files, func(a, b *node) int { return cmp.Compare(kind(a), kind(b)) })
	return files
}

// inFile says which file an error is about.
func inFile(n *node, err error) error {
	return fmt.Errorf("%s from %s: %w", n.entry.Path, n.entry.Source, err)
}
