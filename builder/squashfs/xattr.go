package squashfs

import (
	"encoding/binary"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
)

// noXattr is the attribute set of an inode that has none.
const noXattr = math.MaxUint32

// Limits of extended attributes in Linux (linux/limits.h).
const (
	maxXattrName  = 255
	maxXattrValue = 64 << 10
)

// xattrTable holds sets of extended attributes. Inodes with equal attributes
// share one set.
type xattrTable struct {
	pairs *meta  // names and values
	sets  []byte // where each set is in pairs
}

// newXattrs collects the attributes of all nodes and sets their numbers.
func newXattrs(enc encoder, all []*node) (*xattrTable, error) {
	t := &xattrTable{pairs: newMeta(enc)}
	known := make(map[string]uint32)
	for _, n := range all {
		n.xattr = noXattr
		if len(n.entry.Xattrs) == 0 {
			continue
		}
		b, err := encodeXattrs(n.entry.Xattrs)
		if err != nil {
			return nil, fmt.Errorf("%s from %s: %w", n.entry.Path, n.entry.Source, err)
		}
		set, ok := known[string(b)]
		if !ok {
			set = t.add(b, len(n.entry.Xattrs))
			known[string(b)] = set
		}
		n.xattr = set
	}
	return t, nil
}

// setSize is the size of what says where a set is.
const setSize = 16

func (t *xattrTable) add(b []byte, count int) uint32 {
	le := binary.LittleEndian
	set := uint32(len(t.sets) / setSize)
	t.sets = le.AppendUint64(t.sets, t.pairs.ref())
	t.sets = le.AppendUint32(t.sets, uint32(count))
	t.sets = le.AppendUint32(t.sets, uint32(len(b)))
	t.pairs.write(b)
	return set
}

// encodeXattrs writes names and values, sorted by name.
func encodeXattrs(attrs map[string][]byte) ([]byte, error) {
	le := binary.LittleEndian
	var b []byte
	for _, name := range slices.Sorted(maps.Keys(attrs)) {
		space, rest, err := splitXattr(name)
		if err != nil {
			return nil, err
		}
		value := attrs[name]
		if len(value) > maxXattrValue {
			return nil, fmt.Errorf("attribute %s has %d bytes; Linux allows %d", name, len(value), maxXattrValue)
		}
		b = le.AppendUint16(b, space)
		b = le.AppendUint16(b, uint16(len(rest)))
		b = append(b, rest...)
		b = le.AppendUint32(b, uint32(len(value)))
		b = append(b, value...)
	}
	return b, nil
}

// splitXattr returns the number of the name space and the name within it.
func splitXattr(name string) (space uint16, rest string, err error) {
	prefix, rest, _ := strings.Cut(name, ".")
	if rest == "" || len(name) > maxXattrName {
		return 0, "", fmt.Errorf("%q is no name of an extended attribute", name)
	}
	switch prefix {
	case "user":
		return 0, rest, nil
	case "trusted":
		return 1, rest, nil
	case "security":
		return 2, rest, nil
	}
	return 0, "", fmt.Errorf("squashfs has no place for attribute %s; only user, trusted and security", name)
}

// write writes the table and returns its position, or noTable.
func (t *xattrTable) write(out *output, enc encoder) uint64 {
	if len(t.sets) == 0 {
		return noTable
	}
	pairs := out.pos
	out.write(t.pairs.finish())
	list := out.blocks(newMeta(enc), t.sets)
	le := binary.LittleEndian
	var head []byte
	head = le.AppendUint64(head, uint64(pairs))
	head = le.AppendUint32(head, uint32(len(t.sets)/setSize))
	head = le.AppendUint32(head, 0)
	at := uint64(out.pos)
	out.write(head)
	out.write(list)
	return at
}
