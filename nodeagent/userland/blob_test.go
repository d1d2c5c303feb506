package userland

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"muster/api"
)

// blobServer serves content, and cuts the first transfers after so many bytes each.
func blobServer(t *testing.T, content []byte, cuts ...int) *httptest.Server {
	t.Helper()
	n := 0
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasPrefix(r.URL.Path, "/blobs/") || !strings.HasSuffix(r.URL.Path, "/vmlinuz") {
			http.NotFound(w, r)
			return
		}
		n++
		if n <= len(cuts) {
			w = &cutWriter{w, cuts[n-1]}
		}
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content))
	}))
	t.Cleanup(s.Close)
	return s
}

type cutWriter struct {
	http.ResponseWriter
	left int
}

func (c *cutWriter) Write(b []byte) (int, error) {
	if len(b) < c.left {
		c.left -= len(b)
		return c.ResponseWriter.Write(b)
	}
	c.ResponseWriter.Write(b[:c.left])
	c.ResponseWriter.(http.Flusher).Flush()
	panic(http.ErrAbortHandler)
}

func TestFetchBlob(t *testing.T) {
	content := bytes.Repeat([]byte("kernel "), 500_000)
	sum := sha256.Sum256(content)
	ref := api.BlobRef{Name: "vmlinuz", SHA256: hex.EncodeToString(sum[:]), Size: int64(len(content))}
	for name, c := range map[string]struct {
		cuts   []int
		change func(*api.BlobRef)
		want   string // error; "": none
	}{
		"at once":       {},
		"broken twice":  {cuts: []int{2 << 20, 1 << 20}},
		"always broken": {cuts: []int{10, 10, 10}, want: "ended the connection"},
		"another hash":  {change: func(r *api.BlobRef) { r.SHA256 = strings.Repeat("0", 64) }, want: "vmlinuz from 127.0.0.1:"},
		"another size":  {change: func(r *api.BlobRef) { r.Size++ }, want: "instead of"},
		"no size":       {change: func(r *api.BlobRef) { r.Size = 0 }, want: "has 0 bytes"},
		"not there":     {change: func(r *api.BlobRef) { r.Name = "other" }, want: "the head does not have it"},
	} {
		t.Run(name, func(t *testing.T) {
			s := blobServer(t, content, c.cuts...)
			ref := ref
			if c.change != nil {
				c.change(&ref)
			}
			var got bytes.Buffer
			var last int64
			err := FetchBlob(t.Context(), s.URL, ref, &got, func(have int64) { last = have })
			if c.want != "" {
				if err == nil || !strings.Contains(err.Error(), c.want) {
					t.Errorf("FetchBlob = %v, want %q in it", err, c.want)
				}
				return
			}
			if err != nil || !bytes.Equal(got.Bytes(), content) || last != ref.Size {
				t.Errorf("FetchBlob = %v with %d bytes, told %d, want %d", err, got.Len(), last, ref.Size)
			}
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := FetchBlob(ctx, "http://127.0.0.1:1", ref, &bytes.Buffer{}, func(int64) {}); err == nil {
		t.Error("FetchBlob goes on after its context has ended")
	}
	full := errWriter{}
	if err := FetchBlob(t.Context(), blobServer(t, content).URL, ref, full, func(int64) {}); err == nil || !strings.Contains(err.Error(), "no space") {
		t.Errorf("FetchBlob to what cannot be written = %v", err)
	}
}

type errWriter struct{}

func (errWriter) Write([]byte) (int, error) { return 0, errors.New("no space") }
