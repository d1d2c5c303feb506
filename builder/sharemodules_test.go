package builder

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"muster/images"
	"muster/internal/kmod"
)

func TestShareModules(t *testing.T) {
	module := func(name string, deps ...string) kmod.Module {
		return kmod.Module{Name: name, Path: "kernel/" + name + ".ko.xz", Deps: deps}
	}
	contents := kmod.Contents{Modules: []kmod.Module{
		module("nfsv4", "nfs", "lockd", "sunrpc"), module("nfs", "lockd", "sunrpc"), module("lockd", "sunrpc"), module("sunrpc"),
		module("dm_verity", "dm_bufio", "dm_mod"), module("dm_bufio", "dm_mod"), module("dm_mod"), module("other"),
	}}
	pieces := make(map[string]kmod.Piece)
	for i, m := range contents.Modules {
		pieces[m.Path] = kmod.Piece{Offset: int64(i), Size: 1, SHA256: m.Name}
	}
	names := func(list []images.UserlandModule) (out []string) {
		for _, m := range list {
			if q := pieces[m.Path]; m.Offset != q.Offset || m.Size != q.Size || m.SHA256 != q.SHA256 {
				t.Errorf("%+v is not the piece %+v", m, q)
			}
			out = append(out, kmod.Name(m.Path))
		}
		return out
	}
	all := shareModules(kmod.New(contents), pieces)
	if diff := cmp.Diff([]string{"sunrpc", "lockd", "nfs", "nfsv4", "dm_mod", "dm_bufio", "dm_verity"}, names(all)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	// What the initramfs has is not fetched.
	pack := packFiles{Share: all}
	if diff := cmp.Diff([]string{"sunrpc", "lockd", "nfs", "nfsv4", "dm_bufio", "dm_verity"}, names(pack.userlandModules([]string{"dm_mod", "loop"}).Pieces)); diff != "" {
		t.Errorf("beside those of the initramfs (-want +got):\n%s", diff)
	}
	if got := (packFiles{}).userlandModules(nil); got != nil {
		t.Errorf("without a pack: %+v", got)
	}
	// A kernel that has it built in, and one that lacks it.
	builtin := kmod.Contents{Modules: contents.Modules[4:], Builtin: []string{"kernel/fs/nfs/nfsv4.ko"}}
	if diff := cmp.Diff([]string{"dm_mod", "dm_bufio", "dm_verity"}, names(shareModules(kmod.New(builtin), pieces))); diff != "" {
		t.Errorf("built in (-want +got):\n%s", diff)
	}
	if got := shareModules(kmod.New(kmod.Contents{Modules: contents.Modules[4:]}), pieces); got != nil {
		t.Errorf("a kernel without NFS: %+v", got)
	}
}
