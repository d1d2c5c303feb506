package userland

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"

	"muster/api"
)

const (
	blobPiece = 1 << 20
	// blobTries is how often in a row a transfer may break without having brought anything.
	blobTries = 3
)

// FetchBlob gets other content of the head by its hash, as [api.JoinReply] says where, and writes it to w. A transfer that breaks is
// gone on with. got is told how many bytes are there. What was written is wrong when it returns an error.
func FetchBlob(ctx context.Context, files string, ref api.BlobRef, w io.Writer, got func(have int64)) error {
	src, err := newSource(files, ref.SHA256, ref.Name)
	if err != nil {
		return err
	}
	if ref.Size <= 0 {
		return fmt.Errorf("the head says that %s has %d bytes", ref.Name, ref.Size)
	}
	sum := sha256.New()
	to := io.MultiWriter(w, sum)
	have, vain := int64(0), 0
	for have < ref.Size {
		before := have
		err := fetchRest(ctx, src, ref.Size, &have, to, got)
		if err == nil {
			continue
		}
		if vain++; have > before {
			vain = 0
		}
		var write *writeError
		if ctx.Err() != nil || errors.As(err, &write) || errors.Is(err, errNotThere) || vain == blobTries {
			return errors.New(describe(err, ref.SHA256))
		}
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != ref.SHA256 {
		return fmt.Errorf("%s from %s is damaged: its hash is %.12s…, the head says %.12s…", ref.Name, src.addr, got, ref.SHA256)
	}
	return nil
}

// writeError is a failure on this side.
type writeError struct{ error }

func fetchRest(ctx context.Context, src source, size int64, have *int64, w io.Writer, got func(int64)) error {
	c, err := src.open(ctx, span{*have, size, size})
	if err != nil {
		return err
	}
	defer c.close()
	buf := make([]byte, blobPiece)
	for *have < size {
		b := buf[:min(int64(len(buf)), size-*have)]
		if err := c.fill(b); err != nil {
			return err
		}
		if _, err := w.Write(b); err != nil {
			return &writeError{err}
		}
		*have += int64(len(b))
		got(*have)
	}
	return nil
}
