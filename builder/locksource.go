package builder

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"muster/builder/deb"
	"muster/images"
)

// lockSources pins the sources of the userland beside packages, in their order. With known, a lock
// that fits, registries are not asked again.
func lockSources(ctx context.Context, cfg Config, known *images.Lock) ([]images.LockedSource, error) {
	var out []images.LockedSource
	for _, s := range cfg.Definition.Stack() {
		if s.Kind() == images.SourcePackages {
			continue
		}
		if !s.IsLocal() && known != nil && len(known.Sources) > len(out) && known.Sources[len(out)].Ref == s.Ref() {
			out = append(out, known.Sources[len(out)])
			continue
		}
		l, err := lockSource(ctx, cfg, s)
		if err != nil {
			return nil, fmt.Errorf("userland: %s: %w", s, err)
		}
		l.Kind, l.Ref = s.Kind(), s.Ref()
		out = append(out, *l)
	}
	return out, nil
}

func lockSource(ctx context.Context, cfg Config, s images.Source) (*images.LockedSource, error) {
	switch s.Kind() {
	case images.SourceTar:
		file, err := hashFile(s.Path(s.Tar))
		if err != nil {
			return nil, notThere("file", s.Tar, err)
		}
		return &images.LockedSource{Digest: "sha256:" + file.SHA256, Size: file.Size}, nil
	case images.SourceDir:
		return lockDir(ctx, s)
	}
	ref, digest := s.OCIDigest()
	if !s.IsLocal() {
		return registryImage(ctx, cfg, ref, digest)
	}
	if _, err := os.Stat(s.Path(ref)); err != nil {
		return nil, notThere("image", ref, err)
	}
	img, err := openLocalImage(s.Path(ref), cfg.store.tmp(), cfg.Definition.Arch, digest)
	if err != nil {
		return nil, contentError(err)
	}
	return &img.locked, img.done()
}

func lockDir(ctx context.Context, s images.Source) (*images.LockedSource, error) {
	entries, err := s.ReadDir(ctx)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, notThere("folder", s.Dir, err)
	}
	if err != nil {
		return nil, contentError(err)
	}
	out := &images.LockedSource{Digest: "sha256:" + images.TreeHash(entries)}
	for _, e := range entries {
		out.Size += e.Size
	}
	return out, nil
}

// addLocalDebs adds the package files of the site to an index, as packages of [images.LocalSuite], and
// returns what the definition calls each by the path that the index has.
func addLocalDebs(ctx context.Context, index *deb.Index, d *images.Definition) (map[string]string, error) {
	refs, owner := make(map[string]string), make(map[string]string)
	for _, l := range d.Debs() {
		file, err := hashFile(l.Path)
		if err != nil {
			return nil, notThere("deb", l.Ref, err)
		}
		control, st, err := readLocalDeb(ctx, l.Path)
		if err != nil {
			return nil, contentError(fmt.Errorf("deb %s: %w", l.Ref, err))
		}
		if arch := st.Field("Architecture"); arch != "all" && arch != d.Arch {
			return nil, inputErrorf("deb %s is for %s, and the image for %s", l.Ref, arch, d.Arch)
		}
		name := st.Field("Package")
		if owner[name] != "" {
			return nil, inputErrorf("debs %s and %s are both package %s; leave one of them out", owner[name], l.Ref, name)
		}
		at := file.SHA256 + "/" + path.Base(l.Ref)
		owner[name], refs[at] = l.Ref, l.Ref
		text := fmt.Sprintf("%s\nFilename: %s\nSize: %d\nSHA256: %s\n", control, at, file.Size, file.SHA256)
		if err := index.Add(images.LocalSuite, []byte(text)); err != nil {
			return nil, inputErrorf("deb %s: %w", l.Ref, err)
		}
	}
	return refs, nil
}

// readLocalDeb returns the control paragraph of a package file, as it stands there and read, and reads
// the rest of it too, so that a damaged one is known when the lock is made.
func readLocalDeb(ctx context.Context, name string) (text string, st deb.Stanza, err error) {
	f, err := os.Open(name)
	if err != nil {
		return "", nil, err
	}
	defer f.Close()
	control, err := deb.Control(f)
	if err != nil {
		return "", nil, err
	}
	if st, err = deb.ParseStanza(control["control"]); err != nil {
		return "", nil, fmt.Errorf("control: %w", err)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return "", nil, err
	}
	err = deb.Walk(f, func(_ deb.Entry, content io.Reader) error { return ctx.Err() })
	return strings.Trim(string(control["control"]), "\n"), st, err
}

// localDeb returns the file of a locked package of the site's own, which has to be the one that was locked.
func localDeb(cfg Config, p images.LockedPackage) (string, error) {
	for _, l := range cfg.Definition.Debs() {
		if l.Ref != p.File {
			continue
		}
		file, err := hashFile(l.Path)
		if err != nil {
			return "", notThere("deb", l.Ref, err)
		}
		if file.SHA256 != p.SHA256 {
			return "", inputErrorf("deb %s changed since the lock %s was made; take the new one with: muster build --update", l.Ref, cfg.LockFile)
		}
		return l.Path, nil
	}
	return "", inputErrorf("deb %s of the lock %s is not in the definition", p.File, cfg.LockFile)
}

// errImageBelow says that a lock was made for packages on another image.
var errImageBelow = errors.New("and which packages are needed depends on it")

// refreshSources returns the lock with what the files and folders of the definition hold now. One that was
// named, and a build that is locked, have to fit as they are. An error wraps errImageBelow where packages have to be
// resolved again.
func refreshSources(ctx context.Context, cfg Config, lock *images.Lock) (*images.Lock, error) {
	if len(cfg.Definition.Userland) == 0 {
		return lock, nil
	}
	now, err := lockSources(ctx, cfg, lock)
	if err != nil {
		return nil, err
	}
	fresh := *lock
	fresh.Sources = now
	changes := images.DiffLocks(lock, &fresh)
	if len(changes) == 0 {
		return lock, nil
	}
	names := make([]string, len(changes))
	for i, c := range changes {
		names[i] = c.Package
	}
	slices.Sort(names)
	if cfg.Locked || cfg.lockNamed {
		return nil, inputErrorf("lock %s was made before these changed: %s; take them as they are with: muster build --update, or look first with: muster lock",
			cfg.LockFile, strings.Join(names, ", "))
	}
	for i := range imagesBelow(cfg.Definition) {
		if i >= len(lock.Sources) || now[i].Digest != lock.Sources[i].Digest {
			return nil, fmt.Errorf("%s changed since the lock %s was made, %w", now[i], cfg.LockFile, errImageBelow)
		}
	}
	cfg.Log.Info("sources of the userland changed", "artifact", strings.Join(names, ", "))
	return &fresh, writeLock(cfg.LockFile, &fresh)
}

// fileHash is the hash of a part of an image, as the cache has it.
func fileHash(b images.LockedBlob) deb.FileHash {
	return deb.FileHash{Size: b.Size, SHA256: strings.TrimPrefix(b.Digest, "sha256:")}
}

// linkPath is where the text of a link at name leads, below the root.
func linkPath(name, target string) string {
	if !path.IsAbs(target) {
		target = path.Join("/", path.Dir(name), target)
	}
	return path.Clean(target)[1:]
}
