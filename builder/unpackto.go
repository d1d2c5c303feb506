package builder

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"time"

	"muster/builder/deb"
	"muster/images"
)

// Unpack fetches the newest of packages of cfg.Definition's archive with all that they depend on, but for
// what is in without, and unpacks them into dir, which is not there yet or empty. Nothing in them is run, and nothing of this
// system is used: programs need their own loader and library path. Of cfg the folders Out and LockFile and the programs are not used.
func Unpack(ctx context.Context, cfg Config, packages, without []string, dir string) error {
	cfg, err := completeCommon(cfg)
	if err != nil {
		return err
	}
	if cfg.store, err = openCache(cfg.Cache, cfg.Log); err != nil {
		return err
	}
	client, err := newClient(cfg, cfg.store, time.Time{})
	if err != nil {
		return err
	}
	index, _, err := readArchive(ctx, cfg.Definition, client, cfg.Log, func(string) {})
	if err != nil {
		return err
	}
	request := deb.Request{Packages: packages}
	for _, name := range without {
		request.Installed = append(request.Installed, deb.Package{Name: name})
	}
	found, err := deb.Resolve(index, request)
	if err != nil {
		return fmt.Errorf("resolving packages: %w", err)
	}
	var locked []images.LockedPackage
	for _, p := range found {
		locked = append(locked, images.LockedPackage{Name: p.Name, Version: p.Version, Suite: p.Suite, Path: p.Path, Size: p.Size, SHA256: p.SHA256})
	}
	files, err := fetchAll(ctx, cfg, client, locked)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return err
	}
	// What is in dir is whole: it gets its name at the end.
	tmp, err := os.MkdirTemp(filepath.Dir(dir), filepath.Base(dir)+"-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	root, err := os.OpenRoot(tmp)
	if err != nil {
		return err
	}
	defer root.Close()
	for _, p := range files {
		if err := unpackInto(ctx, root, p); err != nil {
			return fmt.Errorf("unpacking %s %s: %w", p.Name, p.Version, err)
		}
	}
	if err := root.Chmod(".", 0o755); err != nil {
		return err
	}
	return os.Rename(tmp, dir)
}

// unpackInto writes the files of a package. Links that lead out of the root are not followed.
func unpackInto(ctx context.Context, root *os.Root, p fetched) error {
	return p.walk(ctx, func(e deb.Entry, content io.Reader) error {
		if isLeftOut(e.Path) {
			return nil
		}
		if err := root.MkdirAll(path.Dir(e.Path), 0o755); err != nil {
			return err
		}
		switch e.Type {
		case deb.TypeDir:
			return root.MkdirAll(e.Path, 0o755)
		case deb.TypeSymlink:
			return orThere(root.Symlink(e.Link, e.Path))
		case deb.TypeHardLink:
			return orThere(root.Link(e.Link, e.Path))
		}
		f, err := root.OpenFile(e.Path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, fs.FileMode(e.Mode&0o755))
		if err != nil {
			return err
		}
		_, err = io.Copy(f, content)
		return errors.Join(err, f.Close())
	})
}

// orThere takes what two packages have for one.
func orThere(err error) error {
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	return err
}
