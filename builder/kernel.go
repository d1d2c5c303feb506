package builder

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"muster/builder/deb"
	"muster/builder/squashfs"
	"muster/images"
	"muster/initramfs"
	"muster/internal/kmod/depmod"
)

// kernelInputs is what the kernel step depends on.
type kernelInputs struct {
	Kernel   []string // SHA-256 of packages, or of the definition's own files
	Firmware []string
	Modules  images.Modules
	Time     time.Time
	Fast     bool
}

// kernelFiles is what of a kernel goes into an image.
type kernelFiles struct {
	Release string // as uname -r says it
	Vmlinuz deb.FileHash
	Modules deb.FileHash // squashfs
	// ModulesID is the hash of all modules and their names, whatever squashfs
	// they are packed in.
	ModulesID string
	Count     int
	Names     []string    // of the modules, sorted
	Early     []namedBlob // in the order of loading; Name is that of the file
	Firmware  []namedBlob // Name is the path below /lib/firmware
}

type namedBlob struct {
	Name string
	deb.FileHash
}

func (k kernelFiles) blobs() []deb.FileHash {
	all := []deb.FileHash{k.Vmlinuz, k.Modules}
	for _, b := range slices.Concat(k.Early, k.Firmware) {
		all = append(all, b.FileHash)
	}
	return all
}

// kernelStep fetches the kernel's packages and packs what of them the image
// has.
func kernelStep(ctx context.Context, cfg Config, c *cache, client *deb.Client, lock *images.Lock) (kernelFiles, bool, error) {
	in := kernelInputs{
		Kernel: slices.Concat(hashesOf(lock.ByRole(images.RoleKernel)), cfg.Definition.Kernel.Hashes), Firmware: hashesOf(lock.ByRole(images.RoleFirmware)),
		Modules: cfg.Definition.Modules, Time: imageTime(cfg, lock), Fast: cfg.Fast,
	}
	return runStep(ctx, c, "kernel", in, func() (kernelFiles, error) {
		kernel, err := fetchAll(ctx, cfg, client, lock.ByRole(images.RoleKernel))
		if err != nil {
			return kernelFiles{}, err
		}
		firmware, err := fetchAll(ctx, cfg, client, lock.ByRole(images.RoleFirmware))
		if err != nil {
			return kernelFiles{}, err
		}
		cfg.Progress(Event{Step: StepKernel, Detail: "unpacking"})
		pkg, err := kernelOf(ctx, cfg, kernel)
		if err != nil {
			return kernelFiles{}, err
		}
		return packKernel(ctx, cfg, c, in, pkg, firmware)
	})
}

// fetched is a package that is there as a file.
type fetched struct {
	images.LockedPackage
	file  string
	cache *cache // that remembers the copyright file, which the bill of materials asks for
}

func fetchAll(ctx context.Context, cfg Config, client *deb.Client, packages []images.LockedPackage) ([]fetched, error) {
	var out []fetched
	var missing []string
	for _, p := range packages {
		if p.File != "" {
			file, err := localDeb(cfg, p)
			if err != nil {
				return nil, err
			}
			out = append(out, fetched{p, file, cfg.store})
			continue
		}
		file, err := client.FetchPackage(ctx, p.Suite, p.Path, deb.FileHash{Size: p.Size, SHA256: p.SHA256})
		switch {
		case errors.Is(err, ErrOffline):
			missing = append(missing, fmt.Sprintf("%s %s (%.1f MB)", p.Name, p.Version, float64(p.Size)/1e6))
			continue
		case errors.Is(err, os.ErrNotExist):
			return nil, supersededError(cfg, p, err)
		case err != nil:
			return nil, fmt.Errorf("package %s %s: %w", p.Name, p.Version, err)
		}
		out = append(out, fetched{p, file, cfg.store})
	}
	if len(missing) > 0 {
		return nil, fmt.Errorf("%w, and these packages are not in the cache %s: %s; build once without --offline, or copy a cache that has them",
			ErrOffline, cfg.Cache, strings.Join(missing, ", "))
	}
	return out, nil
}

// supersededError says what to do about a package that no mirror has any more.
func supersededError(cfg Config, p images.LockedPackage, err error) error {
	return fmt.Errorf("package %s %s: archives drop what newer versions replace; make a new lock with: muster build --update, "+
		"or name a dated snapshot of %s as mirror: (%s), or give the cache of a build that fetched it: --cache (it keeps packages by hash; this one is %s) (%w)",
		p.Name, p.Version, cfg.Definition.Suite, snapshotExample, p.SHA256, err)
}

// walk reads a package that was fetched. Its copyright file is remembered
// on the way: reading a large package once more takes seconds.
func (p fetched) walk(ctx context.Context, fn func(e deb.Entry, r io.Reader) error) error {
	f, err := os.Open(p.file)
	if err != nil {
		return err
	}
	defer f.Close()
	var seen copyrightRecord
	err = deb.Walk(f, func(e deb.Entry, r io.Reader) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		if p.cache != nil && isCopyright(p.Name, e) {
			var data []byte
			if err := readInto(&data, e, r); err != nil {
				return err
			}
			var err error
			seen.Found = true
			if seen.Text, err = p.cache.putBytes(data); err != nil {
				return err
			}
			return fn(e, bytes.NewReader(data))
		}
		return fn(e, r)
	})
	if err == nil && p.cache != nil {
		err = p.cache.writeStep(stepKey(copyrightStep, p.SHA256), seen)
	}
	if err != nil {
		return fmt.Errorf("package %s %s: %w", p.Name, p.Version, err)
	}
	return nil
}

// kernelPackage is what the packages of a kernel hold, with the modules as they are
// packed in there.
type kernelPackage struct {
	release string
	vmlinuz []byte
	modules map[string][]byte // by path below /lib/modules/RELEASE: kernel/fs/x.ko.xz
	texts   map[string][]byte // modules.order and its kin
	config  string            // of the kernel's build: lines CONFIG_X=y
}

// unpacks says whether the kernel itself loads modules whose file ends in
// suffix. Such modules stay as they are: Debian's xz makes an image a quarter smaller
// than zstd does, and the kernel unpacks only what it loads.
func (k *kernelPackage) unpacks(suffix string) bool {
	option := map[string]string{".xz": "XZ", ".zst": "ZSTD", ".gz": "GZIP"}[suffix]
	return option != "" && k.has("CONFIG_MODULE_DECOMPRESS=y") && k.has("CONFIG_MODULE_COMPRESS_"+option+"=y")
}

func (k *kernelPackage) has(line string) bool {
	return strings.Contains("\n"+k.config, "\n"+line+"\n")
}

func readKernel(ctx context.Context, packages []fetched) (*kernelPackage, error) {
	k := &kernelPackage{modules: make(map[string][]byte), texts: make(map[string][]byte)}
	const modules = "usr/lib/modules/"
	for _, p := range packages {
		err := p.walk(ctx, func(e deb.Entry, r io.Reader) error {
			if e.Type != deb.TypeFile {
				return nil
			}
			if release, ok := strings.CutPrefix(e.Path, "boot/vmlinuz-"); ok {
				k.release = release
				return readInto(&k.vmlinuz, e, r)
			}
			if strings.HasPrefix(e.Path, "boot/config-") {
				var text []byte
				err := readInto(&text, e, r)
				k.config = string(text)
				return err
			}
			rest, ok := strings.CutPrefix(e.Path, modules)
			if !ok {
				return nil
			}
			_, file, _ := strings.Cut(rest, "/")
			var data []byte
			switch {
			case strings.HasPrefix(file, "kernel/") && isModule(file):
				if err := readInto(&data, e, r); err != nil {
					return err
				}
				k.modules[file] = data
			case file == "modules.order" || file == "modules.builtin" || file == "modules.builtin.modinfo":
				if err := readInto(&data, e, r); err != nil {
					return err
				}
				k.texts[file] = data
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	if k.release == "" || len(k.vmlinuz) == 0 {
		return nil, fmt.Errorf("%s: there is no /boot/vmlinuz-* in it; kernel: package: has to name a kernel", packageNames(packages))
	}
	return k, nil
}

// maxKernelFile bounds a single file of a kernel package.
const maxKernelFile = 512 << 20

func readInto(data *[]byte, e deb.Entry, r io.Reader) error {
	if e.Size > maxKernelFile {
		return fmt.Errorf("%s has %d bytes", e.Path, e.Size)
	}
	*data = make([]byte, e.Size)
	if _, err := io.ReadFull(r, *data); err != nil {
		return fmt.Errorf("reading %s: %w", e.Path, err)
	}
	return nil
}

func packageNames(packages []fetched) string {
	var names []string
	for _, p := range packages {
		names = append(names, p.Name)
	}
	return strings.Join(names, ", ")
}

// packKernel chooses modules and firmware and writes them to the cache.
func packKernel(ctx context.Context, cfg Config, c *cache, in kernelInputs, k *kernelPackage, firmware []fetched) (kernelFiles, error) {
	sel, err := selectModules(ctx, k, in.Modules)
	if err == nil {
		err = checkOptions(ctx, k, sel, in.Modules.Options)
	}
	if err != nil {
		return kernelFiles{}, fmt.Errorf("kernel %s: %w", k.release, placed(err, cfg.Definition))
	}
	early, err := earlyModules(sel.set.Index)
	if err != nil {
		return kernelFiles{}, fmt.Errorf("kernel %s: %w", k.release, err)
	}
	out := kernelFiles{Release: k.release, ModulesID: sel.id(), Count: len(sel.files), Names: slices.Sorted(slices.Values(sel.names()))}
	if out.Vmlinuz, err = c.putBytes(k.vmlinuz); err != nil {
		return out, err
	}
	for _, m := range early {
		blob, err := c.putBytes(sel.raw[m.Name])
		if err != nil {
			return out, err
		}
		out.Early = append(out.Early, namedBlob{path.Base(depmod.RawPath(m.Path)), blob})
	}
	cfg.Progress(Event{Step: StepKernel, Detail: fmt.Sprintf("packing %d modules", len(sel.files))})
	if out.Modules, err = writeModules(ctx, c, sel, in); err != nil {
		return out, err
	}
	out.Firmware, err = pickFirmware(ctx, c, wantedFirmware(sel, cfg.Definition.Firmware), firmware)
	return out, err
}

// writeModules writes the squashfs that is mounted at /lib/modules/RELEASE.
func writeModules(ctx context.Context, c *cache, sel *selection, in kernelInputs) (deb.FileHash, error) {
	t := initramfs.NewTree(in.Time)
	for _, name := range sortedKeys(sel.files) {
		if err := t.AddBytes(name, 0o644, sel.files[name], "the kernel package"); err != nil {
			return deb.FileHash{}, err
		}
	}
	for name, text := range sel.set.Index.Files() {
		if err := t.AddBytes(name, 0o644, text, "depmod"); err != nil {
			return deb.FileHash{}, err
		}
	}
	opts := squashfs.Options{Time: in.Time, Level: squashfs.Best, BlockSize: 1 << 20}
	if in.Fast {
		opts.Level = squashfs.Fast
	}
	return c.put(func(f *os.File) error {
		_, err := squashfs.Write(ctx, f, t, opts)
		return err
	})
}

// wantedFirmware returns the files that the modules ask for and the groups allow. Both
// may be patterns.
func wantedFirmware(sel *selection, groups []string) []string {
	var allowed []string
	for _, g := range images.FirmwareGroups() {
		if slices.Contains(groups, g.Name) {
			allowed = append(allowed, g.Files...)
		}
	}
	return slices.DeleteFunc(sel.set.Firmware(sel.names()...), func(name string) bool { return !isWanted(name, allowed) })
}

// pickFirmware keeps the files that are wanted, which may be patterns, from the
// packages.
func pickFirmware(ctx context.Context, c *cache, wanted []string, packages []fetched) ([]namedBlob, error) {
	const root = "usr/lib/firmware/"
	files := make(map[string]deb.FileHash)
	for _, p := range packages {
		have := make(map[string]deb.FileHash)
		links := make(map[string]string)
		err := p.walk(ctx, func(e deb.Entry, r io.Reader) error {
			name, ok := strings.CutPrefix(e.Path, root)
			switch {
			case !ok:
			case e.Type == deb.TypeSymlink && isWanted(name, wanted):
				links[name] = path.Join(path.Dir(name), e.Link)
			case e.Type == deb.TypeFile && wantedOrNear(name, wanted):
				var data []byte
				if err := readInto(&data, e, r); err != nil {
					return err
				}
				blob, err := c.putBytes(data)
				if err != nil {
					return err
				}
				have[name] = blob
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		for link, target := range links {
			if blob, ok := have[target]; ok {
				files[link] = blob
			}
		}
		for name, blob := range have {
			if isWanted(name, wanted) {
				files[name] = blob
			}
		}
	}
	var out []namedBlob
	for _, name := range sortedKeys(files) {
		out = append(out, namedBlob{name, files[name]})
	}
	return out, nil
}

// isWanted says whether a driver asks for the file, packed or not.
func isWanted(name string, wanted []string) bool {
	plain := strings.TrimSuffix(strings.TrimSuffix(name, ".zst"), ".xz")
	return slices.ContainsFunc(wanted, func(w string) bool {
		if w == plain {
			return true
		}
		ok, err := path.Match(w, plain)
		return ok && err == nil
	})
}

// wantedOrNear also takes files in the same folder, to which links may lead.
func wantedOrNear(name string, wanted []string) bool {
	return isWanted(name, wanted) || slices.ContainsFunc(wanted, func(w string) bool { return path.Dir(w) == path.Dir(name) && path.Dir(w) != "." })
}

func isModule(file string) bool {
	return strings.HasSuffix(depmod.RawPath(file), ".ko")
}

func hashesOf(packages []images.LockedPackage) []string {
	var out []string
	for _, p := range packages {
		out = append(out, p.SHA256)
	}
	return out
}
