package task

import (
	"fmt"
	"os"
	"sort"
	"sync"

	"golang.org/x/sys/unix"

	"muster/api"
)

const (
	// spoolSize is how much output of a task is kept until the head has it.
	spoolSize = 32 << 20
	// maxSegments bounds the changes between stdout and stderr in it.
	maxSegments = 64 << 10
	// punchSize is how much acknowledged output is given back at a time.
	punchSize = 4 << 20
)

// spool keeps output that the head does not have yet: a ring in memory that
// belongs to no file system and that the task cannot reach. Its methods may be
// called concurrently; read and ack from one goroutine each.
type spool struct {
	file *os.File
	size int64

	write sync.Mutex // held by the one writer; orders stdout and stderr

	mu      sync.Mutex
	room    sync.Cond // signaled when acked grows or the spool is closed
	acked   int64     // first byte that is still kept
	end     int64     // first byte that was not written yet
	punched int64     // what was given back to the kernel: whole pages, at most acked
	segs    []segment
	closed  bool
}

// segment is a run of bytes of one stream, up to the start of the next.
type segment struct {
	start  int64
	stream api.Stream
}

func newSpool(size int64) (*spool, error) {
	fd, err := unix.MemfdCreate("muster-output", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("making memory for output: %w", err)
	}
	s := &spool{file: os.NewFile(uintptr(fd), "output"), size: size}
	s.room.L = &s.mu
	return s, nil
}

// add appends p, waiting for room. It returns false when the spool was closed.
func (s *spool) add(stream api.Stream, p []byte) (bool, error) {
	s.write.Lock()
	defer s.write.Unlock()
	for len(p) > 0 {
		at, n := s.reserve(stream, len(p))
		if n == 0 {
			return false, nil
		}
		if err := s.ring(at, p[:n], s.file.WriteAt); err != nil {
			return false, fmt.Errorf("keeping output: %w", err)
		}
		s.commit(at, n, stream)
		p = p[n:]
	}
	return true, nil
}

// reserve waits until at least a byte fits and returns where and how many.
func (s *spool) reserve(stream api.Stream, want int) (at int64, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for !s.closed {
		// What was not given back yet must not be written on.
		free := s.size - (s.end - s.punched)
		if free == 0 {
			s.giveBack()
			free = s.size - (s.end - s.punched)
		}
		newSegment := len(s.segs) == 0 || s.segs[len(s.segs)-1].stream != stream
		if free > 0 && !(newSegment && len(s.segs) >= maxSegments) {
			return s.end, int(min(free, int64(want)))
		}
		s.room.Wait()
	}
	return 0, 0
}

func (s *spool) commit(at int64, n int, stream api.Stream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.segs) == 0 || s.segs[len(s.segs)-1].stream != stream {
		s.segs = append(s.segs, segment{at, stream})
	}
	s.end += int64(n)
}

// read copies output from off on into buf: bytes of one stream.
func (s *spool) read(off int64, buf []byte) (api.Stream, int, error) {
	s.mu.Lock()
	if off < s.acked || off >= s.end {
		s.mu.Unlock()
		return 0, 0, nil
	}
	i := sort.Search(len(s.segs), func(i int) bool { return s.segs[i].start > off }) - 1
	limit := s.end
	if i+1 < len(s.segs) {
		limit = s.segs[i+1].start
	}
	stream := s.segs[i].stream
	s.mu.Unlock()
	n := int(min(limit-off, int64(len(buf))))
	if err := s.ring(off, buf[:n], s.file.ReadAt); err != nil {
		return 0, 0, fmt.Errorf("reading kept output: %w", err)
	}
	return stream, n, nil
}

// ring does f on the one or two places of the file that stand for off.
func (s *spool) ring(off int64, p []byte, f func([]byte, int64) (int, error)) error {
	pos := off % s.size
	first := min(int64(len(p)), s.size-pos)
	if _, err := f(p[:first], pos); err != nil {
		return err
	}
	if first == int64(len(p)) {
		return nil
	}
	_, err := f(p[first:], 0)
	return err
}

// ack forgets output before off. It tells whether that was news.
func (s *spool) ack(off int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if off <= s.acked || off > s.end {
		return false
	}
	s.acked = off
	drop := 0
	for drop+1 < len(s.segs) && s.segs[drop+1].start <= off {
		drop++
	}
	s.segs = append(s.segs[:0], s.segs[drop:]...)
	if s.acked == s.end || s.acked-s.punched >= punchSize {
		s.giveBack()
	}
	s.room.Broadcast()
	return true
}

// giveBack returns the memory of acknowledged output, whole pages of it. A
// failure costs memory, no output.
func (s *spool) giveBack() {
	const page = 4096 // s.size is a multiple, so offsets and places are aligned alike
	from, to := s.punched, s.acked/page*page
	for from < to {
		pos := from % s.size
		n := min(to-from, s.size-pos)
		unix.Fallocate(int(s.file.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, pos, n)
		from += n
	}
	s.punched = max(s.punched, to)
}

// bounds returns what is kept: the first byte and the one behind the last.
func (s *spool) bounds() (acked, end int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.acked, s.end
}

func (s *spool) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.room.Broadcast()
}
