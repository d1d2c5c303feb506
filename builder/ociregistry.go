package builder

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"muster/builder/deb"
	"muster/images"
)

const (
	registryAnswer   = 30 * time.Second // until a registry begins to answer
	registryStall    = 30 * time.Second // without a byte
	registryAttempts = 5
)

// registryImage asks a registry which image a reference means for an architecture.
func registryImage(ctx context.Context, cfg Config, ref, digest string) (*images.LockedSource, error) {
	tag, err := name.ParseReference(ref)
	if err != nil {
		return nil, inputErrorf("%s is no name of an image: %w; one is HOST/NAME:TAG, and a file or folder begins with ./ or /", ref, err)
	}
	if cfg.Offline {
		return nil, fmt.Errorf("%w, and only the registry knows what %s is", ErrOffline, ref)
	}
	asked := tag
	if digest != "" {
		asked = tag.Context().Digest(digest)
	}
	options := []remote.Option{
		remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain), remote.WithTransport(registryTransport(cfg)),
		remote.WithUserAgent("muster"), remote.WithRetryBackoff(remote.Backoff{Duration: 200 * time.Millisecond, Factor: 4, Steps: 3}),
	}
	d, err := remote.Get(asked, options...)
	if err != nil {
		return nil, registryError(tag, err)
	}
	if digest != "" && d.Digest.String() != digest {
		return nil, fmt.Errorf("the registry sent %s for %s", d.Digest, digest)
	}
	s := selector{arch: cfg.Definition.Arch, get: func(_ context.Context, want v1.Descriptor) ([]byte, error) {
		if want.Digest == d.Digest {
			return d.Manifest, nil
		}
		if !want.MediaType.IsIndex() && !want.MediaType.IsImage() {
			return registryBlob(tag.Context().Digest(want.Digest.String()), options)
		}
		sub, err := remote.Get(tag.Context().Digest(want.Digest.String()), options...)
		if err != nil {
			return nil, registryError(tag, err)
		}
		return sub.Manifest, nil
	}}
	if d.MediaType.IsIndex() {
		locked, err := s.choose(ctx, d.Manifest)
		return locked, asInput(err)
	}
	if !d.MediaType.IsImage() {
		return nil, inputErrorf("it is no container image but %s", d.MediaType)
	}
	if err := s.manifest(ctx, d.Descriptor); err != nil {
		return nil, err
	}
	locked, err := s.only()
	return locked, asInput(err)
}

// registryBlob reads the configuration of an image. Its hash is checked by the library.
func registryBlob(ref name.Digest, options []remote.Option) ([]byte, error) {
	layer, err := remote.Layer(ref, options...)
	if err != nil {
		return nil, registryError(ref, err)
	}
	r, err := layer.Compressed()
	if err != nil {
		return nil, registryError(ref, err)
	}
	defer r.Close()
	data, err := io.ReadAll(io.LimitReader(r, maxManifest))
	if err != nil {
		return nil, registryError(ref, err)
	}
	return data, checkDigest("the configuration", data, ref.DigestStr())
}

// fetchLayer returns the file of a layer in the cache, and asks the registry for what of it is not
// there yet.
func fetchLayer(ctx context.Context, cfg Config, ref string, layer images.LockedBlob, report func(done int64)) (string, error) {
	want := deb.FileHash{Size: layer.Size, SHA256: strings.TrimPrefix(layer.Digest, "sha256:")}
	if file, ok := cfg.store.lookup(want); ok {
		return file, nil
	}
	if cfg.Offline {
		return "", ErrOffline
	}
	tag, err := name.ParseReference(ref)
	if err != nil {
		return "", inputErrorf("%s is no name of an image: %w", ref, err)
	}
	client, err := registryClient(ctx, cfg, tag)
	if err != nil {
		return "", err
	}
	repo := tag.Context()
	url := fmt.Sprintf("%s://%s/v2/%s/blobs/%s", repo.Scheme(), repo.RegistryStr(), repo.RepositoryStr(), layer.Digest)
	for attempt := 1; ; attempt++ {
		var had, got int64
		file, err := cfg.store.Fetch(ctx, want, func(f *os.File, have int64) error {
			had = have
			var err error
			got, err = fetchRest(ctx, client, url, f, have, want.Size, report)
			return err
		})
		if err == nil {
			return file, nil
		}
		var status *transport.Error
		again := got > 0 && !errors.Is(err, deb.ErrHash) || errors.Is(err, deb.ErrHash) && had > 0
		if ctx.Err() != nil || attempt == registryAttempts || !again || errors.As(err, &status) {
			return "", registryError(tag, err)
		}
		cfg.Log.Debug("transfer broke off", "artifact", layer.Digest, "err", err, "bytes", had+got)
	}
}

// registryTransport is the way to registries.
func registryTransport(cfg Config) http.RoundTripper {
	if cfg.HTTP != nil && cfg.HTTP.Transport != nil {
		return cfg.HTTP.Transport
	}
	return &http.Transport{
		Proxy: http.ProxyFromEnvironment, ResponseHeaderTimeout: registryAnswer, TLSHandshakeTimeout: registryAnswer,
		DialContext: (&net.Dialer{Timeout: registryAnswer}).DialContext, ForceAttemptHTTP2: true, IdleConnTimeout: registryAnswer,
	}
}

// registryClient returns a client that says who it is.
func registryClient(ctx context.Context, cfg Config, ref name.Reference) (*http.Client, error) {
	who, err := authn.Resolve(ctx, authn.DefaultKeychain, ref.Context())
	if err != nil {
		return nil, fmt.Errorf("reading who to be at %s: %w", ref.Context().RegistryStr(), err)
	}
	rt, err := transport.NewWithContext(ctx, ref.Context().Registry, who, registryTransport(cfg), []string{ref.Scope(transport.PullScope)})
	if err != nil {
		return nil, registryError(ref, err)
	}
	return &http.Client{Transport: rt}, nil
}

// fetchRest appends what is missing of a file of size bytes to f, and says how much came.
func fetchRest(parent context.Context, client *http.Client, url string, f *os.File, have, size int64, report func(int64)) (int64, error) {
	ctx, cancel := context.WithCancelCause(parent)
	defer cancel(nil)
	if have >= size {
		if err := f.Truncate(0); err != nil {
			return 0, err
		}
		have = 0
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, err
	}
	if have > 0 {
		req.Header.Set("Range", "bytes="+strconv.FormatInt(have, 10)+"-")
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	if err := transport.CheckError(resp, http.StatusOK, http.StatusPartialContent); err != nil {
		return 0, err
	}
	if resp.StatusCode == http.StatusOK && have > 0 { // all of it again
		have = 0
		if err := f.Truncate(0); err != nil {
			return 0, err
		}
	}
	timer := time.AfterFunc(registryStall, func() { cancel(fmt.Errorf("nothing came for %v", registryStall)) })
	defer timer.Stop()
	if _, err := f.Seek(have, io.SeekStart); err != nil {
		return 0, err
	}
	w := &layerWriter{f: f, done: have, report: func(done int64) { timer.Reset(registryStall); report(done) }}
	n, err := io.Copy(w, io.LimitReader(resp.Body, size-have+1))
	switch {
	case err != nil && parent.Err() == nil && ctx.Err() != nil:
		return n, context.Cause(ctx)
	case err != nil:
		return n, err
	case have+n < size:
		return n, fmt.Errorf("%s: %w after %d of %d bytes", url, io.ErrUnexpectedEOF, have+n, size)
	}
	return n, nil
}

type layerWriter struct {
	f      *os.File
	done   int64
	report func(int64)
}

func (w *layerWriter) Write(p []byte) (int, error) {
	n, err := w.f.Write(p)
	w.done += int64(n)
	w.report(w.done)
	return n, err
}

// registryError says what an answer of a registry means, and what to do about it.
func registryError(ref name.Reference, err error) error {
	registry := ref.Context().RegistryStr()
	var status *transport.Error
	var timeout net.Error
	switch {
	case errors.As(err, &status) && (status.StatusCode == http.StatusUnauthorized || status.StatusCode == http.StatusForbidden):
		return fmt.Errorf("registry %s refuses it (%d): the name may be wrong, or it is private: log in with docker login %s, whose file ~/.docker/config.json is read (%w)",
			registry, status.StatusCode, registry, err)
	case errors.As(err, &status) && status.StatusCode == http.StatusNotFound:
		return fmt.Errorf("registry %s has no %s; a file or folder begins with ./ or / (%w)", registry, ref, err)
	case errors.As(err, &status) && status.StatusCode == http.StatusTooManyRequests:
		return fmt.Errorf("registry %s answers no more for now, since too much was asked (429): wait, or log in with docker login %s (%w)", registry, registry, err)
	case errors.As(err, &timeout) && timeout.Timeout():
		return fmt.Errorf("registry %s does not answer: %w", registry, err)
	}
	return fmt.Errorf("registry %s: %w", registry, err)
}
