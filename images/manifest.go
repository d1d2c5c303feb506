package images

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"
)

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
	// Modules are the kernel modules that a machine has until it has joined, and
	// Commands the u-root commands and Go commands, by name, sorted.
	Modules  []string `json:"modules,omitempty"`
	Commands []string `json:"commands,omitempty"`
}

// ArtifactKind says what an artifact is for.
type ArtifactKind string

// The kinds of artifacts.
const (
	KindKernel    ArtifactKind = "kernel"
	KindInitramfs ArtifactKind = "initramfs"
	KindLoader    ArtifactKind = "loader"   // network boot program
	KindSBOM      ArtifactKind = "sbom"     // what is in the image, SPDX 2.3
	KindSources   ArtifactKind = "sources"  // where the sources of it are
	KindISO       ArtifactKind = "iso"      // hybrid file for CD and USB stick
	KindUKI       ArtifactKind = "uki"      // UEFI program with kernel, command line and initramfs
	KindIMG       ArtifactKind = "img"      // disk with that program
	KindUserland  ArtifactKind = "userland" // squashfs that tasks see
	KindModules   ArtifactKind = "modules"  // tar of all modules of the kernel, of which nodes fetch single ones
)

// ChunkSize is how many bytes of a userland are checked at a time.
const ChunkSize = 1 << 20

// Artifact is one output file.
type Artifact struct {
	Kind   ArtifactKind `json:"kind"`
	Name   string       `json:"name"` // file name in the output folder, slash-separated
	Size   int64        `json:"size"`
	SHA256 string       `json:"sha256"`

	// ChunksSHA256 are the hashes of the pieces of [ChunkSize] bytes that a userland
	// consists of, the last one shorter. A node checks each as it arrives.
	ChunksSHA256 []string `json:"chunks_sha256,omitempty"`
	// Of a userland: where its nodes have it, and dm-verity's hash tree at its end.
	In     UserlandIn `json:"in,omitempty"`
	Verity *Verity    `json:"verity,omitempty"`

	// Of a loader: the firmware and architecture it is for, and the package
	// it was taken from.
	Client  string `json:"client,omitempty"` // bios or uefi
	Arch    string `json:"arch,omitempty"`
	Package string `json:"package,omitempty"` // name and version: ipxe 1.21.1+…

	// Site is where the site segment of a medium is. It may be rewritten at any
	// time, so SHA256 is that of the file with zero bytes in this place.
	// What is signed has none: the signature covers it.
	Site *Range `json:"site,omitempty"`

	// Signer is the SHA-256 of the certificate, in DER, of the key that signed a UKI, or that on a disk, for
	// Secure Boot. It has no influence on the image ID.
	Signer string `json:"signer,omitempty"`
}

// Verity is a hash tree of dm-verity, behind the data that it is of: SHA-256, blocks of 4096 bytes, no salt.
type Verity struct {
	Root   string `json:"root"`   // hash, in hexadecimal
	Blocks int64  `json:"blocks"` // of data; veritysetup's superblock is the next one, and the hashes are behind it
}

// Range is a part of a file, in bytes.
type Range struct {
	Offset int64 `json:"offset"`
	Size   int64 `json:"size"`
}

// Netboot returns the manifest without the artifacts of media, which no head serves. A UKI
// that is signed stays: UEFI HTTP boot takes it.
func (m *Manifest) Netboot() *Manifest {
	n := *m
	n.Artifacts = slices.DeleteFunc(slices.Clone(m.Artifacts), func(a Artifact) bool {
		return a.Kind == KindISO || a.Kind == KindIMG || a.Kind == KindUKI && a.Signer == ""
	})
	return &n
}

// Package names a Debian package, binary and source.
type Package struct {
	Name          string `json:"name"`
	Version       string `json:"version"`
	Source        string `json:"source"`
	SourceVersion string `json:"source_version"`
	SHA256        string `json:"sha256"`
}

// maxManifest bounds what ParseManifest reads.
const maxManifest = 16 << 20

// ParseManifest reads a manifest, which a stranger may have sent, and checks
// that it is whole: what follows may use every name in it as that of a file
// below a folder, and every hash as that of a blob. name is used in errors.
func ParseManifest(name string, data []byte) (*Manifest, error) {
	m := &Manifest{}
	if err := decodeStrict(data, maxManifest, m); err != nil {
		return nil, fmt.Errorf("manifest %s: %w", name, err)
	}
	if err := m.check(); err != nil {
		return nil, fmt.Errorf("manifest %s: %w", name, err)
	}
	return m, nil
}

// File returns the first artifact of a kind.
func (m *Manifest) File(kind ArtifactKind) (Artifact, bool) {
	for _, a := range m.Artifacts {
		if a.Kind == kind {
			return a, true
		}
	}
	return Artifact{}, false
}

func (m *Manifest) check() error {
	switch {
	case m.Schema > ManifestSchema:
		return fmt.Errorf("format %d is newer than this program, which knows %d; update muster", m.Schema, ManifestSchema)
	case m.Schema < 1:
		return errors.New("has no schema; it is not a manifest of muster")
	case !sha256RE.MatchString(m.ID):
		return fmt.Errorf("id %q is no SHA-256", m.ID)
	case !sha256RE.MatchString(m.RuntimeID):
		return fmt.Errorf("runtime_id %q is no SHA-256", m.RuntimeID)
	case !nameRE.MatchString(m.Name):
		return fmt.Errorf("name %q cannot be that of an image", m.Name)
	case m.Arch == "":
		return errors.New("has no arch")
	}
	if err := checkKernel(Kernel{Package: "linux", Cmdline: m.Cmdline}); err != nil {
		return err
	}
	seen := make(map[string]bool)
	for _, a := range m.Artifacts {
		if err := a.check(); err != nil {
			return err
		}
		if seen[a.Name] {
			return fmt.Errorf("artifact %s is there twice", a.Name)
		}
		seen[a.Name] = true
	}
	for _, kind := range []ArtifactKind{KindKernel, KindInitramfs} {
		if _, ok := m.File(kind); !ok {
			return fmt.Errorf("has no %s", kind)
		}
	}
	return nil
}

func (a Artifact) check() error {
	switch {
	case a.Name == "" || a.Name != path.Clean(a.Name) || path.IsAbs(a.Name) || a.Name == "." || a.Name == ".." ||
		strings.HasPrefix(a.Name, "../") || strings.ContainsAny(a.Name, "\x00\\"):
		return fmt.Errorf("artifact name %q does not stay in its folder", a.Name)
	case a.Size <= 0:
		return fmt.Errorf("artifact %s: size is %d", a.Name, a.Size)
	case !sha256RE.MatchString(a.SHA256):
		return fmt.Errorf("artifact %s: sha256 %q is no SHA-256", a.Name, a.SHA256)
	case a.Site != nil && (a.Site.Offset < 0 || a.Site.Size <= 0 || a.Site.Size > a.Size || a.Site.Offset > a.Size-a.Site.Size):
		return fmt.Errorf("artifact %s: its site segment is not in it", a.Name)
	case a.Signer != "" && !sha256RE.MatchString(a.Signer):
		return fmt.Errorf("artifact %s: signer %q is no SHA-256", a.Name, a.Signer)
	case a.Kind == KindUserland && int64(len(a.ChunksSHA256)) != (a.Size+ChunkSize-1)/ChunkSize:
		return fmt.Errorf("artifact %s: %d bytes have %d chunk hashes", a.Name, a.Size, len(a.ChunksSHA256))
	}
	if v := a.Verity; v != nil && (!sha256RE.MatchString(v.Root) || v.Blocks <= 0 || v.Blocks >= a.Size/4096) {
		return fmt.Errorf("artifact %s: its hash tree is not one of %d bytes", a.Name, a.Size)
	}
	for _, sum := range a.ChunksSHA256 {
		if !sha256RE.MatchString(sum) {
			return fmt.Errorf("artifact %s: chunk hash %q is no SHA-256", a.Name, sum)
		}
	}
	return nil
}
