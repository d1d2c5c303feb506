package kmod

import (
	"fmt"
	"io"
	"strings"
)

// Node is a device node that a module wants to be there before it is loaded:
// who opens it makes the kernel load the module. devtmpfs has it only
// afterwards, so somebody must make it (/dev/loop-control, /dev/fuse).
type Node struct {
	Name   string // below /dev: net/tun
	Block  bool   // a block device; else a character device
	Major  uint32
	Minor  uint32
	Module string
}

// Nodes returns the device nodes of all modules, in index order. They are
// what depmod writes to modules.devname.
func (x *Index) Nodes() []Node {
	found := make(map[string]*Node)
	var order []*Node
	for _, a := range x.aliases {
		n := found[a.Module]
		if n == nil {
			n = &Node{Module: a.Module}
		}
		if !n.addAlias(a.Pattern) {
			continue
		}
		if found[a.Module] == nil {
			found[a.Module] = n
			order = append(order, n)
		}
	}
	var nodes []Node
	for _, n := range order {
		if n.Name != "" && n.Major != 0 {
			nodes = append(nodes, *n)
		}
	}
	return nodes
}

// addAlias takes what an alias says of the node, if anything.
func (n *Node) addAlias(alias string) bool {
	if name, ok := strings.CutPrefix(alias, "devname:"); ok {
		n.Name = name
		return true
	}
	for prefix, block := range map[string]bool{"char-major-": false, "block-major-": true} {
		rest, ok := strings.CutPrefix(alias, prefix)
		if !ok {
			continue
		}
		var major, minor uint32
		if k, err := fmt.Sscanf(rest, "%d-%d", &major, &minor); k == 2 && err == nil && !strings.Contains(rest, "*") {
			n.Block, n.Major, n.Minor = block, major, minor
			return true
		}
	}
	return false
}

func (x *Index) writeDevname(w io.Writer) {
	nodes := x.Nodes()
	if len(nodes) == 0 {
		return
	}
	fmt.Fprintln(w, "# Device nodes to trigger on-demand module loading.")
	for _, n := range nodes {
		kind := 'c'
		if n.Block {
			kind = 'b'
		}
		fmt.Fprintf(w, "%s %s %c%d:%d\n", n.Module, n.Name, kind, n.Major, n.Minor)
	}
}
