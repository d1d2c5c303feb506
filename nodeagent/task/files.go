package task

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

	"golang.org/x/sys/unix"

	"muster/api"
)

// maxFiles bounds the files that travel with a job.
const maxFiles = 4096

type fetch func(context.Context, api.FileRequest) ([]byte, error)

// checkFiles refuses files that would land outside a task's directory or on
// each other.
func checkFiles(files []api.SentFile) error {
	if len(files) > maxFiles {
		return &api.Error{Code: api.CodeTooLarge, Msg: fmt.Sprintf("%d files are sent along, at most %d can be", len(files), maxFiles), Hint: "send an archive"}
	}
	seen := make(map[string]bool, len(files))
	for _, f := range files {
		f.Path = api.DecodeText(f.Path)
		clean := filepath.Clean(f.Path)
		sum, err := hex.DecodeString(f.SHA256)
		var why string
		switch {
		case strings.IndexByte(f.Path, 0) >= 0 || !filepath.IsLocal(f.Path) || clean != f.Path || clean == ".":
			why = "its path is not a clean path below the working directory"
		case seen[clean]:
			why = "it is sent twice"
		case err != nil || len(sum) != sha256.Size:
			why = "its SHA-256 is not 64 hexadecimal digits"
		case f.Size < 0:
			why = "its size is negative"
		case f.Mode&^0o777 != 0:
			why = fmt.Sprintf("its mode %o is more than permissions", f.Mode)
		default:
			seen[clean] = true
			continue
		}
		return &api.Error{Code: api.CodeInvalid, Msg: fmt.Sprintf("file %q is refused: %s", f.Path, why)}
	}
	return nil
}

// prepareWork makes a task's working directory anew, with the files that were
// sent along, all of them the user's.
func prepareWork(ctx context.Context, work string, t api.TaskStart, get fetch) error {
	uid, gid := int(t.Owner.UID), int(t.Owner.GID)
	if err := makeWork(work, uid, gid); err != nil {
		return err
	}
	if len(t.Files) == 0 {
		return nil
	}
	root, err := os.OpenRoot(work)
	if err != nil {
		return fmt.Errorf("opening working directory: %w", err)
	}
	defer root.Close()
	for _, f := range t.Files {
		f.Path = api.DecodeText(f.Path)
		if err := makeParents(root, filepath.Dir(f.Path), uid, gid); err != nil {
			return err
		}
		if err := writeSent(ctx, root, f, t.Job, uid, gid, get); err != nil {
			if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.ENOMEM) {
				err = fmt.Errorf("%w; the node has no memory left for the files that are sent along", err)
			}
			return err
		}
	}
	return nil
}

func makeParents(root *os.Root, dir string, uid, gid int) error {
	if dir == "." {
		return nil
	}
	if err := makeParents(root, filepath.Dir(dir), uid, gid); err != nil {
		return err
	}
	err := root.Mkdir(dir, 0o755)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err == nil {
		err = root.Chmod(dir, 0o755) // whatever the umask
	}
	if err == nil {
		err = root.Chown(dir, uid, gid)
	}
	if err != nil {
		return fmt.Errorf("making folder %s of the task: %w", dir, err)
	}
	return nil
}

// writeSent fetches a file piece by piece and verifies it.
func writeSent(ctx context.Context, root *os.Root, f api.SentFile, job uint64, uid, gid int, get fetch) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("fetching %s, which was sent along: %w", f.Path, err)
		}
	}()
	out, err := root.OpenFile(f.Path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	hash := sha256.New()
	for off := int64(0); off < f.Size; {
		b, err := get(ctx, api.FileRequest{Job: job, SHA256: f.SHA256, Offset: off})
		if err != nil {
			return err
		}
		if len(b) == 0 || int64(len(b)) > f.Size-off {
			return fmt.Errorf("the head has another size of it than the %d bytes that were said", f.Size)
		}
		hash.Write(b)
		if _, err := out.Write(b); err != nil {
			return err
		}
		off += int64(len(b))
	}
	if got := hex.EncodeToString(hash.Sum(nil)); got != f.SHA256 {
		return fmt.Errorf("its SHA-256 is %s, not %s", got, f.SHA256)
	}
	if err := out.Chown(uid, gid); err != nil {
		return err
	}
	if err := out.Chmod(os.FileMode(f.Mode)); err != nil {
		return err
	}
	return out.Close()
}
