package tftp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
)

// Request is what a client asks for.
type Request struct {
	Client netip.AddrPort
	Local  netip.Addr // address that was asked; the zero Addr when the socket does not tell
	Name   string     // cleaned, as [fs.ValidPath] wants it
}

// Source decides what a request gets.
//
// Open is called from several goroutines at once. An error that is
// [fs.ErrNotExist] or [fs.ErrPermission] is told to the client as such, any
// other as a failure of the server without its text. It should answer
// within a second, since the client repeats its request.
type Source interface {
	Open(ctx context.Context, r Request) (File, error)
}

// SourceFunc is a function as [Source].
type SourceFunc func(ctx context.Context, r Request) (File, error)

// Open calls f.
func (f SourceFunc) Open(ctx context.Context, r Request) (File, error) { return f(ctx, r) }

// File is what a transfer sends. It is used by one goroutine, and closed once
// by the server. Its size must not change.
type File interface {
	io.ReaderAt
	io.Closer
	Size() int64
}

type memory struct{ *bytes.Reader }

func (memory) Close() error { return nil }

// Bytes returns a file with the given content, which is not copied.
func Bytes(content []byte) File { return memory{bytes.NewReader(content)} }

// maxUnseekable is how much of a file that cannot be read at an offset is
// taken into memory.
const maxUnseekable = 16 << 20

// FS serves the regular files of fsys. Files that cannot be read at an offset
// (most can) are read whole first, up to 16 MiB.
func FS(fsys fs.FS) Source {
	return SourceFunc(func(_ context.Context, r Request) (File, error) { return openFS(fsys, r.Name) })
}

type fsFile struct {
	fs.File
	io.ReaderAt
	size int64
}

func (f fsFile) Size() int64 { return f.size }

func openFS(fsys fs.FS, name string) (File, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if !info.Mode().IsRegular() {
		return nil, errors.Join(&fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}, f.Close())
	}
	if at, ok := f.(io.ReaderAt); ok {
		return fsFile{File: f, ReaderAt: at, size: info.Size()}, nil
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, maxUnseekable+1))
	if err != nil {
		return nil, err
	}
	if len(content) > maxUnseekable {
		return nil, fmt.Errorf("%s cannot be read at an offset and is larger than %d bytes", name, maxUnseekable)
	}
	return Bytes(content), nil
}
