package task

import (
	"path/filepath"
	"strings"
)

// View is what tasks see of a node.
type View struct {
	Root   string  `json:"root,omitempty"`   // folder that is their /; empty: the node's root
	Shares []Share `json:"shares,omitempty"` // in the order in which they are mounted
	Files  []File  `json:"files,omitempty"`
}

// Share is a folder of the node that tasks see at a path that Root has.
type Share struct {
	From     string `json:"from"`
	To       string `json:"to"`
	ReadOnly bool   `json:"read_only,omitempty"`
}

// File is a file of the node that lies over one of Root, such as /etc/passwd. Where
// Root has none, it is left out.
type File struct {
	From string `json:"from"`
	To   string `json:"to"`
}

// locate returns where the node has a path that a task sees, as far as
// Root and shares are concerned, and whether it is in a share.
func (v View) locate(path string) (on string, shared bool) {
	on = filepath.Join("/", v.Root, path)
	longest := -1
	for _, s := range v.Shares {
		rest, ok := below(path, s.To)
		if ok && len(s.To) > longest {
			on, shared, longest = filepath.Join(s.From, rest), true, len(s.To)
		}
	}
	return on, shared
}

// below returns what of path follows dir, and whether path is dir or in it.
func below(path, dir string) (rest string, ok bool) {
	path, dir = filepath.Clean(path), filepath.Clean(dir)
	if dir == "/" {
		return path, true
	}
	rest, ok = strings.CutPrefix(path, dir)
	return rest, ok && (rest == "" || rest[0] == '/')
}
