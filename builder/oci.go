package builder

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"muster/builder/layers"
	"muster/images"
)

// ociImage is a container image whose layers can be read.
type ociImage struct {
	locked images.LockedSource // without Kind and Ref
	// open returns a layer, as its digest is of it.
	open func(ctx context.Context, n int) (io.ReadCloser, error)
	done func() error
}

// Names of files in a layout (OCI image specification, image-layout.md) and in what docker
// save writes.
const (
	layoutIndex    = "index.json"
	dockerManifest = "manifest.json"
)

// maxIndexDepth bounds how many indexes name each other on the way to an image.
const maxIndexDepth = 4

// openLocalImage opens the image of this architecture in a layout folder or an archive. digest, which may
// be "", is that of an index, a manifest or, of docker save, a configuration. The caller
// calls done.
func openLocalImage(name, tmp, arch, digest string) (*ociImage, error) {
	files, err := openBlobs(name, tmp)
	if err != nil {
		return nil, err
	}
	img, err := readLocalImage(files, arch, digest)
	if err != nil {
		files.Close()
		return nil, err
	}
	img.done = files.Close
	return img, nil
}

func readLocalImage(files blobFiles, arch, digest string) (*ociImage, error) {
	text, err := readBlob(files, layoutIndex)
	if errors.Is(err, fs.ErrNotExist) {
		return readDockerImage(files, arch, digest)
	}
	if err != nil {
		return nil, err
	}
	blob := func(digest string) string {
		algorithm, sum, _ := strings.Cut(digest, ":")
		return path.Join("blobs", algorithm, sum)
	}
	get := func(_ context.Context, d v1.Descriptor) ([]byte, error) {
		data, err := readBlob(files, blob(d.Digest.String()))
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("it is not whole: %w", err)
		}
		if err != nil {
			return nil, err
		}
		return data, checkDigest(blob(d.Digest.String()), data, d.Digest.String())
	}
	s := selector{arch: arch, digest: digest, get: get}
	locked, err := s.choose(context.Background(), text)
	if err != nil {
		return nil, err
	}
	return &ociImage{locked: *locked, open: func(_ context.Context, n int) (io.ReadCloser, error) {
		return files.open(blob(locked.Layers[n].Digest))
	}}, nil
}

// readDockerImage reads what docker save wrote before it wrote layouts: there is no
// manifest with digests, so the digest of the configuration, which docker calls the ID, stands for
// the image, and those of layers are of their plain text.
func readDockerImage(files blobFiles, arch, digest string) (*ociImage, error) {
	text, err := readBlob(files, dockerManifest)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("it is no image: it has neither %s, as a layout has, nor %s, as docker save writes", layoutIndex, dockerManifest)
	}
	if err != nil {
		return nil, err
	}
	var list []struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	if err := json.Unmarshal(text, &list); err != nil {
		return nil, fmt.Errorf("%s: %w", dockerManifest, err)
	}
	var found []*ociImage
	var names []string
	for _, m := range list {
		data, err := readBlob(files, path.Clean(m.Config))
		if err != nil {
			return nil, fmt.Errorf("%s names %s: %w", dockerManifest, m.Config, err)
		}
		config, err := parseConfig(data, arch)
		if err != nil {
			return nil, err
		}
		if len(config.RootFS.DiffIDs) != len(m.Layers) {
			return nil, fmt.Errorf("%s has %d layers, and the configuration has %d", dockerManifest, len(m.Layers), len(config.RootFS.DiffIDs))
		}
		id := "sha256:" + hashBytes(data)
		if digest != "" && id != digest {
			names = append(names, id)
			continue
		}
		locked := images.LockedSource{Digest: id, Config: &images.LockedBlob{Digest: id, Size: int64(len(data))}}
		for _, d := range config.RootFS.DiffIDs {
			locked.Layers = append(locked.Layers, images.LockedBlob{Digest: d.String()})
		}
		found = append(found, &ociImage{locked: locked, open: func(_ context.Context, n int) (io.ReadCloser, error) {
			packed, err := files.open(path.Clean(m.Layers[n]))
			if err != nil {
				return nil, err
			}
			return layers.Unpack(packed)
		}})
		names = append(names, strings.Join(append(m.RepoTags, id), " "))
	}
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) == 0 && digest != "":
		return nil, fmt.Errorf("it has no image %s; it has: %s", digest, strings.Join(names, ", "))
	case len(found) == 0:
		return nil, errors.New("it has no image")
	}
	return nil, fmt.Errorf("it has several images: %s; say which by its digest, PATH@sha256:…", strings.Join(names, ", "))
}

// selector finds the image of one architecture in an index.
type selector struct {
	arch   string // as Debian names it
	digest string // that is asked for; "": any
	get    func(ctx context.Context, d v1.Descriptor) ([]byte, error)

	found []images.LockedSource
	names []string // of all that were found, for messages
	other []string // architectures that it is there for
	all   []string // digests that were seen
}

// choose returns the one image that the text of an index has for the architecture.
func (s *selector) choose(ctx context.Context, index []byte) (*images.LockedSource, error) {
	if err := s.index(ctx, index, s.digest == "", 0); err != nil {
		return nil, err
	}
	return s.only()
}

func (s *selector) only() (*images.LockedSource, error) {
	switch {
	case len(s.found) == 1:
		return &s.found[0], nil
	case len(s.found) > 1:
		return nil, fmt.Errorf("it has several images: %s; say which by its digest, @sha256:…", strings.Join(s.names, ", "))
	case len(s.other) > 0:
		return nil, wrongArch(s.other, s.arch)
	case s.digest != "":
		return nil, fmt.Errorf("it has no image %s; it has: %s", s.digest, strings.Join(s.all, ", "))
	}
	return nil, errors.New("it has no image")
}

func wrongArch(have []string, want string) error {
	return fmt.Errorf("it is for %s, and the definition is for %s", strings.Join(have, ", "), want)
}

// index looks through an index. any says that what it has is asked for, else only what has
// the digest is.
func (s *selector) index(ctx context.Context, text []byte, any bool, depth int) error {
	if depth == maxIndexDepth {
		return fmt.Errorf("more than %d indexes name each other", maxIndexDepth)
	}
	var index v1.IndexManifest
	if err := json.Unmarshal(text, &index); err != nil {
		return fmt.Errorf("reading its index: %w", err)
	}
	for _, d := range index.Manifests {
		if d.Annotations["vnd.docker.reference.type"] != "" { // says something of an image and is none
			continue
		}
		asked := any || d.Digest.String() == s.digest
		s.all = append(s.all, d.Digest.String())
		if d.Digest.Algorithm != "sha256" {
			return fmt.Errorf("digest %s: only sha256 is known", d.Digest)
		}
		switch {
		case d.MediaType.IsIndex():
			data, err := s.get(ctx, d)
			if err == nil {
				err = s.index(ctx, data, asked, depth+1)
			}
			if err != nil {
				return err
			}
		case !asked:
		case d.MediaType.IsImage() || d.MediaType == "":
			if p := d.Platform; p != nil && p.Architecture != "" && !isPlatform(*p, s.arch) {
				s.note(p.OS + "/" + p.Architecture)
				continue
			}
			if err := s.manifest(ctx, d); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *selector) note(platform string) {
	if !slices.Contains(s.other, platform) {
		s.other = append(s.other, platform)
	}
}

// manifest takes an image in, if it is for the architecture.
func (s *selector) manifest(ctx context.Context, d v1.Descriptor) error {
	text, err := s.get(ctx, d)
	if err != nil {
		return err
	}
	var m v1.Manifest
	if err := json.Unmarshal(text, &m); err != nil {
		return fmt.Errorf("reading manifest %s: %w", d.Digest, err)
	}
	if m.SchemaVersion != 2 || m.Config.Digest.Algorithm != "sha256" {
		return fmt.Errorf("manifest %s is of a format that is not known (schema %d); write the image anew with a tool of today", d.Digest, m.SchemaVersion)
	}
	if m.Config.MediaType != types.OCIConfigJSON && m.Config.MediaType != types.DockerConfigJSON {
		return fmt.Errorf("manifest %s is not that of a container image: its configuration is %s", d.Digest, m.Config.MediaType)
	}
	data, err := s.get(ctx, m.Config)
	if err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	config, err := parseConfig(data, "")
	if err != nil {
		return err
	}
	if p := (v1.Platform{OS: config.OS, Architecture: config.Architecture}); p.Architecture != "" && !isPlatform(p, s.arch) {
		s.note(p.OS + "/" + p.Architecture)
		return nil
	}
	locked := images.LockedSource{
		Digest: d.Digest.String(), Config: &images.LockedBlob{Digest: m.Config.Digest.String(), Size: m.Config.Size},
	}
	for _, l := range m.Layers {
		if l.Digest.Algorithm != "sha256" || l.Size <= 0 || !strings.Contains(string(l.MediaType), "tar") {
			return fmt.Errorf("manifest %s: layer %s (%s, %d bytes) cannot be read", d.Digest, l.Digest, l.MediaType, l.Size)
		}
		locked.Layers = append(locked.Layers, images.LockedBlob{Digest: l.Digest.String(), Size: l.Size})
	}
	if slices.ContainsFunc(s.found, func(f images.LockedSource) bool { return f.Digest == locked.Digest }) {
		return nil // named twice
	}
	s.found = append(s.found, locked)
	name := d.Digest.String()
	if tag := d.Annotations["org.opencontainers.image.ref.name"]; tag != "" {
		name = tag + " " + name
	}
	s.names = append(s.names, name)
	return nil
}

// parseConfig reads the configuration of an image; with arch, it has to be for that.
func parseConfig(data []byte, arch string) (*v1.ConfigFile, error) {
	var c v1.ConfigFile
	if err := json.Unmarshal(data, &c); err != nil {
		return nil, fmt.Errorf("reading its configuration: %w", err)
	}
	if p := (v1.Platform{OS: c.OS, Architecture: c.Architecture}); arch != "" && p.Architecture != "" && !isPlatform(p, arch) {
		return nil, wrongArch([]string{p.OS + "/" + p.Architecture}, arch)
	}
	for _, d := range c.RootFS.DiffIDs {
		if d.Algorithm != "sha256" {
			return nil, fmt.Errorf("digest %s: only sha256 is known", d)
		}
	}
	return &c, nil
}

// isPlatform says whether p is Linux on an architecture that Debian names so.
func isPlatform(p v1.Platform, arch string) bool {
	return (p.OS == "linux" || p.OS == "") && p.Architecture == arch // amd64 and arm64 are called the same
}
