package initramfs

import (
	"fmt"
	"path"
	"slices"
	"strings"
)

// Busybox describes the one binary that holds all u-root commands. Program
// mkbb writes it as bb.json beside bb.zst.
type Busybox struct {
	SHA256    string          `json:"sha256"` // of the binary, not compressed
	Size      int64           `json:"size"`
	Arch      string          `json:"arch"`       // as Go names it
	GoVersion string          `json:"go_version"` // that compiled it
	Commands  []string        `json:"commands"`   // names that it answers to, sorted
	Modules   []BusyboxModule `json:"modules"`    // Go modules it was made of, sorted by path
}

// BusyboxModule is a Go module that is in the busybox.
type BusyboxModule struct {
	Path    string `json:"path"`
	Version string `json:"version"`
	Sum     string `json:"sum"` // as in go.sum
}

// BusyboxCommands returns the import paths of the commands that muster's busybox
// holds: u-root's, and a few of our own where u-root has none or one that
// falls short of what scripts expect.
func BusyboxCommands() []string {
	var paths []string
	for c := range strings.FieldsSeq(coreCommands) {
		paths = append(paths, "github.com/u-root/u-root/cmds/core/"+c)
	}
	for c := range strings.FieldsSeq(ownCommands) {
		paths = append(paths, "muster/initramfs/cmds/"+c)
	}
	return paths
}

// coreCommands are names in cmds/core of u-root.
const coreCommands = `
	base64 basename blkid cat chmod chroot cmp comm cp cpio date dd df dirname
	dmesg du echo false find free grep gzip head hexdump hostname hwclock id ip
	kill ln losetup ls lsmod md5sum mkdir mkfifo mknod mktemp more mount mv
	netcat netstat nohup ntpdate pci pidof ping printenv ps pwd readlink realpath
	rm seq shasum shutdown sleep sort strings stty sync tail tar tee time timeout
	touch tr true truncate tty umount uname uniq unshare uptime wc wget which
	xargs yes`

// ownCommands are names in cmds. sh is gosh's interpreter with the
// arguments and options of a POSIX shell; the others are not in u-root.
const ownCommands = `env nproc sh sha256sum`

// AddTo puts the busybox into t: the binary, whose bytes are given, at
// bin/bb and a symbolic link in bin for each command. An empty subset means all; a
// name that the busybox does not have is an error that lists what it has.
func (b *Busybox) AddTo(t *Tree, bin []byte, subset []string) error {
	names := subset
	if len(names) == 0 {
		names = b.Commands
	}
	source := "the u-root busybox"
	if err := t.AddBytes("bin/bb", 0o755, bin, source); err != nil {
		return err
	}
	for _, name := range names {
		if !slices.Contains(b.Commands, name) {
			return fmt.Errorf("u-root command %s is not in the busybox; it has: %s", name, strings.Join(b.Commands, " "))
		}
		if err := t.AddSymlink(path.Join("bin", name), "bb", source); err != nil {
			return err
		}
	}
	return nil
}
