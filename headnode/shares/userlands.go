package shares

import (
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"
)

// The userlands of images are served like a share that nobody added: nodes that are too small to hold
// theirs read it from the head. The folder lies beside the head's state, which nobody may have: it has hard links to
// those files of the image store, is read-only, and everybody is nobody in it.

const (
	// UserlandsID is the number of the export of userlands, which no share has.
	UserlandsID = 1<<16 - 1
	// Userlands stands for its folder where [Desk.Look] is asked.
	Userlands = "userlands"
)

const maxUserlands = 256

// userlands is the folder.
func (s *Server) userlands() string { return filepath.Clean(s.cfg.State) + "-userlands" }

// checkUserlands says what is wrong with an export as one of userlands, or as one that is not.
func (e Export) checkUserlands() error {
	switch {
	case (e.ID == UserlandsID) != (len(e.Userlands) > 0):
		return fmt.Errorf("number %d and %d userlands do not fit together", e.ID, len(e.Userlands))
	case len(e.Userlands) > maxUserlands:
		return fmt.Errorf("%d userlands; at most %d can be served", len(e.Userlands), maxUserlands)
	case e.ID == UserlandsID && (!e.ReadOnly || e.NoRootSquash):
		return errors.New("userlands are served read-only, and to nobody as root")
	}
	for _, sum := range e.Userlands {
		if raw, err := hex.DecodeString(sum); err != nil || len(raw) != 32 || hex.EncodeToString(raw) != sum {
			return fmt.Errorf("%q is not the SHA-256 of a userland", sum)
		}
	}
	return nil
}

// makeUserlands makes the folder.
func (s *Server) makeUserlands() error {
	dir := s.userlands()
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("making the folder of userlands: %w", err)
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return fmt.Errorf("looking at the folder of userlands: %w", err)
	}
	if st, ok := info.Sys().(*syscall.Stat_t); !info.IsDir() || !ok || int(st.Uid) != os.Geteuid() {
		return fmt.Errorf("%s is not a folder of this process's user; remove it", dir)
	}
	return os.Chmod(dir, 0o755)
}

// linkUserlands makes the folder have these userlands and no others.
func (s *Server) linkUserlands(sums []string) error {
	if err := s.makeUserlands(); err != nil {
		return err
	}
	dir := s.userlands()
	have, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("reading the folder of userlands: %w", err)
	}
	for _, e := range have {
		if !slices.Contains(sums, e.Name()) {
			if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
				return fmt.Errorf("removing a userland that nobody reads: %w", err)
			}
		}
	}
	for _, sum := range sums {
		if err := link(filepath.Join(s.cfg.State, "images", "blobs", sum), filepath.Join(dir, sum)); err != nil {
			return fmt.Errorf("linking userland %.12s: %w", sum, err)
		}
	}
	return nil
}

// link makes to another name of the file from. One that has the name already stays while from is gone: an image
// that was removed may be read still.
func link(from, to string) error {
	old, oldErr := os.Lstat(to)
	is, err := os.Lstat(from)
	switch {
	case err != nil && oldErr == nil:
		return nil
	case err != nil:
		return err
	case !is.Mode().IsRegular():
		return fmt.Errorf("%s is no file", from)
	case oldErr == nil && os.SameFile(old, is):
		return nil
	case oldErr == nil:
		if err := os.Remove(to); err != nil {
			return err
		}
	}
	return os.Link(from, to)
}

// dropUserlands removes the folder, if it is there.
func (s *Server) dropUserlands() error {
	if _, err := os.Lstat(s.userlands()); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err := s.linkUserlands(nil); err != nil {
		return err
	}
	return removeFile(s.userlands())
}
