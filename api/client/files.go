package client

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"muster/api"
)

// fileRetry is how long a file is tried again without a byte more of it.
const fileRetry = time.Minute

// JobFiles lists what became of the files that a job brings back, of the tasks that have ended.
func (c *Client) JobFiles(ctx context.Context, id uint64) ([]api.FetchedFile, error) {
	l, err := get[api.List[api.FetchedFile]](c, ctx, jobPath(id)+"/files", nil)
	return l.Items, err
}

// JobFile writes a file of a job to w and verifies it. When the connection breaks it goes on
// where it was; what w has after an error is not the file.
func (c *Client) JobFile(ctx context.Context, id uint64, f api.FetchedFile, w io.Writer) error {
	h := sha256.New()
	to := io.MultiWriter(w, h)
	var have int64
	wait, last := newBackoff(), time.Now()
	for have < f.Size {
		n, err := c.filePart(ctx, id, f, have, to)
		if have += n; n > 0 {
			wait, last = newBackoff(), time.Now()
		}
		code := api.CodeOf(err)
		switch {
		case err == nil && have < f.Size:
			return &api.Error{Code: api.CodeInternal, Msg: fmt.Sprintf("the head sent %d of %d bytes", have, f.Size)}
		case err == nil:
		case ctx.Err() != nil:
			return ctx.Err()
		case code != api.CodeUnreachable && code != api.CodeUnavailable || time.Since(last) > fileRetry:
			return err
		default:
			if err := wait.sleep(ctx); err != nil {
				return err
			}
		}
	}
	if got := hex.EncodeToString(h.Sum(nil)); have != f.Size || got != f.SHA256 {
		return &api.Error{Code: api.CodeInternal, Msg: fmt.Sprintf("%d bytes with SHA-256 %.12s… came, want %d with %.12s…", have, got, f.Size, f.SHA256), Hint: "fetch it again"}
	}
	return nil
}

// filePart writes what comes of a file from a position on in one answer. An error of w is returned as it is.
func (c *Client) filePart(ctx context.Context, id uint64, f api.FetchedFile, from int64, w io.Writer) (int64, error) {
	path := jobPath(id) + "/files/" + strconv.Itoa(f.Task) + "/" + strconv.Itoa(f.File)
	req, err := c.request(ctx, http.MethodGet, path, nil, nil)
	if err != nil {
		return 0, err
	}
	req.Header.Set("Range", fmt.Sprintf("bytes=%d-", from))
	req.Header.Set("If-Range", `"`+f.SHA256+`"`)
	resp, err := c.send(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusPartialContent {
		return 0, &api.Error{Code: api.CodeInternal, Msg: fmt.Sprintf("the head has another file now: it says %s", resp.Status)}
	}
	in := &remembered{r: io.LimitReader(resp.Body, f.Size-from)}
	n, err := io.CopyBuffer(struct{ io.Writer }{w}, in, make([]byte, 256<<10))
	if in.err != nil {
		err = c.unreachable(in.err)
	}
	return n, err
}

// remembered keeps the error of a reader, so that it can be told from that of a writer.
type remembered struct {
	r   io.Reader
	err error
}

func (r *remembered) Read(b []byte) (int, error) {
	n, err := r.r.Read(b)
	if err != nil && err != io.EOF {
		r.err = err
	}
	return n, err
}
