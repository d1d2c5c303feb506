package builder

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"muster/builder/deb"
	"muster/images"
)

// manifestName is the file that says an image is whole.
const manifestName = "manifest.json"

// manifestOf lists what an image consists of.
func manifestOf(cfg Config, lock *images.Lock, ids ids, k kernelFiles, pack packFiles, u userlandFiles, l loaderFiles, archive initramfsFile, iso *isoFile, ukis ukiFiles, commands []goCommand, bill billFiles) *images.Manifest {
	m := &images.Manifest{
		Schema: images.ManifestSchema, ID: ids.Image, RuntimeID: ids.Runtime,
		Name: cfg.Definition.Name, Arch: cfg.Definition.Arch, Kernel: k.Release, Cmdline: cfg.Definition.Kernel.Cmdline,
		Time: imageTime(cfg, lock), LockHash: lock.Hash(),
		Modules: k.Names, Commands: commandNames(cfg, commands),
		Artifacts: []images.Artifact{
			{Kind: images.KindKernel, Name: "vmlinuz", Size: k.Vmlinuz.Size, SHA256: k.Vmlinuz.SHA256},
			{Kind: images.KindInitramfs, Name: "initramfs.zst", Size: archive.File.Size, SHA256: archive.File.SHA256},
		},
	}
	if u.exists() {
		m.Artifacts = append(m.Artifacts, u.artifact())
	}
	if pack.Count > 0 {
		m.Artifacts = append(m.Artifacts, pack.artifact())
	}
	for _, x := range l.Loaders {
		m.Artifacts = append(m.Artifacts, images.Artifact{
			Kind: images.KindLoader, Name: x.Name, Size: x.Size, SHA256: x.SHA256,
			Client: x.Client, Arch: x.Arch, Package: x.Package,
		})
	}
	m.Artifacts = append(m.Artifacts,
		images.Artifact{Kind: images.KindSBOM, Name: sbomName, Size: bill.SBOM.Size, SHA256: bill.SBOM.SHA256},
		images.Artifact{Kind: images.KindSources, Name: sourcesName, Size: bill.Sources.Size, SHA256: bill.Sources.SHA256},
	)
	if iso != nil {
		m.Artifacts = append(m.Artifacts, images.Artifact{
			Kind: images.KindISO, Name: mediumName(cfg.Definition), Size: iso.File.Size, SHA256: iso.File.SHA256, Site: &iso.Site,
		})
	}
	m.Artifacts = append(m.Artifacts, ukis.artifacts(cfg.Definition)...)
	for _, p := range lock.Packages {
		m.Packages = append(m.Packages, p.Package())
	}
	return m
}

// commandNames are the programs that a person finds in the image's small root.
func commandNames(cfg Config, commands []goCommand) []string {
	names := cfg.Definition.Commands
	if len(names) == 0 {
		names = cfg.BusyboxInfo.Commands
	}
	names = slices.Clone(names)
	for _, c := range commands {
		names = append(names, c.Name)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// write puts the artifacts into dir and then the manifest. What is there and right stays;
// nothing is changed in place, since somebody may be reading it. What only an earlier build wrote
// is removed, and returned by name.
func write(ctx context.Context, cfg Config, c *cache, m *images.Manifest) ([]string, error) {
	dir := cfg.Out
	site, err := siteSegment(cfg.Definition.Site, m.Time)
	if err != nil {
		return nil, err
	}
	text, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return nil, err
	}
	text = append(text, '\n')
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	folder, err := lockFolder(ctx, dir)
	if err != nil {
		return nil, err
	}
	defer folder.Close()
	name := filepath.Join(dir, manifestName)
	old, err := os.ReadFile(name)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("writing manifest: %w", err)
	}
	same := bytes.Equal(old, text)
	invalidate := func() error { // from here on the old image is not whole
		if old == nil {
			return nil
		}
		if err := os.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		old, same = nil, false
		return nil
	}
	removed, err := removeLeftover(cfg, old, m, invalidate)
	if err != nil {
		return nil, fmt.Errorf("removing what only an earlier build wrote: %w", err)
	}
	for _, a := range m.Artifacts {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		want := deb.FileHash{Size: a.Size, SHA256: a.SHA256}
		file := filepath.Join(dir, a.Name)
		if isWritten(file, a, want, site) {
			continue
		}
		if err := invalidate(); err != nil {
			return nil, fmt.Errorf("writing %s: %w", a.Name, err)
		}
		if err := copyBlob(c, want, file, a.Site, site); err != nil {
			return nil, fmt.Errorf("writing %s: %w", a.Name, err)
		}
	}
	if same {
		return nil, nil
	}
	if err := writeFile(name, text); err != nil {
		return nil, fmt.Errorf("writing manifest: %w", err)
	}
	return removed, nil
}

// lockFolder holds a folder for one build at a time until the file is closed: of two
// images at once the later one is there as a whole.
func lockFolder(ctx context.Context, dir string) (*os.File, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := waitLock(ctx, f); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// isWritten says whether an artifact is there and right, a medium with this site segment.
func isWritten(file string, a images.Artifact, want deb.FileHash, site []byte) bool {
	if a.Site == nil {
		got, err := hashFile(file)
		return err == nil && got == want
	}
	got, segment, err := hashMedium(file, *a.Site)
	return err == nil && got == want && bytes.Equal(segment, site)
}

// copyBlob copies a file from the cache; one with a place for a site segment
// gets that.
func copyBlob(c *cache, want deb.FileHash, name string, place *images.Range, site []byte) error {
	r, err := c.open(want)
	if err != nil {
		return err
	}
	defer r.Close()
	f, err := os.CreateTemp(filepath.Dir(name), ".tmp-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = io.Copy(f, r)
	if err == nil && place != nil {
		_, err = f.WriteAt(site, place.Offset)
	}
	if err := errors.Join(err, f.Chmod(0o644), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), name)
}
