package userland

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"

	"muster/api"
)

// store is the file that a userland is held in, and which of its pieces are
// there. Nothing is written to the file before it was checked, and a piece that
// was checked is not written again.
type store struct {
	want  api.Userland
	file  *os.File
	have  []bool
	count int // of have
}

// openStore opens the file, which an earlier agent may have begun. check has to be
// called before anything counts as being there.
func openStore(path string, want api.Userland) (*store, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the file of the userland: %w", err)
	}
	if err := f.Truncate(want.Size); err != nil {
		f.Close()
		return nil, fmt.Errorf("opening the file of the userland: %w", err)
	}
	return &store{want: want, file: f, have: make([]bool, len(want.Chunks))}, nil
}

func (s *store) close() { s.file.Close() }

// piece returns where piece i is.
func (s *store) piece(i int) (from, to int64) {
	from = int64(i) * s.want.Chunk
	return from, min(from+s.want.Chunk, s.want.Size)
}

// right tells whether b is piece i.
func (s *store) right(i int, b []byte) bool {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:]) == s.want.Chunks[i]
}

// check reads what is in the file and counts the pieces that are right. What
// was never written reads as zeros, and costs no memory by being read.
func (s *store) check() error {
	buf := make([]byte, s.want.Chunk)
	for i := range s.have {
		from, to := s.piece(i)
		b := buf[:to-from]
		if _, err := s.file.ReadAt(b, from); err != nil {
			return fmt.Errorf("reading the file of the userland: %w", err)
		}
		if s.right(i, b) {
			s.note(i)
		}
	}
	return nil
}

// put takes piece i on, if it is the right one.
func (s *store) put(i int, b []byte) (ok bool, err error) {
	if !s.right(i, b) {
		return false, nil
	}
	from, _ := s.piece(i)
	if _, err := s.file.WriteAt(b, from); err != nil {
		return false, fmt.Errorf("holding piece %d of the userland: %w", i+1, err)
	}
	s.note(i)
	return true, nil
}

func (s *store) note(i int) {
	if !s.have[i] {
		s.have[i] = true
		s.count++
	}
}

// missing returns the first run of pieces that are not there: those from first to before
// end. Nothing is missing where they are equal.
func (s *store) missing() (first, end int) {
	for first < len(s.have) && s.have[first] {
		first++
	}
	end = first
	for end < len(s.have) && !s.have[end] {
		end++
	}
	return first, end
}
