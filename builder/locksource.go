package builder

import (
	"context"
	"errors"
	"fmt"
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
		return nil, asInput(err)
	}
	return &img.locked, img.done()
}

func lockDir(ctx context.Context, s images.Source) (*images.LockedSource, error) {
	entries, err := s.ReadDir(ctx)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, notThere("folder", s.Dir, err)
	}
	if err != nil {
		return nil, asInput(err)
	}
	out := &images.LockedSource{Digest: "sha256:" + images.TreeHash(entries)}
	for _, e := range entries {
		out.Size += e.Size
	}
	return out, nil
}

// addLocalDebs adds the package files of the site to an index, as packages of [images.LocalSuite].
// Their path is that of the file as the definition has it, behind its hash.
func addLocalDebs(index *deb.Index, d *images.Definition) error {
	for _, l := range d.Debs() {
		file, err := hashFile(l.Path)
		if err != nil {
			return notThere("deb", l.Ref, err)
		}
		f, err := os.Open(l.Path)
		if err != nil {
			return err
		}
		control, err := deb.Control(f)
		f.Close()
		if err != nil {
			return inputErrorf("deb %s: %w", l.Ref, err)
		}
		st, err := deb.ParseStanza(control["control"])
		if err != nil {
			return inputErrorf("deb %s: control: %w", l.Ref, err)
		}
		if arch := st.Field("Architecture"); arch != "all" && arch != d.Arch {
			return inputErrorf("deb %s is for %s, and the image for %s", l.Ref, arch, d.Arch)
		}
		text := strings.TrimRight(string(control["control"]), "\n") +
			fmt.Sprintf("\nFilename: %s/%s\nSize: %d\nSHA256: %s\n", file.SHA256, path.Base(l.Ref), file.Size, file.SHA256)
		if err := index.Add(images.LocalSuite, []byte(text)); err != nil {
			return inputErrorf("deb %s: %w", l.Ref, err)
		}
	}
	return nil
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
		if now[i].Digest != lock.Sources[i].Digest {
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
