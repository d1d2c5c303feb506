package squashfs

import (
	"fmt"
	"path"

	"muster/initramfs"
)

// node is one inode.
type node struct {
	entry   *initramfs.Entry
	num     uint32 // inode number, from 1
	nlink   uint32
	parent  *node      // of a directory
	entries []dirEntry // of a directory, sorted by name
	xattr   uint32     // position in the table of attribute sets, or noXattr

	data fileData // of a file

	ref     uint64 // where the inode was written
	written bool
}

// dirEntry is a name in a directory.
type dirEntry struct {
	name string
	node *node
}

// fileData tells where the content of a file is.
type fileData struct {
	start    uint64   // of the first block
	blocks   []uint32 // packed sizes
	sparse   uint64   // bytes in blocks of zeros, which are not stored
	fragment uint32   // or noFragment
	offset   uint32   // in the fragment
}

// nodes is the tree as inodes.
type nodes struct {
	root  *node
	all   []*node // by number: all[0] has number 1
	files []*node // in path order
}

// newNodes makes inodes from entries and numbers them, those of one directory
// after each other, so that directory entries are small.
func newNodes(t *initramfs.Tree) (*nodes, error) {
	byPath := map[string]*node{".": {entry: t.Root(), nlink: 2}}
	tree := &nodes{root: byPath["."]}
	tree.root.parent = tree.root
	for e := range t.All() {
		if e.Type == initramfs.HardLink {
			continue
		}
		if err := checkEntry(e); err != nil {
			return nil, err
		}
		n := &node{entry: e}
		n.data.fragment = noFragment
		byPath[e.Path] = n
		if e.Type == initramfs.File {
			tree.files = append(tree.files, n)
		}
	}
	for e := range t.All() {
		file, err := t.Resolve(e)
		if err != nil {
			return nil, err
		}
		n, parent := byPath[file.Path], byPath[path.Dir(e.Path)]
		parent.entries = append(parent.entries, dirEntry{path.Base(e.Path), n})
		n.nlink++
		if e.Type == initramfs.Dir {
			n.parent = parent
			n.nlink++
			parent.nlink++
		}
	}
	tree.number()
	return tree, nil
}

func checkEntry(e *initramfs.Entry) error {
	const maxSymlink = 65535
	switch {
	case !validTime(e.MTime):
		return fmt.Errorf("%s from %s: time %v is outside 1970 to 2106", e.Path, e.Source, e.MTime)
	case len(e.Target) > maxSymlink:
		return fmt.Errorf("%s from %s: link text of %d bytes is longer than %d", e.Path, e.Source, len(e.Target), maxSymlink)
	}
	return nil
}

// number gives numbers breadth first.
func (t *nodes) number() {
	t.add(t.root)
	for i := 0; i < len(t.all); i++ {
		for _, e := range t.all[i].entries {
			if e.node.num == 0 {
				t.add(e.node)
			}
		}
	}
}

func (t *nodes) add(n *node) {
	t.all = append(t.all, n)
	n.num = uint32(len(t.all))
}

// stats counts what was written; stored are the files whose content is in the image
// once.
func (t *nodes) stats(size int64, stored []*node, fragments int) Stats {
	s := Stats{Size: size, Inodes: len(t.all), Fragments: fragments}
	for _, f := range t.files {
		s.DataBytes += f.entry.Size
	}
	for _, f := range stored {
		s.Blocks += len(f.data.blocks)
	}
	return s
}
