package headnode

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"muster/api"
	"muster/headnode/store"
)

// Of the output of a task its two ends are kept, and what nobody has read yet of a job that
// somebody waits for. The middle is given back to the disk without moving anything: offsets and positions
// stay, and INDEX.gap says what is missing.
const (
	keepHead = 32 << 20
	keepTail = 32 << 20
	cutStep  = 16 << 20 // is given up at a time
)

// place is a mark in a gap's file.
type place struct {
	Off int64 `json:"off"`
	Pos int64 `json:"pos"`
}

// gap is output that is not kept; zero: none.
type gap struct {
	From place `json:"from"`
	To   place `json:"to"`
}

// ends are the bounds of what is kept of one task.
type ends struct {
	bound bool  // output in the middle is given up
	loose bool  // also what was not read
	read  int64 // up to here the job's client has it
	gap   gap
}

func (o *outputs) endsOf(job uint64) ends {
	if o.cfg.Loose == nil {
		return ends{}
	}
	loose, known := o.cfg.Loose(job)
	return ends{bound: known, loose: loose}
}

// loose tells whether nobody waits for the output of a job.
func (js *jobs) loose(id uint64) (loose, known bool) {
	js.mu.Lock()
	defer js.mu.Unlock()
	j := js.jobs[id]
	return j != nil && j.spec.Detached, j != nil
}

// wasRead notes that a job's client has written a task's output up to off.
func (o *outputs) wasRead(k logKey, off int64) {
	o.mu.Lock()
	l := o.logs[k]
	o.mu.Unlock()
	if l == nil {
		return
	}
	l.mu.Lock()
	l.ends.read = max(l.ends.read, off)
	l.mu.Unlock()
}

// cut gives up what lies between the two ends, when that is worth it. l.mu is held.
func (l *taskLog) cut() error {
	limit := l.synced - keepTail
	if !l.ends.loose {
		limit = min(limit, l.ends.read)
	}
	if !l.ends.bound || l.removed || l.f == nil || limit-max(l.ends.gap.To.Off, keepHead) < cutStep {
		return nil
	}
	now := l.ends.gap
	if now == (gap{}) {
		m := l.have.seek(keepHead)
		now.From = place{m.off, m.pos}
	}
	m := l.have.seek(limit)
	now.To = place{m.off, m.pos}
	if now.To.Off <= l.ends.gap.To.Off || now.To.Pos <= now.From.Pos {
		return nil
	}
	if err := l.writeGap(now); err != nil {
		return err
	}
	l.ends.gap = now
	l.have.drop(now)
	err := unix.Fallocate(int(l.f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, now.From.Pos, now.To.Pos-now.From.Pos)
	if err != nil {
		l.ends.bound = false // this file system cannot
		return fmt.Errorf("giving back output: %w", err)
	}
	return nil
}

// drop forgets the marks inside a gap.
func (s *scanResult) drop(g gap) {
	kept := s.marks[:0]
	for _, m := range s.marks {
		if m.off <= g.From.Off || m.off >= g.To.Off {
			kept = append(kept, m)
		}
	}
	s.marks = kept
}

func (l *taskLog) gapPath() string {
	return filepath.Join(l.out.jobDir(l.key.job), strconv.Itoa(l.key.index)+".gap")
}

// writeGap makes a gap known durably, before it is made.
func (l *taskLog) writeGap(g gap) error {
	f, err := os.CreateTemp(l.out.jobDir(l.key.job), ".gap-")
	if err != nil {
		return fmt.Errorf("noting a gap in output: %w", err)
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if _, err = f.Write(mustJSON(g)); err == nil {
		err = store.PlaceDurable(f, l.gapPath(), 0o600)
	}
	if err != nil {
		return fmt.Errorf("noting a gap in output: %w", err)
	}
	return nil
}

// scan reads a file of output around its gap.
func (l *taskLog) scan(f *os.File, verify bool) (scanResult, gap, error) {
	var g gap
	b, err := os.ReadFile(l.gapPath())
	if errors.Is(err, fs.ErrNotExist) {
		s, err := scanChunks(f, verify)
		return s, g, err
	}
	if err == nil {
		err = json.Unmarshal(b, &g)
	}
	if err != nil {
		return scanResult{}, gap{}, fmt.Errorf("reading which output is kept: %w", err)
	}
	s, err := scanChunks(io.LimitReader(f, g.From.Pos), verify)
	if err != nil {
		return s, gap{}, err
	}
	st, err := f.Stat()
	if err != nil {
		return s, gap{}, err
	}
	if s.written != g.From.Off || s.size != g.From.Pos || g.To.Off < g.From.Off || g.To.Pos < g.From.Pos || st.Size() < g.To.Pos {
		return s, gap{}, os.Remove(l.gapPath()) // damaged in front of it: what is there is what is kept
	}
	if _, err := f.Seek(g.To.Pos, io.SeekStart); err != nil {
		return s, gap{}, err
	}
	s.written, s.size = g.To.Off, g.To.Pos
	s.marks = append(s.marks, mark{g.To.Off, g.To.Pos})
	s, err = s.scan(f, verify)
	return s, g, err
}

// gone tells whether output behind a mark was given up since a reader looked at the gap.
func (l *taskLog) gone(at mark, seen gap) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.ends.gap != seen && at.off < l.ends.gap.To.Off
}

// gapFrame tells a reader what is not kept.
func gapFrame(index int, from, to int64) api.Frame {
	return api.Frame{
		Type: api.FrameGap, Stream: api.Stderr, Task: index, Offset: to,
		Data: fmt.Appendf(nil, "[muster: %d bytes of output are not kept]\n", to-from),
	}
}

// unreadMost is outputsConfig.Unread unless it is said otherwise.
const unreadMost = 2 << 30

// errReaderBehind is why output is not taken then.
var errReaderBehind = errors.New("the job's client takes it more slowly than the task writes it")
