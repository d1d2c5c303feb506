package userland

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"muster/api"
)

const (
	// firstPause is how long it takes until the head is asked again after an
	// error, twice as long each time up to lastPause, and up to half more so that a
	// thousand nodes do not ask at once.
	firstPause = time.Second
	lastPause  = 15 * time.Second
)

// taskInit is what a userland must have: the first process of each task.
const taskInit = "usr/lib/muster/init"

// Config is what a [Holder] needs. RunDir is required.
type Config struct {
	// Want is the userland of the image, and Problem why it is not known. Then
	// the machine gets none, and takes no tasks.
	Want    api.Userland
	Problem error
	// RunDir is where it is mounted: RunDir/userland, held in RunDir/userland.store.
	RunDir string
	// MemTotalMiB is what the kernel says of the machine's memory. 0: not known.
	MemTotalMiB int64
	// Mounted is called once it is there, with the folder. Nil: nobody cares.
	Mounted func(root string)
	// Modprobe loads a kernel module of the initramfs. Nil: it is there.
	Modprobe func(name string) error
	Log      *slog.Logger // nil: no log

	shares shares                                                            // nil: the kernel's
	mounts mounts                                                            // nil: the kernel's
	dial   func(ctx context.Context, network, addr string) (net.Conn, error) // nil: TCP
}

// Holder brings a machine its userland and holds it. Make one with [New]. It may
// be used from any goroutine.
type Holder struct {
	cfg    Config
	dir    string // where it is mounted
	mounts mounts
	shares shares
	log    *slog.Logger

	mu      sync.Mutex
	offer   offer
	stalled string         // why what is read from a share does not come; "": it does
	where   api.UserlandIn // that it is held in
	from    string         // HOST:/FOLDER that it is read from
	files   string         // where the head has it; "": not known
	moved   chan struct{}  // closed when files changes
	problem string         // why it does not go on; "": it does
	doing   string         // a word for what it does now; "": fetching
	have    int            // pieces
	held    bool
	changed func()

	shareFailed int // attempts at a share in a row; only Run uses it
}

// New returns a holder that holds nothing before [Holder.Run].
func New(cfg Config) *Holder {
	h := &Holder{
		cfg: cfg, dir: filepath.Join(cfg.RunDir, "userland"),
		mounts: cfg.mounts, log: cfg.Log, moved: make(chan struct{}),
		doing: "waiting for the head",
	}
	if h.mounts == nil {
		h.mounts = kernelMounts{}
	}
	if h.shares = cfg.shares; h.shares == nil {
		h.shares = kernelShares{}
	}
	if h.log == nil {
		h.log = slog.New(slog.DiscardHandler)
	}
	return h
}

// Wanted is the SHA-256 of the userland of the machine's image; "" where that could not be read.
func (h *Holder) Wanted() string { return h.cfg.Want.SHA256 }

// Held is the SHA-256 of the userland that is mounted, "" as long as there is none.
func (h *Holder) Held() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.held {
		return h.cfg.Want.SHA256
	}
	return ""
}

// Root is the folder that the userland is mounted on. As long as it is not, the
// error says how far it is.
func (h *Holder) Root() (string, error) {
	if stage := h.Stage(); stage != "" {
		return "", &api.Error{
			Code: api.CodeUnavailable, Msg: "this node does not have its userland yet: " + stage,
			Hint: "start it when the node is ready",
		}
	}
	return h.dir, nil
}

// Stage says for people how far it is. Empty: it is there.
func (h *Holder) Stage() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.held:
		return ""
	case h.problem != "":
		return "userland: " + h.problem
	case h.doing != "":
		return "userland: " + h.doing
	}
	return fmt.Sprintf("userland %d %%", h.have*100/len(h.cfg.Want.Chunks))
}

// From tells where the head has files, as in [api.JoinReply]. "": it does not
// say. A change ends what is on its way from the place before.
func (h *Holder) From(files string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if files == h.files {
		return
	}
	h.files = files
	if files != "" {
		if err := rememberFiles(h.cfg.RunDir, files); err != nil {
			h.log.Warn("modprobe does not know where the head has modules", "err", err)
		}
	}
	close(h.moved)
	h.moved = make(chan struct{})
}

// told is what the head has said, until moved is closed.
func (h *Holder) told() (files string, o offer, moved <-chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.files, h.offer, h.moved
}

// tell sets what [Holder.Stage] says.
func (h *Holder) tell(doing, problem string) {
	h.mu.Lock()
	news := h.doing != doing || h.problem != problem
	h.doing, h.problem = doing, problem
	changed := h.changed
	h.mu.Unlock()
	if news && changed != nil {
		changed()
	}
}

// fetching notes that nothing is waited for any more. What was wrong is told until a piece came.
func (h *Holder) fetching() {
	h.mu.Lock()
	h.doing = ""
	h.mu.Unlock()
}

// progress notes how many pieces are there; what was wrong before is past.
func (h *Holder) progress(have int) {
	h.mu.Lock()
	h.have = have
	h.doing, h.problem = "", ""
	h.mu.Unlock()
}

// Run gets the userland and mounts it. It returns when that is done, when it can
// never be done, which [Holder.Stage] then says, or when ctx ends; where the userland is read from a share,
// it looks after that until ctx ends. changed is
// called when the stage says something new, but for each percent.
func (h *Holder) Run(ctx context.Context, changed func()) {
	h.mu.Lock()
	h.changed = changed
	h.mu.Unlock()
	if h.cfg.Problem != nil {
		h.fail(h.cfg.Problem)
		return
	}
	var st *store
	defer func() {
		if st != nil {
			st.close()
		}
	}()
	pause := firstPause
	for ctx.Err() == nil {
		before := h.pieces()
		files, o, moved := h.told()
		err := h.try(ctx, files, o, moved, &st)
		var final *finalError
		switch {
		case err == nil:
			if in, place, _, _ := h.Where(); in == api.UserlandShare {
				h.watch(ctx, place)
			}
			return
		case errors.As(err, &final):
			h.fail(err)
			return
		case ctx.Err() != nil:
			return
		}
		if h.pieces() > before {
			pause = firstPause
		}
		if wait(ctx, moved, pause+rand.N(pause/2)) {
			pause = firstPause
		} else {
			pause = min(2*pause, lastPause)
		}
	}
}

func (h *Holder) pieces() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.have
}

func (h *Holder) fail(err error) {
	h.log.Error("the machine has no userland", "err", err)
	h.tell("", err.Error())
}

// wait waits for a time, and tells whether the head has moved meanwhile.
func wait(ctx context.Context, moved <-chan struct{}, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	case <-moved:
		return true
	}
	return false
}

// A finalError does not go away by itself.
type finalError struct{ text string }

func (e *finalError) Error() string { return e.text }

// try is one attempt at all that is still to be done; st is what an attempt before
// has opened.
func (h *Holder) try(ctx context.Context, files string, o offer, moved <-chan struct{}, st **store) error {
	there, err := h.isMounted()
	if err != nil {
		return err
	}
	if there {
		return h.done()
	}
	if *st == nil {
		in, why := place(h.cfg.Want, h.cfg.MemTotalMiB, o)
		switch {
		case why != "" && waitsForShare(h.cfg.Want):
			return h.trouble(errors.New(why))
		case why != "":
			return &finalError{why}
		case in == "" || in == api.UserlandShare && files == "":
			h.tell("waiting for the head", "")
			return errors.New("the head has not said where it is")
		case in == api.UserlandShare && !h.holdsInstead():
			return h.tryShare(ctx, files, *o.source)
		case in == api.UserlandShare:
			h.log.Warn("the userland is held in memory, since its share does not work", "from", from(*o.source))
			_ = h.mounts.detach(h.shareDir()) // it may not be mounted
		}
		if *st, err = h.open(); err != nil {
			return h.trouble(err)
		}
		h.progress((*st).count)
	}
	if err := h.fetch(ctx, files, moved, *st); err != nil {
		return err
	}
	h.tell("mounting", "")
	if err := h.mounts.attach(h.storeFile(), h.dir); err != nil {
		return h.trouble(err)
	}
	h.found(api.UserlandMemory, "")
	return h.done()
}

// trouble shows an error that may go away.
func (h *Holder) trouble(err error) error {
	h.log.Warn("the userland is not there yet", "err", err)
	h.tell("", err.Error())
	return err
}

// storeFile is named after what is in it, so that what is mounted can be told.
func (h *Holder) storeFile() string {
	return filepath.Join(h.cfg.RunDir, "userland.store", h.cfg.Want.SHA256+".sqfs")
}

// open opens the file of the userland, in memory of its own, and checks what an
// earlier agent has left there.
func (h *Holder) open() (*store, error) {
	file := h.storeFile()
	dir := filepath.Dir(file)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the folder of the userland: %w", err)
	}
	m, err := h.mounts.what(dir)
	if err != nil {
		return nil, err
	}
	if m.fstype == "" {
		if err := h.mounts.memory(dir, h.cfg.Want.Size); err != nil {
			return nil, err
		}
	}
	_, err = os.Lstat(file)
	begun := err == nil
	st, err := openStore(file, h.cfg.Want)
	if err != nil || !begun {
		return st, err
	}
	h.tell("checking", "")
	if err := st.check(); err != nil {
		st.close()
		return nil, err
	}
	return st, nil
}

// fetch gets what is missing, until the head moves.
func (h *Holder) fetch(ctx context.Context, files string, moved <-chan struct{}, st *store) error {
	if first, end := st.missing(); first == end {
		return nil
	}
	if files == "" {
		h.tell("waiting for the head", "")
		return errors.New("the head has not said where it is")
	}
	src, err := newSource(files, h.cfg.Want.SHA256, "userland.sqfs")
	if err != nil {
		return h.trouble(err)
	}
	src.dial = h.cfg.dial
	h.fetching()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan struct{})
	defer close(done)
	go func() {
		select {
		case <-moved:
			cancel()
		case <-done:
		}
	}()
	begin, before := time.Now(), st.count
	err = fetch(ctx, src, st, func() { h.progress(st.count) })
	if err != nil {
		if ctx.Err() == nil {
			h.log.Warn("the userland is not there yet", "err", err)
			h.tell("", describe(err, h.cfg.Want.SHA256))
		}
		return err
	}
	h.log.Info("userland fetched", "from", src.addr, "pieces", st.count-before, "of", st.count, "dur", time.Since(begin).Round(time.Millisecond))
	return nil
}

// isMounted tells whether an earlier agent has done all of it.
func (h *Holder) isMounted() (bool, error) {
	m, err := h.mounts.what(h.dir)
	if err != nil {
		return false, err
	}
	switch {
	case m.fstype == "":
		return false, nil
	case m.fstype == "squashfs" && m.file == h.storeFile():
		h.found(api.UserlandMemory, "")
		return true, nil
	case m.fstype == "squashfs" && m.uuid != "" && m.uuid == verityUUID(h.cfg.Want):
		share, err := h.mounts.what(h.shareDir())
		if err != nil {
			return false, err
		}
		h.found(api.UserlandShare, share.source)
		return true, nil
	}
	return false, &finalError{fmt.Sprintf("on %s is something else: %s %s", h.dir, m.fstype, cmp.Or(m.file, "of no file"))}
}

// found notes where the userland is that is mounted.
func (h *Holder) found(in api.UserlandIn, from string) {
	h.mu.Lock()
	h.where, h.from = in, from
	h.mu.Unlock()
}

// done looks at what is mounted and makes it what tasks see.
func (h *Holder) done() error {
	st, err := os.Stat(filepath.Join(h.dir, taskInit))
	if err == nil && (!st.Mode().IsRegular() || st.Mode()&0o111 == 0) {
		err = fs.ErrInvalid
	}
	if err != nil && h.where == api.UserlandShare {
		if ok, why := h.shares.intact(); why == nil && !ok {
			h.damaged(damagedText(h.from))
			return &finalError{damagedText(h.from)}
		}
		if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrInvalid) {
			return h.trouble(err)
		}
	}
	if err != nil {
		text := fmt.Sprintf("it has no program /%s (%v); build the image with a muster as new as its agent", taskInit, err)
		if err := h.mounts.detach(h.dir); err != nil {
			h.log.Warn("the userland stays mounted", "err", err)
		}
		return &finalError{text}
	}
	if h.cfg.Mounted != nil {
		h.cfg.Mounted(h.dir)
	}
	h.mu.Lock()
	h.held = true
	changed := h.changed
	h.mu.Unlock()
	h.log.Info("userland mounted", "userland", h.cfg.Want.SHA256, "on", h.dir, "in", h.where)
	if changed != nil {
		changed()
	}
	return nil
}
