package userland

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"muster/api"
	"muster/internal/kmod"
	"muster/nodeagent/loop"
	"muster/nodeagent/mount"
	"muster/nodeagent/verity"
)

const (
	// verityName is the name of the device that a node reads its userland from.
	verityName = "muster-userland"
	// shareTries is how often in a row a share may fail before a machine that can hold the
	// userland does.
	shareTries = 3
	// lookEvery is how often a node looks whether what it reads is right and comes, and lookFor how long that
	// may take.
	lookEvery = 2 * time.Second
	lookFor   = 4 * time.Second
)

// shares is what a [Holder] needs of the kernel to read a userland from a share.
type shares interface {
	// load loads a module, unless it is there. data is asked for then.
	load(path string, data func() ([]byte, error)) error
	// enter mounts the folder of a source on dir, read-only.
	enter(ctx context.Context, s api.UserlandSource, dir string) error
	// attach mounts the squashfs in file on dir, each block of it checked.
	attach(file, dir string, want api.Userland) error
	// intact tells whether all that was read was right.
	intact() (bool, error)
	// alive returns when the server of what is mounted on dir has answered.
	alive(dir string)
}

// Where tells where the userland is that is held: in memory, or in a share, from which place, and why that does not
// answer. bytes are what of the node's memory it takes for good. All is empty as long as there is none.
func (h *Holder) Where() (in api.UserlandIn, place string, bytes int64, stalled string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case !h.held:
		return "", "", 0, ""
	case h.where == api.UserlandShare:
		return h.where, h.from, 0, h.stalled
	}
	return api.UserlandMemory, "", h.cfg.Want.Size, ""
}

// Offer tells whether there is a share that has the userland, as in [api.NodeConfig]. Nil: there is none. What is
// mounted already stays.
func (h *Holder) Offer(s *api.UserlandSource) {
	h.mu.Lock()
	defer h.mu.Unlock()
	same := (s == nil) == (h.offer.source == nil) && (s == nil || *s == *h.offer.source)
	if h.offer.told && same {
		return
	}
	h.offer = offer{told: true, source: s}
	close(h.moved)
	h.moved = make(chan struct{})
}

// shareDir is where the folder with the file is mounted.
func (h *Holder) shareDir() string { return filepath.Join(h.cfg.RunDir, "userland.share") }

// tryShare is one attempt at a share.
func (h *Holder) tryShare(ctx context.Context, files string, s api.UserlandSource) error {
	if err := h.share(ctx, files, s); err != nil {
		h.shareFailed++
		return h.trouble(err)
	}
	h.found(api.UserlandShare, from(s))
	return h.done()
}

// holdsInstead tells whether a machine that could read its userland from a share holds it, since the share does not
// work: one that may, and has the room.
func (h *Holder) holdsInstead() bool {
	return h.shareFailed >= shareTries && h.cfg.Want.In == api.UserlandAuto && tooSmall(h.cfg.Want.MemoryMiB, h.cfg.MemTotalMiB) == ""
}

// waitsForShare tells whether a share that comes later would help.
func waitsForShare(want api.Userland) bool {
	return want.VerityRoot != "" && (want.In == api.UserlandShare || want.In == api.UserlandAuto)
}

// share is one attempt at reading the userland from a share.
func (h *Holder) share(ctx context.Context, files string, s api.UserlandSource) error {
	h.mu.Lock()
	problem := h.problem // which is told until it is past
	h.mu.Unlock()
	h.tell("preparing to read it from "+from(s), problem)
	if s.File == "" || s.File == ".." || s.File != filepath.Base(s.File) || !filepath.IsAbs(s.Export) {
		return fmt.Errorf("%q in %s is no file that a userland can be", s.File, from(s))
	}
	if err := h.loadModules(ctx, files); err != nil {
		return err
	}
	dir := h.shareDir()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("making the folder of the userland: %w", err)
	}
	m, err := h.mounts.what(dir)
	if err != nil {
		return err
	}
	if m.fstype != "" && m.source != from(s) {
		if err := h.mounts.detach(dir); err != nil {
			return fmt.Errorf("leaving %s: %w", m.source, err)
		}
		m.fstype = ""
	}
	if m.fstype == "" {
		if err := h.shares.enter(ctx, s, dir); err != nil {
			return err
		}
	}
	err = h.attachShared(s)
	if err != nil {
		// What the kernel knows of the folder may be old the next time.
		err = errors.Join(err, h.mounts.detach(dir))
	}
	return err
}

// attachShared mounts the userland of a folder that is mounted.
func (h *Holder) attachShared(s api.UserlandSource) error {
	file := filepath.Join(h.shareDir(), s.File)
	switch st, err := os.Stat(file); {
	case errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("%s has no file %s; the head says what to copy there: muster image show IMAGE", from(s), s.File)
	case err != nil:
		return fmt.Errorf("looking for %s at %s: %w", s.File, from(s), err)
	case st.Size() != h.cfg.Want.Size:
		return fmt.Errorf("the file %s at %s has %d bytes, the image says %d; copy it there again", s.File, from(s), st.Size(), h.cfg.Want.Size)
	}
	if err := h.shares.attach(file, h.dir, h.cfg.Want); err != nil {
		return fmt.Errorf("reading %s at %s: %w", s.File, from(s), err)
	}
	return nil
}

// loadModules loads what reading from a share takes: the index of all modules is in the userland, so that
// modprobe does not know them yet.
func (h *Holder) loadModules(ctx context.Context, files string) error {
	mods := h.cfg.Want.Modules
	if mods == nil {
		for _, name := range []string{"nfsv4", "dm_verity"} {
			if h.cfg.Modprobe != nil {
				_ = h.cfg.Modprobe(name) // what is missing the mount says
			}
		}
		return nil
	}
	if len(mods.Pieces) == 0 {
		return nil
	}
	src, err := newSource(files, mods.SHA256, packName)
	if err != nil {
		return err
	}
	src.dial = h.cfg.dial
	for _, m := range mods.Pieces {
		err := h.shares.load(m.Path, func() ([]byte, error) {
			return fetchPiece(ctx, src, mods.Size, kmod.Piece{Offset: m.Offset, Size: m.Size, SHA256: m.SHA256})
		})
		if err != nil {
			return fmt.Errorf("getting module %s: %s", kmod.Name(m.Path), describe(err, mods.SHA256))
		}
	}
	return nil
}

// watch looks at what is read from a share until ctx is done.
func (h *Holder) watch(ctx context.Context, s string) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	var asked chan struct{} // closed when the server has answered; nil: nobody asked
	var since time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if ok, err := h.shares.intact(); err == nil && !ok {
			h.log.Error("the userland was changed at its server", "from", s)
			h.damaged(damagedText(s))
			return
		}
		if asked == nil {
			asked, since = make(chan struct{}), time.Now()
			go func() {
				defer close(asked)
				h.shares.alive(h.shareDir())
			}()
		}
		select {
		case <-asked:
			asked = nil
			h.stall("")
		default:
			if time.Since(since) >= lookFor {
				h.stall(s + " does not answer; what reads its programs waits until it does")
			}
		}
	}
}

func damagedText(from string) string {
	return fmt.Sprintf("a block of it at %s is not what the image says: copy the file there again, then: muster node reboot NODE", from)
}

// damaged takes the userland from tasks that come: it cannot be trusted to be readable.
func (h *Holder) damaged(problem string) {
	h.mu.Lock()
	h.held, h.problem = false, problem
	changed := h.changed
	h.mu.Unlock()
	if changed != nil {
		changed()
	}
}

// stall notes why reading waits, "" that it does not.
func (h *Holder) stall(why string) {
	h.mu.Lock()
	news := h.stalled != why
	h.stalled = why
	changed := h.changed
	h.mu.Unlock()
	if !news {
		return
	}
	if why != "" {
		h.log.Warn("the userland cannot be read now", "why", why)
	}
	if changed != nil {
		changed()
	}
}

// kernelShares are those of the running kernel.
type kernelShares struct{}

func (kernelShares) load(path string, data func() ([]byte, error)) error {
	k := kmod.LinuxKernel{}
	if k.Loaded(kmod.Name(path)) {
		return nil
	}
	b, err := data()
	if err != nil {
		return err
	}
	if err := k.InsertData(path, b, ""); err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	return nil
}

func (kernelShares) enter(ctx context.Context, s api.UserlandSource, dir string) error {
	return mount.Userland(ctx, api.NodeMount{Server: s.Server, Port: s.Port, Export: s.Export}, dir)
}

func (kernelShares) attach(file, dir string, want api.Userland) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("making the folder of the userland: %w", err)
	}
	dev, err := loop.Attach(file)
	if err != nil {
		return err
	}
	defer dev.Close() // the verity device keeps it
	var st unix.Stat_t
	if err := unix.Fstat(int(dev.Fd()), &st); err != nil {
		return err
	}
	device, err := verity.Create(verityName, verityUUID(want), verity.Table{Root: want.VerityRoot, Blocks: want.VerityBlocks, Device: st.Rdev})
	if err != nil {
		return err
	}
	if err := loop.MountDevice(device, dir); err != nil {
		if ok, _ := verity.Intact(verityName); !ok {
			err = errors.New("it is not the userland of the image, or was changed; copy it there again")
		}
		return errors.Join(err, verity.Remove(verityName))
	}
	return nil
}

// verityUUID marks the device, so that the next agent knows what it is of.
func verityUUID(want api.Userland) string { return "MUSTER-" + want.VerityRoot }

func (kernelShares) intact() (bool, error) { return verity.Intact(verityName) }

func (kernelShares) alive(dir string) {
	var st unix.Statfs_t
	_ = unix.Statfs(dir, &st) // its answer does not matter, that there is one does
}
