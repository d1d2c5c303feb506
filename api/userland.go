package api

// UserlandFile is where an initramfs says which userland belongs to it, as a
// [Userland] in JSON. An image without userland does not have the file.
const UserlandFile = "/etc/muster/userland.json"

// Userland describes the userland of an image, so that a node can fetch and check it piece
// by piece. It comes with the initramfs, whose origin is trusted; where
// the pieces come from does not have to be.
type Userland struct {
	SHA256 string `json:"sha256"`
	Size   int64  `json:"size"` // bytes
	// MemoryMiB is the least memory of a machine that can hold it.
	MemoryMiB int64 `json:"memory_mib"`
	// Chunk is the length of a piece in bytes, and Chunks are the SHA-256 of the pieces,
	// the last one shorter.
	Chunk  int64    `json:"chunk"`
	Chunks []string `json:"chunks"`
}
