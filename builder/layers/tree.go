package layers

import (
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"path"
	"slices"
	"strings"

	"muster/initramfs"
)

// Limits of a tree. What people run is an order of magnitude below.
const (
	maxEntries = 1 << 20
	maxBytes   = 32 << 30 // of all files of all layers, unpacked
	maxName    = 255      // of one path element
	maxPath    = 4096
	maxLinks   = 40 // how many links the kernel follows (path_resolution(7))
)

// Store keeps the content of a file, of which size bytes have to come.
type Store func(content io.Reader, size int64) (*io.SectionReader, error)

// Tree is what the layers so far have come to.
type Tree struct {
	store   Store
	top     *node
	layer   int // number of the current one
	entries int
	bytes   int64
}

// New returns a tree with nothing in it.
func New(store Store) *Tree { return &Tree{store: store, top: newDir(0)} }

// File is one path of a tree.
type File struct {
	initramfs.Entry
	Content *io.SectionReader // of a file
}

// node is a name. Hard links are nodes that share their inode.
type node struct {
	*inode
	children map[string]*node // of a folder
	layer    int              // that named it last
}

type inode struct {
	entry   initramfs.Entry // without Path; a hard link is its file
	content *io.SectionReader
	implied bool // a folder that no layer has, only what is in it
}

func newDir(layer int) *node {
	return &node{
		inode:    &inode{entry: initramfs.Entry{Type: initramfs.Dir, Mode: 0o755}, implied: true},
		children: make(map[string]*node), layer: layer,
	}
}

// All yields every path that a layer names, a folder before what it holds, the names in a folder in byte order.
// Of the names of one file the first is the file and the others are hard links to it.
func (t *Tree) All() iter.Seq[File] {
	return func(yield func(File) bool) {
		first := make(map[*inode]string)
		var walk func(prefix string, dir *node) bool
		walk = func(prefix string, dir *node) bool {
			for _, name := range slices.Sorted(maps.Keys(dir.children)) {
				n := dir.children[name]
				f := File{Entry: n.entry, Content: n.content}
				f.Path = prefix + name
				if old, ok := first[n.inode]; ok && n.entry.Type == initramfs.File {
					f = File{Entry: initramfs.Entry{Path: f.Path, Type: initramfs.HardLink, Target: old, Source: n.entry.Source}}
				}
				first[n.inode] = f.Path
				if f.Type == initramfs.HardLink {
					first[n.inode] = f.Target
				}
				if !n.implied && !yield(f) || n.children != nil && !walk(f.Path+"/", n) {
					return false
				}
			}
			return true
		}
		walk("", t.top)
	}
}

// Lookup returns what is at a path, links followed, and false where nothing is.
func (t *Tree) Lookup(name string) (File, bool) {
	p, n := t.follow(name)
	if n == nil {
		return File{}, false
	}
	f := File{Entry: n.entry, Content: n.content}
	f.Path = p
	return f, true
}

// Names returns what is in a folder, sorted.
func (t *Tree) Names(dir string) []string {
	_, n := t.follow(dir)
	if n == nil {
		return nil
	}
	return slices.Sorted(maps.Keys(n.children))
}

// follow finds what a path leads to, all links followed.
func (t *Tree) follow(name string) (string, *node) {
	links := 0
	p := clean(name)
	for {
		dir, err := t.walk(path.Dir("/" + p)[1:], &links, false)
		if err != nil || dir.node == nil {
			return "", nil
		}
		base := path.Base("/" + p)
		if base == "/" {
			return "", t.top
		}
		n := dir.children[base]
		p = path.Join(dir.path, base)
		if n == nil || n.entry.Type != initramfs.Symlink {
			return p, n
		}
		if links++; links > maxLinks {
			return "", nil
		}
		p = MergeUsr(linkTarget(dir.path, n.entry.Target))
	}
}

// place is a folder and where it is.
type place struct {
	*node
	path string
}

// errLoop says that links lead round in a circle.
var errLoop = errors.New("links lead round in a circle")

// walk finds the folder at a path, which is clean, and follows the links in it; they stay
// within the tree. With make it makes what is missing. Without, a node of nil says
// that there is none.
func (t *Tree) walk(name string, links *int, make bool) (place, error) {
	at := place{t.top, ""}
	rest := split(name)
	for len(rest) > 0 {
		elem := rest[0]
		rest = rest[1:]
		n := at.children[elem]
		switch {
		case n == nil && !make:
			return place{}, nil
		case n == nil:
			if err := t.count(); err != nil {
				return place{}, err
			}
			n = newDir(t.layer)
			at.children[elem] = n
		case n.entry.Type == initramfs.Symlink:
			if *links++; *links > maxLinks {
				return place{}, errLoop
			}
			rest = append(split(MergeUsr(linkTarget(at.path, n.entry.Target))), rest...)
			at = place{t.top, ""}
			continue
		case n.children == nil && !make:
			return place{}, nil
		case n.children == nil: // a file that becomes a folder: the later layer counts
			n = newDir(t.layer)
			at.children[elem] = n
		}
		at = place{n, path.Join(at.path, elem)}
	}
	return at, nil
}

func (t *Tree) count() error {
	if t.entries++; t.entries > maxEntries {
		return fmt.Errorf("it has more than %d entries", maxEntries)
	}
	return nil
}

// remove takes away what lower layers have at a path, whose last element is not followed.
func (t *Tree) remove(name string) error {
	links := 0
	dir, err := t.walk(path.Dir("/" + name)[1:], &links, false)
	if err != nil || dir.node == nil {
		return err
	}
	base := path.Base(name)
	n := dir.children[base]
	switch {
	case n == nil:
	case n.children != nil && n.prune(t.layer):
		n.layer = t.layer // this layer put something into it
	case n.layer < t.layer:
		delete(dir.children, base)
	}
	return nil
}

// empty takes away what lower layers have in a folder.
func (t *Tree) empty(name string) error {
	links := 0
	dir, err := t.walk(name, &links, false)
	if err != nil || dir.node == nil {
		return err
	}
	dir.prune(t.layer)
	return nil
}

// prune takes away what is of layers below, and says whether anything stays.
func (n *node) prune(layer int) bool {
	for name, c := range n.children {
		stays := c.layer >= layer
		if c.children != nil && c.prune(layer) {
			stays = true
		}
		if !stays {
			delete(n.children, name)
		}
	}
	return len(n.children) > 0 || n.layer >= layer
}

func split(name string) []string {
	if name == "" || name == "." {
		return nil
	}
	return strings.Split(name, "/")
}

// clean makes a path relative to the tree; what would lead out of it stays at its top, as in a
// root of its own.
func clean(name string) string { return path.Clean("/" + name)[1:] }

// linkTarget is where the link text in the folder dir leads.
func linkTarget(dir, text string) string {
	if strings.HasPrefix(text, "/") {
		return clean(text)
	}
	return clean(dir + "/" + text)
}

// merged are the top folders that are links into usr/ on a system with merged /usr.
func merged(top string) bool {
	switch top {
	case "bin", "sbin", "lib", "lib32", "lib64", "libx32":
		return true
	}
	return false
}

// MergeUsr returns a clean path as a system with merged /usr has it: bin/x is usr/bin/x.
func MergeUsr(name string) string {
	if top, _, _ := strings.Cut(name, "/"); merged(top) {
		return "usr/" + name
	}
	return name
}
