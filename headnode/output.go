package headnode

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"muster/api"
	"muster/headnode/store"
)

const (
	// syncWorkers is how many files are synced at a time: the journal of
	// ext4 and xfs joins syncs that are under way together.
	syncWorkers = 8
	// openOutputs is how many files stay open between two syncs.
	openOutputs = 512
	// freeCheck is how many bytes are written between two looks at the room
	// that is left on the disk.
	freeCheck = 8 << 20
)

// outputsConfig is what [newOutputs] needs.
type outputsConfig struct {
	Dir     string // STATE/output
	Log     *slog.Logger
	MinFree int64 // bytes of the disk that output leaves free; 0: 64 MiB
	// Unread is how much output the client of a job may be behind. Then the task waits for it. 0: 2 GiB.
	Unread int64
	// Appended and Synced (nil: nobody asks) are called, with no lock held,
	// after a task's output grew, and after more of it became durable.
	Appended func(job uint64, index int)
	// Loose tells of a job that has not ended whether output in the middle may be given up
	// before anybody has read it. nil: of none may any be given up.
	Loose  func(job uint64) (loose, known bool)
	Synced func(job uint64, index int, durable int64)
	// Stuck is called so when output finds no room or no reader, and when it does again. nil: nobody asks.
	Stuck func(job uint64, index int)
}

// outputs keeps what tasks write, one append-only file each, in
// DIR/JOB/INDEX.out. Writing does not wait for the disk: one loop ([outputs.Run])
// syncs all files that grew and then acknowledges what it synced.
// All methods may be called from any goroutine.
type outputs struct {
	cfg  outputsConfig
	wake chan struct{}

	mu    sync.Mutex
	logs  map[logKey]*taskLog // guarded by mu, as all below
	dirty []*taskLog          // grew since the last round, or wait for an answer
	open  int
	free  int64 // bytes that may be written before the disk is looked at again
}

type logKey struct {
	job   uint64
	index int
}

// taskLog is the output of one task. Its mu is taken while outputs.mu is not
// held; taking outputs.mu while holding it is allowed.
type taskLog struct {
	key logKey
	out *outputs

	mu      sync.Mutex
	f       *os.File // nil: closed for now
	created bool     // the folders' entries are not durable yet
	have    scanResult
	synced  int64 // output that is durable
	size    int64 // bytes of the file that are durable
	gen     int   // counts cuts: positions from before one are void
	queued  bool  // in out.dirty
	full    bool  // the last write found no room
	slow    bool  // the last write has to wait for the job's client
	pending []func(int64, error)
	buf     []byte
	removed bool
	ends    ends
}

func newOutputs(cfg outputsConfig) (*outputs, error) {
	if cfg.MinFree == 0 {
		cfg.MinFree = 64 << 20
	}
	if cfg.Unread == 0 {
		cfg.Unread = unreadMost
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the folder for task output: %w", err)
	}
	return &outputs{cfg: cfg, wake: make(chan struct{}, 1), logs: map[logKey]*taskLog{}}, nil
}

func (o *outputs) jobDir(job uint64) string {
	return filepath.Join(o.cfg.Dir, strconv.FormatUint(job, 10))
}

func (o *outputs) path(k logKey) string {
	return filepath.Join(o.jobDir(k.job), strconv.Itoa(k.index)+".out")
}

// task returns the log of a task, reading what is there at the first call.
// verify reads all of it and cuts what a power cut left half-written;
// without, the headers are trusted. A task without a file has an empty log.
func (o *outputs) task(job uint64, index int, verify bool) (*taskLog, error) {
	k := logKey{job, index}
	o.mu.Lock()
	l, ok := o.logs[k]
	o.mu.Unlock()
	if ok {
		return l, nil
	}
	bounds := o.endsOf(job)
	o.mu.Lock()
	if l, ok = o.logs[k]; ok {
		o.mu.Unlock()
		return l, nil
	}
	l = &taskLog{key: k, out: o, ends: bounds}
	l.mu.Lock() // others wait for the scan
	defer l.mu.Unlock()
	o.logs[k] = l
	o.mu.Unlock()
	if err := l.load(verify); err != nil {
		l.removed = true // for those who found it meanwhile
		o.mu.Lock()
		delete(o.logs, k)
		o.mu.Unlock()
		return nil, fmt.Errorf("reading the output of task %d of job %d: %w", index, job, err)
	}
	return l, nil
}

// load fills l from its file. l.mu is held.
func (l *taskLog) load(verify bool) error {
	f, err := os.Open(l.out.path(l.key))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if l.have, l.ends.gap, err = l.scan(f, verify); err != nil {
		return err
	}
	if verify {
		st, err := f.Stat()
		if err != nil {
			return err
		}
		if st.Size() != l.have.size {
			l.out.cfg.Log.Warn("torn output cut", "job", l.key.job, "task", l.key.index, "bytes", st.Size()-l.have.size)
			if err := os.Truncate(f.Name(), l.have.size); err != nil {
				return err
			}
		}
		if err := f.Sync(); err != nil {
			return err
		}
	}
	l.synced, l.size = l.have.written, l.have.size
	return nil
}

// append takes a frame of output. done (may be nil) is called once, maybe
// before append returns, with the position up to which output is durable: a
// frame that is not the next one changes nothing and is answered with what is there.
func (l *taskLog) append(f api.Frame, done func(int64, error)) {
	if done == nil {
		done = func(int64, error) {}
	}
	if len(f.Data) > api.MaxOutput || f.Stream != api.Stdout && f.Stream != api.Stderr {
		done(0, &api.Error{
			Code: api.CodeInvalid,
			Msg:  fmt.Sprintf("output frame has %d bytes and stream %d; at most %d bytes of stream 1 or 2 are taken", len(f.Data), f.Stream, api.MaxOutput),
		})
		return
	}
	l.mu.Lock()
	if f.Offset > l.have.written || f.Offset+int64(len(f.Data)) <= l.have.written {
		// A gap, or known already: what is not durable yet is answered
		// together with the rest.
		if l.synced == l.have.written || f.Offset > l.have.written {
			at := l.synced
			l.mu.Unlock()
			done(at, nil)
			return
		}
		l.pending = append(l.pending, done)
		l.mu.Unlock()
		l.out.kick(l)
		return
	}
	stuck := l.full || l.slow
	err := l.write(f.Stream, f.Data[l.have.written-f.Offset:])
	l.full = err != nil && errors.Is(err, syscall.ENOSPC)
	l.slow = errors.Is(err, errReaderBehind)
	stuck = stuck != (l.full || l.slow)
	at := l.synced
	if err == nil {
		l.pending = append(l.pending, done)
	}
	l.mu.Unlock()
	if stuck && l.out.cfg.Stuck != nil {
		l.out.cfg.Stuck(l.key.job, l.key.index)
	}
	if err != nil {
		done(at, outputError(l.key, err))
		return
	}
	l.out.kick(l)
	if l.out.cfg.Appended != nil {
		l.out.cfg.Appended(l.key.job, l.key.index)
	}
}

func outputError(k logKey, err error) error {
	if errors.Is(err, syscall.ENOSPC) {
		return &api.Error{
			Code: api.CodeDiskFull,
			Msg:  fmt.Sprintf("the head has no room for the output of task %d of job %d", k.index, k.job),
			Hint: "free space on the head's disk; the task waits and goes on by itself",
		}
	}
	return &api.Error{
		Code: api.CodeUnavailable,
		Msg:  fmt.Sprintf("keeping output of task %d of job %d: %v", k.index, k.job, err),
	}
}

// write adds one chunk to the file; a failed write leaves nothing behind.
// l.mu is held.
func (l *taskLog) write(stream api.Stream, data []byte) error {
	if l.removed {
		return errors.New("its output was removed")
	}
	if l.ends.bound && !l.ends.loose && l.have.written-l.ends.read > l.out.cfg.Unread {
		return errReaderBehind
	}
	if err := l.out.room(int64(len(data) + chunkHeader)); err != nil {
		return err
	}
	if err := l.openFile(); err != nil {
		return err
	}
	l.buf = appendChunk(l.buf[:0], stream, data)
	if _, err := l.f.WriteAt(l.buf, l.have.size); err != nil {
		return errors.Join(err, l.f.Truncate(l.have.size))
	}
	l.have.add(len(data))
	return nil
}

// openFile opens or makes the file. l.mu is held.
func (l *taskLog) openFile() error {
	if l.f != nil {
		return nil
	}
	path := l.out.path(l.key)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return err
		}
		f, err = os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		l.created = true
	}
	if err != nil {
		return err
	}
	l.f = f
	l.out.mu.Lock()
	l.out.open++
	l.out.mu.Unlock()
	return nil
}

// closeFile closes the file until it is written to again. l.mu is held.
func (l *taskLog) closeFile() {
	if l.f == nil {
		return
	}
	l.f.Close()
	l.f = nil
	l.out.mu.Lock()
	l.out.open--
	l.out.mu.Unlock()
}

// room fails with ENOSPC when n more bytes would leave less than MinFree.
func (o *outputs) room(n int64) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.free >= n {
		o.free -= n
		return nil
	}
	var st unix.Statfs_t
	if err := unix.Statfs(o.cfg.Dir, &st); err != nil {
		return fmt.Errorf("looking at the room on the disk: %w", err)
	}
	left := int64(st.Bavail)*st.Bsize - o.cfg.MinFree
	if left < n {
		o.free = 0
		return syscall.ENOSPC
	}
	o.free = min(left, freeCheck) - n
	return nil
}

// kick queues l for the next round of syncs.
func (o *outputs) kick(l *taskLog) {
	o.mu.Lock()
	if !l.queued {
		l.queued = true
		o.dirty = append(o.dirty, l)
	}
	o.mu.Unlock()
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// Run syncs until ctx is done; then it syncs once more and closes all files.
func (o *outputs) Run(ctx context.Context) error {
	for {
		select {
		case <-o.wake:
			o.round()
		case <-ctx.Done():
			o.round()
			o.mu.Lock()
			logs := make([]*taskLog, 0, len(o.logs))
			for _, l := range o.logs {
				logs = append(logs, l)
			}
			o.mu.Unlock()
			for _, l := range logs {
				l.mu.Lock()
				l.closeFile()
				l.mu.Unlock()
			}
			return nil
		}
	}
}

// round syncs everything that was written when it began.
func (o *outputs) round() {
	o.mu.Lock()
	logs := o.dirty
	o.dirty = nil
	crowded := o.open > openOutputs
	for _, l := range logs {
		l.queued = false
	}
	o.mu.Unlock()
	if len(logs) == 1 {
		logs[0].sync(crowded)
		return
	}
	var g errgroup.Group
	g.SetLimit(syncWorkers)
	for _, l := range logs {
		g.Go(func() error { l.sync(crowded); return nil })
	}
	g.Wait()
}

// sync makes what was written durable and answers those who wait for it.
func (l *taskLog) sync(thenClose bool) {
	l.mu.Lock()
	f, written, size, created, gen := l.f, l.have.written, l.have.size, l.created, l.gen
	pending := l.pending
	l.pending = nil
	need := f != nil && written > l.synced
	l.mu.Unlock()

	var err error
	if need {
		err = unix.Fdatasync(int(f.Fd()))
		if err == nil && created {
			err = errors.Join(store.SyncDir(filepath.Dir(f.Name())), store.SyncDir(l.out.cfg.Dir))
		}
	}

	l.mu.Lock()
	switch {
	case l.gen != gen || l.removed:
	case err != nil:
		// What the kernel failed to write may be gone from its cache, and a
		// second sync would not say so: go back to what is durable.
		l.gen++
		l.have.cutTo(l.synced, l.size)
		if l.f != nil {
			err = errors.Join(err, l.f.Truncate(l.size))
		}
		l.full = errors.Is(err, syscall.ENOSPC)
	case need:
		l.synced, l.size, l.created = written, size, false
	}
	if thenClose && l.synced == l.have.written {
		l.closeFile()
	}
	at := l.synced
	if cerr := l.cut(); cerr != nil {
		l.out.cfg.Log.Warn("output in the middle not given up", "job", l.key.job, "task", l.key.index, "err", cerr)
	}
	l.mu.Unlock()

	if err != nil {
		l.out.cfg.Log.Error("output not synced", "job", l.key.job, "task", l.key.index, "err", err)
		err = outputError(l.key, err)
	}
	for _, done := range pending {
		done(at, err)
	}
	if need && err == nil && l.out.cfg.Synced != nil {
		l.out.cfg.Synced(l.key.job, l.key.index, at)
	}
}

// state tells how much there is, how much of it is durable, and whether the
// last write found no room.
func (l *taskLog) state() (written, synced int64, full bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.have.written, l.synced, l.full
}

// cursor is a reader's place in a task's output. It belongs to one goroutine;
// the zero cursor is at the beginning.
type cursor struct {
	off int64 // of the next byte wanted
	at  mark  // a chunk's beginning at or before off
	gen int
}

// outputBuffer is the size of the buffer for [taskLog.read]: a whole chunk
// fits.
const outputBuffer = 2 * api.MaxOutput

// read returns the output from c on that lies in buf's size, as frames that
// alias buf, and moves c behind it. It returns no frame when there is no
// more now.
func (l *taskLog) read(c *cursor, buf []byte) ([]api.Frame, error) {
	l.mu.Lock()
	if c.gen != l.gen || c.at.off > c.off || c.at.pos > l.have.size {
		c.at, c.gen = mark{}, l.gen
	}
	if c.off > l.have.written {
		l.mu.Unlock()
		return nil, nil
	}
	gap := l.ends.gap
	if c.off >= gap.From.Off && c.off < gap.To.Off {
		from := c.off
		c.off, c.at = gap.To.Off, mark{gap.To.Off, gap.To.Pos}
		l.mu.Unlock()
		return []api.Frame{gapFrame(l.key.index, from, c.off)}, nil
	}
	if m := l.have.seek(c.off); m.off > c.at.off {
		c.at = m
	}
	end, removed := l.have.size, l.removed
	if c.at.pos < gap.From.Pos {
		end = min(end, gap.From.Pos)
	}
	if c.at.pos >= end {
		l.mu.Unlock()
		return nil, nil
	}
	f, err := l.reader()
	l.mu.Unlock()
	if removed || err != nil {
		return nil, fmt.Errorf("reading output of task %d of job %d: %w", l.key.index, l.key.job, errors.Join(err, fs.ErrNotExist))
	}
	defer f.Close()
	for c.at.pos < end {
		was := c.at
		n, err := f.ReadAt(buf[:min(int64(len(buf)), end-c.at.pos)], c.at.pos)
		if err != nil && err != io.EOF {
			return nil, fmt.Errorf("reading output of task %d of job %d: %w", l.key.index, l.key.job, err)
		}
		if l.gone(was, gap) {
			return l.read(c, buf) // what was read may have been given up in between
		}
		frames, used, next, err := readChunks(buf[:n], c.at.off, c.off, l.key.index)
		if err != nil || used == 0 {
			return nil, fmt.Errorf("reading output of task %d of job %d: %w", l.key.index, l.key.job, errors.Join(err, errTorn))
		}
		c.at = mark{next, c.at.pos + int64(used)}
		if len(frames) > 0 {
			c.off = next
			return frames, nil
		}
	}
	return nil, nil
}

// reader opens the file for reading: a descriptor of its own, so that a
// reader does not hinder the writer. l.mu is held.
func (l *taskLog) reader() (*os.File, error) {
	return os.Open(l.out.path(l.key))
}

// removeJob deletes the output of a job. Readers get an error, writers too.
func (o *outputs) removeJob(job uint64) error {
	o.mu.Lock()
	var logs []*taskLog
	for k, l := range o.logs {
		if k.job == job {
			logs = append(logs, l)
			delete(o.logs, k)
		}
	}
	o.mu.Unlock()
	for _, l := range logs {
		l.mu.Lock()
		l.removed = true
		l.gen++
		l.closeFile()
		pending := l.pending
		l.pending = nil
		l.mu.Unlock()
		for _, done := range pending {
			done(0, outputError(l.key, errors.New("its output was removed")))
		}
	}
	if err := os.RemoveAll(o.jobDir(job)); err != nil {
		return fmt.Errorf("removing the output of job %d: %w", job, err)
	}
	return nil
}

// forget drops the logs of a job from memory; its files stay.
func (o *outputs) forget(job uint64, tasks int) {
	for i := range tasks {
		o.mu.Lock()
		l := o.logs[logKey{job, i}]
		o.mu.Unlock()
		if l == nil {
			continue
		}
		l.mu.Lock()
		idle := l.synced == l.have.written && len(l.pending) == 0
		if idle {
			l.closeFile()
		}
		l.mu.Unlock()
		if idle {
			o.mu.Lock()
			delete(o.logs, l.key)
			o.mu.Unlock()
		}
	}
}

// peek tells how much output of a task there is as far as that is known
// without reading its file, and whether the last of it found no room.
func (o *outputs) peek(job uint64, index int) (written int64, full bool) {
	o.mu.Lock()
	l := o.logs[logKey{job, index}]
	o.mu.Unlock()
	if l == nil {
		return 0, false
	}
	w, _, full := l.state()
	return w, full
}

// durable tells how much output of a task is surely on the disk, 0 when its
// log was not opened.
func (o *outputs) durable(job uint64, index int) int64 {
	o.mu.Lock()
	l := o.logs[logKey{job, index}]
	o.mu.Unlock()
	if l == nil {
		return 0
	}
	_, synced, _ := l.state()
	return synced
}

// has tells whether any output of a job is kept.
func (o *outputs) has(job uint64) bool {
	_, err := os.Stat(o.jobDir(job))
	return err == nil
}
