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
	Aliases   []BusyboxAlias  `json:"aliases,omitempty"`
}

// BusyboxModule is a Go module that is in the busybox.
type BusyboxModule struct {
	Path    string `json:"path"`
	Version string `json:"version"`
	Sum     string `json:"sum"` // as in go.sum
}

// BusyboxAlias is a second name of a command: sh for gosh.
type BusyboxAlias struct {
	Name    string `json:"name"`
	Command string `json:"command"`
}

// BusyboxCommands returns the import paths of the u-root commands that the
// busybox holds.
func BusyboxCommands() []string {
	var paths []string
	for _, c := range strings.Fields(coreCommands) {
		paths = append(paths, "github.com/u-root/u-root/cmds/core/"+c)
	}
	return paths
}

// BusyboxAliases returns the second names of commands.
func BusyboxAliases() []BusyboxAlias {
	return []BusyboxAlias{{Name: "sh", Command: "gosh"}, {Name: "sha256sum", Command: "shasum"}}
}

// coreCommands are names in cmds/core of u-root.
const coreCommands = `
	cat chmod cp date dd df dmesg echo false find free gosh grep gzip head
	hostname id ip kill ln ls lsmod mkdir mount mv ping ps pwd rm seq shasum
	shutdown sleep sort strings sync tail tar tee touch tr true umount uname uniq uptime
	wc wget which xargs yes`

// AddTo puts the busybox into t: the binary, whose bytes are given, at
// bin/bb and a symbolic link in bin for each command. An empty subset means all; a
// name that the busybox does not have is an error that lists what it has.
func (b *Busybox) AddTo(t *Tree, bin []byte, subset []string) error {
	names := subset
	if len(names) == 0 {
		names = b.Names()
	}
	source := "the u-root busybox"
	if err := t.AddBytes("bin/bb", 0o755, bin, source); err != nil {
		return err
	}
	for _, name := range names {
		if !slices.Contains(b.Names(), name) {
			return fmt.Errorf("u-root command %s is not in the busybox; it has: %s", name, strings.Join(b.Names(), " "))
		}
		if err := t.AddSymlink(path.Join("bin", name), "bb", source); err != nil {
			return err
		}
	}
	return nil
}

// Names returns all names that the busybox answers to, sorted.
func (b *Busybox) Names() []string {
	names := slices.Clone(b.Commands)
	for _, a := range b.Aliases {
		names = append(names, a.Name)
	}
	slices.Sort(names)
	return slices.Compact(names)
}
