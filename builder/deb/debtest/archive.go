package debtest

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// epoch is when a test archive was made, and its packages too.
var epoch = time.Date(2026, 11, 21, 9, 15, 44, 0, time.UTC)

// Time returns the date of a test archive.
func Time() time.Time { return epoch }

// Key signs archives.
type Key struct{ entity *openpgp.Entity }

// NewKey makes a key.
func NewKey(t testing.TB) Key {
	t.Helper()
	e, err := openpgp.NewEntity("Test Archive", "", "archive@example.com", &packet.Config{
		Algorithm: packet.PubKeyAlgoEdDSA, Time: func() time.Time { return epoch.Add(-time.Hour) },
	})
	if err != nil {
		t.Fatal(err)
	}
	return Key{e}
}

// Keyring returns the public key in binary form.
func (k Key) Keyring(t testing.TB) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := k.entity.Serialize(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// Sign returns text as InRelease has it, signed by all keys.
func Sign(t testing.TB, text string, keys ...Key) []byte {
	t.Helper()
	var private []*packet.PrivateKey
	for _, k := range keys {
		private = append(private, k.entity.PrivateKey)
	}
	var b bytes.Buffer
	w, err := clearsign.EncodeMulti(&b, private, &packet.Config{Time: func() time.Time { return epoch }})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return append(b.Bytes(), '\n')
}

// File is a file of a package.
type File struct {
	Path string
	Data string
	Link string // text of a symbolic link
}

// Package is what a package is made of.
type Package struct {
	Name, Version, Arch string
	Source, Depends     string
	BuiltUsing          string
	Component           string // "": main
	Compression         string // of data.tar: "", ".gz", ".xz", ".zst"
	Files               []File
	Fields              string            // more lines of the control file
	Scripts             map[string]string // postinst and its kin
}

// control returns the paragraph of the package.
func (p Package) control() string {
	s := fmt.Sprintf("Package: %s\nVersion: %s\nArchitecture: %s\n", p.Name, p.Version, p.Arch)
	if p.Source != "" {
		s += "Source: " + p.Source + "\n"
	}
	if p.Depends != "" {
		s += "Depends: " + p.Depends + "\n"
	}
	if p.BuiltUsing != "" {
		s += "Built-Using: " + p.BuiltUsing + "\n"
	}
	return s + p.Fields
}

// controlTar returns the control archive, not packed.
func (p Package) controlTar(t testing.TB) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	files := map[string]string{"control": p.control()}
	maps.Copy(files, p.Scripts)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		h := &tar.Header{Name: "./" + name, Mode: 0o755, Size: int64(len(files[name])), ModTime: epoch, Typeflag: tar.TypeReg}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(files[name])); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// Deb returns the package file.
func (p Package) Deb(t testing.TB) []byte {
	t.Helper()
	var data bytes.Buffer
	w := tar.NewWriter(&data)
	for _, f := range p.Files {
		h := &tar.Header{Name: "./" + f.Path, Mode: 0o644, Size: int64(len(f.Data)), ModTime: epoch, Typeflag: tar.TypeReg}
		if f.Link != "" {
			h.Typeflag, h.Linkname, h.Mode = tar.TypeSymlink, f.Link, 0o777
		}
		if strings.HasSuffix(h.Name, "/") {
			h.Typeflag, h.Mode = tar.TypeDir, 0o755
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(f.Data)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return Ar(
		Member{"debian-binary", []byte("2.0\n")},
		Member{"control.tar.gz", Compress(t, ".gz", p.controlTar(t))},
		Member{"data.tar" + p.Compression, Compress(t, p.Compression, data.Bytes())},
	)
}

// Member is a member of an ar archive.
type Member struct {
	Name string
	Data []byte
}

// Ar returns an ar archive.
func Ar(members ...Member) []byte {
	b := bytes.NewBufferString("!<arch>\n")
	for _, m := range members {
		fmt.Fprintf(b, "%-16s%-12d%-6d%-6d%-8s%-10d`\n", m.Name, epoch.Unix(), 0, 0, "100644", len(m.Data))
		b.Write(m.Data)
		if len(m.Data)%2 == 1 {
			b.WriteByte('\n')
		}
	}
	return b.Bytes()
}

// Compress packs data as a file name that ends in suffix says.
func Compress(t testing.TB, suffix string, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	var w interface {
		Write([]byte) (int, error)
		Close() error
	}
	var err error
	switch suffix {
	case "":
		return data
	case ".gz":
		w = gzip.NewWriter(&b)
	case ".xz":
		w, err = xz.NewWriter(&b)
	case ".zst":
		w, err = zstd.NewWriter(&b)
	default:
		t.Fatalf("compression %q", suffix)
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// Archive is an archive of several suites below one base URL.
type Archive struct {
	Key    Key
	Origin string // "": Debian

	mu    sync.Mutex
	files map[string][]byte
	// served counts the requests for each path, and bytes that were sent.
	served map[string]int
	breaks map[string]int
}

// NewArchive returns an archive without suites.
func NewArchive(t testing.TB) *Archive {
	t.Helper()
	return &Archive{Key: NewKey(t), files: make(map[string][]byte), served: make(map[string]int), breaks: make(map[string]int)}
}

// Suite is how a suite is published.
type Suite struct {
	Name       string
	Packages   []Package
	Date       time.Time // zero: that of [Time]
	ValidUntil time.Time // zero: none
	Keys       []Key     // nil: that of the archive
	Release    string    // more lines of the Release file
}

// Publish writes packages, indexes and InRelease of a suite. What was published of
// it before is replaced, except for packages.
func (a *Archive) Publish(t testing.TB, s Suite) {
	t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	indexes := map[string]string{"main": ""}
	for _, p := range s.Packages {
		deb := p.Deb(t)
		component := p.Component
		if component == "" {
			component = "main"
		}
		name := path.Join("pool", component, p.Name+"_"+p.Version+"_"+p.Arch+".deb")
		a.files[name] = deb
		indexes[component] += p.control() + fmt.Sprintf("Filename: %s\nSize: %d\nSHA256: %s\nDescription: a package\n of several lines\n\n", name, len(deb), sum(deb))
	}
	var lines strings.Builder
	for _, component := range slices.Sorted(maps.Keys(indexes)) {
		packed := Compress(t, ".xz", []byte(indexes[component]))
		dir := component + "/binary-amd64"
		fmt.Fprintf(&lines, " %s %d %s/Packages.xz\n", sum(packed), len(packed), dir)
		a.files["dists/"+s.Name+"/"+dir+"/by-hash/SHA256/"+sum(packed)] = packed
		a.files["dists/"+s.Name+"/"+dir+"/Packages.xz"] = packed
	}
	origin := a.Origin
	if origin == "" {
		origin = "Debian"
	}
	made := epoch
	if !s.Date.IsZero() {
		made = s.Date
	}
	release := fmt.Sprintf("Origin: %s\nSuite: stable\nCodename: %s\nDate: %s\nArchitectures: all amd64\nComponents: main non-free-firmware\nAcquire-By-Hash: yes\n%s",
		origin, s.Name, date(made), s.Release)
	if !s.ValidUntil.IsZero() {
		release += "Valid-Until: " + date(s.ValidUntil) + "\n"
	}
	keys := s.Keys
	if keys == nil {
		keys = []Key{a.Key}
	}
	a.files["dists/"+s.Name+"/InRelease"] = Sign(t, release+"SHA256:\n"+lines.String(), keys...)
}

func date(t time.Time) string { return t.UTC().Format("Mon, 02 Jan 2006 15:04:05 UTC") }

func sum(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}

// Change replaces the file at a path by what fn makes of it. A nil result
// removes it.
func (a *Archive) Change(t testing.TB, name string, fn func([]byte) []byte) {
	t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	old, ok := a.files[name]
	if !ok {
		t.Fatalf("the archive has no %s; it has %s", name, strings.Join(slices.Sorted(maps.Keys(a.files)), " "))
	}
	if data := fn(bytes.Clone(old)); data != nil {
		a.files[name] = data
	} else {
		delete(a.files, name)
	}
}

// Find returns the one path that contains part.
func (a *Archive) Find(t testing.TB, part string) string {
	t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	var found []string
	for name := range a.files {
		if strings.Contains(name, part) {
			found = append(found, name)
		}
	}
	if len(found) != 1 {
		t.Fatalf("%d files contain %q: %v", len(found), part, found)
	}
	return found[0]
}

// File returns a file of the archive.
func (a *Archive) File(name string) []byte {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.files[name]
}

// BreakOff makes the next n answers for a path end after half of the bytes
// that are still to be sent.
func (a *Archive) BreakOff(name string, n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.breaks[name] = n
}

// Served says how often a path was asked for.
func (a *Archive) Served(name string) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.served[name]
}

// Requests says how many requests there were.
func (a *Archive) Requests() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	n := 0
	for _, c := range a.served {
		n += c
	}
	return n
}

// Serve serves the archive until the test ends and returns its base URL.
func (a *Archive) Serve(t testing.TB) string {
	t.Helper()
	s := httptest.NewServer(a)
	t.Cleanup(s.Close)
	return s.URL
}

// ServeHTTP implements [http.Handler].
func (a *Archive) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name := strings.TrimPrefix(r.URL.Path, "/")
	a.mu.Lock()
	data, ok := a.files[name]
	a.served[name]++
	broken := a.breaks[name] > 0
	if broken {
		a.breaks[name]--
	}
	a.mu.Unlock()
	if !ok {
		http.NotFound(w, r)
		return
	}
	if broken {
		w = &breaker{ResponseWriter: w}
	}
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
}

// breaker ends a response in the middle.
type breaker struct {
	http.ResponseWriter
}

// Write sends half and gives up; the announced length tells the client that
// something is missing.
func (b *breaker) Write(p []byte) (int, error) {
	if _, err := b.ResponseWriter.Write(p[:len(p)/2]); err != nil {
		return 0, err
	}
	if f, ok := b.ResponseWriter.(http.Flusher); ok {
		f.Flush()
	}
	panic(http.ErrAbortHandler)
}
