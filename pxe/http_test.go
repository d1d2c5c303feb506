package pxe

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// deciders are Booters as functions.
type decider func(m Machine) (Boot, error)

func (d decider) Boot(_ context.Context, m Machine) (Boot, error) { return d(m) }

// lockedRecorder keeps events of several goroutines.
type lockedRecorder struct {
	mu sync.Mutex
	recorder
}

func (r *lockedRecorder) Observe(e Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.recorder.Observe(e)
}

func (r *lockedRecorder) stages() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.recorder.stages()
}

func (r *lockedRecorder) all() []Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]Event(nil), r.events...)
}

var testLoaders = fstest.MapFS{
	"undionly.kpxe":   {Data: []byte("undionly")},
	"snponly.efi":     {Data: []byte("snponly!")},
	"sub/grubx64.efi": {Data: []byte("grub")},
}

// httpServer serves scripts and loaders of a server without interfaces.
func httpServer(t *testing.T, b Booter, o Observer) *httptest.Server {
	t.Helper()
	s, err := New(Config{Booter: b, Sockets: &Sockets{}, Loaders: testLoaders, Observer: o})
	if err != nil {
		t.Fatal(err)
	}
	hs := httptest.NewServer(s.Handler())
	t.Cleanup(hs.Close)
	return hs
}

func TestCleanPath(t *testing.T) {
	for in, want := range map[string]string{
		"/boot.ipxe": "boot.ipxe", "//grubx64.efi": "grubx64.efi", "/a//b/./c": "a/b/c", `\EFI\x.efi`: "EFI/x.efi",
		"boot.ipxe": "boot.ipxe", "/a/": "a",
		"/": "", "": "", "/..": "", "/a/../b": "", `\..\x`: "", "/a\x00b": "", "/a\nb": "", "/\xff": "",
	} {
		got, ok := cleanPath(in)
		if got != want || ok != (want != "") {
			t.Errorf("cleanPath(%q) = %q, %v, want %q", in, got, ok, want)
		}
	}
}

func FuzzCleanPath(f *testing.F) {
	for _, s := range []string{"/boot.ipxe", "//grubx64.efi", `\..\..\etc`, "/a/../b", "/\x00", "/%2e%2e/x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, p string) {
		name, ok := cleanPath(p)
		if ok != (name != "") {
			t.Fatalf("cleanPath(%q) = %q, %v", p, name, ok)
		}
		if ok && (!fs.ValidPath(name) || strings.ContainsAny(name, "\x00\n\\")) {
			t.Fatalf("cleanPath(%q) = %q", p, name)
		}
		if again, _ := cleanPath(name); ok && again != name {
			t.Fatalf("cleanPath(%q) = %q, and then %q", p, name, again)
		}
	})
}

// say sends raw bytes of a request and reads the answer.
func say(t *testing.T, hs *httptest.Server, request string) *http.Response {
	t.Helper()
	c, err := net.Dial("tcp", hs.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if _, err := io.WriteString(c, request); err != nil {
		t.Fatal(err)
	}
	method, _, _ := strings.Cut(request, " ")
	resp, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: method})
	if err != nil {
		t.Fatalf("reading the answer to %q: %v", request, err)
	}
	return resp
}

func TestHTTPAsFirmwareAsks(t *testing.T) {
	hs := httpServer(t, decider(func(Machine) (Boot, error) { return Boot{Refused: "x"}, nil }), nil)
	tests := map[string]struct {
		request string
		status  int
		length  int64
		body    string
	}{
		"get":                  {"GET /snponly.efi HTTP/1.1\r\nHost: h\r\n\r\n", 200, 8, "snponly!"},
		"HEAD before it":       {"HEAD /snponly.efi HTTP/1.1\r\nHost: h\r\n\r\n", 200, 8, ""},
		"two slashes":          {"GET //snponly.efi HTTP/1.1\r\nHost: h\r\n\r\n", 200, 8, "snponly!"},
		"inner slashes":        {"GET /sub///grubx64.efi HTTP/1.1\r\nHost: h\r\n\r\n", 200, 4, "grub"},
		"backslashes":          {"GET \\sub\\grubx64.efi HTTP/1.1\r\nHost: h\r\n\r\n", 400, -1, ""},
		"escaped backslashes":  {"GET /%5csub%5cgrubx64.efi HTTP/1.1\r\nHost: h\r\n\r\n", 200, 4, "grub"},
		"HTTP/1.0":             {"GET /snponly.efi HTTP/1.0\r\n\r\n", 200, 8, "snponly!"},
		"absolute":             {"GET http://h/snponly.efi HTTP/1.1\r\nHost: h\r\n\r\n", 200, 8, "snponly!"},
		"range":                {"GET /snponly.efi HTTP/1.1\r\nHost: h\r\nRange: bytes=3-\r\n\r\n", 206, 5, "only!"},
		"folder":               {"GET /sub HTTP/1.1\r\nHost: h\r\n\r\n", 404, 13, "no such file\n"},
		"folder with a slash":  {"GET /sub/ HTTP/1.1\r\nHost: h\r\n\r\n", 404, 13, "no such file\n"},
		"missing":              {"GET /revocations.efi HTTP/1.1\r\nHost: h\r\n\r\n", 404, 13, "no such file\n"},
		"missing, HEAD":        {"HEAD /revocations.efi HTTP/1.1\r\nHost: h\r\n\r\n", 404, 13, ""},
		"root":                 {"GET / HTTP/1.1\r\nHost: h\r\n\r\n", 404, 13, "no such file\n"},
		"above the root":       {"GET /../../etc/passwd HTTP/1.1\r\nHost: h\r\n\r\n", 404, 13, "no such file\n"},
		"above, escaped":       {"GET /%2e%2e/%2e%2e/etc/passwd HTTP/1.1\r\nHost: h\r\n\r\n", 404, 13, "no such file\n"},
		"NUL":                  {"GET /a%00b HTTP/1.1\r\nHost: h\r\n\r\n", 404, 13, "no such file\n"},
		"post":                 {"POST /snponly.efi HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n", 405, 36, "only GET and HEAD are served here\n"},
		"script, HEAD":         {"HEAD /boot.ipxe?mac=52-54-00-12-34-56 HTTP/1.1\r\nHost: h\r\n\r\n", 200, -2, ""},
		"header without end":   {"GET / HTTP/1.1\r\nHost: h\r\nX: " + strings.Repeat("x", 2*maxHeader) + "\r\n\r\n", 404, -2, ""},
		"script with no mac":   {"GET /boot.ipxe HTTP/1.1\r\nHost: h\r\n\r\n", 200, -2, ""},
		"script, mac of words": {"GET /boot.ipxe?mac=nonsense HTTP/1.1\r\nHost: h\r\n\r\n", 200, -2, ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			resp := say(t, hs, tt.request)
			if resp.StatusCode != tt.status {
				t.Fatalf("status %d, want %d", resp.StatusCode, tt.status)
			}
			if len(resp.TransferEncoding) > 0 && tt.length != -1 {
				t.Errorf("the answer is chunked: %v", resp.TransferEncoding)
			}
			if tt.length == -2 && resp.ContentLength <= 0 {
				t.Errorf("no length: %d", resp.ContentLength)
			}
			if tt.length < 0 {
				return
			}
			body, err := io.ReadAll(resp.Body)
			if err != nil {
				t.Fatal(err)
			}
			if tt.status != 405 && resp.ContentLength != tt.length {
				t.Errorf("length %d, want %d", resp.ContentLength, tt.length)
			}
			if string(body) != tt.body {
				t.Errorf("body %q, want %q", body, tt.body)
			}
		})
	}
}

func TestHTTPScripts(t *testing.T) {
	var asked Machine
	answer := func(b Boot, err error) decider {
		return func(m Machine) (Boot, error) { asked = m; return b, err }
	}
	tests := map[string]struct {
		booter decider
		want   []string // parts of the script
		stages string
	}{
		"boots":    {answer(Boot{Kernel: "/k", Initramfs: "/i", Cmdline: "x"}, nil), []string{"kernel --name k http://127.0.0.1:7480/k?mac=52-54-00-12-34-56&stage=kernel initrd=i BOOTIF=01-52-54-00-12-34-56 x", "boot || goto retry"}, "script"},
		"waits":    {answer(Boot{Wait: 5 * time.Second}, nil), []string{"sleep 5\n", "chain --replace http://127.0.0.1/boot.ipxe?mac=52-54-00-12-34-56&arch=amd64&uuid=aabbccdd-0000-1111-2222-333344445555 || goto retry"}, "script"},
		"refused":  {answer(Boot{Refused: "enrollment is closed"}, nil), []string{"echo muster: not admitted: enrollment is closed", "sleep 30\n"}, "refused"},
		"no head":  {answer(Boot{}, errors.New("down")), []string{"the head does not answer yet", "sleep 3\n"}, ""},
		"no image": {answer(Boot{}, nil), []string{"names no kernel", "sleep 30\n"}, ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var seen lockedRecorder
			hs := httpServer(t, tt.booter, &seen)
			resp, err := http.Get(hs.URL + "/boot.ipxe?mac=52-54-00-12-34-56&uuid=AABBCCDD-0000-1111-2222-333344445555&buildarch=x86_64")
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			if err != nil {
				t.Fatal(err)
			}
			for _, part := range tt.want {
				if !strings.Contains(string(body), part) {
					t.Errorf("the script has no %q:\n%s", part, body)
				}
			}
			if got := resp.Header.Get("Cache-Control"); got != "no-store" {
				t.Errorf("Cache-Control %q", got)
			}
			want := Machine{MAC: testMAC, UUID: "aabbccdd-0000-1111-2222-333344445555", Arch: "amd64", Client: ClientIPXE}
			got := asked
			got.IP = want.IP
			if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
				t.Errorf("asked for (-want +got):\n%s", diff)
			}
			if got := seen.stages(); got != tt.stages {
				t.Errorf("events %q, want %q", got, tt.stages)
			}
		})
	}
}

func TestHTTPLoaderEvents(t *testing.T) {
	var seen lockedRecorder
	hs := httpServer(t, decider(func(Machine) (Boot, error) { return Boot{}, nil }), &seen)
	for _, request := range []string{"HEAD /snponly.efi", "GET /nothing", "GET /snponly.efi"} {
		resp := say(t, hs, request+" HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
		io.Copy(io.Discard, resp.Body)
	}
	hs.Close() // waits for the handlers
	events := seen.all()
	if len(events) != 1 || events[0].Stage != StageLoader || events[0].Bytes != 8 || events[0].Detail != "snponly.efi" {
		t.Errorf("events %+v, want one of a loader with 8 bytes", events)
	}
}

// blobs makes a folder with one blob and a handler for it.
func blobs(t *testing.T, content []byte, o Observer) (hs *httptest.Server, path string) {
	t.Helper()
	dir := t.TempDir()
	hash := sha256.Sum256(content)
	sum := hex.EncodeToString(hash[:])
	if err := os.WriteFile(filepath.Join(dir, sum), content, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc/passwd", filepath.Join(dir, strings.Repeat("0", 64))); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, strings.Repeat("1", 64)), 0o755); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	hs = httptest.NewServer(FilesHandler(FilesConfig{Blobs: root, Observer: o}))
	t.Cleanup(func() { hs.Close(); root.Close() })
	return hs, BlobPath(sum, "vmlinuz")
}

func TestFilesHandler(t *testing.T) {
	content := []byte(strings.Repeat("0123456789", 100))
	hs, path := blobs(t, content, nil)
	etag := `"` + strings.Split(path, "/")[2] + `"`
	tests := map[string]struct {
		path   string
		header [2]string
		status int
		body   string
	}{
		"whole":             {path, [2]string{}, 200, string(content)},
		"other name":        {strings.Replace(path, "vmlinuz", "linux", 1), [2]string{}, 200, string(content)},
		"range":             {path, [2]string{"Range", "bytes=990-"}, 206, "0123456789"},
		"resume":            {path, [2]string{"If-Range", etag}, 200, string(content)},
		"known":             {path, [2]string{"If-None-Match", etag}, 304, ""},
		"beyond":            {path, [2]string{"Range", "bytes=5000-"}, 416, ""},
		"unknown":           {"/blobs/" + strings.Repeat("f", 64) + "/x", [2]string{}, 404, "no such file\n"},
		"link out":          {"/blobs/" + strings.Repeat("0", 64) + "/x", [2]string{}, 500, "this file cannot be read\n"},
		"folder":            {"/blobs/" + strings.Repeat("1", 64) + "/x", [2]string{}, 404, "no such file\n"},
		"no hash":           {"/blobs/passwd/x", [2]string{}, 404, "no such file; files are at /blobs/SHA256/NAME\n"},
		"hash in capitals":  {"/blobs/" + strings.Repeat("F", 64) + "/x", [2]string{}, 404, "no such file; files are at /blobs/SHA256/NAME\n"},
		"without name":      {strings.TrimSuffix(path, "/vmlinuz"), [2]string{}, 404, "no such file; files are at /blobs/SHA256/NAME\n"},
		"two slashes":       {"/" + path, [2]string{}, 200, string(content)},
		"above the root":    {"/blobs/../../etc/passwd", [2]string{}, 404, "no such file\n"},
		"elsewhere at all":  {"/v1/nodes", [2]string{}, 404, "no such file; files are at /blobs/SHA256/NAME\n"},
		"outside of blobs/": {strings.Replace(path, "/blobs/", "/other/", 1), [2]string{}, 404, "no such file; files are at /blobs/SHA256/NAME\n"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			header := ""
			if tt.header[0] != "" {
				header = tt.header[0] + ": " + tt.header[1] + "\r\n"
			}
			resp := say(t, hs, "GET "+tt.path+" HTTP/1.1\r\nHost: h\r\n"+header+"\r\n")
			body, _ := io.ReadAll(resp.Body)
			if resp.StatusCode != tt.status || tt.status < 300 && resp.ContentLength != int64(len(tt.body)) {
				t.Errorf("status %d with length %d, want %d with %d", resp.StatusCode, resp.ContentLength, tt.status, len(tt.body))
			}
			if tt.status != 416 && string(body) != tt.body {
				t.Errorf("body of %d bytes: %.40q, want %.40q", len(body), body, tt.body)
			}
			if tt.status < 300 && resp.Header.Get("ETag") != etag {
				t.Errorf("ETag %q, want %q", resp.Header.Get("ETag"), etag)
			}
		})
	}
}

func TestFilesEvents(t *testing.T) {
	content := []byte(strings.Repeat("x", 1000))
	const who = "?mac=52-54-00-12-34-56&stage="
	tests := map[string]struct {
		method, query, rng string
		want               string // stage and bytes
	}{
		"kernel":               {"GET", who + "kernel", "", "kernel 1000 52:54:00:12:34:56"},
		"UKI":                  {"GET", who + "loader", "", "loader 1000 52:54:00:12:34:56"},
		"initramfs":            {"GET", who + "initramfs", "", "initramfs 1000 52:54:00:12:34:56"},
		"machine not named":    {"GET", "?stage=kernel", "", "kernel 1000 "},
		"HEAD":                 {"HEAD", who + "kernel", "", ""},
		"first half":           {"GET", who + "kernel", "bytes=0-499", ""},
		"second half":          {"GET", who + "kernel", "bytes=500-999", "kernel 500 52:54:00:12:34:56"},
		"stage of a liar":      {"GET", who + "ready", "", ""},
		"no stage":             {"GET", "?mac=52-54-00-12-34-56", "", ""},
		"several ranges, last": {"GET", who + "kernel", "bytes=0-1,998-999", ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var seen lockedRecorder
			hs, path := blobs(t, content, &seen)
			header := ""
			if tt.rng != "" {
				header = "Range: " + tt.rng + "\r\n"
			}
			resp := say(t, hs, fmt.Sprintf("%s %s%s HTTP/1.1\r\nHost: h\r\nConnection: close\r\n%s\r\n", tt.method, path, tt.query, header))
			io.Copy(io.Discard, resp.Body)
			hs.Close()
			got := ""
			for _, e := range seen.all() {
				got += fmt.Sprintf("%s %d %v", e.Stage, e.Bytes, e.MAC)
			}
			if got != tt.want {
				t.Errorf("events %q, want %q", got, tt.want)
			}
		})
	}
}
