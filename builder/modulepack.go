package builder

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"time"

	"muster/builder/deb"
	"muster/builder/squashfs"
	"muster/images"
	"muster/initramfs"
	"muster/internal/kmod"
	"muster/internal/kmod/depmod"
)

// packName is the file of the artifact.
const packName = "modules.tar"

// packFormat is the number of the way in which a pack is made.
const packFormat = 2

// packInputs is what a pack depends on.
type packInputs struct {
	Format int
	Kernel []string // SHA-256 of packages, or of the definition's own files
	Time   time.Time
}

// packFiles is all modules of a kernel. The zero value is none.
type packFiles struct {
	Release string
	Pack    deb.FileHash // tar
	Index   []namedBlob  // what depmod writes, and [kmod.PackFile]
	Count   int
	// Share are the modules that a node needs to read its userland from a share, in the order of loading.
	Share []images.UserlandModule
}

func (p packFiles) blobs() []deb.FileHash {
	all := []deb.FileHash{p.Pack}
	for _, b := range p.Index {
		all = append(all, b.FileHash)
	}
	return all
}

// packStep packs all modules of the image's kernel, so that a node can fetch any one of them.
// A definition that does not want them gets none.
func packStep(ctx context.Context, cfg Config, c *cache, client *deb.Client, lock *images.Lock) (packFiles, bool, error) {
	if !cfg.Definition.WantsRest() {
		return packFiles{}, false, nil
	}
	packages := lock.ByRole(images.RoleKernel)
	in := packInputs{packFormat, slices.Concat(hashesOf(packages), cfg.Definition.Kernel.Hashes), imageTime(cfg, lock)}
	return runStep(ctx, c, "modules", in, func() (packFiles, error) {
		kernel, err := fetchAll(ctx, cfg, client, packages)
		if err != nil {
			return packFiles{}, err
		}
		k, err := kernelOf(ctx, cfg, kernel)
		if err != nil {
			return packFiles{}, err
		}
		p, err := packModules(ctx, cfg, c, k, in.Time)
		if err != nil {
			return p, fmt.Errorf("modules of kernel %s: %w", k.release, err)
		}
		return p, nil
	})
}

// packModules writes the tar and the index of all modules of k.
func packModules(ctx context.Context, cfg Config, c *cache, k *kernelPackage, mtime time.Time) (packFiles, error) {
	out := packFiles{Release: k.release}
	pack := kmod.Pack{Pieces: make(map[string]kmod.Piece)}
	in := depmod.Input{Order: k.texts["modules.order"], Builtin: k.texts["modules.builtin"], BuiltinModinfo: k.texts["modules.builtin.modinfo"]}
	var err error
	out.Pack, err = c.put(func(f *os.File) error {
		w := &countingWriter{w: bufio.NewWriterSize(f, 1<<20)}
		archive := tar.NewWriter(w)
		add := func(m unpacked) error {
			in.Modules = append(in.Modules, m.info)
			name := path.Join("lib/modules", k.release, m.info.Path)
			if err := archive.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(len(m.file)), Mode: 0o644, ModTime: mtime}); err != nil {
				return err
			}
			pack.Pieces[m.info.Path] = kmod.Piece{Offset: w.n, Size: int64(len(m.file)), SHA256: hashBytes(m.file)}
			_, err := archive.Write(m.file)
			return err
		}
		if err := eachModule(ctx, cfg, k, add); err != nil {
			return err // one full disk is one error, though each writer would say it again
		}
		if err := archive.Close(); err != nil {
			return err
		}
		return w.w.Flush()
	})
	if err != nil {
		return out, err
	}
	in.Partial = true
	set, err := depmod.Build(in)
	if err != nil {
		return out, err
	}
	for _, name := range sortedKeys(set.Lacking) {
		info, _ := set.Info(name)
		delete(pack.Pieces, info.Path)
		cfg.Log.Debug("module left out of the index: another that it needs is in no package of the kernel", "artifact", info.Path, "part", set.Lacking[name])
	}
	pack.SHA256, pack.Size, out.Count = out.Pack.SHA256, out.Pack.Size, len(pack.Pieces)
	out.Share = shareModules(set.Index, pack.Pieces)
	files := set.Index.Files()
	files[kmod.PackFile] = pack.Encode()
	for _, name := range sortedKeys(files) {
		blob, err := c.putBytes(files[name])
		if err != nil {
			return out, err
		}
		out.Index = append(out.Index, namedBlob{name, blob})
	}
	return out, nil
}

// eachModule calls fn for every module of k, by path. Not all of them are unpacked at once:
// together they have half a gigabyte.
func eachModule(ctx context.Context, cfg Config, k *kernelPackage, fn func(unpacked) error) error {
	const atOnce = 64
	paths := make(map[string]string, len(k.modules))
	var names []string
	for _, p := range sortedKeys(k.modules) {
		name := kmod.Name(p)
		if other, ok := paths[name]; ok {
			return fmt.Errorf("%s and %s are one module", other, p)
		}
		paths[name] = p
		names = append(names, name)
	}
	for done := 0; done < len(names); done += atOnce {
		cfg.Progress(Event{Step: StepModules, Detail: fmt.Sprintf("indexing %d of %d", done, len(names))})
		batch, err := unpackModules(ctx, k, paths, names[done:min(done+atOnce, len(names))])
		if err != nil {
			return err
		}
		for _, m := range batch {
			m.raw = nil
			if err := fn(m); err != nil {
				return err
			}
		}
	}
	return nil
}

// countingWriter knows how many bytes were written.
type countingWriter struct {
	w *bufio.Writer
	n int64
}

func (c *countingWriter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

func (p packFiles) artifact() images.Artifact {
	return images.Artifact{Kind: images.KindModules, Name: packName, Size: p.Pack.Size, SHA256: p.Pack.SHA256}
}

// addTo puts the index into a userland.
func (p packFiles) addTo(t *initramfs.Tree, c *cache) error {
	var errs []error
	for _, b := range p.Index {
		errs = append(errs, t.Add(initramfs.Entry{
			Path: path.Join("usr/lib/modules", p.Release, b.Name), Type: initramfs.File, Mode: 0o644, Size: b.Size, Source: "the kernel package",
			Open: func() (io.ReadCloser, error) { return c.open(b.FileHash) },
		}))
	}
	return errors.Join(errs...)
}

// verifyPack reads every module of a pack and compares it with the index in the userland.
func verifyPack(name string, index []byte) (string, error) {
	want, err := kmod.ParsePack(index)
	if err != nil {
		return "", fmt.Errorf("its index in the userland: %w", err)
	}
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	sum, err := hashReader(f)
	switch {
	case err != nil:
		return "", err
	case sum.SHA256 != want.SHA256 || sum.Size != want.Size:
		return "", fmt.Errorf("its index in the userland is of %s with %d bytes", want.SHA256, want.Size)
	}
	for _, p := range sortedKeys(want.Pieces) {
		q := want.Pieces[p]
		sum, err := hashReader(io.NewSectionReader(f, q.Offset, q.Size))
		if err != nil || sum.SHA256 != q.SHA256 {
			return "", errors.Join(err, fmt.Errorf("%s in it is not what its index in the userland says", p))
		}
	}
	return fmt.Sprintf("kernel modules, %d", len(want.Pieces)), nil
}

// packIndex returns what a userland says of a pack; nil if it has no index.
func packIndex(userland, release string) ([]byte, error) {
	var index []byte
	err := readUserland(userland, func(f squashfs.File) error {
		if f.Path != path.Join("usr/lib/modules", release, kmod.PackFile) || f.Content == nil {
			return nil
		}
		var b bytes.Buffer
		_, err := b.ReadFrom(io.LimitReader(f.Content, maxKernelFile))
		index = b.Bytes()
		return err
	})
	return index, err
}
