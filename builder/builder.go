package builder

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"muster/builder/deb"
	"muster/builder/uki"
	"muster/images"
	"muster/initramfs"
)

// format is the number of the way in which artifacts are made. It changes when
// the same inputs give other bytes.
const format = 4

// Config is what [Build] needs.
type Config struct {
	Definition *images.Definition // as [images.Load] returns it; required

	// The programs of an image, not compressed; all required.
	Agent       []byte // muster-agent: PID 1 and agent
	Init        []byte // muster-init
	Busybox     []byte
	BusyboxInfo *initramfs.Busybox

	Out   string // folder for the artifacts; required, made if need be
	Cache string // folder of the cache, see [CacheDir]; required

	// LockFile is read where it is there, and written where it is not. "": lock.json in
	// Out, which a definition that asks for other packages replaces.
	LockFile string
	Update   bool // take the newest packages and write a new lock
	Locked   bool // the lock has to be there and to fit the definition
	Offline  bool // take what is in the cache and ask nobody
	Fast     bool // compress less: a second sooner, a tenth more bytes, and another image ID

	// Signer signs the UKI; nil: it is not signed.
	Signer *uki.Signer

	// Time of all files in the artifacts; zero: the date of the lock. It is
	// what SOURCE_DATE_EPOCH is for.
	Time time.Time

	Host     fs.FS            // root of the host, for apt's sources; nil: do not look
	HTTP     *http.Client     // nil: the client of package deb
	Keyring  []byte           // that archives are verified with; nil: the keys that muster has
	Now      func() time.Time // nil: time.Now
	Log      *slog.Logger     // nil: no log
	Progress func(Event)      // nil: nobody looks. May be called from any goroutine, one call at a time.

	lockNamed bool   // the caller chose LockFile
	store     *cache // once it is open
}

// CacheDir returns the cache of the user: $XDG_CACHE_HOME/muster, or
// ~/.cache/muster. getenv is os.Getenv.
func CacheDir(getenv func(string) string) (string, error) {
	if dir := getenv("XDG_CACHE_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "muster"), nil
	}
	if home := getenv("HOME"); home != "" {
		return filepath.Join(home, ".cache", "muster"), nil
	}
	return "", errors.New("no folder for the cache: neither XDG_CACHE_HOME nor HOME is set")
}

// Build makes the image that cfg.Definition describes in cfg.Out: vmlinuz,
// initramfs.zst, the network boot programs, NAME.iso, NAME.efi, the bill of materials, the list of sources and,
// last, manifest.json. An image that is
// there already and whole is left as it is.
//
// Several builds may run at once, with one cache and even with one Out.
func Build(ctx context.Context, cfg Config) (*images.Manifest, error) {
	m, err := build(ctx, cfg)
	if err != nil && cfg.Definition != nil {
		err = fmt.Errorf("building %s: %w", cfg.Definition.Name, err)
	}
	switch {
	case errors.Is(err, syscall.ENOSPC):
		err = fmt.Errorf("%w; make room for %s and %s, or set XDG_CACHE_HOME to a folder on another disk", err, cfg.Cache, cfg.Out)
	case errors.Is(err, syscall.EACCES):
		err = fmt.Errorf("%w; the cache %s and %s have to be writable (an earlier build with sudo may have made them)", err, cfg.Cache, cfg.Out)
	}
	return m, err
}

func build(ctx context.Context, cfg Config) (*images.Manifest, error) {
	cfg, err := complete(cfg)
	if err != nil {
		return nil, err
	}
	store, err := openCache(cfg.Cache, cfg.Log)
	if err != nil {
		return nil, err
	}
	cfg.store = store
	client, err := newClient(cfg, store, time.Time{})
	if err != nil {
		return nil, err
	}
	lock, err := lockFor(ctx, cfg, during(StepLock, cfg, client))
	if err != nil {
		return nil, err
	}
	if client, err = newClient(cfg, store, lock.Date); err != nil {
		return nil, err
	}
	cfg.Progress(Event{Step: StepLock, End: true, Detail: lockDetail(lock)})
	kernel, cached, err := kernelStep(ctx, cfg, store, during(StepKernel, cfg, client), lock)
	if err != nil {
		return nil, err
	}
	cfg.Progress(Event{Step: StepKernel, End: true, Cached: cached, Detail: fmt.Sprintf("%s, %d modules", kernel.Release, kernel.Count)})
	pack, cached, err := packStep(ctx, cfg, store, during(StepModules, cfg, client), lock)
	if err != nil {
		return nil, err
	}
	if pack.Count > 0 {
		cfg.Progress(Event{Step: StepModules, End: true, Cached: cached, Detail: fmt.Sprintf("%d, %.1f MB, fetched one by one", pack.Count, float64(pack.Pack.Size)/1e6)})
	}
	commands, err := buildGoCommands(ctx, cfg)
	if err != nil {
		return nil, err
	}
	userland, cached, err := userlandStep(ctx, cfg, store, during(StepUserland, cfg, client), lock, pack, commands)
	if err != nil {
		return nil, err
	}
	if userland.exists() {
		cfg.Progress(Event{Step: StepUserland, End: true, Cached: cached, Detail: userland.summary()})
	}
	var loaders loaderFiles
	if wanted, _ := cfg.Definition.Wants(images.MediumNetboot); wanted {
		if loaders, cached, err = loaderStep(ctx, cfg, store, during(StepLoaders, cfg, client), lock); err != nil {
			return nil, err
		}
		cfg.Progress(Event{Step: StepLoaders, End: true, Cached: cached})
	}
	ids := computeIDs(cfg, lock, kernel, userland, commands)
	archive, cached, err := initramfsStep(ctx, cfg, store, ids, kernel, pack, userland, commands, imageTime(cfg, lock))
	if err != nil {
		return nil, err
	}
	cfg.Progress(Event{Step: StepInitramfs, End: true, Cached: cached, Detail: fmt.Sprintf("%.1f MB", float64(archive.File.Size)/1e6)})
	iso, cached, err := isoStep(ctx, cfg, store, during(StepISO, cfg, client), lock, ids, kernel, archive)
	if err != nil {
		return nil, err
	}
	if iso != nil {
		cfg.Progress(Event{Step: StepISO, End: true, Cached: cached, Detail: fmt.Sprintf("%.1f MB", float64(iso.File.Size)/1e6)})
	}
	ukis, cached, err := ukiStep(ctx, cfg, store, during(StepUKI, cfg, client), lock, ids, kernel, archive)
	if err != nil {
		return nil, err
	}
	if detail := ukis.summary(); detail != "" {
		cfg.Progress(Event{Step: StepUKI, End: true, Cached: cached, Detail: detail})
	}
	bill, cached, err := billStep(ctx, cfg, store, during(StepBill, cfg, client), ids, lock, userland.Inside, commands)
	if err != nil {
		return nil, err
	}
	cfg.Progress(Event{Step: StepBill, End: true, Cached: cached})
	manifest := manifestOf(cfg, lock, ids, kernel, pack, userland, loaders, archive, iso, ukis, commands, bill)
	removed, err := write(ctx, cfg, store, manifest)
	if err != nil {
		return nil, err
	}
	detail := cfg.Out
	if len(removed) > 0 {
		detail += "; removed what only the earlier image there had: " + strings.Join(removed, ", ")
	}
	cfg.Progress(Event{Step: StepWrite, End: true, Detail: detail})
	return manifest, nil
}

// complete checks cfg and fills in defaults.
func complete(cfg Config) (Config, error) {
	switch {
	case cfg.Definition == nil:
		return cfg, errors.New("no definition was given")
	case len(cfg.Agent) == 0, len(cfg.Init) == 0, len(cfg.Busybox) == 0, cfg.BusyboxInfo == nil:
		return cfg, errors.New("this muster was built without agent, muster-init or busybox; run make")
	case cfg.Out == "" || cfg.Cache == "":
		return cfg, errors.New("no folder for artifacts or cache was given")
	case cfg.Update && (cfg.Locked || cfg.Offline):
		return cfg, inputErrorf("a lock cannot be updated in a build that is locked or offline")
	}
	return completeCommon(cfg)
}

// completeCommon checks and fills in what builds and locks both need.
func completeCommon(cfg Config) (Config, error) {
	if cfg.Definition == nil {
		return cfg, errors.New("no definition was given")
	}
	cfg.lockNamed = cfg.LockFile != ""
	if !cfg.lockNamed {
		cfg.LockFile = filepath.Join(cfg.Out, lockName)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Progress == nil {
		cfg.Progress = func(Event) {}
	}
	if err := cfg.Definition.Check(); err != nil {
		return cfg, inputError{err}
	}
	return cfg, nil
}

// newClient returns a client of the definition's archives. locked is the date of the
// lock, for mirrors that have snapshots, and zero where there is none yet.
func newClient(cfg Config, store deb.Store, locked time.Time) (*deb.Client, error) {
	origin, err := images.OriginOf(cfg.Definition.Suite)
	if err != nil {
		return nil, err
	}
	keys, err := keyringOf(cfg, origin)
	if err != nil {
		return nil, err
	}
	if cfg.Offline {
		cfg.HTTP = &http.Client{Transport: noTransport{}}
	}
	now := cfg.Now
	mirror := snapshotMirror(cfg.Definition.Mirror, locked, now())
	if at, ok := snapshotTime(mirror); ok {
		now = func() time.Time { return at }
	}
	mirrors := deb.Mirrors{Given: mirror, Origin: string(origin)}
	if cfg.Host != nil {
		mirrors.Host = deb.HostSources(cfg.Host)
	}
	return deb.NewClient(deb.Config{
		Mirrors: mirrors, Keyring: keys, Origin: string(origin), Arch: cfg.Definition.Arch,
		Store: store, HTTP: cfg.HTTP, Now: now, Log: cfg.Log,
	}), nil
}

// keyringOf returns the keys that archives are verified with.
func keyringOf(cfg Config, origin images.Origin) ([]byte, error) {
	if cfg.Keyring != nil {
		return cfg.Keyring, nil
	}
	if cfg.Definition.Keyring == "" {
		return images.Keyring(origin), nil
	}
	keys, err := os.ReadFile(cfg.Definition.Keyring)
	if err != nil {
		return nil, inputErrorf("keyring: %w", err)
	}
	return keys, nil
}

// during returns client with its transfers shown as part of step.
func during(step Step, cfg Config, client *deb.Client) *deb.Client {
	return client.WithProgress(func(name string, done, total int64) {
		cfg.Progress(Event{Step: step, Detail: "fetching " + name, Done: done, Total: total})
	})
}

// imageTime is the time of every file in the artifacts.
func imageTime(cfg Config, lock *images.Lock) time.Time {
	t := lock.Date
	if !cfg.Time.IsZero() {
		t = cfg.Time
	}
	return t.UTC().Truncate(time.Second)
}

func lockDetail(lock *images.Lock) string {
	for _, p := range lock.ByRole(images.RoleKernel) {
		return fmt.Sprintf("%s, packages of %s", p.Name, lock.Date.Format(time.DateOnly))
	}
	return ""
}

// ids are the two names of an image.
type ids struct {
	Image   string
	Runtime string
}

// computeIDs hashes what an image is made from, before it is made.
func computeIDs(cfg Config, lock *images.Lock, k kernelFiles, u userlandFiles, commands []goCommand) ids {
	image := struct {
		Format          int         `json:"format"`
		Definition      string      `json:"definition"`
		Lock            string      `json:"lock"`
		Agent           string      `json:"agent"`
		Init            string      `json:"init"`
		Busybox         string      `json:"busybox"`
		BusyboxCommands []string    `json:"busybox_commands"`
		GoCommands      []goCommand `json:"go_commands"`
		Time            time.Time   `json:"time"`
		Release         bool        `json:"release"`
		GoLicenses      string      `json:"go_licenses"`
		Userland        string      `json:"userland,omitempty"`
	}{
		format, cfg.Definition.Hash(), lock.Hash(), hashBytes(cfg.Agent), hashBytes(cfg.Init), hashBytes(cfg.Busybox),
		cfg.BusyboxInfo.Commands, commands, imageTime(cfg, lock), cfg.Fast, hashBytes([]byte(goLicenseTable)), u.Image.SHA256,
	}
	runtime := struct {
		Format  int    `json:"format"`
		Kernel  string `json:"kernel"`
		Modules string `json:"modules"`
		Init    string `json:"init"`
		Root    string `json:"root,omitempty"`
	}{format, k.Vmlinuz.SHA256, k.ModulesID, hashBytes(cfg.Init), u.Image.SHA256}
	return ids{Image: hashOf(image), Runtime: hashOf(runtime)}
}
