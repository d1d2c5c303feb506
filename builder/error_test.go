package builder

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"muster/builder/deb"
	"muster/builder/deb/debtest"
)

func TestBuildErrors(t *testing.T) {
	kernelDeb := "pool/main/linux-image-" + newKernel + "_6.12.10-1_amd64.deb"
	for name, c := range map[string]struct {
		definition string
		change     func(t *testing.T, a *debtest.Archive, cfg *Config)
		want       []string
		is         error
	}{
		"no such kernel": {
			strings.Replace(testDefinition, "linux-image-amd64", "linux-image-amd46", 1), nil,
			[]string{"building test: resolving packages: kernel: package linux-image-amd46", "kernels are: linux-image-amd64"},
			deb.ErrNoPackage,
		},
		"no network": {
			testDefinition, func(t *testing.T, a *debtest.Archive, cfg *Config) { cfg.Definition.Mirror = "http://127.0.0.1:1" },
			[]string{"suite trixie: no mirror is usable", "127.0.0.1:1/dists/trixie/InRelease", "connection refused"},
			nil,
		},
		"wrong key": {
			testDefinition, func(t *testing.T, a *debtest.Archive, cfg *Config) { cfg.Keyring = debtest.NewKey(t).Keyring(t) },
			[]string{"dists/trixie/InRelease: signature is not good"},
			deb.ErrSignature,
		},
		"wrong package": {testDefinition, func(t *testing.T, a *debtest.Archive, cfg *Config) {
			a.Change(t, kernelDeb, func(b []byte) []byte { b[len(b)/2] ^= 1; return b })
		}, []string{"package linux-image-" + newKernel + " 6.12.10-1: fetching", "hash is wrong: it is"}, deb.ErrHash},
		"package gone": {testDefinition, func(t *testing.T, a *debtest.Archive, cfg *Config) {
			a.Change(t, kernelDeb, func([]byte) []byte { return nil })
		}, []string{"archives drop what newer versions replace", "muster build --update", "404"}, os.ErrNotExist},
		"wrong index": {testDefinition, func(t *testing.T, a *debtest.Archive, cfg *Config) {
			a.Change(t, a.Find(t, "trixie-security/main/binary-amd64/by-hash"), func(b []byte) []byte { return append(b, 0) })
		}, []string{"fetching trixie-security/main/binary-amd64/Packages.xz", "hash is wrong"}, deb.ErrHash},
		"expired": {testDefinition, func(t *testing.T, a *debtest.Archive, cfg *Config) {
			cfg.Now = func() time.Time { return debtest.Time().Add(48 * time.Hour) }
		}, []string{"is out of date"}, deb.ErrExpired},
		"unknown command": {
			strings.Replace(testDefinition, "[ls, sh]", "[ls, emacs]", 1), nil,
			[]string{"u-root command emacs is not in the busybox; it has: cat ls sh"},
			nil,
		},
		"no toolchain": {
			testDefinition + "go-commands: [./x]\n", func(t *testing.T, a *debtest.Archive, cfg *Config) { t.Setenv("PATH", "/nowhere") },
			[]string{"need a Go toolchain, and there is no go in PATH"},
			nil,
		},
		"no agent": {
			testDefinition, func(t *testing.T, a *debtest.Archive, cfg *Config) { cfg.Agent = nil },
			[]string{"built without agent, muster-init or busybox; run make"},
			nil,
		},
		"no such module": {
			testDefinition[:strings.Index(testDefinition, "modules:")] + "modules: {names: [nfss]}\n", nil,
			[]string{"kernel " + newKernel + ": there is no module nfss"},
			nil,
		},
		"lock of another definition": {testDefinition, func(t *testing.T, a *debtest.Archive, cfg *Config) {
			mustBuild(t, *cfg)
			cfg.LockFile = filepath.Join(cfg.Out, "lock.json")
			cfg.Definition.Firmware = nil
		}, []string{"was made for other packages than definition test asks for (firmware: realtek less); make a new one with: muster build --update"}, nil},
		"broken lock": {testDefinition, func(t *testing.T, a *debtest.Archive, cfg *Config) {
			cfg.LockFile = filepath.Join(t.TempDir(), "l")
			if err := os.WriteFile(cfg.LockFile, []byte("{"), 0o644); err != nil {
				t.Fatal(err)
			}
		}, []string{"to make a new one, delete the file"}, nil},
		"Out is a file": {testDefinition, func(t *testing.T, a *debtest.Archive, cfg *Config) {
			if err := os.WriteFile(cfg.Out, nil, 0o644); err != nil {
				t.Fatal(err)
			}
		}, []string{"not a directory"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			a := testArchive(t)
			cfg := testConfig(t, a, c.definition)
			if c.change != nil {
				c.change(t, a, &cfg)
			}
			_, err := Build(t.Context(), cfg)
			if err == nil || c.is != nil && !errors.Is(err, c.is) {
				t.Fatalf("Build() = %v, want %v", err, c.is)
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("Build() = %v\nwant it to contain %s", err, want)
				}
			}
		})
	}
}

// TestFullDisk needs root for a small file system.
func TestFullDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to mount a small tmpfs")
	}
	small := t.TempDir()
	if err := syscall.Mount("tmpfs", small, "tmpfs", 0, "size=16k"); err != nil {
		t.Skipf("mounting a small tmpfs: %v", err)
	}
	t.Cleanup(func() { syscall.Unmount(small, 0) })
	cfg := testConfig(t, testArchive(t), testDefinition)
	cfg.Cache = small
	_, err := Build(t.Context(), cfg)
	if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "make room for "+small) {
		t.Errorf("Build() = %v, want ENOSPC and where to make room", err)
	}
}
