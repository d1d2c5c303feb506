package builder

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"syscall"

	"muster/builder/layers"
	"muster/images"
	"muster/initramfs"
)

// addSources puts the sources of the userland over each other, packages at their place among them.
func (r *root) addSources(ctx context.Context, cfg Config, lock *images.Lock, packages []fetched) error {
	locked := lock.Sources
	for _, s := range cfg.Definition.Stack() {
		r.level++
		if s.Kind() == images.SourcePackages {
			if err := r.addPackages(ctx, cfg, packages); err != nil {
				return err
			}
			continue
		}
		if len(locked) == 0 || locked[0].Kind != s.Kind() || locked[0].Ref != s.Ref() {
			return inputErrorf("%s is not in the lock %s, which was edited; to make a new one, delete the file", s, cfg.LockFile)
		}
		r.sources++
		if err := r.addSource(ctx, cfg, s, locked[0]); err != nil {
			return fmt.Errorf("%s: %w", s, err)
		}
		locked = locked[1:]
	}
	return nil
}

// addPackages unpacks the Debian packages over what is there.
func (r *root) addPackages(ctx context.Context, cfg Config, packages []fetched) error {
	// base-files says how the folders are that all others put something in.
	slices.SortStableFunc(packages, func(a, b fetched) int { return baseFirst(a) - baseFirst(b) })
	if err := r.upgrade(packages); err != nil {
		return err
	}
	for i, p := range packages {
		cfg.Progress(Event{Step: StepUserland, Detail: fmt.Sprintf("unpacking %s (%d of %d)", p.Name, i+1, len(packages))})
		if err := r.unpack(ctx, p); err != nil {
			return err
		}
	}
	return r.recordStatus()
}

func (r *root) addSource(ctx context.Context, cfg Config, s images.Source, want images.LockedSource) error {
	cfg.Progress(Event{Step: StepUserland, Detail: "unpacking " + s.String()})
	switch s.Kind() {
	case images.SourceDir:
		return r.addDir(ctx, s, want)
	case images.SourceTar:
		return r.addTar(ctx, s, want)
	}
	return r.addImage(ctx, cfg, s, want)
}

// addImage lays a container image over what is there.
func (r *root) addImage(ctx context.Context, cfg Config, s images.Source, want images.LockedSource) error {
	t, err := readLayers(ctx, cfg, s, want, layers.New(r.keep), nil)
	if err != nil {
		return err
	}
	if err := r.readStatus(cfg, s, t); err != nil {
		return err
	}
	return r.layTree(t, s)
}

// readLayers applies all layers of an image that is pinned to t, with the contents of those files that only
// says, nil being all.
func readLayers(ctx context.Context, cfg Config, s images.Source, want images.LockedSource, t *layers.Tree, only func(name string) bool) (*layers.Tree, error) {
	open, done, err := openLayers(ctx, cfg, s, want)
	if err != nil {
		return nil, err
	}
	defer done()
	for i, l := range want.Layers {
		name := fmt.Sprintf("layer %d of %s", i+1, s)
		content, err := open(ctx, i)
		if errors.Is(err, fs.ErrNotExist) && s.IsLocal() {
			return nil, inputErrorf("%s is not there, so the image is not whole: %w", name, err)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		err = applyLayer(ctx, t, content, l, layers.Options{Source: name, Image: true, Only: only, Skipped: func(path, why string) {
			cfg.Log.Debug("left out of the userland", "artifact", path, "part", name, "err", why)
		}})
		content.Close()
		if err != nil {
			if s.IsLocal() {
				err = contentError(err)
			}
			return nil, err
		}
	}
	return t, nil
}

// openLayers returns how the layers of an image that is pinned are read.
func openLayers(ctx context.Context, cfg Config, s images.Source, want images.LockedSource) (open func(context.Context, int) (io.ReadCloser, error), done func() error, err error) {
	ref, _ := s.OCIDigest()
	if s.IsLocal() {
		img, err := openLocalImage(s.Path(ref), cfg.store.tmp(), cfg.Definition.Arch, want.Digest)
		if err != nil {
			return nil, nil, asInput(err)
		}
		if !slices.Equal(img.locked.Layers, want.Layers) {
			img.done()
			return nil, nil, errors.New("it changed while the image was built; build again")
		}
		return img.open, img.done, nil
	}
	if cfg.Offline {
		if err := cachedLayers(cfg, want); err != nil {
			return nil, nil, err
		}
	}
	open = func(ctx context.Context, n int) (io.ReadCloser, error) {
		file, err := fetchLayer(ctx, cfg, ref, want.Layers[n], func(done int64) {
			cfg.Progress(Event{
				Step: StepUserland, Detail: fmt.Sprintf("fetching layer %d of %d of %s", n+1, len(want.Layers), ref),
				Done: done, Total: want.Layers[n].Size,
			})
		})
		if err != nil {
			return nil, err
		}
		return os.Open(file)
	}
	return open, func() error { return nil }, nil
}

// cachedLayers names all layers that are not in the cache.
func cachedLayers(cfg Config, want images.LockedSource) error {
	var missing []string
	for _, l := range want.Layers {
		if _, ok := cfg.store.lookup(fileHash(l)); !ok {
			missing = append(missing, fmt.Sprintf("%s (%.1f MB)", l.Digest, float64(l.Size)/1e6))
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return fmt.Errorf("%w, and these layers are not in the cache %s: %s; build once without --offline, or copy a cache that has them",
		ErrOffline, cfg.Cache, strings.Join(missing, ", "))
}

// applyLayer reads a layer and compares it with its digest.
func applyLayer(ctx context.Context, t *layers.Tree, content io.Reader, want images.LockedBlob, o layers.Options) error {
	h := sha256.New()
	all := io.TeeReader(content, h)
	if err := t.Apply(ctx, all, o); err != nil {
		return err
	}
	return checkRest(h, all, want.Digest, o.Source)
}

// contentError marks an error about what a file of the definition holds as one about input; one of
// the disk, or the end of the build, is none.
func contentError(err error) error {
	for _, other := range []error{
		syscall.ENOSPC, syscall.EDQUOT, syscall.EIO, syscall.EMFILE, syscall.ENFILE, context.Canceled, context.DeadlineExceeded,
	} {
		if errors.Is(err, other) {
			return err
		}
	}
	return asInput(err)
}

// checkRest reads what is left of all, of which h is the hash so far.
func checkRest(h hash.Hash, all io.Reader, digest, what string) error {
	if _, err := io.Copy(io.Discard, all); err != nil {
		return fmt.Errorf("reading %s: %w", what, err)
	}
	if got := "sha256:" + hex.EncodeToString(h.Sum(nil)); got != digest {
		return fmt.Errorf("%s is damaged: its digest is %s and not %s", what, got, digest)
	}
	return nil
}

// addTar lays an archive over what is there.
func (r *root) addTar(ctx context.Context, s images.Source, want images.LockedSource) error {
	f, err := os.Open(s.Path(s.Tar))
	if err != nil {
		return err
	}
	defer f.Close()
	t := layers.New(r.keep)
	h := sha256.New()
	all := io.TeeReader(f, h)
	if err := t.Apply(ctx, all, layers.Options{Source: s.String()}); err != nil {
		return contentError(err)
	}
	if err := checkRest(h, all, want.Digest, s.Tar); err != nil {
		return fmt.Errorf("it changed while the image was built; build again (%w)", err)
	}
	return r.layTree(t, s)
}

// addDir lays a folder over what is there. Owners, times and most of the modes are not those of the host:
// see [images.TreeEntry].
func (r *root) addDir(ctx context.Context, s images.Source, want images.LockedSource) error {
	var entries []images.TreeEntry
	err := s.WalkDir(func(e images.TreeEntry, content io.Reader) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		n := initramfs.Entry{Path: layers.MergeUsr(e.Path), Mode: e.Mode, Source: s.String(), Type: initramfs.Dir}
		var section *io.SectionReader
		switch e.Kind {
		case images.TreeSymlink:
			n.Type, n.Target = initramfs.Symlink, e.Link
			if n.Path != e.Path && !strings.Contains(e.Path, "/") {
				n.Target = "/" + linkPath(e.Path, e.Link) // lib64 → usr/lib becomes usr/lib64 → /usr/lib
			}
		case images.TreeFile:
			h := sha256.New()
			var err error
			if section, err = r.keep(io.TeeReader(content, h), e.Size); err != nil {
				return errors.Join(fmt.Errorf("%s: %w", e.Path, err), errChanging)
			}
			n.Type, n.Size, e.SHA256 = initramfs.File, e.Size, hex.EncodeToString(h.Sum(nil))
		}
		entries = append(entries, e)
		if e.Kind == images.TreeSymlink && layers.MergeUsr(linkPath(n.Path, n.Target)) == n.Path {
			return nil // bin → usr/bin, which are one
		}
		return r.lay(n, section)
	})
	if err != nil {
		return err
	}
	if got := "sha256:" + images.TreeHash(entries); got != want.Digest {
		return fmt.Errorf("%w; build again", errChanging)
	}
	return nil
}

var errChanging = errors.New("it changed while the image was built")

// keep stores the content of a file behind all others.
func (r *root) keep(content io.Reader, size int64) (*io.SectionReader, error) {
	at := r.end
	if _, err := io.CopyN(io.NewOffsetWriter(r.spool, at), content, size); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	r.end += size
	return io.NewSectionReader(r.spool, at, size), nil
}

// hidden are folders that every task has anew: what a source has in them would not be
// seen.
var hidden = []string{"dev/", "proc/", "sys/", "run/", "tmp/", "var/tmp/"}

// layTree lays what layers came to over what is there.
func (r *root) layTree(t *layers.Tree, s images.Source) error {
	for f := range t.All() {
		n := f.Entry
		n.Source = s.String()
		if err := r.lay(n, f.Content); err != nil {
			return err
		}
	}
	return nil
}

// lay puts an entry of a source, which is not a package, over what is there.
func (r *root) lay(n initramfs.Entry, content *io.SectionReader) error {
	n.Path = r.resolve(n.Path)
	if slices.ContainsFunc(hidden, func(dir string) bool { return strings.HasPrefix(n.Path, dir) }) {
		return nil
	}
	if n.Type != initramfs.Dir && images.Reserved("/"+n.Path, images.InUserland) {
		return inputErrorf("/%s of %s belongs to muster; leave it out", n.Path, n.Source)
	}
	if n.Type == initramfs.HardLink {
		n.Target = r.resolve(n.Target)
	}
	me := &installed{name: n.Source, level: r.level}
	if old := r.tree.Lookup(n.Path); old != nil && r.owners[n.Path] != nil {
		stays, err := r.lies(old, &n)
		if err != nil || stays {
			return err
		}
		if err := r.displace(n.Path); err != nil {
			return err
		}
	}
	if content != nil {
		n.Open = func() (io.ReadCloser, error) {
			return io.NopCloser(io.NewSectionReader(content, 0, content.Size())), nil
		}
		r.contents[n.Path] = content
	}
	return r.own(n, me)
}

// own adds an entry that belongs to me.
func (r *root) own(n initramfs.Entry, me *installed) error {
	r.owners[n.Path] = me
	if n.Type == initramfs.HardLink {
		r.links[n.Target] = append(r.links[n.Target], n.Path)
	}
	return asInput(r.tree.Add(n))
}

// lies says whether what a lower source has at the path of n stays there. Folders are one, and
// keep the mode of the lowest; a link to a folder stays, and what is in the other goes
// where it leads.
func (r *root) lies(old, n *initramfs.Entry) (bool, error) {
	switch {
	case old.Type == initramfs.Dir && n.Type == initramfs.Dir:
		return true, nil
	case old.Type == initramfs.Symlink && n.Type == initramfs.Dir:
		if to := r.tree.Lookup(r.follow(n.Path)); to == nil || to.Type != initramfs.Dir {
			return false, inputErrorf("/%s is a link in %s that leads to no folder, and a folder in %s; leave one of them out", n.Path, old.Source, n.Source)
		}
		return true, nil
	case old.Type == initramfs.Dir:
		if n.Type == initramfs.Symlink && r.follow(path1(n)) == n.Path {
			return true, nil
		}
		return false, inputErrorf("/%s is a folder in %s and a %s in %s; leave one of them out", n.Path, old.Source, n.Type, n.Source)
	case n.Type == initramfs.Dir:
		return false, inputErrorf("/%s is a %s in %s and a folder in %s; leave one of them out", n.Path, old.Type, old.Source, n.Source)
	}
	return false, nil
}

// path1 is where the text of a link leads, before any other link.
func path1(n *initramfs.Entry) string { return linkPath(n.Path, n.Target) }

// displace takes the file or link at a path away. Further names of the file stay.
func (r *root) displace(name string) error {
	old := r.tree.Lookup(name)
	if old == nil {
		return nil
	}
	links := slices.DeleteFunc(r.links[name], func(l string) bool {
		e := r.tree.Lookup(l)
		return e == nil || e.Type != initramfs.HardLink || e.Target != name
	})
	delete(r.links, name)
	file := *old
	content := r.contents[name]
	r.tree.Remove(name)
	delete(r.contents, name)
	delete(r.owners, name)
	if file.Type != initramfs.File || len(links) == 0 {
		return nil
	}
	file.Path = links[0]
	if content != nil {
		r.contents[file.Path] = content
	}
	r.tree.Remove(file.Path)
	if err := r.tree.Add(file); err != nil {
		return err
	}
	for _, l := range links[1:] {
		e := *r.tree.Lookup(l)
		e.Target = file.Path
		r.tree.Remove(l)
		if err := r.tree.Add(e); err != nil {
			return err
		}
	}
	r.links[file.Path] = links[1:]
	return nil
}

// resolve follows the links among the folders above a path.
func (r *root) resolve(name string) string {
	f := filler{tree: r.tree}
	return f.resolve(name)
}

// follow follows all links of a path, also that at its end.
func (r *root) follow(name string) string {
	for range maxLinks {
		name = r.resolve(name)
		e := r.tree.Lookup(name)
		if e == nil || e.Type != initramfs.Symlink {
			return name
		}
		name = linkPath(name, e.Target)
	}
	return name
}

// sourceLevel is the source that brought a path, counted from 1; 0 where nothing is, or what the definition's
// files or muster itself brought.
func (r *root) sourceLevel(name string) int {
	if o := r.owners[name]; o != nil {
		return o.level
	}
	return 0
}

// layerText returns the text of a file in a tree of layers, "" where there is none.
func layerText(t *layers.Tree, name string, most int64) string {
	f, ok := t.Lookup(name)
	if !ok || f.Content == nil || f.Size > most {
		return ""
	}
	var b bytes.Buffer
	if _, err := io.Copy(&b, io.NewSectionReader(f.Content, 0, f.Size)); err != nil {
		return ""
	}
	return b.String()
}

// notThere says in words that a file of the definition is missing.
func notThere(what string, name string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return inputErrorf("%s: %s does not exist (it is looked for beside the definition)", what, name)
	}
	return inputErrorf("%s: %w", what, err)
}
