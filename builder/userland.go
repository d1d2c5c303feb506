package builder

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"muster/builder/deb"
	"muster/builder/squashfs"
	"muster/images"
	"muster/initramfs"
)

// userlandFormat is the number of the way in which packages become a userland.
// It changes when the same packages give another one.
const userlandFormat = 2

// userlandBlock is how much of a userland is packed, and unpacked, at a time. With 1 MiB
// the userland is 7 % smaller than with 256 KiB; that costs a node 20 ms more for the first
// start of python3, and nothing for the next.
const userlandBlock = 1 << 20

// userlandName is the file of the artifact.
const userlandName = "userland.sqfs"

// userlandInputs is what the userland step depends on.
type userlandInputs struct {
	Format   int
	Packages []string // SHA-256
	Init     string
	Modules  []namedBlob // index of the kernel's modules
	Time     time.Time
	Fast     bool
	Own      string `json:",omitempty"` // what the definition itself brings, see ownInUserland
}

// userlandFiles is the file system that tasks see. The zero value is none.
type userlandFiles struct {
	Image    deb.FileHash // squashfs
	Chunks   []string     // SHA-256 of every [images.ChunkSize] bytes
	Packages int
	Files    int
	Bytes    int64 // of all files, unpacked
}

func (u userlandFiles) blobs() []deb.FileHash { return []deb.FileHash{u.Image} }

func (u userlandFiles) artifact() images.Artifact {
	return images.Artifact{Kind: images.KindUserland, Name: userlandName, Size: u.Image.Size, SHA256: u.Image.SHA256, ChunksSHA256: u.Chunks}
}

func (u userlandFiles) summary() string {
	return fmt.Sprintf("%d packages, %.1f MB (%.0f MB unpacked), nodes from %d MiB",
		u.Packages, float64(u.Image.Size)/1e6, float64(u.Bytes)/1e6, images.UserlandMemoryMiB(u.Image.Size))
}

// userlandStep unpacks the packages of the userland and packs what tasks shall see of them.
func userlandStep(ctx context.Context, cfg Config, c *cache, client *deb.Client, lock *images.Lock, pack packFiles) (userlandFiles, bool, error) {
	packages := lock.ByRole(images.RoleUserland)
	if len(packages) == 0 {
		return userlandFiles{}, false, nil
	}
	in := userlandInputs{
		Format: userlandFormat, Packages: hashesOf(packages), Init: hashBytes(cfg.Init), Modules: pack.Index,
		Time: imageTime(cfg, lock), Fast: cfg.Fast, Own: ownInUserland(cfg.Definition),
	}
	u, cached, err := runStep(ctx, c, "userland", in, func() (userlandFiles, error) {
		unpacked, err := unpackStep(ctx, cfg, c, client, packages)
		if err != nil {
			return userlandFiles{}, err
		}
		out, err := packUserland(ctx, cfg, c, in.Time, unpacked, pack)
		out.Packages = len(packages)
		return out, err
	})
	if err != nil {
		return u, cached, fmt.Errorf("userland: %w", err)
	}
	return u, cached, nil
}

func packUserland(ctx context.Context, cfg Config, c *cache, mtime time.Time, unpacked unpackedFiles, pack packFiles) (userlandFiles, error) {
	index, err := c.read(unpacked.Index)
	if err != nil {
		return userlandFiles{}, err
	}
	name, err := c.name(unpacked.Contents)
	if err != nil {
		return userlandFiles{}, err
	}
	contents, err := os.Open(name)
	if err != nil {
		return userlandFiles{}, err
	}
	defer contents.Close()
	spool, err := os.CreateTemp(c.tmp(), "userland-*")
	if err != nil {
		return userlandFiles{}, err
	}
	defer os.Remove(spool.Name())
	defer spool.Close()
	r := newRoot(mtime, spool)
	r.definition = cfg.Definition
	if err := r.addUnpacked(index, contents); err != nil {
		return userlandFiles{}, err
	}
	if err := errors.Join(r.addOwn(), pack.addTo(r.tree, c), r.finish(cfg.Init)); err != nil {
		return userlandFiles{}, err
	}
	cfg.Progress(Event{Step: StepUserland, Detail: fmt.Sprintf("packing %d files", r.tree.Len())})
	out := userlandFiles{Files: r.tree.Len()}
	opts := squashfs.Options{Time: mtime, Level: squashfs.Best, BlockSize: userlandBlock, Packed: packedBlocks{c}}
	if cfg.Fast {
		opts.Level = squashfs.Fast
	}
	out.Image, err = c.put(func(f *os.File) error {
		stats, err := squashfs.Write(ctx, f, r.tree, opts)
		if err != nil {
			return err
		}
		out.Bytes = stats.DataBytes
		out.Chunks, err = chunkHashes(io.NewSectionReader(f, 0, stats.Size))
		return err
	})
	return out, err
}

func baseFirst(p fetched) int {
	if p.Name == "base-files" {
		return 0
	}
	return 1
}

// chunkHashes returns the SHA-256 of every chunk of r.
func chunkHashes(r io.Reader) ([]string, error) {
	var out []string
	for {
		h := sha256.New()
		n, err := io.CopyN(h, r, images.ChunkSize)
		if n > 0 {
			out = append(out, hex.EncodeToString(h.Sum(nil)))
		}
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

// root is a userland that is being made.
type root struct {
	tree  *initramfs.Tree
	spool *os.File // contents of all files, one behind the other
	end   int64
	// contents are those of all files that packages brought, by path.
	contents map[string]*io.SectionReader
	owners   map[string]*installed // by path
	scripts  []string              // postinst of all packages, in the order of unpacking
	// definition brings files, users and groups of its own.
	definition *images.Definition
}

// installed is a package that was unpacked.
type installed struct {
	name     string
	replaces []deb.Alternatives
	version  string
}

func newRoot(mtime time.Time, spool *os.File) *root {
	return &root{tree: initramfs.NewTree(mtime), spool: spool, contents: make(map[string]*io.SectionReader), owners: make(map[string]*installed), definition: &images.Definition{}}
}

// leftOut are folders whose content no program of a task needs: manuals, translations and
// what belongs to a package manager. What is below var/run and var/lock would lie behind
// links into /run, which every task has empty.
var leftOut = []string{
	"usr/share/doc/", "usr/share/doc-base/", "usr/share/man/", "usr/share/info/", "usr/share/locale/",
	"usr/share/lintian/", "usr/share/bug/", "usr/share/linda/", "usr/share/menu/",
	"var/run/", "var/lock/", "run/", "boot/",
}

func isLeftOut(name string) bool {
	return slices.ContainsFunc(leftOut, func(dir string) bool { return strings.HasPrefix(name+"/", dir) })
}

// unpack adds what a package installs.
func (r *root) unpack(ctx context.Context, p fetched) error {
	control, err := p.control()
	if err != nil {
		return err
	}
	stanza, err := deb.ParseStanza(control["control"])
	if err != nil {
		return fmt.Errorf("package %s %s: control: %w", p.Name, p.Version, err)
	}
	me := &installed{name: p.Name, version: p.Version}
	if me.replaces, err = deb.ParseRelations(stanza.Field("Replaces")); err != nil {
		return fmt.Errorf("package %s %s: Replaces: %w", p.Name, p.Version, err)
	}
	r.scripts = append(r.scripts, string(control["postinst"]))
	return p.walk(ctx, func(e deb.Entry, content io.Reader) error {
		if isLeftOut(e.Path) {
			return nil
		}
		return r.add(me, e, content)
	})
}

func (p fetched) control() (map[string][]byte, error) {
	f, err := os.Open(p.file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	control, err := deb.Control(f)
	if err != nil {
		return nil, fmt.Errorf("package %s %s: %w", p.Name, p.Version, err)
	}
	return control, nil
}

// add adds one entry, or decides whose entry stays.
func (r *root) add(me *installed, e deb.Entry, content io.Reader) error {
	n := initramfs.Entry{
		Path: e.Path, Mode: e.Mode, UID: e.UID, GID: e.GID, Source: "package " + me.name + " " + me.version,
	}
	switch e.Type {
	case deb.TypeDir:
		n.Type = initramfs.Dir
	case deb.TypeSymlink:
		n.Type, n.Target = initramfs.Symlink, e.Link
	case deb.TypeHardLink:
		n.Type, n.Target = initramfs.HardLink, e.Link
	case deb.TypeFile:
		n.Type = initramfs.File
	}
	if old := r.tree.Lookup(e.Path); old != nil && r.owners[e.Path] != nil {
		stays, err := r.keeps(old, me, &n)
		if err != nil || stays {
			return err
		}
		r.tree.Remove(e.Path)
	}
	if e.Type == deb.TypeFile {
		if err := r.store(&n, e.Size, content); err != nil {
			return err
		}
	}
	r.owners[e.Path] = me
	return r.tree.Add(n)
}

// keeps says whether what is at the path of n stays. A folder is never replaced, a
// link to a folder neither; of files, that of a package which says that it replaces
// the other counts.
func (r *root) keeps(old *initramfs.Entry, me *installed, n *initramfs.Entry) (bool, error) {
	owner := r.owners[n.Path]
	switch {
	case old.Type == initramfs.Dir && n.Type == initramfs.Dir:
		return true, nil
	case old.Type == initramfs.Symlink && n.Type == initramfs.Dir:
		return true, nil
	case old.Type == initramfs.Symlink && n.Type == initramfs.Symlink && old.Target == n.Target:
		return true, nil
	case old.Type == initramfs.Dir:
	case me.takesOver(owner):
		return false, nil
	case owner.takesOver(me):
		return true, nil
	}
	return false, fmt.Errorf("/%s is in %s and in %s, and neither replaces the other; leave one of them out", n.Path, old.Source, n.Source)
}

func (p *installed) takesOver(other *installed) bool {
	for _, group := range p.replaces {
		for _, rel := range group {
			if rel.Name == other.name && rel.Admits(other.version) {
				return true
			}
		}
	}
	return false
}

// store copies the content of a file behind all others.
func (r *root) store(n *initramfs.Entry, size int64, content io.Reader) error {
	at := r.end
	if _, err := io.CopyN(io.NewOffsetWriter(r.spool, at), content, size); err != nil {
		return fmt.Errorf("unpacking %s: %w", n.Path, err)
	}
	r.end += size
	r.setContent(n, io.NewSectionReader(r.spool, at, size))
	return nil
}

// text returns the content of a file of the userland, "" where there is none.
func (r *root) text(name string) (string, error) {
	e := r.tree.Lookup(name)
	if e == nil || e.Type != initramfs.File {
		return "", nil
	}
	content, err := e.Content()
	if err != nil {
		return "", err
	}
	defer content.Close()
	b, err := io.ReadAll(content)
	return string(b), err
}
