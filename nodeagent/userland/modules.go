package userland

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"muster/internal/kmod"
)

// filesFile is where an agent leaves the place of the head's files, for
// modprobe, which the kernel starts.
const filesFile = "files"

// packName is the name of the file with all modules at the head.
const packName = "modules.tar"

func rememberFiles(runDir, files string) error {
	tmp := filepath.Join(runDir, filesFile+".new")
	if err := os.WriteFile(tmp, []byte(files+"\n"), 0o644); err != nil {
		return err
	}
	return os.Rename(tmp, filepath.Join(runDir, filesFile))
}

// Files is where the head has files, as the agent with that folder was told last.
func Files(runDir string) (string, error) {
	b, err := os.ReadFile(filepath.Join(runDir, filesFile))
	if err != nil {
		return "", fmt.Errorf("looking for the place of the head's files: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

// A FetchError says that the head could not be asked for a module, or did not have it. It may go away.
type FetchError struct{ Err error }

func (e *FetchError) Error() string { return e.Err.Error() }
func (e *FetchError) Unwrap() error { return e.Err }

// FetchKernel is a [kmod.Kernel] for an index of modules that are not all there: one that
// the machine has no file of comes from the head, whose file is described by
// [kmod.PackFile] beside the index.
type FetchKernel struct {
	Dir   string                // of the index
	Base  string                // folder that has some of the modules as files
	Fetch func() (Fetch, error) // how the rest is got; called at the first need
	// Kernel loads what is got.
	Kernel interface {
		kmod.Kernel
		InsertData(file string, data []byte, params string) error
	}

	once sync.Once
	get  Fetch
	err  error
}

// Fetch returns the module with that path in the index.
type Fetch func(path string) ([]byte, error)

// Loaded implements kmod.Kernel.
func (k *FetchKernel) Loaded(name string) bool { return k.Kernel.Loaded(name) }

// Insert implements kmod.Kernel.
func (k *FetchKernel) Insert(file, params string) error {
	rel, err := filepath.Rel(k.Dir, file)
	if err != nil {
		return err
	}
	for _, dir := range []string{k.Base, k.Dir} {
		err := k.Kernel.Insert(filepath.Join(dir, rel), params)
		if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	k.once.Do(func() { k.get, k.err = k.Fetch() })
	if k.err != nil {
		return k.err
	}
	data, err := k.get(rel)
	if err != nil {
		return err
	}
	return k.Kernel.InsertData(rel, data, params)
}

// FetchFrom returns the [Fetch] for the pack that is described in dir, from the place
// of the head's files.
func FetchFrom(ctx context.Context, dir, files string) (Fetch, error) {
	text, err := os.ReadFile(filepath.Join(dir, kmod.PackFile))
	if err != nil {
		return nil, fmt.Errorf("looking for modules at the head: %w", err)
	}
	pack, err := kmod.ParsePack(text)
	if err != nil {
		return nil, fmt.Errorf("looking for modules at the head: %s: %w", dir, err)
	}
	src, err := newSource(files, pack.SHA256, packName)
	if err != nil {
		return nil, fmt.Errorf("looking for modules at the head: %w", err)
	}
	return func(path string) ([]byte, error) {
		piece, ok := pack.Pieces[path]
		if !ok {
			return nil, fmt.Errorf("getting module %s: %s does not have it", path, kmod.PackFile)
		}
		b, err := fetchPiece(ctx, src, pack.Size, piece)
		if err != nil {
			return nil, &FetchError{fmt.Errorf("getting module %s from %s: %w", path, src.addr, err)}
		}
		return b, nil
	}, nil
}

func fetchPiece(ctx context.Context, src source, size int64, piece kmod.Piece) ([]byte, error) {
	c, err := src.open(ctx, span{piece.Offset, piece.Offset + piece.Size, size})
	if err != nil {
		return nil, err
	}
	defer c.close()
	b := make([]byte, piece.Size)
	if err := c.fill(b); err != nil {
		return nil, err
	}
	if sum := sha256.Sum256(b); hex.EncodeToString(sum[:]) != piece.SHA256 {
		return nil, errWrong
	}
	return b, nil
}
