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
	Nodes     []string  `json:"nodes" doc:"nodes that run it now"`
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
