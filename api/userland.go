package api

// UserlandFile is where an initramfs says which userland belongs to it, as a
// [Userland] in JSON. An image without userland does not have the file.
const UserlandFile = "/etc/muster/userland.json"

// UserlandIn says where a node has its userland.
type UserlandIn string

// The places of a userland.
const (
	UserlandMemory UserlandIn = "memory" // the node holds it; also ""
	UserlandShare  UserlandIn = "share"  // a file of a read-only share, of which the node reads what it needs
	UserlandAuto   UserlandIn = "auto"   // as an image has it: memory, where it is at most a quarter of the node's, else a share
)

// Userland describes the userland of an image, so that a node can fetch and check it piece
// by piece, or read it from a share and check each block. It comes with the initramfs, whose origin is trusted; where
// the bytes come from does not have to be.
type Userland struct {
	SHA256 string `json:"sha256"`
	Size   int64  `json:"size"` // bytes
	// MemoryMiB is the least memory of a machine that can hold it.
	MemoryMiB int64 `json:"memory_mib"`
	// Chunk is the length of a piece in bytes, and Chunks are the SHA-256 of the pieces,
	// the last one shorter.
	Chunk  int64    `json:"chunk"`
	Chunks []string `json:"chunks"`

	In UserlandIn `json:"in,omitempty"`
	// VerityRoot is the root hash of dm-verity's tree, in hexadecimal, which is of VerityBlocks
	// blocks of 4096 bytes and begins one block behind them. "": the file has none.
	VerityRoot   string `json:"verity_root,omitempty"`
	VerityBlocks int64  `json:"verity_blocks,omitempty"`
	// Modules are what a node has to fetch and load, in this order, before it can read it
	// from a share. Nil: what it needs is in the initramfs, or nowhere.
	Modules *UserlandModules `json:"modules,omitempty"`
}

// UserlandModules are pieces of the head's file with all modules of the kernel.
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

// UserlandSource is a folder that an NFS server gives nodes, which has the userland of their image as a file.
// Nobody has to trust that server.
type UserlandSource struct {
	Server string `json:"server" doc:"address, without port"`
	Port   int    `json:"port,omitempty" doc:"0: 2049"`
	Export string `json:"export" doc:"folder"`
	File   string `json:"file" doc:"name in it"`
}
