package headnode

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"path"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"

	"muster/api"
	"muster/headnode/store"
	"muster/images"
)

// Images is the store of published images, in a folder of its own:
//
//	blobs/SHA256         artifacts, by content
//	manifests/ID.json    manifest of each published image
//	names.json           which image a name stands for, and the default
//
// The process that serves files reads blobs/ by itself. Nothing in it is ever
// replaced in place.
type Images struct {
	dir   string
	blobs *blobs
	now   clock
	log   *slog.Logger
	users imageUsers

	shareSet chan struct{} // gets a token when somebody has set a share for a userland

	write sync.Mutex // through a change, taken before mu
	mu    sync.Mutex
	all   map[string]published
	names imageNames
}

var _ imageStore = (*Images)(nil)

// published is an image and when it came.
type published struct {
	images.Manifest
	when time.Time
}

// uploadGrace is how long an uploaded artifact waits for its image to be
// published. Older ones are removed when the head starts.
const uploadGrace = 24 * time.Hour

// maxCmdline is what the kernel takes on x86 (COMMAND_LINE_SIZE), less what
// the boot script adds.
const maxCmdline = 1500

// imageNames is names.json.
type imageNames struct {
	Schema  int               `json:"schema"`
	Default string            `json:"default,omitempty"` // image ID
	Names   map[string]string `json:"names"`             // name to the ID that was published last

	// Kexec is which machines start an image when they join with another one, by image ID.
	Kexec map[string]api.KexecPolicy `json:"kexec,omitempty"`
	// UserlandShares is where nodes read userlands, by name of the image.
	UserlandShares map[string]string `json:"userland_shares,omitempty"`
}

// openImages reads the folder, and makes it when it is not there.
func openImages(dir string, now clock, users imageUsers, log *slog.Logger) (*Images, error) {
	im := &Images{
		dir: dir, now: now, log: log, users: users, shareSet: make(chan struct{}, 1),
		all: map[string]published{}, names: imageNames{Schema: 1, Names: map[string]string{}},
	}
	if err := os.MkdirAll(im.manifestPath(""), 0o755); err != nil {
		return nil, fmt.Errorf("opening image store: %w", err)
	}
	var err error
	if im.blobs, err = openBlobs(filepath.Join(dir, "blobs")); err != nil {
		return nil, fmt.Errorf("opening image store: %w", err)
	}
	if err := im.load(); err != nil {
		return nil, fmt.Errorf("opening image store %s: %w", dir, err)
	}
	switch n, err := im.blobs.removeUnused(im.used(""), now().Add(-uploadGrace)); {
	case err != nil:
		log.Warn("uploads of no image stay", "err", err)
	case n > 0:
		log.Info("uploads of no image removed", "files", n)
	}
	return im, nil
}

func (im *Images) manifestPath(id string) string {
	if id == "" {
		return filepath.Join(im.dir, "manifests")
	}
	return filepath.Join(im.dir, "manifests", id+".json")
}

func (im *Images) load() error {
	files, err := filepath.Glob(filepath.Join(im.manifestPath(""), "*.json"))
	if err != nil {
		return err
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			return err
		}
		m, err := parseManifest(b)
		if err != nil {
			return fmt.Errorf("%s: %w", f, err)
		}
		info, err := os.Stat(f)
		if err != nil {
			return err
		}
		im.all[m.ID] = published{m, stamp(info.ModTime())}
	}
	b, err := os.ReadFile(filepath.Join(im.dir, "names.json"))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, &im.names); err != nil {
		return fmt.Errorf("names.json: %w", err)
	}
	if im.names.Names == nil {
		im.names.Names = map[string]string{}
	}
	return nil
}

// parseManifest reads and checks a manifest.
func parseManifest(b []byte) (images.Manifest, error) {
	var m images.Manifest
	if err := json.Unmarshal(b, &m); err != nil {
		return m, fmt.Errorf("reading manifest: %w", err)
	}
	switch {
	case m.Schema > images.ManifestSchema:
		return m, fmt.Errorf("manifest has format %d and this muster knows up to %d", m.Schema, images.ManifestSchema)
	case m.Schema < 1:
		return m, errors.New("manifest has no schema")
	case !isSHA256(m.ID):
		return m, fmt.Errorf("manifest has image ID %q, want a SHA-256", cleanText(m.ID))
	case m.Name == "" || m.Name != cleanText(m.Name) || strings.ContainsAny(m.Name, " /") || isSHA256(m.Name):
		return m, fmt.Errorf("manifest has name %q", cleanText(m.Name))
	case len(m.Cmdline) > maxCmdline || strings.ContainsFunc(m.Cmdline, unicode.IsControl):
		return m, errors.New("manifest has a command line that cannot be one")
	}
	kinds := map[images.ArtifactKind]int{}
	for _, a := range m.Artifacts {
		if !isSHA256(a.SHA256) || a.Size < 0 || a.Name == "" || path.Clean("/"+a.Name) != "/"+a.Name || cleanText(a.Name) != a.Name {
			return m, fmt.Errorf("manifest has an artifact %q of %d bytes with hash %q", cleanText(a.Name), a.Size, cleanText(a.SHA256))
		}
		kinds[a.Kind]++
	}
	if kinds[images.KindKernel] != 1 || kinds[images.KindInitramfs] != 1 {
		return m, fmt.Errorf("manifest has %d kernels and %d initramfs, want one of each", kinds[images.KindKernel], kinds[images.KindInitramfs])
	}
	return m, nil
}

// List implements imageStore: the latest first.
func (im *Images) List() []api.Image {
	im.mu.Lock()
	list := make([]api.Image, 0, len(im.all))
	for _, p := range im.all {
		list = append(list, im.view(p))
	}
	im.mu.Unlock()
	slices.SortFunc(list, func(a, b api.Image) int {
		if c := b.Published.Compare(a.Published); c != 0 {
			return c
		}
		return strings.Compare(a.ID, b.ID)
	})
	for i := range list {
		list[i] = im.withUsers(list[i])
	}
	return list
}

func (im *Images) view(p published) api.Image {
	v := api.Image{
		ID: p.ID, Name: p.Name, Default: p.ID == im.names.Default, Arch: p.Arch, Kernel: p.Kernel,
		Published: p.when, Kexec: im.names.kexecOf(p.ID), Nodes: []string{}, Assigned: []string{},
		Userland: im.imageUserland(p.Manifest),
	}
	for _, a := range p.Artifacts {
		v.Bytes += a.Size
	}
	return v
}

// HasBlob implements imageStore.
func (im *Images) HasBlob(sha256 string) (int64, bool) { return im.blobs.size(sha256) }

// PutBlob implements imageStore.
func (im *Images) PutBlob(ctx context.Context, sha256 string, r io.Reader) error {
	return im.blobs.put(ctx, sha256, r)
}

// OpenBlob implements imageStore.
func (im *Images) OpenBlob(sha256 string) (*os.File, error) { return im.blobs.open(sha256) }

// Publish implements imageStore.
func (im *Images) Publish(ctx context.Context, actor string, manifest []byte, makeDefault *bool) (api.Image, error) {
	m, err := parseManifest(manifest)
	if err != nil {
		return api.Image{}, &api.Error{Code: api.CodeInvalid, Msg: err.Error(), Hint: "publish a folder that muster build wrote"}
	}
	for _, a := range m.Artifacts {
		if err := ctx.Err(); err != nil {
			return api.Image{}, err
		}
		if _, ok := im.blobs.size(a.SHA256); !ok {
			return api.Image{}, notUploaded(m, a)
		}
		if err := im.blobs.check(a.SHA256, a.Size); err != nil {
			return api.Image{}, &api.Error{Code: api.CodeInvalid, Msg: fmt.Sprintf("artifact %s of image %s: %v", a.Name, m.Name, err)}
		}
	}
	im.write.Lock()
	defer im.write.Unlock()
	for _, a := range m.Artifacts {
		// Checking took time, in which another image may have been removed.
		if _, ok := im.blobs.size(a.SHA256); !ok {
			return api.Image{}, notUploaded(m, a)
		}
	}
	im.mu.Lock()
	names := im.names.clone()
	before, again := im.all[m.ID]
	im.mu.Unlock()
	write := !again || otherUKI(before.Manifest, m)
	if write {
		if err := store.WriteFileDurable(im.manifestPath(m.ID), manifest, 0o644); err != nil {
			return api.Image{}, blobError("the manifest of image "+m.Name, err)
		}
	}
	names.Names[m.Name] = m.ID
	if makeDefault != nil && *makeDefault || makeDefault == nil && names.Default == "" {
		names.Default = m.ID
	}
	if err := im.writeNames(names); err != nil {
		return api.Image{}, err
	}
	im.mu.Lock()
	if write {
		im.all[m.ID] = published{m, stamp(im.now())}
	}
	v := im.view(im.all[m.ID])
	im.mu.Unlock()
	im.log.Info("image published", "image", m.Name, "id", m.ID, "default", v.Default, "actor", actor)
	return im.withUsers(v), nil
}

// otherUKI says whether two manifests of one image differ in its UKI and in nothing else: signing has no
// influence on the image ID. The kernel and initramfs that nodes boot are the same.
func otherUKI(a, b images.Manifest) bool {
	var uki, rest [2][]images.Artifact
	for i, m := range []images.Manifest{a, b} {
		for _, x := range m.Artifacts {
			if x.Kind == images.KindUKI {
				uki[i] = append(uki[i], x)
			} else {
				rest[i] = append(rest[i], x)
			}
		}
	}
	return reflect.DeepEqual(rest[0], rest[1]) && !reflect.DeepEqual(uki[0], uki[1])
}

func notUploaded(m images.Manifest, a images.Artifact) error {
	return &api.Error{Code: api.CodeNotFound, Msg: fmt.Sprintf("artifact %s of image %s was not uploaded", a.Name, m.Name), Hint: "upload it first: PUT /v1/blobs/" + a.SHA256 + "?for=image"}
}

func (n imageNames) clone() imageNames {
	names := make(map[string]string, len(n.Names)+1)
	for k, v := range n.Names {
		names[k] = v
	}
	n.Names, n.Kexec, n.UserlandShares = names, maps.Clone(n.Kexec), maps.Clone(n.UserlandShares)
	return n
}

// used are the artifacts of all images but one.
func (im *Images) used(but string) map[string]bool {
	im.mu.Lock()
	defer im.mu.Unlock()
	used := map[string]bool{}
	for id, p := range im.all {
		for _, a := range p.Artifacts {
			if id != but {
				used[a.SHA256] = true
			}
		}
	}
	return used
}

// writeNames makes names durable, then visible.
func (im *Images) writeNames(names imageNames) error {
	b, err := json.MarshalIndent(names, "", "  ")
	if err != nil {
		return err
	}
	if err := store.WriteFileDurable(filepath.Join(im.dir, "names.json"), append(b, '\n'), 0o644); err != nil {
		return blobError("the names of images", err)
	}
	im.mu.Lock()
	im.names = names
	im.mu.Unlock()
	return nil
}

// find takes a name, an image ID or a unique prefix of one.
func (im *Images) find(ref string) (published, error) {
	im.mu.Lock()
	defer im.mu.Unlock()
	if p, ok := im.all[im.names.Names[ref]]; ok {
		return p, nil
	}
	var found []published
	var names []string
	for id, p := range im.all {
		if len(ref) >= minPrefix && strings.HasPrefix(id, strings.ToLower(ref)) {
			found = append(found, p)
		}
		names = append(names, p.Name)
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		hint := "muster image list shows all of them"
		if near := nearest(ref, names); near != "" {
			hint = "the nearest name is " + near
		}
		return published{}, &api.Error{Code: api.CodeNotFound, Msg: fmt.Sprintf("no image is called %s", cleanText(ref)), Hint: hint}
	}
	return published{}, &api.Error{Code: api.CodeInvalid, Msg: fmt.Sprintf("the IDs of %d images begin with %s", len(found), cleanText(ref)), Hint: "write more of it"}
}

// Default is the image that machines without one of their own boot.
func (im *Images) Default() (images.Manifest, bool) {
	im.mu.Lock()
	defer im.mu.Unlock()
	p, ok := im.all[im.names.Default]
	return p.Manifest, ok
}

// Manifest implements imageStore.
func (im *Images) Manifest(ref string) ([]byte, error) {
	p, err := im.find(ref)
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(im.manifestPath(p.ID))
	if err != nil {
		return nil, fmt.Errorf("reading the manifest of image %s: %w", p.Name, err)
	}
	return text, nil
}

// SetDefault implements imageStore.
func (im *Images) SetDefault(_ context.Context, actor, ref string) (api.Image, error) {
	im.write.Lock()
	defer im.write.Unlock()
	p, err := im.find(ref)
	if err != nil {
		return api.Image{}, err
	}
	im.mu.Lock()
	names := im.names.clone()
	im.mu.Unlock()
	names.Default = p.ID
	if err := im.writeNames(names); err != nil {
		return api.Image{}, err
	}
	im.log.Info("default image changed", "image", p.Name, "id", p.ID, "actor", actor)
	im.mu.Lock()
	v := im.view(p)
	im.mu.Unlock()
	return im.withUsers(v), nil
}

// Remove implements imageStore. Artifacts that no other image has go with it.
func (im *Images) Remove(_ context.Context, actor, ref string) error {
	im.write.Lock()
	defer im.write.Unlock()
	p, err := im.find(ref)
	if err != nil {
		return err
	}
	if err := im.checkUnused(p); err != nil {
		return err
	}
	im.mu.Lock()
	names := im.names.clone()
	im.mu.Unlock()
	keep := im.used(p.ID)
	if names.Default == p.ID {
		return &api.Error{Code: api.CodeConflict, Msg: fmt.Sprintf("image %s is the default", p.Name), Hint: "choose another first: muster image default NAME"}
	}
	delete(names.Kexec, p.ID)
	if names.Names[p.Name] == p.ID {
		delete(names.Names, p.Name)
		if former := im.latestNamed(p.Name, p.ID); former != "" {
			names.Names[p.Name] = former
		}
	}
	if err := im.writeNames(names); err != nil {
		return err
	}
	if err := os.Remove(im.manifestPath(p.ID)); err != nil {
		return fmt.Errorf("removing image %s: %w", p.Name, err)
	}
	im.mu.Lock()
	delete(im.all, p.ID)
	im.mu.Unlock()
	for _, a := range p.Artifacts {
		if !keep[a.SHA256] {
			if err := os.Remove(im.blobs.path(a.SHA256)); err != nil && !errors.Is(err, os.ErrNotExist) {
				im.log.Warn("artifact of a removed image stays", "artifact", a.Name, "err", err)
			}
		}
	}
	im.log.Info("image removed", "image", p.Name, "id", p.ID, "actor", actor)
	return nil
}

// bootFiles fills in what of an image a machine needs to boot.
func bootFiles(d *api.BootDecision, m images.Manifest) {
	d.ImageID, d.Cmdline = m.ID, m.Cmdline
	for _, a := range m.Artifacts {
		ref := api.BlobRef{Name: path.Base(a.Name), SHA256: a.SHA256, Size: a.Size}
		switch a.Kind {
		case images.KindKernel:
			d.Kernel = ref
		case images.KindInitramfs:
			d.Initramfs = ref
		case images.KindLoader:
			d.Loaders = append(d.Loaders, api.Loader{BlobRef: ref, Client: a.Client, Arch: a.Arch})
		case images.KindUKI:
			// One that is not signed has no advantage over the loader, which tells
			// the machine where its head is.
			if a.Signer != "" {
				d.Loaders = append(d.Loaders, api.Loader{BlobRef: ref, Client: "http", Arch: m.Arch})
			}
		}
	}
}
