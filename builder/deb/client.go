package deb

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/therootcompany/xz"
)

const (
	maxInRelease = 16 << 20
	maxPackages  = 1 << 30          // unpacked package index
	stallTimeout = 30 * time.Second // without a byte
	retryPause   = 500 * time.Millisecond
	maxAttempts  = 4 // for one file at one mirror, each further than the last
)

// ErrHash is wrapped by errors about a file whose content is not what its hash
// says.
var ErrHash = errors.New("hash is wrong")

// Store keeps files by their hash.
type Store interface {
	// Fetch returns the name of the file with the given hash. Where the store does not
	// have it, fill is called with a file to append to, which holds have bytes
	// of an earlier attempt. What fill appended before it failed is kept for the
	// next attempt. A content of another hash is thrown away, and
	// the error wraps [ErrHash].
	Fetch(ctx context.Context, want FileHash, fill func(f *os.File, have int64) error) (name string, err error)
}

// Config is what a [Client] needs.
type Config struct {
	Mirrors Mirrors
	Keyring []byte // OpenPGP keys, binary; required
	Origin  string // that a mirror must have; "": any
	Arch    string // as Debian names it; required
	Store   Store  // required

	HTTP *http.Client     // nil: one with timeouts, through the proxy of the environment
	Now  func() time.Time // nil: time.Now
	Log  *slog.Logger     // nil: no log
	// Progress, if not nil, is told how much of a file has arrived, from the
	// goroutine that fetches it.
	Progress func(name string, done, total int64)
}

// Client reads one distribution's archives. It may be used from any goroutine.
type Client struct {
	cfg   Config
	known *mirrorBook
}

// mirrorBook remembers which mirror has a suite.
type mirrorBook struct {
	mu    sync.Mutex
	bases map[string]string // by suite: the base URL that last answered
}

func (b *mirrorBook) set(suite, base string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.bases[suite] = base
}

func (b *mirrorBook) get(suite string) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.bases[suite]
}

// NewClient returns a client. It does not speak to anybody yet.
func NewClient(cfg Config) *Client {
	if cfg.HTTP == nil {
		t := http.DefaultTransport.(*http.Transport).Clone()
		t.ResponseHeaderTimeout = stallTimeout
		cfg.HTTP = &http.Client{Transport: t}
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Progress == nil {
		cfg.Progress = func(string, int64, int64) {}
	}
	return &Client{cfg: cfg, known: &mirrorBook{bases: make(map[string]string)}}
}

// WithProgress returns a client that tells its progress to fn and otherwise
// is c.
func (c *Client) WithProgress(fn func(name string, done, total int64)) *Client {
	d := *c
	d.cfg.Progress = fn
	return &d
}

// StatusError is an answer of a mirror other than the file.
type StatusError struct {
	URL    string
	Status int
}

func (e *StatusError) Error() string {
	return fmt.Sprintf("%s: %d %s", e.URL, e.Status, http.StatusText(e.Status))
}

// Is says that a missing file is [os.ErrNotExist].
func (e *StatusError) Is(target error) bool {
	return target == os.ErrNotExist && (e.Status == http.StatusNotFound || e.Status == http.StatusGone)
}

// Release fetches and verifies what the archive says of suite, from the first
// mirror that has it. It returns an error that wraps [os.ErrNotExist] when every mirror
// answered and none has the suite.
func (c *Client) Release(ctx context.Context, suite string) (*Release, error) {
	bases := c.cfg.Mirrors.Bases(suite)
	if len(bases) == 0 {
		return nil, fmt.Errorf("no mirror is known for suite %s; name one in the definition (mirror: http://…)", suite)
	}
	var errs []error
	missing := 0
	for _, base := range bases {
		rel, err := c.releaseFrom(ctx, base, suite)
		if err == nil {
			c.known.set(suite, base)
			c.cfg.Log.Debug("suite found", "suite", suite, "mirror", base, "date", rel.Date)
			return rel, nil
		}
		if ctx.Err() != nil {
			return nil, err
		}
		c.cfg.Log.Debug("mirror passed over", "suite", suite, "mirror", base, "err", err)
		if errors.Is(err, os.ErrNotExist) {
			missing++
		}
		errs = append(errs, err)
	}
	if missing == len(bases) {
		return nil, fmt.Errorf("suite %s: no mirror has it: %w", suite, joinLine(errs))
	}
	return nil, fmt.Errorf("suite %s: no mirror is usable: %w", suite, joinLine(errs))
}

func (c *Client) releaseFrom(ctx context.Context, base, suite string) (*Release, error) {
	url := base + "/dists/" + suite + "/InRelease"
	body, err := c.get(ctx, url, 0)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	data, err := io.ReadAll(io.LimitReader(body, maxInRelease))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", url, err)
	}
	rel, err := VerifyInRelease(data, c.cfg.Keyring, c.cfg.Now())
	if err != nil {
		return nil, fmt.Errorf("%s: %w", url, err)
	}
	if c.cfg.Origin != "" && rel.Origin != c.cfg.Origin {
		return nil, fmt.Errorf("%s: it comes from %q, wanted is %q", url, rel.Origin, c.cfg.Origin)
	}
	if err := rel.check(suite, c.cfg.Arch, c.cfg.Now()); err != nil {
		return nil, fmt.Errorf("%s: %w", url, err)
	}
	return rel, nil
}

// AddPackages fetches the package index of one component of suite and adds it
// to x. rel is what [Client.Release] returned for suite. A component that the suite does not have
// adds nothing.
func (c *Client) AddPackages(ctx context.Context, x *Index, suite string, rel *Release, component string) error {
	name := path.Join(component, "binary-"+c.cfg.Arch, "Packages.xz")
	hash, ok := rel.Files[name]
	if !ok {
		return nil
	}
	p := "dists/" + suite + "/" + name
	if rel.ByHash {
		p = "dists/" + suite + "/" + path.Dir(name) + "/by-hash/SHA256/" + hash.SHA256
	}
	file, err := c.fetch(ctx, suite, p, path.Join(suite, name), hash)
	if err != nil {
		return err
	}
	text, err := unpackXZ(file)
	if err != nil {
		return fmt.Errorf("unpacking package index of %s: %w", suite, err)
	}
	return x.Add(suite, text)
}

func unpackXZ(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	r, err := xz.NewReader(f, maxXZDict)
	if err != nil {
		return nil, err
	}
	text, err := io.ReadAll(io.LimitReader(r, maxPackages+1))
	if err == nil && len(text) > maxPackages {
		err = fmt.Errorf("it is larger than %d MiB", maxPackages>>20)
	}
	return text, err
}

// FetchPackage returns the name of a file with the package, from the store or from a
// mirror of its suite. An error wraps [os.ErrNotExist] when every mirror
// answered that it does not have it.
func (c *Client) FetchPackage(ctx context.Context, suite, filePath string, want FileHash) (string, error) {
	return c.fetch(ctx, suite, filePath, path.Base(filePath), want)
}

// fetch asks the mirrors of suite in turn for a file.
func (c *Client) fetch(ctx context.Context, suite, filePath, label string, want FileHash) (string, error) {
	var errs []error
	missing := 0
	bases := c.order(suite)
	for _, base := range bases {
		name, err := c.fetchFrom(ctx, base+"/"+escapePath(filePath), label, want)
		if err == nil {
			return name, nil
		}
		if ctx.Err() != nil || errors.Is(err, syscall.ENOSPC) || errors.Is(err, os.ErrPermission) {
			return "", fmt.Errorf("fetching %s: %w", label, err)
		}
		if errors.Is(err, os.ErrNotExist) {
			missing++
		}
		c.cfg.Log.Debug("mirror passed over", "artifact", label, "mirror", base, "err", err)
		errs = append(errs, err)
	}
	if missing == len(bases) {
		return "", fmt.Errorf("fetching %s: no mirror has it: %w", label, joinLine(errs))
	}
	return "", fmt.Errorf("fetching %s: %w", label, joinLine(errs))
}

// order returns the mirrors of suite, that which answered before first.
func (c *Client) order(suite string) []string {
	bases := c.cfg.Mirrors.Bases(suite)
	good := c.known.get(suite)
	out := make([]string, 0, len(bases))
	if good != "" {
		out = append(out, good)
	}
	for _, b := range bases {
		if b != good {
			out = append(out, b)
		}
	}
	return out
}

// fetchFrom fetches one file from one mirror, going on where a broken transfer
// ended as long as each attempt brings something.
func (c *Client) fetchFrom(ctx context.Context, url, label string, want FileHash) (string, error) {
	for attempt := 1; ; attempt++ {
		var got, had int64
		name, err := c.cfg.Store.Fetch(ctx, want, func(f *os.File, have int64) error {
			had = have
			var err error
			got, err = c.download(ctx, url, label, f, have, want.Size)
			return err
		})
		if err == nil {
			return name, nil
		}
		// What an earlier run left may be damaged: once more, from the start.
		resume := errors.Is(err, ErrHash) && had > 0
		var status *StatusError
		again := got > 0 && !errors.As(err, &status) && !errors.Is(err, ErrHash) && !errors.Is(err, syscall.ENOSPC)
		if ctx.Err() != nil || attempt == maxAttempts || !resume && !again {
			return "", err
		}
		c.cfg.Log.Debug("transfer broke off", "artifact", label, "err", err, "bytes", had+got)
		if err := pause(ctx, retryPause); err != nil {
			return "", err
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// download appends the bytes of url from position have on to f and returns how
// many there were.
func (c *Client) download(ctx context.Context, url, label string, f *os.File, have, size int64) (int64, error) {
	if have > size {
		if err := f.Truncate(0); err != nil {
			return 0, err
		}
		have = 0
	}
	if have == size {
		return 0, nil
	}
	body, err := c.get(ctx, url, have)
	if err != nil {
		return 0, err
	}
	defer body.Close()
	if body.from != have { // the server sends all of it again
		if err := f.Truncate(0); err != nil {
			return 0, err
		}
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return 0, err
		}
		have = 0
	}
	w := progressWriter{w: f, done: have, report: func(done int64) { c.cfg.Progress(label, done, size) }}
	// One byte more than there ought to be: too much is as wrong as too little.
	n, err := io.Copy(&w, io.LimitReader(body, size-have+1))
	if err != nil {
		return n, fmt.Errorf("%s: %w", url, err)
	}
	if have+n < size {
		return n, fmt.Errorf("%s: %w after %d of %d bytes", url, io.ErrUnexpectedEOF, have+n, size)
	}
	return n, nil
}

type progressWriter struct {
	w      io.Writer
	done   int64
	report func(done int64)
}

func (p *progressWriter) Write(b []byte) (int, error) {
	n, err := p.w.Write(b)
	p.done += int64(n)
	p.report(p.done)
	return n, err
}

// response is the body of an answer. Its Read fails when nothing comes for
// a while.
type response struct {
	io.ReadCloser
	from   int64 // position of the first byte
	cancel context.CancelCauseFunc
	timer  *time.Timer
	ctx    context.Context
}

func (r *response) Read(p []byte) (int, error) {
	n, err := r.ReadCloser.Read(p)
	r.timer.Reset(stallTimeout)
	if err != nil && !errors.Is(err, io.EOF) && r.ctx.Err() != nil {
		err = context.Cause(r.ctx)
	}
	return n, err
}

func (r *response) Close() error {
	r.timer.Stop()
	r.cancel(nil)
	return r.ReadCloser.Close()
}

var errStalled = fmt.Errorf("nothing came for %v", stallTimeout)

// get asks for url from position from on. The caller closes the response, whose
// position may be 0 instead.
func (c *Client) get(parent context.Context, url string, from int64) (*response, error) {
	ctx, cancel := context.WithCancelCause(parent)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		cancel(nil)
		return nil, err
	}
	req.Header.Set("Accept-Encoding", "identity")
	req.Header.Set("User-Agent", "muster")
	if from > 0 {
		req.Header.Set("Range", "bytes="+strconv.FormatInt(from, 10)+"-")
	}
	timer := time.AfterFunc(stallTimeout, func() { cancel(errStalled) })
	resp, err := c.cfg.HTTP.Do(req)
	if err != nil {
		timer.Stop()
		cancel(nil)
		return nil, err
	}
	r := &response{ReadCloser: resp.Body, cancel: cancel, timer: timer, ctx: ctx}
	switch {
	case resp.StatusCode == http.StatusOK:
		return r, nil
	case resp.StatusCode == http.StatusPartialContent && from > 0 &&
		strings.HasPrefix(resp.Header.Get("Content-Range"), "bytes "+strconv.FormatInt(from, 10)+"-"):
		r.from = from
		return r, nil
	case resp.StatusCode == http.StatusRequestedRangeNotSatisfiable && from > 0:
		r.Close()
		return c.get(parent, url, 0)
	}
	r.Close()
	return nil, &StatusError{URL: url, Status: resp.StatusCode}
}

// escapePath escapes what a pool path may have and a URL may not: a + is
// allowed in both, though servers that take it for a space exist.
func escapePath(p string) string {
	return strings.NewReplacer("%", "%25", " ", "%20", "?", "%3F", "#", "%23").Replace(p)
}

// joinLine joins errors into one that reads as one line.
func joinLine(errs []error) error {
	if len(errs) == 1 {
		return errs[0]
	}
	return &lineError{errs}
}

type lineError struct{ errs []error }

func (e *lineError) Error() string {
	var parts []string
	for _, err := range e.errs {
		parts = append(parts, err.Error())
	}
	return strings.Join(parts, "; ")
}

func (e *lineError) Unwrap() []error { return e.errs }
