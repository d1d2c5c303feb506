package api

import "time"

// Image is one published image.
type Image struct {
	ID        string    `json:"id" doc:"image ID: SHA-256 of its inputs"`
	Name      string    `json:"name" doc:"name of its definition"`
	Default   bool      `json:"default" doc:"machines without an image of their own boot it"`
	Arch      string    `json:"arch"`
	Kernel    string    `json:"kernel" doc:"kernel release"`
	Bytes     int64     `json:"bytes" doc:"of all artifacts"`
	Published time.Time `json:"published"`
	// Kexec says which machines start it when they join with another image.
	Kexec    KexecPolicy `json:"kexec"`
	Nodes    []string    `json:"nodes" doc:"nodes that run it now"`
	Assigned []string    `json:"assigned" doc:"nodes and declared machines whose own image it is"`
	// Userland is what its tasks see; absent: it has none.
	Userland *ImageUserland `json:"userland,omitempty"`
}

// ImageUserland is the userland of an image.
type ImageUserland struct {
	SHA256    string     `json:"sha256"`
	Bytes     int64      `json:"bytes"`
	In        UserlandIn `json:"in" doc:"where nodes have it: memory, share, or auto"`
	MemoryMiB int64      `json:"memory_mib" doc:"least memory of a machine that holds it"`
	Share     string     `json:"share,omitempty" doc:"where nodes read it instead: HOST:/FOLDER, or a folder of a share; kept by the name of the image"`
	File      string     `json:"file,omitempty" doc:"its name there; absent: it cannot be read from a share, build the image again"`
	Blob      string     `json:"blob" doc:"file of the head to copy there"`
}

// ImageManifest is the manifest of a published image.
type ImageManifest struct {
	Manifest []byte `json:"manifest" doc:"manifest.json"`
}

// Blob upload and publication: PUT /v1/blobs/{sha256} for every artifact
// that HEAD does not find, then POST /v1/images with the manifest.

// PublishRequest publishes an image whose artifacts are all in the store.
type PublishRequest struct {
	Manifest []byte `json:"manifest" doc:"the manifest.json of the build, as it is"`
	Default  *bool  `json:"default,omitempty" doc:"make it the default; absent: if it is the first"`
}

// NodeImage says what a node runs, and what it boots the next time.
type NodeImage struct {
	Name     string `json:"name,omitempty" doc:"name of the image that it runs"`
	Unknown  bool   `json:"unknown,omitempty" doc:"the head does not have the image that it runs"`
	Assigned string `json:"assigned,omitempty" doc:"image of its own: a name, which it follows to what is published under it later, or an ID; absent: the default"`
	Missing  bool   `json:"missing,omitempty" doc:"the image of its own is not published: it is not answered when it boots from the network"`
	Next     string `json:"next,omitempty" doc:"name of the image that it boots next, where that is another than it runs"`
	NextID   string `json:"next_id,omitempty" doc:"ID of that image"`
}

// AssignImageRequest gives machines an image of their own, all or none.
type AssignImageRequest struct {
	Nodes []string `json:"nodes" doc:"names, IDs, MACs or fingerprints of nodes and declared machines"`
	Image string   `json:"image,omitempty" doc:"name, ID or unambiguous beginning of an ID; absent: back to the default"`
}

// ImageSettings changes what is set of an image.
type ImageSettings struct {
	Kexec KexecPolicy `json:"kexec,omitempty" doc:"media, always or never; absent: as it is"`
	// UserlandShare is kept by the name of the image, so that it is also that of what is published under it later.
	UserlandShare *string `json:"userland_share,omitempty" doc:"where nodes read its userland: HOST:/FOLDER, or a folder of a share; empty: nowhere; absent: as it is"`
}
