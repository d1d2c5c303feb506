package userland

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"muster/internal/kmod"
)

// fakeKernel says what it was given. It has the files of the machine only.
type fakeKernel struct{ inserted []string }

func (*fakeKernel) Loaded(string) bool { return false }

func (k *fakeKernel) Insert(file, params string) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	k.inserted = append(k.inserted, fmt.Sprintf("file %s %s", b, params))
	return nil
}

func (k *fakeKernel) InsertData(file string, data []byte, params string) error {
	k.inserted = append(k.inserted, fmt.Sprintf("%s %s %s", file, data, params))
	return nil
}

// modulesAt makes an index whose modules are in one file at a head.
func modulesAt(t *testing.T, answer func(w http.ResponseWriter, content []byte)) (dir, files string) {
	t.Helper()
	content := []byte("....base....xfs....broken")
	pack := kmod.Pack{SHA256: hash(content), Size: int64(len(content)), Pieces: map[string]kmod.Piece{
		"kernel/base.ko.xz":   {Offset: 4, Size: 4, SHA256: hash([]byte("base"))},
		"kernel/xfs.ko.xz":    {Offset: 12, Size: 3, SHA256: hash([]byte("xfs"))},
		"kernel/broken.ko.xz": {Offset: 19, Size: 6, SHA256: hash([]byte("sound!"))},
	}}
	dir = t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, kmod.PackFile), pack.Encode(), 0o644); err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path != "/blobs/"+pack.SHA256+"/modules.tar":
			http.NotFound(w, r)
		case answer != nil:
			answer(w, content)
		default:
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content))
		}
	}))
	t.Cleanup(srv.Close)
	return dir, srv.URL
}

// A module that the initramfs has is taken from there; another comes from the
// head, if it is what the index says.
func TestFetchKernel(t *testing.T) {
	dir, files := modulesAt(t, nil)
	base := t.TempDir()
	if err := os.MkdirAll(filepath.Join(base, "kernel"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(base, "kernel/base.ko.xz"), []byte("BASE"), 0o644); err != nil {
		t.Fatal(err)
	}
	asked := 0
	linux := &fakeKernel{}
	k := &FetchKernel{Dir: dir, Base: base, Kernel: linux, Fetch: func() (Fetch, error) {
		asked++
		return FetchFrom(t.Context(), dir, files)
	}}
	if err := k.Insert(filepath.Join(dir, "kernel/base.ko.xz"), "a=1"); err != nil || asked != 0 {
		t.Errorf("a module of the initramfs: %v, the head was asked %d times", err, asked)
	}
	for range 2 {
		if err := k.Insert(filepath.Join(dir, "kernel/xfs.ko.xz"), "b=2"); err != nil {
			t.Error(err)
		}
	}
	want := []string{"file BASE a=1", "kernel/xfs.ko.xz xfs b=2", "kernel/xfs.ko.xz xfs b=2"}
	if diff := cmp.Diff(want, linux.inserted); diff != "" || asked != 1 {
		t.Errorf("inserted, index read %d times (-want +got):\n%s", asked, diff)
	}
	var fetch *FetchError
	if err := k.Insert(filepath.Join(dir, "kernel/broken.ko.xz"), ""); !errors.As(err, &fetch) || !errors.Is(err, errWrong) {
		t.Errorf("a module that is not what it should be: %v", err)
	}
	if err := k.Insert(filepath.Join(dir, "kernel/new.ko.xz"), ""); err == nil || errors.As(err, &fetch) {
		t.Errorf("a module that the pack lacks: %v; to try again is no use", err)
	}
	if len(linux.inserted) != len(want) {
		t.Errorf("inserted: %q", linux.inserted)
	}
}

func TestFetchKernelWithoutHead(t *testing.T) {
	dir, files := modulesAt(t, func(w http.ResponseWriter, _ []byte) { w.WriteHeader(http.StatusNotFound) })
	none := t.TempDir()
	run := t.TempDir()
	if _, err := Files(run); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the place of the files is known before it was told: %v", err)
	}
	if err := rememberFiles(run, files); err != nil {
		t.Fatal(err)
	}
	if got, err := Files(run); got != files || err != nil {
		t.Errorf("Files = %q, %v, want %q", got, err, files)
	}
	for name, tc := range map[string]struct {
		dir, files, want string
		again            bool
	}{
		"no module":  {dir, files, "not there", true},
		"no head":    {dir, "http://127.0.0.1:1", "connection refused", true},
		"no place":   {dir, "", "want http://HOST:PORT", false},
		"no pack":    {none, files, kmod.PackFile, false},
		"empty pack": {emptyPack(t), files, "is empty", false},
	} {
		t.Run(name, func(t *testing.T) {
			k := &FetchKernel{Dir: tc.dir, Base: none, Kernel: &fakeKernel{}, Fetch: func() (Fetch, error) {
				return FetchFrom(t.Context(), tc.dir, tc.files)
			}}
			err := k.Insert(filepath.Join(tc.dir, "kernel/xfs.ko.xz"), "")
			var fetch *FetchError
			if err == nil || !strings.Contains(err.Error(), tc.want) || errors.As(err, &fetch) != tc.again {
				t.Errorf("Insert = %v, want %q in it, again %v", err, tc.want, tc.again)
			}
		})
	}
}

func emptyPack(t *testing.T) string {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, kmod.PackFile), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}
