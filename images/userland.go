package images

// UserlandFile is where an initramfs says which userland belongs to it, as a
// [Userland] in JSON: what package api says to agents, which may not know this one.
const UserlandFile = "/etc/muster/userland.json"

// Userland describes the userland of an image, so that a node can fetch it and check it
// piece by piece.
type Userland struct {
	SHA256    string   `json:"sha256"`
	Size      int64    `json:"size"`
	MemoryMiB int64    `json:"memory_mib"` // see [UserlandMemoryMiB]
	Chunk     int64    `json:"chunk"`      // length of a piece in bytes, of all but the last
	Chunks    []string `json:"chunks"`     // SHA-256 of the pieces
}

// memoryBeside is what a node needs beside the userland that it holds: kernel,
// initramfs and agent, and what of the userland is in use.
const memoryBeside = 224 << 20

// UserlandMemoryMiB is the least memory of a machine that can hold a userland of so
// many bytes, rounded up to 32 MiB.
func UserlandMemoryMiB(size int64) int64 {
	const step = 32 << 20
	return (memoryBeside + size + step - 1) / step * step >> 20
}

// Userland describes the userland of an image; false if it has none.
func (m *Manifest) Userland() (Userland, bool) {
	a, ok := m.File(KindUserland)
	if !ok {
		return Userland{}, false
	}
	return a.Userland(), true
}

// Userland describes an artifact that is a userland.
func (a Artifact) Userland() Userland {
	return Userland{SHA256: a.SHA256, Size: a.Size, MemoryMiB: UserlandMemoryMiB(a.Size), Chunk: ChunkSize, Chunks: a.ChunksSHA256}
}
