package images

import "time"

// ManifestSchema is the version of the manifest's format. A reader refuses a
// higher one.
const ManifestSchema = 1

// Manifest lists what one build wrote. It is written last, as manifest.json
// beside the artifacts, so that a folder with a manifest is a whole image.
type Manifest struct {
	Schema    int        `json:"schema"`
	ID        string     `json:"id"`         // image ID: SHA-256 of the inputs, in hexadecimal
	RuntimeID string     `json:"runtime_id"` // hash of what a running task depends on
	Name      string     `json:"name"`       // of the definition
	Arch      string     `json:"arch"`       // as Debian names it
	Kernel    string     `json:"kernel"`     // kernel release
	Cmdline   string     `json:"cmdline"`    // kernel parameters of the image
	Time      time.Time  `json:"time"`       // of every file in the artifacts
	LockHash  string     `json:"lock_sha256"`
	Artifacts []Artifact `json:"artifacts"`
	Packages  []Package  `json:"packages"` // Debian packages that something of is in the image
}

// ArtifactKind says what an artifact is for.
type ArtifactKind string

// The kinds of artifacts.
const (
	KindKernel    ArtifactKind = "kernel"
	KindInitramfs ArtifactKind = "initramfs"
	KindLoader    ArtifactKind = "loader" // network boot program
)

// Artifact is one output file.
type Artifact struct {
	Kind   ArtifactKind `json:"kind"`
	Name   string       `json:"name"` // file name in the output folder, slash-separated
	Size   int64        `json:"size"`
	SHA256 string       `json:"sha256"`

	// Of a loader: the firmware and architecture it is for, and the package
	// it was taken from.
	Client  string `json:"client,omitempty"` // bios or uefi
	Arch    string `json:"arch,omitempty"`
	Package string `json:"package,omitempty"` // name and version: ipxe 1.21.1+…
}

// Package names a Debian package, binary and source.
type Package struct {
	Name          string `json:"name"`
	Version       string `json:"version"`
	Source        string `json:"source"`
	SourceVersion string `json:"source_version"`
	SHA256        string `json:"sha256"`
}
