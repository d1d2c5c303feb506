package deb_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"muster/builder/deb"
	"muster/builder/deb/debtest"
)

// dirStore keeps files in a folder without checking them, which is the part of the
// builder's cache.
type dirStore struct{ dir string }

func (s dirStore) Fetch(_ context.Context, want deb.FileHash, fill func(*os.File, int64) error) (string, error) {
	name := filepath.Join(s.dir, want.SHA256)
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return "", err
	}
	defer f.Close()
	have, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return "", err
	}
	return name, fill(f, have)
}

func client(t *testing.T, a *debtest.Archive, mirrors ...string) *deb.Client {
	t.Helper()
	m := deb.Mirrors{NoDefault: true}
	for _, url := range mirrors {
		m.Host = append(m.Host, deb.Source{URIs: []string{url}, Suites: []string{"bookworm"}})
	}
	return deb.NewClient(deb.Config{
		Mirrors: m, Keyring: a.Key.Keyring(t), Origin: "Debian", Arch: "amd64", Store: dirStore{t.TempDir()},
		Now: func() time.Time { return debtest.Time().Add(time.Hour) },
	})
}

func archive(t *testing.T) *debtest.Archive {
	t.Helper()
	a := debtest.NewArchive(t)
	a.Publish(t, debtest.Suite{Name: "trixie", Packages: []debtest.Package{
		{Name: "tool", Version: "1.0", Arch: "amd64", Files: []debtest.File{{Path: "usr/bin/tool", Data: strings.Repeat("tool", 1<<16)}}},
	}})
	return a
}

func TestClientFetchesAPackage(t *testing.T) {
	a := archive(t)
	c := client(t, a, a.Serve(t))
	rel, err := c.Release(t.Context(), "trixie")
	if err != nil {
		t.Fatal(err)
	}
	x := deb.NewIndex()
	if err := c.AddPackages(t.Context(), x, "trixie", rel, "main"); err != nil {
		t.Fatal(err)
	}
	if plain := "dists/trixie/main/binary-amd64/Packages.xz"; a.Served(plain) != 0 {
		t.Errorf("%s was fetched by name and not by hash", plain)
	}
	p, err := x.Latest("tool")
	if err != nil {
		t.Fatal(err)
	}
	a.BreakOff(p.Path, 2)
	name, err := c.FetchPackage(t.Context(), p.Suite, p.Path, p.FileHash)
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(name)
	if err != nil || !bytes.Equal(got, a.File(p.Path)) {
		t.Errorf("package has %d bytes, want %d: %v", len(got), len(a.File(p.Path)), err)
	}
	if n := a.Served(p.Path); n != 3 {
		t.Errorf("the package was asked for %d times, want 3: two transfers broke off", n)
	}
}

func TestClientAsksTheNextMirror(t *testing.T) {
	a := archive(t)
	foreign := debtest.NewArchive(t)
	foreign.Publish(t, debtest.Suite{Name: "trixie"})
	c := client(t, a, "http://127.0.0.1:1", debtest.NewArchive(t).Serve(t), foreign.Serve(t), a.Serve(t))
	if _, err := c.Release(t.Context(), "trixie"); err != nil {
		t.Errorf("Release() = %v; want that of the fourth mirror", err)
	}
}

func TestClientErrors(t *testing.T) {
	expired := archive(t)
	expired.Publish(t, debtest.Suite{Name: "trixie", ValidUntil: debtest.Time().Add(time.Minute)})
	other := archive(t)
	other.Origin = "Elsewhere"
	other.Publish(t, debtest.Suite{Name: "trixie"})
	renamed := archive(t)
	renamed.Publish(t, debtest.Suite{Name: "sid"})
	sid := renamed.File("dists/sid/InRelease")
	renamed.Change(t, "dists/trixie/InRelease", func([]byte) []byte { return sid })
	changed := archive(t)
	changed.Change(t, "dists/trixie/InRelease", func(b []byte) []byte { return bytes.Replace(b, []byte("amd64"), []byte("amd46"), 1) })
	for name, c := range map[string]struct {
		a    *debtest.Archive
		is   error
		want string
	}{
		"expired":       {expired, deb.ErrExpired, "was valid until"},
		"other origin":  {other, nil, `it comes from "Elsewhere", wanted is "Debian"`},
		"other suite":   {renamed, nil, "it is of suite sid (stable), not of trixie"},
		"changed":       {changed, deb.ErrSignature, "signature is not good"},
		"no such suite": {debtest.NewArchive(t), os.ErrNotExist, "no mirror has it"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := client(t, c.a, c.a.Serve(t)).Release(t.Context(), "trixie")
			if err == nil || !strings.Contains(err.Error(), c.want) || c.is != nil && !errors.Is(err, c.is) {
				t.Errorf("Release() = %v, want %q", err, c.want)
			}
			if strings.ContainsRune(fmt.Sprint(err), '\n') {
				t.Errorf("the error has several lines: %v", err)
			}
		})
	}
	if _, err := client(t, expired).Release(t.Context(), "trixie"); err == nil || !strings.Contains(err.Error(), "no mirror is known") {
		t.Errorf("without mirrors: %v", err)
	}
}

// TestClientWithRangesIgnored: a server that sends everything again is no
// reason to write it twice.
func TestClientWithRangesIgnored(t *testing.T) {
	body := strings.Repeat("x", 1000)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, body) }))
	t.Cleanup(s.Close)
	dir := t.TempDir()
	c := deb.NewClient(deb.Config{Mirrors: deb.Mirrors{Given: s.URL}, Arch: "amd64", Store: dirStore{dir}})
	if err := os.WriteFile(filepath.Join(dir, "sum"), []byte(body[:300]), 0o644); err != nil {
		t.Fatal(err)
	}
	name, err := c.FetchPackage(t.Context(), "trixie", "pool/x", deb.FileHash{Size: 1000, SHA256: "sum"})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(name); string(got) != body {
		t.Errorf("file has %d bytes, %v; want %d", len(got), err, len(body))
	}
}

func TestClientMissingPackage(t *testing.T) {
	a := archive(t)
	_, err := client(t, a, a.Serve(t)).FetchPackage(t.Context(), "trixie", "pool/gone.deb", deb.FileHash{Size: 1, SHA256: "x"})
	if !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "gone.deb: 404") {
		t.Errorf("FetchPackage() = %v, want ErrNotExist and the URL", err)
	}
}

func TestClientEndsWithItsContext(t *testing.T) {
	asked := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		close(asked)
		<-r.Context().Done()
	}))
	t.Cleanup(s.Close)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-asked; cancel() }()
	c := deb.NewClient(deb.Config{Mirrors: deb.Mirrors{Given: s.URL}, Arch: "amd64", Store: dirStore{t.TempDir()}})
	if _, err := c.Release(ctx, "trixie"); !errors.Is(err, context.Canceled) {
		t.Errorf("Release() = %v, want the context's error", err)
	}
}
