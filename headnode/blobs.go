package headnode

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"muster/api"
	"muster/headnode/store"
)

// blobs is a folder of files named by the SHA-256 of their content. A file
// that is there is whole and never changes.
type blobs struct{ dir string }

// openBlobs makes the folder and removes what an interrupted upload left.
func openBlobs(dir string) (*blobs, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("making folder of blobs: %w", err)
	}
	left, err := filepath.Glob(filepath.Join(dir, ".upload.*"))
	if err != nil {
		return nil, err
	}
	for _, f := range left {
		if err := os.Remove(f); err != nil {
			return nil, fmt.Errorf("removing an interrupted upload: %w", err)
		}
	}
	return &blobs{dir}, nil
}

func (b *blobs) path(sum string) string { return filepath.Join(b.dir, sum) }

// size tells the size of a blob that is there.
func (b *blobs) size(sum string) (int64, bool) {
	if !isSHA256(sum) {
		return 0, false
	}
	info, err := os.Stat(b.path(sum))
	if err != nil || !info.Mode().IsRegular() {
		return 0, false
	}
	return info.Size(), true
}

// open opens a blob for reading.
func (b *blobs) open(sum string) (*os.File, error) {
	if !isSHA256(sum) {
		return nil, noSuchBlob(sum)
	}
	f, err := os.Open(b.path(sum))
	if errors.Is(err, os.ErrNotExist) {
		return nil, noSuchBlob(sum)
	}
	return f, err
}

// put stores r if its content has that hash.
func (b *blobs) put(ctx context.Context, sum string, r io.Reader) error {
	if !isSHA256(sum) {
		return &api.Error{Code: api.CodeInvalid, Msg: fmt.Sprintf("%q is no SHA-256", cleanText(sum)), Hint: "want 64 lower-case hexadecimal digits"}
	}
	f, err := os.CreateTemp(b.dir, ".upload.*")
	if err != nil {
		return blobError(sum, err)
	}
	defer os.Remove(f.Name()) // gone after the rename
	defer f.Close()
	hash := sha256.New()
	if _, err := io.Copy(io.MultiWriter(f, hash), readerUntil{ctx, r}); err != nil {
		return blobError(sum, err)
	}
	if got := hex.EncodeToString(hash.Sum(nil)); got != sum {
		return &api.Error{Code: api.CodeInvalid, Msg: fmt.Sprintf("content has hash %s instead of %s", got, sum), Hint: "it changed on the way or while it was read; send it again"}
	}
	if err := store.PlaceDurable(f, b.path(sum), 0o644); err != nil {
		return blobError(sum, err)
	}
	return nil
}

// removeUnused removes blobs that are older than before and not in use: of
// uploads whose image was never published.
func (b *blobs) removeUnused(used map[string]bool, before time.Time) (removed int, err error) {
	entries, err := os.ReadDir(b.dir)
	if err != nil {
		return 0, err
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || !isSHA256(e.Name()) || used[e.Name()] || !info.ModTime().Before(before) {
			continue
		}
		if err := os.Remove(b.path(e.Name())); err != nil {
			return removed, err
		}
		removed++
	}
	return removed, nil
}

// check reads a blob and compares size and hash.
func (b *blobs) check(sum string, size int64) error {
	f, err := b.open(sum)
	if err != nil {
		return err
	}
	defer f.Close()
	hash := sha256.New()
	n, err := io.Copy(hash, f)
	if err != nil {
		return fmt.Errorf("reading blob %s: %w", sum, err)
	}
	if n != size {
		return fmt.Errorf("blob %s has %d bytes, the manifest says %d", sum, n, size)
	}
	if got := hex.EncodeToString(hash.Sum(nil)); got != sum {
		return fmt.Errorf("blob %s has hash %s: the disk changed it", sum, got)
	}
	return nil
}

func noSuchBlob(sum string) error {
	return &api.Error{Code: api.CodeNotFound, Msg: fmt.Sprintf("no content with hash %s is stored", cleanText(sum))}
}

func blobError(sum string, err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return &api.Error{Code: api.CodeDiskFull, Msg: "the head has no room for " + sum, Hint: "free space on the head's disk, or remove an image: muster image list"}
	}
	return fmt.Errorf("storing %s: %w", sum, err)
}

// readerUntil ends with a context's error.
type readerUntil struct {
	ctx context.Context
	r   io.Reader
}

func (r readerUntil) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}
