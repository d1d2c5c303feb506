package kmod_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"muster/internal/kmod"
)

// fakeKernel remembers what was inserted.
type fakeKernel struct {
	mu       sync.Mutex
	inserted []string         // guarded by mu: files with parameters, in order
	live     map[string]bool  // guarded by mu
	fail     map[string]error // by module
	wait     chan struct{}    // nil: Insert does not wait
}

func (k *fakeKernel) Loaded(name string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.live[name]
}

func (k *fakeKernel) Insert(file, params string) error {
	if k.wait != nil {
		<-k.wait
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	name := kmod.Name(file)
	if err := k.fail[name]; err != nil {
		return fmt.Errorf("inserting %s: %w", file, err)
	}
	if k.live == nil {
		k.live = make(map[string]bool)
	}
	k.live[name] = true
	k.inserted = append(k.inserted, strings.TrimSpace(filepath.ToSlash(file)+" "+params))
	return nil
}

func newLoader(t testing.TB, kernel kmod.Kernel, conf kmod.Conf) *kmod.Loader {
	t.Helper()
	l, err := kmod.NewLoader(kmod.LoaderConfig{Dir: "/m", Index: testIndex(t), Conf: conf, Kernel: kernel})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestLoad(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		name   string
		params []string
		conf   kmod.Conf
		live   []string
		want   []string
	}{
		"dependencies first": {
			name: "virtio-net",
			want: []string{"/m/kernel/net/core/failover.ko", "/m/kernel/drivers/net/net_failover.ko", "/m/kernel/drivers/net/virtio_net.ko"},
		},
		"device": {
			name: "virtio:d00000001v00001AF4", live: []string{"failover"},
			want: []string{"/m/kernel/drivers/net/net_failover.ko", "/m/kernel/drivers/net/virtio_net.ko"},
		},
		"already loaded": {name: "vfat", live: []string{"vfat"}},
		"built in":       {name: "virtio_pci"},
		"soft dependency before, by alias": {
			name: "ext4",
			want: []string{"/m/kernel/crypto/crc32c_generic.ko", "/m/kernel/arch/x86/crypto/crc32c-intel.ko", "/m/kernel/fs/ext4/ext4.ko"},
		},
		"soft dependency after, and one that is not there": {
			name: "fs-vfat",
			want: []string{"/m/kernel/fs/fat/fat.ko", "/m/kernel/fs/fat/vfat.ko", "/m/kernel/fs/nls/nls_iso8859-1.ko"},
		},
		"parameters": {
			name: "virtio_net", params: []string{"a=1", "b=2"}, live: []string{"net_failover", "failover"},
			conf: kmod.ParseCmdline("virtio_net.napi_tx=0 fat.x=1"),
			want: []string{"/m/kernel/drivers/net/virtio_net.ko napi_tx=0 a=1 b=2"},
		},
		"parameters of the configuration for a dependency": {
			name: "vfat", params: []string{"a=1"}, live: []string{"nls_iso8859_1"},
			conf: kmod.ParseCmdline("fat.x=1"),
			want: []string{"/m/kernel/fs/fat/fat.ko x=1", "/m/kernel/fs/fat/vfat.ko a=1"},
		},
		"blacklist holds for aliases": {
			name: "pci:v00008086d000010D3sv00008086sd00000000bc02sc00i00",
			conf: kmod.ParseConf("blacklist e1000e\n"),
			want: []string{"/m/updates/e1000e_oot.ko.xz"},
		},
		"blacklist does not hold for names": {
			name: "e1000e", conf: kmod.ParseConf("blacklist e1000e\n"),
			want: []string{"/m/kernel/drivers/net/ethernet/intel/e1000e/e1000e.ko"},
		},
		"alias of the configuration": {
			name: "mynet", conf: kmod.ParseConf("alias my* e1000e\n"),
			want: []string{"/m/kernel/drivers/net/ethernet/intel/e1000e/e1000e.ko"},
		},
		"soft dependencies in a circle": {
			name: "gcm", conf: kmod.ParseConf("softdep gcm pre: e1000e\nsoftdep e1000e pre: gcm\n"),
			want: []string{"/m/kernel/drivers/net/ethernet/intel/e1000e/e1000e.ko", "/m/kernel/crypto/gcm.ko"},
		},
		"soft dependency without pre: is not loaded": {
			name: "cifs", live: []string{"ext4"},
			want: []string{"/m/kernel/fs/smb/client/cifs.ko"},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			k := &fakeKernel{live: make(map[string]bool)}
			for _, l := range tt.live {
				k.live[l] = true
			}
			if err := newLoader(t, k, tt.conf).Load(tt.name, tt.params...); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, k.inserted); diff != "" {
				t.Errorf("Load(%s) inserted (-want +got):\n%s", tt.name, diff)
			}
		})
	}
}

func TestLoadErrors(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		name     string
		fail     map[string]error
		is       error
		inserted int
	}{
		"dependency fails":             {"virtio_net", map[string]error{"failover": syscall.ENOEXEC}, syscall.ENOEXEC, 0},
		"module fails":                 {"virtio_net", map[string]error{"virtio_net": syscall.ENODEV}, syscall.ENODEV, 2},
		"loaded meanwhile":             {"vfat", map[string]error{"fat": syscall.EEXIST, "vfat": syscall.EEXIST}, nil, 1},
		"soft dependency fails":        {"ext4", map[string]error{"crc32c_generic": syscall.ENODEV, "crc32c_intel": syscall.ENODEV}, nil, 1},
		"one of several modules fails": {"crypto-crc32c", map[string]error{"crc32c_generic": syscall.ENODEV}, syscall.ENODEV, 1},
		"every one of several fails":   {"crypto-crc32c", map[string]error{"crc32c_generic": syscall.ENODEV, "crc32c_intel": syscall.EPERM}, syscall.EPERM, 0},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			k := &fakeKernel{fail: tt.fail}
			l := newLoader(t, k, kmod.Conf{})
			err := l.Load(tt.name)
			if !errors.Is(err, tt.is) {
				t.Errorf("Load(%s) error = %v, want %v", tt.name, err, tt.is)
			}
			if err != nil && !strings.Contains(err.Error(), "loading module ") {
				t.Errorf("Load(%s) error = %v, want it to say what was being done", tt.name, err)
			}
			if len(k.inserted) != tt.inserted {
				t.Errorf("Load(%s) inserted %v, want %d modules", tt.name, k.inserted, tt.inserted)
			}
		})
	}
}

// Many goroutines that want one module insert it once, and none of them returns
// before it is there.
func TestLoadTogether(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		k := &fakeKernel{wait: make(chan struct{})}
		l := newLoader(t, k, kmod.Conf{})
		var wg sync.WaitGroup
		done := make(chan error, 20)
		for i := range 20 {
			name := []string{"virtio_net", "virtio:d00000001v00001AF4", "net_failover", "failover"}[i%4]
			wg.Go(func() { done <- l.Load(name) })
		}
		synctest.Wait()
		if len(done) > 0 {
			t.Errorf("%d calls returned before the module was inserted", len(done))
		}
		close(k.wait)
		wg.Wait()
		close(done)
		for err := range done {
			if err != nil {
				t.Error(err)
			}
		}
		files := slices.Clone(k.inserted)
		slices.Sort(files)
		if want := []string{"/m/kernel/drivers/net/net_failover.ko", "/m/kernel/drivers/net/virtio_net.ko", "/m/kernel/net/core/failover.ko"}; !slices.Equal(files, want) {
			t.Errorf("inserted %v, want %v", files, want)
		}
	})
}

func TestNewLoaderReadsDir(t *testing.T) {
	t.Parallel()
	if _, err := kmod.NewLoader(kmod.LoaderConfig{Dir: t.TempDir()}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("NewLoader() error = %v, want ErrNotExist", err)
	}
}

func TestLoadUnknown(t *testing.T) {
	t.Parallel()
	l := newLoader(t, &fakeKernel{}, kmod.Conf{})
	for _, name := range []string{"nosuch", "pci:v0000FFFFd0000FFFF"} {
		err := l.Load(name)
		notFound, ok := errors.AsType[*kmod.NotFoundError](err)
		if !ok || notFound.Name != name {
			t.Errorf("Load(%s) error = %v, want a NotFoundError", name, err)
		}
	}
}

func TestLinuxKernel(t *testing.T) {
	t.Parallel()
	sys := t.TempDir()
	for name, state := range map[string]string{"fat": "live\n", "vfat": "coming\n"} {
		if err := os.MkdirAll(filepath.Join(sys, "module", name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(sys, "module", name, "initstate"), []byte(state), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	k := kmod.LinuxKernel{Sys: sys}
	for name, want := range map[string]bool{"fat": true, "vfat": false, "nosuch": false} {
		if got := k.Loaded(name); got != want {
			t.Errorf("Loaded(%s) = %v, want %v", name, got, want)
		}
	}
	// Whatever this kernel allows, text is no module.
	file := filepath.Join(sys, "text.ko")
	if err := os.WriteFile(file, []byte("text"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := k.Insert(file, ""); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("Insert(text) error = %v, want one that names the file", err)
	}
	if err := k.Insert(filepath.Join(sys, "nosuch.ko"), ""); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Insert(nosuch) error = %v, want ErrNotExist", err)
	}
}
