package squashfs

import (
	"encoding/binary"
	"fmt"
	"math"

	"muster/initramfs"
)

// Inode types. A directory entry has the basic type also where the inode is
// extended.
const (
	typeDir = iota + 1
	typeFile
	typeSymlink

	extended = 7 // basic type + 7 is the extended one
)

// encodeInodes writes the inodes and directories of the whole tree. A directory
// must know where the inodes of its entries are, so it comes after them.
func encodeInodes(enc encoder, tree *nodes, ids *idTable, xattrs *xattrTable) (inodes, dirs []byte, err error) {
	w := &inodeWriter{inodes: newMeta(enc), dirs: newMeta(enc), ids: ids, xattrs: xattrs}
	if err := w.tree(tree.root); err != nil {
		return nil, nil, err
	}
	inodes, dirs = w.inodes.finish(), w.dirs.finish()
	if len(inodes) > math.MaxUint32 || len(dirs) > math.MaxUint32 {
		return nil, nil, fmt.Errorf("tables of %d and %d bytes are larger than 4 GiB", len(inodes), len(dirs))
	}
	return inodes, dirs, nil
}

type inodeWriter struct {
	inodes, dirs *meta
	ids          *idTable
	xattrs       *xattrTable
}

// tree writes the directory n: first what is in its folders, then its files, so
// that their inodes are next to each other, then n itself.
func (w *inodeWriter) tree(n *node) error {
	for _, e := range n.entries {
		if e.node.entry.Type == initramfs.Dir {
			if err := w.tree(e.node); err != nil {
				return err
			}
		}
	}
	for _, e := range n.entries {
		if e.node.written {
			continue
		}
		if err := w.inode(e.node, leaf); err != nil {
			return err
		}
	}
	return w.inode(n, w.directory)
}

// inode writes n. body tells the basic type of the inode, whether it needs the
// extended form, and what follows its common head.
func (w *inodeWriter) inode(n *node, body func(*node) inodeBody) error {
	uid, err := w.ids.add(n.entry.UID)
	if err != nil {
		return err
	}
	gid, err := w.ids.add(n.entry.GID)
	if err != nil {
		return err
	}
	content := body(n)
	le := binary.LittleEndian
	var b []byte
	b = le.AppendUint16(b, content.kind)
	b = le.AppendUint16(b, uint16(n.entry.Mode))
	b = le.AppendUint16(b, uid)
	b = le.AppendUint16(b, gid)
	b = le.AppendUint32(b, uint32(n.entry.MTime.Unix()))
	b = le.AppendUint32(b, n.num)
	n.ref = w.inodes.ref()
	n.written = true
	w.inodes.write(b)
	w.inodes.write(content.bytes)
	return nil
}

// inodeBody is what depends on the type of an inode.
type inodeBody struct {
	kind  uint16
	bytes []byte
}

// leaf is the body of a file or a symbolic link.
func leaf(n *node) inodeBody {
	if n.entry.Type == initramfs.Symlink {
		return symlinkBody(n)
	}
	return fileBody(n)
}

func symlinkBody(n *node) inodeBody {
	le := binary.LittleEndian
	var b []byte
	b = le.AppendUint32(b, n.nlink)
	b = le.AppendUint32(b, uint32(len(n.entry.Target)))
	b = append(b, n.entry.Target...)
	if n.xattr == noXattr {
		return inodeBody{typeSymlink, b}
	}
	return inodeBody{typeSymlink + extended, le.AppendUint32(b, n.xattr)}
}

func fileBody(n *node) inodeBody {
	le := binary.LittleEndian
	d, size := &n.data, uint64(n.entry.Size)
	kind := uint16(typeFile)
	var b []byte
	if n.nlink == 1 && n.xattr == noXattr && d.sparse == 0 && d.start <= math.MaxUint32 && size <= math.MaxUint32 {
		b = le.AppendUint32(b, uint32(d.start))
		b = le.AppendUint32(b, d.fragment)
		b = le.AppendUint32(b, d.offset)
		b = le.AppendUint32(b, uint32(size))
	} else {
		kind += extended
		b = le.AppendUint64(b, d.start)
		b = le.AppendUint64(b, size)
		b = le.AppendUint64(b, d.sparse)
		b = le.AppendUint32(b, n.nlink)
		b = le.AppendUint32(b, d.fragment)
		b = le.AppendUint32(b, d.offset)
		b = le.AppendUint32(b, n.xattr)
	}
	for _, s := range d.blocks {
		b = le.AppendUint32(b, s)
	}
	return inodeBody{kind, b}
}

// directory writes the listing of n and returns its inode's body.
func (w *inodeWriter) directory(n *node) inodeBody {
	le := binary.LittleEndian
	block, offset := w.dirs.pos()
	size, index := w.listing(n)
	// The kernel counts "." and ".." as three bytes.
	size += 3
	var b []byte
	if size <= math.MaxUint16 && n.xattr == noXattr && len(index) == 0 {
		b = le.AppendUint32(b, uint32(block))
		b = le.AppendUint32(b, n.nlink)
		b = le.AppendUint16(b, uint16(size))
		b = le.AppendUint16(b, uint16(offset))
		b = le.AppendUint32(b, n.parent.num)
		return inodeBody{typeDir, b}
	}
	b = le.AppendUint32(b, n.nlink)
	b = le.AppendUint32(b, uint32(size))
	b = le.AppendUint32(b, uint32(block))
	b = le.AppendUint32(b, n.parent.num)
	b = le.AppendUint16(b, uint16(len(index)))
	b = le.AppendUint16(b, uint16(offset))
	b = le.AppendUint32(b, n.xattr)
	for _, i := range index {
		b = le.AppendUint32(b, uint32(i.offset))
		b = le.AppendUint32(b, uint32(i.block))
		b = le.AppendUint32(b, uint32(len(i.name)-1))
		b = append(b, i.name...)
	}
	return inodeBody{typeDir + extended, b}
}
