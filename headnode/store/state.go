package store

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// stateVersion is the format of a state folder. A program refuses a newer
// one and knows how to read every older one.
const stateVersion = 1

// State is a state folder that this process alone uses.
type State struct {
	dir  string
	lock *os.File
}

// OpenState makes dir (0700) if it is not there, takes its lock and checks
// its version. A folder that another head uses, or that a newer muster wrote,
// is refused with the way out.
func OpenState(dir string) (*State, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making state folder: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening state folder: %w", err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		defer lock.Close()
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("locking state folder %s: %w", dir, err)
		}
		return nil, fmt.Errorf("state folder %s is in use by another head%s; stop it, or name another folder with --state", dir, owner(lock))
	}
	s := &State{dir: dir, lock: lock}
	if err := s.checkVersion(); err != nil {
		lock.Close()
		return nil, err
	}
	// Who holds the lock is for people only; the lock itself decides.
	if err := lock.Truncate(0); err == nil {
		_, err = lock.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
		if err != nil {
			lock.Close()
			return nil, fmt.Errorf("writing lock of state folder: %w", err)
		}
	}
	return s, nil
}

// Path joins names to the folder.
func (s *State) Path(names ...string) string {
	return filepath.Join(append([]string{s.dir}, names...)...)
}

// Close gives the folder free.
func (s *State) Close() error {
	return s.lock.Close()
}

func (s *State) checkVersion() error {
	path := s.Path("VERSION")
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return WriteFileDurable(path, []byte(strconv.Itoa(stateVersion)+"\n"), 0o600)
	}
	if err != nil {
		return fmt.Errorf("reading version of state folder: %w", err)
	}
	v, err := strconv.Atoi(string(bytes.TrimSpace(b)))
	if err != nil || v < 1 {
		return fmt.Errorf("reading version of state folder: %s says %q, want a number", path, bytes.TrimSpace(b))
	}
	if v > stateVersion {
		return fmt.Errorf("state folder %s has format %d and this muster knows up to %d; use the muster that wrote it, or a newer one", s.dir, v, stateVersion)
	}
	return nil
}

// owner reads " (process N)" from a lock file, or "".
func owner(lock *os.File) string {
	b := make([]byte, 20)
	n, _ := lock.ReadAt(b, 0)
	pid, err := strconv.Atoi(strings.TrimSpace(string(b[:n])))
	if err != nil {
		return ""
	}
	return fmt.Sprintf(" (process %d)", pid)
}

// WriteFileDurable writes a file so that after a crash at any moment either
// the old content is there or the new: a temporary file beside it is
// synced, renamed, and the folder synced.
func WriteFileDurable(path string, data []byte, mode os.FileMode) error {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*")
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	defer os.Remove(f.Name()) // gone after the rename
	if _, err = f.Write(data); err == nil {
		err = PlaceDurable(f, path, mode)
	}
	if err != nil {
		f.Close()
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}

// PlaceDurable gives a temporary file, whole and in path's own folder, its name
// for good. It closes f when it succeeds; what could not be synced gets no name.
func PlaceDurable(f *os.File, path string, mode os.FileMode) error {
	if err := errors.Join(f.Chmod(mode), f.Sync()); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return SyncDir(filepath.Dir(path))
}

// SyncDir makes the names in a folder durable.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
