package shares

import (
	"net"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"muster/api"
)

func TestChoose(t *testing.T) {
	both := found{root: true, exportfs: "/usr/sbin/exportfs", kernelRuns: true, kernelHas: true, ganesha: "/usr/bin/ganesha.nfsd", ganeshaVFS: true, mtab: true, port: 2049, owner: kernelOwner}
	alone := found{root: true, ganesha: "/usr/bin/ganesha.nfsd", ganeshaVFS: true, mtab: true, port: 2049}
	with := func(f found, change func(*found)) found { change(&f); return f }
	for name, c := range map[string]struct {
		f     found
		inUse api.ShareDriver
		want  string // an engine, or part of what is said
	}{
		"both":                      {both, "", "kernel"},
		"ganesha alone":             {alone, "", "ganesha"},
		"kernel serves already":     {both, api.ShareKernel, "kernel"},
		"ganesha serves already":    {with(both, func(f *found) { f.owner = "" }), api.ShareGanesha, "ganesha"},
		"kernel came after ganesha": {both, api.ShareGanesha, "taken by the kernel's NFS server; install what drives it"},
		"nothing":                   {found{root: true}, "", "apt install nfs-ganesha nfs-ganesha-vfs"},
		"nothing, kernel has nfsd":  {found{root: true, kernelHas: true}, "", "apt install nfs-kernel-server"},
		"no root":                   {with(both, func(f *found) { f.root = false }), "", "sudo"},
		"kernel does not run":       {with(both, func(f *found) { f.kernelRuns, f.ganesha, f.owner = false, "", "" }), "", "systemctl enable --now nfs-kernel-server"},
		"kernel stopped, ganesha":   {with(both, func(f *found) { f.kernelRuns, f.owner = false, "" }), "", "ganesha"},
		"kernel stopped, in use":    {with(both, func(f *found) { f.kernelRuns = false }), api.ShareKernel, "does not run"},
		"kernel server removed":     {with(both, func(f *found) { f.exportfs = "" }), api.ShareKernel, "not installed any more"},
		"ganesha removed":           {with(alone, func(f *found) { f.ganesha = "" }), api.ShareGanesha, "not installed any more"},
		"container has the package": {found{root: true, exportfs: "/usr/sbin/exportfs"}, "", "its kernel has none"},
		"no VFS":                    {with(alone, func(f *found) { f.ganeshaVFS = false }), "", "apt install nfs-ganesha-vfs"},
		"no mtab":                   {with(alone, func(f *found) { f.mtab = false }), "", "/etc/mtab"},
		"Debian's own unit": {
			with(alone, func(f *found) { f.owner, f.ganeshaUnit = "ganesha.nfsd (process 17)", true }), "",
			"port 2049 is taken by the system's own nfs-ganesha (ganesha.nfsd (process 17)); muster starts one of its own; end that of the system: systemctl disable --now nfs-ganesha",
		},
		"somebody": {with(alone, func(f *found) { f.owner = "unfsd (process 4)" }), "", "taken by unfsd (process 4); end it, or have the head serve on another port: muster head --nfs-port"},
	} {
		got, err := choose(c.f, c.inUse)
		text := string(got)
		if err != nil {
			text = err.Error()
			if api.CodeOf(err) != api.CodeUnavailable {
				t.Errorf("%s: code is %s", name, api.CodeOf(err))
			}
		}
		if !strings.Contains(text, c.want) || err == nil && text != c.want {
			t.Errorf("%s: %q, want %q", name, text, c.want)
		}
	}
}

func TestPortOwner(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	if got := portOwner(port, 0); !strings.HasSuffix(got, "(process "+strconv.Itoa(os.Getpid())+")") {
		t.Errorf("we listen: %q", got)
	}
	if got := portOwner(port, os.Getpid()); got != "" {
		t.Errorf("our own: %q", got)
	}
	l.Close()
	if got := portOwner(port, 0); got != "" {
		t.Errorf("nobody listens: %q", got)
	}
}

const mountinfo = `22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,errors=remount-ro
23 22 0:21 / /proc rw,nosuid - proc proc rw
30 22 8:1 / /srv/a\040b rw,noatime shared:9 master:1 - xfs /dev/sda1 rw,wsync
31 30 8:2 / /srv/a\040b/in rw - ext4 /dev/sda2 rw,dirsync
32 30 0:40 / /srv/a\040b/auto rw - autofs systemd-1 rw
33 22 0:41 / /mnt/o rw - overlay overlay rw,lowerdir=/a,index=on,nfs_export=on
34 22 8:3 / /srv rw - btrfs /dev/sda3 rw
`

func TestMounts(t *testing.T) {
	list := parseMounts(mountinfo)
	for dir, want := range map[string]string{"/": "/", "/home": "/", "/srv": "/srv", "/srv/x": "/srv", "/srv/a b": "/srv/a b", "/srv/a bc": "/srv", "/srv/a b/in/x": "/srv/a b/in"} {
		if m, ok := mountOf(list, dir); !ok || m.point != want {
			t.Errorf("%s is on %+v, want %s", dir, m, want)
		}
	}
	if diff := cmp.Diff([]string{"/srv/a b/in"}, below(list, "/srv/a b")); diff != "" {
		t.Error(diff)
	}
	if got := below(list, "/srv/a b/in"); got != nil {
		t.Errorf("below a mount: %q", got)
	}
	for dir, want := range map[string]bool{"/": false, "/srv/a b": true, "/srv/a b/in": true, "/srv": false} {
		if m, _ := mountOf(list, dir); durable(m) != want {
			t.Errorf("%s: durable is %v", dir, !want)
		}
	}
	if m, _ := mountOf(list, "/mnt/o"); !nfsExport(m) {
		t.Error("an overlay for export is not known as one")
	}
}

func TestUnfit(t *testing.T) {
	for kind, want := range map[string]string{
		"ext4": "", "xfs": "", "btrfs": "", "zfs": "", "f2fs": "", "tmpfs": "in memory", "overlay": "layered", "fuse.sshfs": "belongs to a program",
		"nfs4": "another server's", "cifs": "another server's", "proc": "kernel", "cgroup2": "kernel",
	} {
		if got := unfit(kind); (got == "") != (want == "") || !strings.Contains(got, want) {
			t.Errorf("%s: %q, want %q", kind, got, want)
		}
	}
}

func TestListeners(t *testing.T) {
	text := `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000:0801 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0000000000000000 100 0 0 10 0
   1: 0100007F:0801 0100007F:9999 01 00000000:00000000 00:00000000 00000000     0        0 4712 1 0000000000000000 100 0 0 10 0
   2: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4713 1 0000000000000000 100 0 0 10 0
`
	if diff := cmp.Diff([]string{"4711"}, listeners(text, 2049)); diff != "" {
		t.Error(diff)
	}
}
