package boot

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// fakeMounter keeps what was mounted where, and fails where it is told to.
type fakeMounter struct {
	root   string
	mounts []string
	fail   map[string]error // by type
}

func (f *fakeMounter) mount(_, target, fstype string, _ uintptr, _ string) error {
	if err := f.fail[fstype]; err != nil {
		return err
	}
	f.mounts = append(f.mounts, fstype+" "+strings.TrimPrefix(target, f.root))
	return nil
}

func TestMountPseudo(t *testing.T) {
	all := []string{
		"proc /proc", "sysfs /sys", "devtmpfs /dev", "tmpfs /run", "tmpfs /tmp", "devpts /dev/pts", "tmpfs /dev/shm", "cgroup2 /sys/fs/cgroup",
	}
	broken := errors.New("no such device")
	tests := map[string]struct {
		sys  []string // folders that the kernel has in /sys
		fail map[string]error
		want []string
		errs int
	}{
		"plain machine":      {[]string{"fs/cgroup"}, nil, all, 0},
		"UEFI machine":       {[]string{"fs/cgroup", "firmware/efi/efivars"}, nil, append(all[:8:8], "efivarfs /sys/firmware/efi/efivars"), 0},
		"no cgroups":         {nil, nil, all[:7], 1},
		"already mounted":    {[]string{"fs/cgroup"}, map[string]error{"devtmpfs": unix.EBUSY}, append(all[:2:2], all[3:]...), 0},
		"broken":             {[]string{"fs/cgroup"}, map[string]error{"devpts": broken}, append(all[:5:5], all[6:]...), 1},
		"broken, not needed": {[]string{"fs/cgroup", "fs/bpf"}, map[string]error{"bpf": broken}, all, 0},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			for _, d := range tc.sys {
				if err := os.MkdirAll(filepath.Join(root, "sys", d), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			m := &fakeMounter{root: root, fail: tc.fail}
			errs := mountPseudo(m, root)
			if len(errs) != tc.errs {
				t.Errorf("mountPseudo() errors = %v, want %d", errs, tc.errs)
			}
			if d := cmp.Diff(tc.want, m.mounts); d != "" {
				t.Errorf("mounts, -want +got:\n%s", d)
			}
		})
	}
}

func TestLinkDev(t *testing.T) {
	root := fakeRoot(t, map[string]string{"dev/null": ""})
	for range 2 { // again is fine
		if errs := linkDev(root); len(errs) > 0 {
			t.Fatal(errs)
		}
	}
	if got, err := os.Readlink(filepath.Join(root, "dev/fd")); err != nil || got != "/proc/self/fd" {
		t.Errorf("/dev/fd leads to %q, %v, want /proc/self/fd", got, err)
	}
}

func TestDelegateControllers(t *testing.T) {
	root := fakeRoot(t, map[string]string{"cgroup.controllers": "cpuset cpu memory\n", "cgroup.subtree_control": ""})
	if err := delegateControllers(root); err != nil {
		t.Fatal(err)
	}
	// Each write replaces the last in a plain file; the kernel adds up.
	b, err := os.ReadFile(filepath.Join(root, "cgroup.subtree_control"))
	if err != nil || !strings.HasPrefix(string(b), "+memory") {
		t.Errorf("subtree_control = %q, %v, want +memory at the end", b, err)
	}
	if err := delegateControllers(t.TempDir()); err == nil {
		t.Error("delegateControllers() of no cgroup = nil, want an error")
	}
}

func TestRealMounts(t *testing.T) {
	table := `rootfs / rootfs rw 0 0
proc /proc proc rw 0 0
/dev/loop0 /lib/modules/6.12 squashfs ro 0 0
nas:/home /home nfs4 rw 0 0
nas:/a\040b /mnt/a\040b nfs4 rw 0 0
/dev/sda1 /mnt/a\040b/c ext4 rw 0 0
short line
`
	want := []string{"/mnt/a b/c", "/mnt/a b", "/home"}
	if d := cmp.Diff(want, realMounts([]byte(table))); d != "" {
		t.Errorf("realMounts(), -want +got:\n%s", d)
	}
}
