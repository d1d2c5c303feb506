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
	"syscall"
	"time"

	"muster/api"
	"muster/headnode/store"
)

// blobsMost is how many bytes of files one user may have with the head.
const blobsMost = 16 << 30

// blobPiece is how much of an upload is written between two looks at the room that there is.
const blobPiece = 1 << 20

// blobGrace is how long an uploaded file waits for a job that names it.
const blobGrace = time.Hour

// jobBlobs keeps the files that travel with jobs, by content, in
// DIR/blobs/SHA256, while a job uses them. All methods may be called from any
// goroutine.
type jobBlobs struct {
	dir  string
	now  clock
	most int64               // bytes of one user
	room func(n int64) error // fails with ENOSPC where the disk has no room for n bytes

	mu    sync.Mutex
	uses  map[string]int
	since map[string]time.Time // since when nobody uses it
	whose map[string]blobOwner // of those that were uploaded or used since the head was started
	has   map[uint32]int64     // bytes of a user, with what is being uploaded
}

// blobOwner is whom a file counts for.
type blobOwner struct {
	uid  uint32
	size int64
}

func newJobBlobs(outputDir string, now clock) (*jobBlobs, error) {
	b := &jobBlobs{
		dir: filepath.Join(outputDir, "blobs"), now: now, most: blobsMost, room: func(int64) error { return nil },
		uses: map[string]int{}, since: map[string]time.Time{}, whose: map[string]blobOwner{}, has: map[uint32]int64{},
	}
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

// reserve books n more bytes of a user.
func (b *jobBlobs) reserve(uid uint32, n int64) error {
	b.mu.Lock()
	has := b.has[uid]
	if has+n <= b.most {
		b.has[uid] += n
	}
	b.mu.Unlock()
	if has+n > b.most {
		return tooLarge("put them on a share; or wait: what no job uses is removed after an hour",
			"the files of this user that the head holds for jobs have %d MiB; at most %d MiB are kept", has>>20, b.most>>20)
	}
	err := b.room(n)
	if err != nil {
		b.unreserve(uid, n)
	}
	if errors.Is(err, syscall.ENOSPC) {
		return &api.Error{Code: api.CodeDiskFull, Msg: "the head has no room for the files that are sent along", Hint: "free space on the head's disk, or put them on a share"}
	}
	return err
}

func (b *jobBlobs) unreserve(uid uint32, n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.has[uid] -= n; b.has[uid] <= 0 {
		delete(b.has, uid)
	}
}

// put stores what r has under its hash, which must be sum, for a user.
func (b *jobBlobs) put(uid uint32, sum string, r io.Reader) error {
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
	n, kept := int64(0), false
	defer func() {
		if !kept {
			b.unreserve(uid, n)
		}
	}()
	for err == nil && n <= maxFileSize {
		if err = b.reserve(uid, blobPiece); err != nil {
			return err
		}
		var got int64
		got, err = io.CopyN(io.MultiWriter(f, h), r, blobPiece)
		b.unreserve(uid, blobPiece-got)
		n += got
	}
	if err == io.EOF {
		err = nil
	}
	switch {
	case errors.Is(err, syscall.ENOSPC):
		return &api.Error{Code: api.CodeDiskFull, Msg: "the head has no room for the files that are sent along", Hint: "free space on the head's disk, or put them on a share"}
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
	if _, twice := b.whose[sum]; !twice {
		b.whose[sum], kept = blobOwner{uid, n}, true
	}
	return nil
}

// hold counts a job of uid as user of its files. It fails when one is not there or
// has another size, and then holds none.
func (b *jobBlobs) hold(uid uint32, files []api.SentFile) error {
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
		if _, known := b.whose[f.SHA256]; !known {
			b.whose[f.SHA256] = blobOwner{uid, f.Size}
			b.has[uid] += f.Size
		}
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
			if o, known := b.whose[sum]; known {
				delete(b.whose, sum)
				if b.has[o.uid] -= o.size; b.has[o.uid] <= 0 {
					delete(b.has, o.uid)
				}
			}
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
