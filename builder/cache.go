package builder

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"muster/builder/deb"

	"golang.org/x/sys/unix"
)

// cacheFormat is part of the name of every step's result. It changes when a
// step does something else with the same inputs.
const cacheFormat = 4

// lockPoll is how often a build that waits for another one looks again. There
// is no way to wait for a file lock that a context could end.
const lockPoll = 50 * time.Millisecond

// cache keeps files by their hash and the results of steps by the hash of their
// inputs, for all builds of a user:
//
//	blobs/sha256/HASH   a file, never changed once it is there
//	partial/HASH        what arrived of a file so far
//	steps/NAME-KEY      result of a step, JSON
//	locks/NAME-KEY      held while a step runs
//	packed/KEY          a packed block of a squashfs image, behind its hash
//	tmp/                files that are being written
//
// Several processes may use it at once. Every blob is hashed when it is first used in a
// process: one that was damaged is removed and made again.
type cache struct {
	dir string
	log *slog.Logger

	mu       sync.Mutex
	verified map[string]bool // hashes of blobs that were read in this process
}

func openCache(dir string, log *slog.Logger) (*cache, error) {
	for _, sub := range []string{"blobs/sha256", "partial", "steps", "locks", "packed", "tmp"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return nil, fmt.Errorf("making cache folder: %w", err)
		}
	}
	return &cache{dir: dir, log: log, verified: make(map[string]bool)}, nil
}

// Fetch implements [deb.Store].
func (c *cache) Fetch(ctx context.Context, want deb.FileHash, fill func(f *os.File, have int64) error) (string, error) {
	if name, ok := c.lookup(want); ok {
		return name, nil
	}
	partial := filepath.Join(c.dir, "partial", want.SHA256)
	f, err := openLocked(ctx, partial)
	if err != nil {
		return "", err
	}
	defer f.Close()
	if name, ok := c.lookup(want); ok { // another build fetched it meanwhile
		return name, nil
	}
	have, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return "", err
	}
	if err := fill(f, have); err != nil {
		return "", err
	}
	if err := c.verify(f, want); err != nil {
		return "", errors.Join(err, f.Truncate(0))
	}
	if err := c.keep(f, want.SHA256); err != nil {
		return "", err
	}
	return c.blob(want.SHA256), nil
}

// keep makes a file of the cache's file system the blob of its hash. What
// could not be synced is none.
func (c *cache) keep(f *os.File, sum string) error {
	if err := errors.Join(f.Chmod(0o644), f.Sync()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), c.blob(sum)); err != nil {
		return err
	}
	c.remember(sum)
	return nil
}

// tmp is a folder for files that are being written, on the file system of the blobs.
func (c *cache) tmp() string { return filepath.Join(c.dir, "tmp") }

func (c *cache) blob(sum string) string { return filepath.Join(c.dir, "blobs", "sha256", sum) }

func (c *cache) remember(sum string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.verified[sum] = true
}

// lookup returns the name of a blob that is there and whole, and removes a
// damaged one.
func (c *cache) lookup(want deb.FileHash) (string, bool) {
	name := c.blob(want.SHA256)
	f, err := os.Open(name)
	if err != nil {
		return "", false
	}
	defer f.Close()
	c.mu.Lock()
	known := c.verified[want.SHA256]
	c.mu.Unlock()
	if known {
		return name, true
	}
	if err := c.verify(f, want); err != nil {
		c.log.Warn("damaged file in the cache removed", "artifact", name, "err", err)
		os.Remove(name)
		return "", false
	}
	c.remember(want.SHA256)
	return name, true
}

// verify hashes f from its start.
func (c *cache) verify(f *os.File, want deb.FileHash) error {
	h := sha256.New()
	n, err := io.Copy(h, io.NewSectionReader(f, 0, 1<<62))
	if err != nil {
		return fmt.Errorf("verifying %s: %w", filepath.Base(f.Name()), err)
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != want.SHA256 || n != want.Size {
		return fmt.Errorf("%w: it is %s (%d bytes), wanted is %s (%d bytes)", deb.ErrHash, got, n, want.SHA256, want.Size)
	}
	return nil
}

// put writes a file that is kept by its hash.
func (c *cache) put(write func(f *os.File) error) (deb.FileHash, error) {
	f, err := os.CreateTemp(filepath.Join(c.dir, "tmp"), "blob-*")
	if err != nil {
		return deb.FileHash{}, err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if err := write(f); err != nil {
		return deb.FileHash{}, err
	}
	h := sha256.New()
	n, err := io.Copy(h, io.NewSectionReader(f, 0, 1<<62))
	if err != nil {
		return deb.FileHash{}, err
	}
	sum := deb.FileHash{Size: n, SHA256: hex.EncodeToString(h.Sum(nil))}
	if err := c.keep(f, sum.SHA256); err != nil {
		return deb.FileHash{}, err
	}
	return sum, nil
}

// putBytes keeps data by its hash.
func (c *cache) putBytes(data []byte) (deb.FileHash, error) {
	sum := deb.FileHash{Size: int64(len(data)), SHA256: hashBytes(data)}
	if _, ok := c.lookup(sum); ok {
		return sum, nil
	}
	return c.put(func(f *os.File) error {
		_, err := f.Write(data)
		return err
	})
}

// name returns the name of a blob that an earlier step kept.
func (c *cache) name(want deb.FileHash) (string, error) {
	name, ok := c.lookup(want)
	if !ok {
		return "", fmt.Errorf("file %s left the cache %s during the build; build again", want.SHA256, c.dir)
	}
	return name, nil
}

// open returns the content of a blob.
func (c *cache) open(want deb.FileHash) (io.ReadCloser, error) {
	name, err := c.name(want)
	if err != nil {
		return nil, err
	}
	return os.Open(name)
}

// read returns a blob that is small enough to be held in memory.
func (c *cache) read(want deb.FileHash) ([]byte, error) {
	r, err := c.open(want)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

// stepResult is what a step hands on: plain data and the blobs that it stands for.
type stepResult interface{ blobs() []deb.FileHash }

// runStep returns the result of run for these inputs: that of an earlier build,
// where all its files are still there, else a new one. inputs are plain data
// that say all that has an influence.
func runStep[T stepResult](ctx context.Context, c *cache, name string, inputs any, run func() (T, error)) (result T, cached bool, err error) {
	key := stepKey(name, inputs)
	file := filepath.Join(c.dir, "steps", key)
	if r, ok := readStep[T](c, file); ok {
		return r, true, nil
	}
	lock, err := openLocked(ctx, filepath.Join(c.dir, "locks", key))
	if err != nil {
		return result, false, err
	}
	defer lock.Close()
	if r, ok := readStep[T](c, file); ok { // another build made it meanwhile
		return r, true, nil
	}
	result, err = run()
	if err != nil {
		return result, false, err
	}
	return result, false, c.writeStep(key, result)
}

func stepKey(name string, inputs any) string {
	return name + "-" + hashOf([]any{cacheFormat, name, inputs})
}

func (c *cache) writeStep(key string, result stepResult) error {
	text, err := json.Marshal(result)
	if err != nil {
		return err
	}
	return writeFile(filepath.Join(c.dir, "steps", key), append([]byte(hashBytes(text)+"\n"), text...))
}

func readStep[T stepResult](c *cache, file string) (T, bool) {
	var r T
	text, err := os.ReadFile(file)
	if err != nil {
		return r, false
	}
	// A flipped bit may well leave JSON, with another number or another key in it.
	sum, text, _ := bytes.Cut(text, []byte("\n"))
	if string(sum) != hashBytes(text) || json.Unmarshal(text, &r) != nil {
		c.log.Warn("damaged result of a step in the cache is made again", "artifact", file)
		return *new(T), false
	}
	for _, b := range r.blobs() {
		if _, ok := c.lookup(b); !ok {
			return r, false
		}
	}
	return r, true
}

// openLocked opens a file for appending, makes it if need be, and holds its
// lock until it is closed.
func openLocked(ctx context.Context, name string) (*os.File, error) {
	for {
		f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o644)
		if err != nil {
			return nil, err
		}
		if err := waitLock(ctx, f); err != nil {
			f.Close()
			return nil, err
		}
		if sameFile(f, name) {
			return f, nil
		}
		f.Close()
	}
}

// waitLock waits until f is locked.
func waitLock(ctx context.Context, f *os.File) error {
	tick := time.NewTicker(lockPoll)
	defer tick.Stop()
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			return fmt.Errorf("locking %s: %w", f.Name(), err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// sameFile says whether f is still what name names: who held the lock may
// have moved it away.
func sameFile(f *os.File, name string) bool {
	a, errA := f.Stat()
	b, errB := os.Stat(name)
	return errA == nil && errB == nil && os.SameFile(a, b)
}

// writeFile puts a file in place whole.
func writeFile(name string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(name), ".tmp-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(data)
	if err := errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), name)
}

func hashBytes(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// hashOf hashes the JSON form of v, which has to be plain data.
func hashOf(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("encoding %T: %v", v, err))
	}
	return hashBytes(text)
}

// hashFile hashes a file of the host.
func hashFile(name string) (deb.FileHash, error) {
	f, err := os.Open(name)
	if err != nil {
		return deb.FileHash{}, err
	}
	defer f.Close()
	return hashReader(f)
}

func hashReader(r io.Reader) (deb.FileHash, error) {
	var h hash.Hash = sha256.New()
	n, err := io.Copy(h, r)
	return deb.FileHash{Size: n, SHA256: hex.EncodeToString(h.Sum(nil))}, err
}
