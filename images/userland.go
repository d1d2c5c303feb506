package images

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/goccy/go-yaml/ast"
)

// UserlandFile is where an initramfs says which userland belongs to it, as a
// [Userland] in JSON: what package api says to agents, which may not know this one.
const UserlandFile = "/etc/muster/userland.json"

// UserlandIn says where the nodes of an image have its userland.
type UserlandIn string

// The places of a userland. "" in a definition is [UserlandAuto].
const (
	UserlandMemory UserlandIn = "memory" // each node holds it
	UserlandShare  UserlandIn = "share"  // a file of a read-only share, which nodes read as they need it
	UserlandAuto   UserlandIn = "auto"   // memory, where it is at most a quarter of the node's, else a share if there is one
)

// Userland describes the userland of an image, so that a node can fetch it and check it
// piece by piece, or read it from a share and have each block checked.
type Userland struct {
	SHA256    string   `json:"sha256"`
	Size      int64    `json:"size"`
	MemoryMiB int64    `json:"memory_mib"` // see [UserlandMemoryMiB]
	Chunk     int64    `json:"chunk"`      // length of a piece in bytes, of all but the last
	Chunks    []string `json:"chunks"`     // SHA-256 of the pieces

	In UserlandIn `json:"in,omitempty"` // "": memory
	// VerityRoot is the root hash of dm-verity's tree, in hexadecimal, and VerityBlocks how many blocks
	// of 4096 bytes the tree is of. Behind them the file has a block for veritysetup, and then the tree.
	VerityRoot   string `json:"verity_root,omitempty"`
	VerityBlocks int64  `json:"verity_blocks,omitempty"`
	// Modules are what a node has to fetch and load, in this order, before it can read the
	// userland from a share: the index of all modules is in the userland.
	Modules *UserlandModules `json:"modules,omitempty"`
}

// UserlandModules are pieces of the file with all modules of the kernel.
type UserlandModules struct {
	SHA256 string           `json:"sha256"` // of that file
	Size   int64            `json:"size"`
	Pieces []UserlandModule `json:"pieces"`
}

// UserlandModule is one module.
type UserlandModule struct {
	Path   string `json:"path"` // below /lib/modules/RELEASE
	Offset int64  `json:"offset"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

// ShareModuleNames are the modules that a node needs to read its userland from a share, beside those that it
// needs in any case.
func ShareModuleNames() []string { return []string{"nfsv4", "dm_verity"} }

// memoryBeside is what a node needs beside the userland that it holds: kernel,
// initramfs and agent, and what of the userland is in use.
const memoryBeside = 224 << 20

// UserlandMemoryMiB is the least memory of a machine that can hold a userland of so
// many bytes, rounded up to 32 MiB.
func UserlandMemoryMiB(size int64) int64 {
	const step = 32 << 20
	return (memoryBeside + size + step - 1) / step * step >> 20
}

// Userland describes the userland of an image, but for its modules, which the manifest does not name; false if it
// has none.
func (m *Manifest) Userland() (Userland, bool) {
	a, ok := m.File(KindUserland)
	if !ok {
		return Userland{}, false
	}
	return a.Userland(), true
}

// Userland describes an artifact that is a userland, but for its modules.
func (a Artifact) Userland() Userland {
	u := Userland{SHA256: a.SHA256, Size: a.Size, MemoryMiB: UserlandMemoryMiB(a.Size), Chunk: ChunkSize, Chunks: a.ChunksSHA256}
	if a.Verity != nil {
		u.In, u.VerityRoot, u.VerityBlocks = a.In, a.Verity.Root, a.Verity.Blocks
	}
	return u
}

// userlandPlaces are the words that a definition may have.
func userlandPlaces() []string {
	return []string{string(UserlandMemory), string(UserlandShare), string(UserlandAuto)}
}

// userlandWord makes userland-in: of a userland: that is one word.
func userlandWord(name string, body ast.Node) error {
	var values []*ast.MappingValueNode
	switch n := body.(type) {
	case *ast.MappingNode:
		values = n.Values
	case *ast.MappingValueNode:
		values = []*ast.MappingValueNode{n}
	}
	for _, kv := range values {
		word, ok := kv.Value.(*ast.StringNode)
		if !ok || kv.Key.GetToken().Value != "userland" {
			continue
		}
		if places := userlandPlaces(); !slices.Contains(places, word.Value) {
			return fmt.Errorf("%s: userland: %q%s is neither one of %s nor a list of sources, such as - dir: ./tree",
				at(name, word.GetToken()), word.Value, didYouMean(word.Value, places), strings.Join(places, ", "))
		}
		for _, other := range values {
			if other.Key.GetToken().Value == "userland-in" {
				return fmt.Errorf("%s: userland: %s and userland-in: say the same; leave one of them out", at(name, word.GetToken()), word.Value)
			}
		}
		key, ok := kv.Key.(*ast.StringNode)
		if !ok {
			continue
		}
		key.Value, key.Token.Value, key.Token.Origin = "userland-in", "userland-in", "userland-in"
	}
	return nil
}

// checkUserlandIn checks where a definition wants its userland.
func checkUserlandIn(d *Definition) error {
	places := userlandPlaces()
	switch in := d.UserlandIn; {
	case in == "" || in == UserlandAuto || in == UserlandMemory:
		return nil
	case !slices.Contains(places, string(in)):
		return fmt.Errorf("userland-in: %q%s; can be: %s", in, didYouMean(string(in), places), strings.Join(places, ", "))
	case !d.HasUserland():
		return errors.New("userland-in: share: there is no userland; give packages, or leave it out")
	case !d.WantsRest():
		for _, name := range ShareModuleNames() {
			if !slices.ContainsFunc(d.Modules.Names, func(m string) bool { return strings.ReplaceAll(m, "-", "_") == name }) {
				return fmt.Errorf("userland-in: share: a node needs the modules %s for it, which modules: rest: none leaves out; name them in modules: names",
					strings.Join(ShareModuleNames(), " and "))
			}
		}
	}
	return nil
}
