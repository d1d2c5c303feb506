package task

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"muster/api"
)

const (
	// maxFetch bounds the files that a user wants back from one task.
	maxFetch = 1000
	// uploads is how many tasks bring their files to the head at a time.
	uploads = 4
	// maxRewinds is how often a file may be begun again because the head lost what it had.
	maxRewinds = 10
)

// put sends a piece of a file to the head.
type put func(context.Context, api.FilePut) (api.Ack, error)

// checkFetch refuses paths that are not below the working directory.
func checkFetch(paths []string) error {
	if len(paths) > maxFetch {
		return &api.Error{Code: api.CodeTooLarge, Msg: fmt.Sprintf("%d files are wanted back, at most %d can be", len(paths), maxFetch), Hint: "have the task make an archive of them"}
	}
	for _, p := range paths {
		if p = api.DecodeText(p); !filepath.IsLocal(p) || filepath.Clean(p) != p || p == "." {
			return &api.Error{Code: api.CodeInvalid, Msg: fmt.Sprintf("file %q is not fetched: its path is not a clean path below the working directory", p)}
		}
	}
	return nil
}

// fetchAll brings a task's files from its working directory to the head and says of each
// what became of it. Only ctx ends it early.
func fetchAll(ctx context.Context, work string, t api.TaskStart, to put) []api.FetchedFile {
	root, err := os.OpenRoot(work)
	if err == nil {
		defer root.Close()
	}
	list := make([]api.FetchedFile, 0, len(t.Fetch))
	for i, p := range t.Fetch {
		f := api.FetchedFile{Task: t.Index, File: i, Path: p}
		ferr := err
		if ferr == nil {
			ferr = fetchOne(ctx, root, t.TaskRef, &f, to)
		}
		if ferr != nil {
			f.Error = fetchError(ferr)
		}
		list = append(list, f)
	}
	return list
}

// notFetched says the same of all files of a task.
func notFetched(t api.TaskStart, why string) []api.FetchedFile {
	list := make([]api.FetchedFile, 0, len(t.Fetch))
	for i, p := range t.Fetch {
		list = append(list, api.FetchedFile{Task: t.Index, File: i, Path: p, Error: why})
	}
	return list
}

// fetchError says for people why a file is not there.
func fetchError(err error) string {
	var path *fs.PathError
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "the command left no such file"
	case errors.Is(err, context.Canceled):
		return "it was not waited for"
	case errors.As(err, &path) && strings.Contains(path.Err.Error(), "escapes"):
		return "it is a link out of the working directory, which is not followed"
	case errors.As(err, &path):
		return path.Err.Error()
	}
	return err.Error()
}

// fetchOne brings one file to the head. A root follows no link that leaves it.
func fetchOne(ctx context.Context, root *os.Root, ref api.TaskRef, f *api.FetchedFile, to put) error {
	// Without waiting for the other end of a named pipe.
	in, err := root.OpenFile(api.DecodeText(f.Path), os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer in.Close()
	st, err := in.Stat()
	switch {
	case err != nil:
		return err
	case st.IsDir():
		return errors.New("it is a folder; have the task make an archive of it")
	case !st.Mode().IsRegular():
		return errors.New("it is no regular file")
	}
	h := sha256.New()
	size, err := io.Copy(h, readerUntil{ctx, in})
	if err != nil {
		return err
	}
	f.Size, f.Mode, f.SHA256 = size, uint32(st.Mode().Perm()), hex.EncodeToString(h.Sum(nil))
	buf := make([]byte, api.MaxChunk)
	piece := api.FilePut{TaskRef: ref, File: f.File, SHA256: f.SHA256, Size: size}
	ack, err := to(ctx, piece) // asks how much the head has
	for rewinds := 0; err == nil && ack.Offset < size; {
		n, rerr := in.ReadAt(buf, ack.Offset)
		if n == 0 {
			return fmt.Errorf("reading it at %d of %d bytes: %w", ack.Offset, size, rerr)
		}
		piece.Offset, piece.Data = ack.Offset, buf[:n]
		ack, err = to(ctx, piece)
		if ack.Offset <= piece.Offset {
			if rewinds++; rewinds > maxRewinds && err == nil {
				return errors.New("the head does not take it")
			}
		}
	}
	return err
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

// collect brings the files of a task that has ended to the head, and tells the end then. When
// ctx ends before, what is missing is not waited for.
func (r *remote) collect(ctx context.Context, ev api.TaskEvent) {
	select {
	case r.m.uploads <- struct{}{}:
		ev.Fetched = fetchAll(ctx, filepath.Join(r.dir, dirWork), r.spec.Start, r.m.cfg.Uplink.Put)
		<-r.m.uploads
	case <-ctx.Done():
		ev.Fetched = notFetched(r.spec.Start, fetchError(ctx.Err()))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.collecting = collected
	if r.ctx.Err() != nil {
		return // this agent ends: the next one begins anew
	}
	r.record(ev)
}

// collecting is how far the files are that a user wants from a task.
type collecting int

const (
	notEnded collecting = iota
	collects
	collected
)
