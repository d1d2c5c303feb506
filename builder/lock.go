package builder

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"muster/builder/deb"
	"muster/images"
)

// loaderPackage is the Debian package of the network boot programs.
const loaderPackage = "ipxe"

// maxKernelDepth bounds how far a kernel meta package may be from its kernel.
const maxKernelDepth = 4

// lockFor returns the lock to build from: the one in cfg.LockFile where it fits the
// definition, else one that is resolved now and written there.
func lockFor(ctx context.Context, cfg Config, client *deb.Client) (*images.Lock, error) {
	old, err := readLock(cfg)
	if err != nil {
		return nil, err
	}
	if old != nil && !cfg.Update {
		fresh, err := refreshSources(ctx, cfg, old)
		if !errors.Is(err, errImageBelow) {
			return fresh, err
		}
		if cfg.Offline {
			return nil, inputErrorf("%w; offline no lock can be made for it: make one where there is a network: muster lock %s--write", err, lockFlag(cfg))
		}
		cfg.Log.Info("resolving packages again", "err", err)
		old = nil // it is of another image, however far the mirror is
	}
	switch {
	case cfg.Locked:
		return nil, inputErrorf("there is no lock %s; make one with: muster lock %s--write", cfg.LockFile, lockFlag(cfg))
	case cfg.Offline:
		return nil, inputErrorf("there is no lock %s, and offline none can be made; make one where there is a network: muster lock %s--write", cfg.LockFile, lockFlag(cfg))
	}
	fresh, err := resolve(ctx, cfg, client, cfg.Log, func(detail string) {
		cfg.Progress(Event{Step: StepLock, Detail: detail})
	})
	if err != nil {
		return nil, fmt.Errorf("resolving packages: %w", err)
	}
	if kept := newer(old, fresh, cfg.Log); kept == old {
		return old, nil
	}
	return fresh, writeLock(cfg.LockFile, fresh)
}

// newer returns the lock to go on with. old, which may be nil, stays where nothing
// is newer: so do its date, and with it the image ID.
func newer(old, fresh *images.Lock, log *slog.Logger) *images.Lock {
	switch {
	case old == nil:
		return fresh
	case len(images.DiffLocks(old, fresh)) == 0 && old.Request == fresh.Request:
		return old
	case fresh.Date.Before(old.Date) && old.Request == fresh.Request:
		log.Warn("lock kept: the mirror is behind it", "lock", old.Date, "mirror", fresh.Date)
		return old
	}
	return fresh
}

func writeLock(name string, l *images.Lock) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return fmt.Errorf("writing lock: %w", err)
	}
	if err := writeFile(name, l.Encode()); err != nil {
		return fmt.Errorf("writing lock: %w", err)
	}
	return nil
}

// lockFlag is how muster lock is told of a file, with a space behind it.
func lockFlag(cfg Config) string { return "DEFINITION --lock " + cfg.LockFile + " " }

// readAnyLock returns the lock in the file, whatever it was made for, or nil where
// there is none.
func readAnyLock(cfg Config) (*images.Lock, error) {
	text, err := os.ReadFile(cfg.LockFile)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading lock: %w", err)
	}
	l, err := images.ParseLock(cfg.LockFile, text)
	if err != nil {
		return nil, inputErrorf("%w; to make a new one, delete the file", err)
	}
	if !ofOlderMuster(l) && l.Asked.Hash() != l.Request {
		return nil, inputErrorf("lock %s was edited: what it was asked for is not what request_sha256 says; to make a new one, delete the file", cfg.LockFile)
	}
	return l, nil
}

// ofOlderMuster tells whether l does not say all that it was made for: then its request_sha256 cannot be
// compared with what it says, and is of another form than this muster's.
func ofOlderMuster(l *images.Lock) bool { return l.Asked == nil || l.Asked.Loaders == nil }

// readLock returns the lock in the file, or nil where there is none that fits. One
// that the caller named has to fit.
func readLock(cfg Config) (*images.Lock, error) {
	l, err := readAnyLock(cfg)
	if l == nil || err != nil {
		return nil, err
	}
	if l.Request == cfg.Definition.RequestHash() {
		return l, nil
	}
	if (cfg.lockNamed || cfg.Locked) && !cfg.Update {
		if ofOlderMuster(l) {
			return nil, inputErrorf("lock %s was made by an older muster, which did not write down all that it was made for; make a new one with: muster build --update, or look first with: muster lock", cfg.LockFile)
		}
		return nil, inputErrorf("lock %s was made for other packages than definition %s asks for (%s); make a new one with: muster build --update, or look first with: muster lock",
			cfg.LockFile, cfg.Definition.Name, cfg.Definition.Request().Against(*l.Asked))
	}
	return nil, nil
}

// resolve asks the archive for the newest packages that d needs.
func resolve(ctx context.Context, cfg Config, client *deb.Client, log *slog.Logger, tell func(detail string)) (*images.Lock, error) {
	d := cfg.Definition
	index, lock, err := readArchive(ctx, d, client, log, tell)
	if err != nil {
		return nil, err
	}
	wanted := map[string]deb.Package{}
	role := map[string]images.Role{}
	take := func(r images.Role, packages ...deb.Package) {
		for _, p := range packages {
			if _, ok := role[p.Name]; !ok {
				wanted[p.Name], role[p.Name] = p, r
			}
		}
	}
	if !d.Kernel.Own() {
		kernel, err := resolveKernel(index, d.Kernel.Package)
		if err != nil {
			return nil, err
		}
		take(images.RoleKernel, kernel...)
	}
	loader, err := index.Latest(loaderPackage)
	if err != nil {
		return nil, fmt.Errorf("network boot programs: %w", err)
	}
	take(images.RoleLoader, loader)
	for _, name := range images.MediumPackages() {
		if p, err := index.Latest(name); err == nil {
			take(images.RoleMedium, p)
		} // else no medium can be made from this archive: said to who asks for one
	}
	for _, name := range images.UKIPackages() {
		if p, err := index.Latest(name); err == nil {
			take(images.RoleUKI, p)
		}
	}
	for _, g := range images.FirmwareGroups() {
		if !slices.Contains(d.Firmware, g.Name) {
			continue
		}
		for _, name := range g.Packages {
			p, err := index.Latest(name)
			if err != nil {
				return nil, fmt.Errorf("firmware group %s: %w", g.Name, err)
			}
			take(images.RoleFirmware, p)
		}
	}
	local, err := addLocalDebs(ctx, index, d)
	if err != nil {
		return nil, err
	}
	if lock.Sources, err = lockSources(ctx, cfg, nil); err != nil {
		return nil, err
	}
	installed, err := installedBelow(ctx, duringLock(cfg), lock.Sources)
	if err != nil {
		return nil, err
	}
	userland, err := resolveUserland(index, d, installed)
	if err != nil {
		return nil, err
	}
	for _, p := range userland {
		if r, ok := role[p.Name]; ok {
			return nil, inputErrorf("package %s of the userland is also used as %s, and one image can have it only once; take it out of the list packages", p.Name, r)
		}
	}
	take(images.RoleUserland, userland...)
	for name, p := range wanted {
		lock.Packages = append(lock.Packages, images.LockedPackage{
			Name: p.Name, Version: p.Version, Arch: p.Arch, Source: p.Source, SourceVersion: p.SourceVersion, BuiltUsing: p.BuiltUsing,
			Role: role[name], Suite: p.Suite, Path: p.Path, Size: p.Size, SHA256: p.SHA256, File: local[p.Path],
		})
	}
	slices.SortFunc(lock.Packages, func(a, b images.LockedPackage) int { return strings.Compare(a.Name, b.Name) })
	return lock, nil
}

// duringLock is cfg for what reads images while the lock is made.
func duringLock(cfg Config) Config {
	tell := cfg.Progress
	cfg.Progress = func(e Event) {
		e.Step = StepLock
		tell(e)
	}
	return cfg
}

// resolveUserland returns the packages of the userland, with all they need that no image below has installed.
func resolveUserland(index *deb.Index, d *images.Definition, installed []deb.Package) ([]deb.Package, error) {
	asked := d.AllPackages()
	if len(asked) == 0 && len(d.Debs()) == 0 {
		return nil, nil
	}
	// An image below brings a system of its own.
	stack := d.Stack()
	below := stack[:slices.IndexFunc(stack, func(s images.Source) bool { return s.Kind() == images.SourcePackages })]
	image := slices.ContainsFunc(below, func(s images.Source) bool { return s.Kind() == images.SourceOCI })
	request := deb.Request{
		Packages: asked, Essential: !image, Installed: installed,
		Nearest: func(name string, among []string) []string { return images.Nearest(name, among, 3) },
	}
	if len(d.Debs()) > 0 {
		request.Local = images.LocalSuite
	}
	// The index was read and checked: what is left is what was asked for.
	packages, err := deb.Resolve(index, request)
	if err != nil {
		return nil, inputErrorf("userland: %w", err)
	}
	return packages, nil
}

// readArchive reads the indexes of the suite, its updates and its security
// updates, and begins the lock with their date.
func readArchive(ctx context.Context, d *images.Definition, client *deb.Client, log *slog.Logger, tell func(string)) (*deb.Index, *images.Lock, error) {
	index := deb.NewIndex()
	asked := d.Request()
	lock := &images.Lock{
		Schema: images.LockSchema, Request: d.RequestHash(), Asked: &asked,
		Name: d.Name, Arch: d.Arch, Suite: d.Suite,
	}
	for _, suite := range []string{d.Suite, d.Suite + "-updates", d.Suite + "-security"} {
		tell("reading " + suite)
		rel, err := client.Release(ctx, suite)
		if errors.Is(err, os.ErrNotExist) && suite != d.Suite {
			log.Warn("the mirror has no such suite; its updates are not in the image", "suite", suite, "err", err)
			continue
		}
		if err != nil {
			return nil, nil, err
		}
		if rel.Date.After(lock.Date) {
			lock.Date = rel.Date
		}
		for _, component := range components(d) {
			if err := client.AddPackages(ctx, index, suite, rel, component); err != nil {
				return nil, nil, err
			}
		}
	}
	return index, lock, nil
}

// components returns the components of the archive that d takes packages from.
func components(d *images.Definition) []string {
	out := []string{"main"}
	if origin, err := images.OriginOf(d.Suite); err == nil && origin == images.Ubuntu {
		out = append(out, "universe") // much of what Debian has in main
	}
	for _, g := range images.FirmwareGroups() {
		if slices.Contains(d.Firmware, g.Name) && !slices.Contains(out, g.Component) {
			out = append(out, g.Component)
		}
	}
	return out
}

// kernelPart finds the relations that lead from a kernel's meta package to the
// packages with its files: Debian has one, Ubuntu has the modules apart.
var kernelPart = regexp.MustCompile(`^linux-(image|modules)-`)

// resolveKernel returns the packages that hold the kernel called name. Debian's
// security archive and its main one have it both: the newest counts.
func resolveKernel(index *deb.Index, name string) ([]deb.Package, error) {
	p, err := index.Latest(name)
	if err != nil {
		return nil, inputErrorf("kernel: %w%s", err, nearestKernels(index, name))
	}
	parts, err := kernelParts(index, p, maxKernelDepth)
	if err != nil {
		return nil, fmt.Errorf("kernel %s: %w", name, err)
	}
	return parts, nil
}

func kernelParts(index *deb.Index, p deb.Package, depth int) ([]deb.Package, error) {
	if depth == 0 {
		return nil, fmt.Errorf("package %s: no kernel within %d dependencies", p.Name, maxKernelDepth)
	}
	var parts []deb.Package
	meta := false
	for _, rel := range deb.Relations(p.Depends) {
		if !kernelPart.MatchString(rel) {
			continue
		}
		meta = meta || strings.HasPrefix(rel, "linux-image-")
		next, err := index.Satisfying(rel)
		if err != nil {
			return nil, fmt.Errorf("package %s %s depends on %s: %w", p.Name, p.Version, rel, err)
		}
		more, err := kernelParts(index, next, depth-1)
		if err != nil {
			return nil, err
		}
		parts = append(parts, more...)
	}
	if !meta {
		parts = append(parts, p)
	}
	return parts, nil
}

// nearestKernels lists kernel packages that look like name.
func nearestKernels(index *deb.Index, name string) string {
	var kernels, meta []string
	for _, n := range index.Names() {
		if strings.HasPrefix(n, "linux-image-") && !strings.HasSuffix(n, "-dbg") && !strings.HasSuffix(n, "-unsigned") {
			kernels = append(kernels, n)
			if rest := n[len("linux-image-"):]; rest[0] < '0' || rest[0] > '9' {
				meta = append(meta, n)
			}
		}
	}
	near := images.Nearest(name, kernels, 3)
	if len(near) == 0 {
		near = meta
	}
	if len(near) == 0 {
		return "; the archive has no kernel for this architecture"
	}
	return "; kernels are: " + strings.Join(near, ", ")
}
