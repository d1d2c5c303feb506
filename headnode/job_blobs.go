package headnode

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"muster/api"
	"muster/headnode/store"
)

// blobGrace is how long an uploaded file waits for a job that names it.
const blobGrace = time.Hour

// jobBlobs keeps the files that travel with jobs, by content, in
// DIR/blobs/SHA256, while a job uses them. All methods may be called from any
// goroutine.
type jobBlobs struct {
	dir string
	now clock

	mu    sync.Mutex
	uses  map[string]int
	since map[string]time.Time // since when nobody uses it
}

func newJobBlobs(outputDir string, now clock) (*jobBlobs, error) {
	b := &jobBlobs{dir: filepath.Join(outputDir, "blobs"), now: now, uses: map[string]int{}, since: map[string]time.Time{}}
	if err := os.MkdirAll(b.dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the folder for job files: %w", err)
	}
	files, err := os.ReadDir(b.dir)
	if err != nil {
		return nil, fmt.Errorf("listing job files: %w", err)
	}
	for _, f := range files {
		if isSHA256(f.Name()) {
			b.since[f.Name()] = now()
		} else {
			os.Remove(filepath.Join(b.dir, f.Name())) // of an upload that was cut off
		}
	}
	return b, nil
}

func (b *jobBlobs) path(sum string) string { return filepath.Join(b.dir, sum) }

// stat returns the size of a file, or a not_found error. It counts as used
// for another hour.
func (b *jobBlobs) stat(sum string) (int64, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	st, err := os.Stat(b.path(sum))
	if err != nil {
		return 0, noBlob(sum)
	}
	if b.uses[sum] == 0 {
		b.since[sum] = b.now()
	}
	return st.Size(), nil
}

func noBlob(sum string) error {
	return &api.Error{
		Code: api.CodeNotFound, Msg: fmt.Sprintf("the head has no file with SHA-256 %.12s…", sum),
		Hint: "upload it first: PUT /v1/blobs/" + sum,
	}
}

// put stores what r has under its hash, which must be sum.
func (b *jobBlobs) put(sum string, r io.Reader) error {
	if _, err := b.stat(sum); err == nil {
		return nil
	}
	f, err := os.CreateTemp(b.dir, "upload-")
	if err != nil {
		return outputError(logKey{}, err)
	}
	defer os.Remove(f.Name())
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(io.MultiWriter(f, h), io.LimitReader(r, maxFileSize+1))
	switch {
	case err != nil:
		return fmt.Errorf("storing an uploaded file: %w", err)
	case n > maxFileSize:
		return tooLarge("put it on a share", "the file has more than %d bytes", int64(maxFileSize))
	case hex.EncodeToString(h.Sum(nil)) != sum:
		return invalid("send it again", "the file's SHA-256 is %x, the request says %s", h.Sum(nil), sum)
	}
	if err := store.PlaceDurable(f, b.path(sum), 0o600); err != nil {
		return fmt.Errorf("storing an uploaded file: %w", err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.uses[sum] == 0 {
		b.since[sum] = b.now()
	}
	return nil
}

// hold counts a job as user of its files. It fails when one is not there or
// has another size, and then holds none.
func (b *jobBlobs) hold(files []api.SentFile) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, f := range files {
		st, err := os.Stat(b.path(f.SHA256))
		if err != nil {
			return noBlob(f.SHA256)
		}
		if st.Size() != f.Size {
			return invalid("", "file %s has %d bytes, the job says %d", f.Path, st.Size(), f.Size)
		}
	}
	for _, f := range files {
		b.uses[f.SHA256]++
		delete(b.since, f.SHA256)
	}
	return nil
}

// release takes back what hold did.
func (b *jobBlobs) release(files []api.SentFile) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, f := range files {
		if b.uses[f.SHA256]--; b.uses[f.SHA256] <= 0 {
			delete(b.uses, f.SHA256)
			b.since[f.SHA256] = b.now()
		}
	}
}

// sweep removes files that nobody used for an hour.
func (b *jobBlobs) sweep() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for sum, t := range b.since {
		if b.now().Sub(t) > blobGrace {
			os.Remove(b.path(sum))
			delete(b.since, sum)
		}
	}
}

// read returns up to n bytes at off; none at the end.
func (b *jobBlobs) read(sum string, off int64, n int) ([]byte, error) {
	if !isSHA256(sum) || off < 0 {
		return nil, invalid("", "file %.80q at %d cannot be read", sum, off)
	}
	f, err := os.Open(b.path(sum))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, noBlob(sum)
	}
	if err != nil {
		return nil, fmt.Errorf("reading a job's file: %w", err)
	}
	defer f.Close()
	buf := make([]byte, n)
	got, err := f.ReadAt(buf, off)
	if err != nil && err != io.EOF {
		return nil, fmt.Errorf("reading a job's file: %w", err)
	}
	return buf[:got], nil
}
