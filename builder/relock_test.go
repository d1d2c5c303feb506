package builder

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"muster/builder/deb/debtest"
	"muster/images"

	"github.com/google/go-cmp/cmp"
)

func TestRelock(t *testing.T) {
	a := testArchive(t)
	cfg := testConfig(t, a, testDefinition)
	cfg.LockFile = filepath.Join(t.TempDir(), "sub", "my.lock")
	relock := func(write bool) *Relocked {
		t.Helper()
		r, err := Relock(t.Context(), cfg, write)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	if r := relock(false); r.Old != nil || !r.Changed() || len(r.Changes) != 3 {
		t.Errorf("without a lock: %+v", r)
	}
	if _, err := os.Stat(cfg.LockFile); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a look wrote the lock: %v", err)
	}
	relock(true)
	first := readFile(t, cfg.LockFile)
	if r := relock(true); r.Changed() || len(r.Changes) != 0 || readFile(t, cfg.LockFile) != first {
		t.Errorf("nothing is newer, and it says %+v", r.Changes)
	}

	const newest = "6.12.11+deb13-amd64"
	a.Publish(t, debtest.Suite{Name: "trixie-security", Packages: kernelPackages(t, newest, "6.12.11-1"), Date: debtest.Time().Add(time.Hour)})
	cfg.Now = func() time.Time { return debtest.Time().Add(50 * time.Hour) }
	a.Publish(t, debtest.Suite{Name: "trixie-updates"}) // without an end of its validity
	r := relock(false)
	if diff := cmp.Diff([]images.LockChange{
		{Package: "linux-image-" + newKernel, Old: "6.12.10-1", Suite: "trixie-security"},
		{Package: "linux-image-" + newest, New: "6.12.11-1", Suite: "trixie-security", Security: true},
	}, r.Changes); diff != "" {
		t.Errorf("changes differ (-want +got):\n%s", diff)
	}
	if r.Age != 50*time.Hour {
		t.Errorf("the old lock is %v old, want 50h", r.Age)
	}
	if readFile(t, cfg.LockFile) != first {
		t.Error("a look changed the lock")
	}
	cfg.Definition.Firmware = nil
	if r := relock(true); r.Request != "firmware: realtek less" {
		t.Errorf("Request = %q", r.Request)
	}
	cfg.Locked = true
	if m := mustBuild(t, cfg); m.Kernel != newest {
		t.Errorf("a locked build takes kernel %s, want %s", m.Kernel, newest)
	}
}

func TestLockedBuilds(t *testing.T) {
	for name, c := range map[string]struct {
		change func(t *testing.T, cfg *Config)
		want   []string
	}{
		"no lock": {func(t *testing.T, cfg *Config) {
			if err := os.Remove(cfg.LockFile); err != nil {
				t.Fatal(err)
			}
		}, []string{"there is no lock", "muster lock DEFINITION --lock "}},
		"another kernel": {func(t *testing.T, cfg *Config) {
			cfg.Definition.Kernel.Package = "linux-image-rt-amd64"
		}, []string{"was made for other packages than definition test asks for (kernel: linux-image-rt-amd64 instead of linux-image-amd64)"}},
		"edited request": {func(t *testing.T, cfg *Config) {
			edit(t, cfg.LockFile, `"kernel": "linux-image-amd64"`, `"kernel": "linux-image-rt-amd64"`)
		}, []string{"was edited"}},
		"of a muster with other boot loaders": {func(t *testing.T, cfg *Config) {
			editLock(t, cfg.LockFile, func(l *images.Lock) {
				l.Asked.Loaders = l.Asked.Loaders[1:]
				l.Request = l.Asked.Hash()
			})
		}, []string{"was made for other packages than definition test asks for (boot loaders: ", " more)", "muster build --update"}},
		"of a muster that did not say the boot loaders": {func(t *testing.T, cfg *Config) {
			editLock(t, cfg.LockFile, func(l *images.Lock) { l.Asked.Loaders, l.Request = nil, otherRequest })
		}, []string{"was made by an older muster", "muster build --update", "muster lock"}},
		"of a muster that said nothing": {func(t *testing.T, cfg *Config) {
			editLock(t, cfg.LockFile, func(l *images.Lock) { l.Asked, l.Request = nil, otherRequest })
		}, []string{"was made by an older muster", "muster build --update", "muster lock"}},
		"edited key": {func(t *testing.T, cfg *Config) {
			edit(t, cfg.LockFile, `"suite"`, `"siute"`)
		}, []string{`unknown field "siute"`, "to make a new one, delete the file"}},
		"newer format": {func(t *testing.T, cfg *Config) {
			edit(t, cfg.LockFile, `"schema": 1`, `"schema": 99`)
		}, []string{"format 99 is newer than this program, which knows 1; update muster"}},
		"update": {func(t *testing.T, cfg *Config) { cfg.Update = true }, []string{"cannot be updated in a build that is locked"}},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := testConfig(t, testArchive(t), testDefinition)
			mustBuild(t, cfg)
			cfg.LockFile, cfg.Locked = filepath.Join(cfg.Out, "lock.json"), true
			c.change(t, &cfg)
			before, _ := os.ReadFile(cfg.LockFile)
			_, err := Build(t.Context(), cfg)
			if !errors.Is(err, ErrInput) {
				t.Fatalf("Build() = %v, want an ErrInput", err)
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("Build() = %v\nwant it to contain %s", err, want)
				}
			}
			if after, _ := os.ReadFile(cfg.LockFile); string(after) != string(before) {
				t.Error("the lock was changed")
			}
		})
	}
}

// otherRequest is a request_sha256 of another form than this muster's.
const otherRequest = "0000000000000000000000000000000000000000000000000000000000000000"

// editLock changes a lock as a muster would that writes other ones.
func editLock(t *testing.T, name string, change func(l *images.Lock)) {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	l, err := images.ParseLock(name, text)
	if err != nil {
		t.Fatal(err)
	}
	change(l)
	if err := os.WriteFile(name, l.Encode(), 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestLockOfAnotherMuster: where nobody chose the lock, one that an earlier muster made for other
// boot loaders, whether it says so or not, is made anew.
func TestLockOfAnotherMuster(t *testing.T) {
	for name, change := range map[string]func(l *images.Lock){
		"other loaders": func(l *images.Lock) { l.Asked.Loaders = l.Asked.Loaders[1:]; l.Request = l.Asked.Hash() },
		"no loaders":    func(l *images.Lock) { l.Asked.Loaders, l.Request = nil, otherRequest },
		"nothing asked": func(l *images.Lock) { l.Asked, l.Request = nil, otherRequest },
	} {
		t.Run(name, func(t *testing.T) {
			cfg := testConfig(t, testArchive(t), testDefinition)
			mustBuild(t, cfg)
			lock := filepath.Join(cfg.Out, "lock.json")
			editLock(t, lock, change)
			mustBuild(t, cfg)
			editLock(t, lock, func(l *images.Lock) {
				if l.Request != cfg.Definition.RequestHash() {
					t.Error("the lock was not made anew")
				}
			})
		})
	}
}

// TestEditedHash builds from a lock whose hash of a package was changed by hand.
func TestEditedHash(t *testing.T) {
	a := testArchive(t)
	cfg := testConfig(t, a, testDefinition)
	mustBuild(t, cfg)
	lock := filepath.Join(cfg.Out, "lock.json")
	l, err := images.ParseLock("l", []byte(readFile(t, lock)))
	if err != nil {
		t.Fatal(err)
	}
	sum := l.ByRole(images.RoleKernel)[0].SHA256
	edit(t, lock, sum, strings.Repeat("0", 64))
	if _, err := Build(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "package linux-image-"+newKernel) || !strings.Contains(err.Error(), "hash is wrong: it is "+sum) {
		t.Errorf("Build() = %v, want the package and both hashes", err)
	}
}

// TestEditedNames builds from locks that say of a package what the package does not say of itself, in a
// cache that has all results of the lock as it was.
func TestEditedNames(t *testing.T) {
	cfg := testConfig(t, testArchive(t), testDefinition)
	mustBuild(t, cfg)
	cfg.LockFile = filepath.Join(cfg.Out, "lock.json")
	good := readFile(t, cfg.LockFile)
	for name, c := range map[string]struct{ old, edited, want string }{
		"version":        {`"version": "1.21"`, `"version": "1.22"`, `the version of package ipxe 1.22 is "1.22", the package with that hash says "1.21"`},
		"source":         {`"source": "linux-signed"`, `"source": "linux"`, `the source of package linux-image-` + newKernel + ` 6.12.10-1 is "linux"`},
		"source version": {`"source_version": "1.21"`, `"source_version": "1.20"`, `the version of the source of package ipxe 1.21 is "1.20"`},
	} {
		if err := os.WriteFile(cfg.LockFile, []byte(good), 0o644); err != nil {
			t.Fatal(err)
		}
		edit(t, cfg.LockFile, c.old, c.edited)
		if _, err := Build(t.Context(), cfg); !errors.Is(err, ErrInput) || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), cfg.LockFile) {
			t.Errorf("%s: Build() = %v, want %q of %s", name, err, c.want, cfg.LockFile)
		}
	}
}

func edit(t *testing.T, name, old, replacement string) {
	t.Helper()
	text := readFile(t, name)
	if !strings.Contains(text, old) {
		t.Fatalf("%s does not have %s:\n%s", name, old, text)
	}
	if err := os.WriteFile(name, []byte(strings.Replace(text, old, replacement, 1)), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestOffline(t *testing.T) {
	a := testArchive(t)
	cfg := testConfig(t, a, testDefinition)
	want := mustBuild(t, cfg)
	before := a.Requests()

	// Another folder, the same cache and lock.
	there := cfg
	there.Out, there.LockFile, there.Offline = t.TempDir(), filepath.Join(cfg.Out, "lock.json"), true
	if m := mustBuild(t, there); m.ID != want.ID {
		t.Errorf("offline the image is %s, want %s", m.ID, want.ID)
	}

	// An empty cache.
	there.Cache = t.TempDir()
	_, err := Build(t.Context(), there)
	if !errors.Is(err, ErrOffline) || !strings.Contains(err.Error(), "linux-image-"+newKernel+" 6.12.10-1") || !strings.Contains(err.Error(), there.Cache) {
		t.Errorf("Build() = %v, want ErrOffline, the package and the cache", err)
	}

	// No lock.
	there.LockFile = filepath.Join(t.TempDir(), "none")
	if _, err := Build(t.Context(), there); !errors.Is(err, ErrInput) || !strings.Contains(err.Error(), "offline none can be made") {
		t.Errorf("Build() = %v, want that there is no lock", err)
	}
	if n := a.Requests() - before; n != 0 {
		t.Errorf("builds that are offline made %d requests", n)
	}
}

func TestSuperseded(t *testing.T) {
	a := testArchive(t)
	cfg := testConfig(t, a, testDefinition)
	mustBuild(t, cfg)
	a.Change(t, a.Find(t, "linux-image-"+newKernel+"_6"), func([]byte) []byte { return nil })
	cfg.Cache = t.TempDir()
	_, err := Build(t.Context(), cfg)
	for _, want := range []string{"package linux-image-" + newKernel + " 6.12.10-1", "muster build --update", "mirror: (https://snapshot.debian.org/archive/debian/{date})", "--cache"} {
		if !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), want) {
			t.Errorf("Build() = %v\nwant os.ErrNotExist and %s", err, want)
		}
	}
}
