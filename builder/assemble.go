package builder

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"time"

	"muster/builder/deb"
	"muster/images"
	"muster/initramfs"
)

// initramfsFile is the compressed archive.
type initramfsFile struct{ File deb.FileHash }

func (f initramfsFile) blobs() []deb.FileHash { return []deb.FileHash{f.File} }

// initramfsStep assembles and compresses the initramfs. Its bytes follow from the image
// ID alone.
func initramfsStep(ctx context.Context, cfg Config, c *cache, ids ids, k kernelFiles, pack packFiles, u userlandFiles, commands []goCommand, mtime time.Time) (initramfsFile, bool, error) {
	return runStep(ctx, c, "initramfs", ids, func() (initramfsFile, error) {
		own, err := newSpool(c, "files")
		if err != nil {
			return initramfsFile{}, err
		}
		defer own.close()
		t, err := assemble(cfg, c, own, ids, k, pack, u, commands, mtime)
		if err != nil {
			return initramfsFile{}, fmt.Errorf("assembling initramfs: %w", err)
		}
		compression := initramfs.ZstdBest
		if cfg.Fast {
			compression = initramfs.Zstd
		}
		file, err := c.put(func(f *os.File) error {
			w := bufio.NewWriterSize(&contextWriter{ctx: ctx, w: f}, 1<<20)
			_, err := initramfs.WriteSegments(w, initramfs.Segment{Name: "base", Tree: t, Compression: compression})
			return errors.Join(err, w.Flush())
		})
		return initramfsFile{file}, err
	})
}

// contextWriter ends a long write when the build is canceled.
type contextWriter struct {
	ctx context.Context
	w   io.Writer
}

func (c *contextWriter) Write(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.w.Write(p)
}

// assemble makes the tree that docs/initramfs.md describes.
func assemble(cfg Config, c *cache, own *spool, ids ids, k kernelFiles, pack packFiles, u userlandFiles, commands []goCommand, mtime time.Time) (*initramfs.Tree, error) {
	t := initramfs.NewTree(mtime)
	err := errors.Join(
		addFolders(t, k.Release),
		addPrograms(t, cfg, commands),
		addBlobs(t, c, k),
		addTexts(t, cfg.Definition, ids, k),
		addUserland(t, k, pack, u),
		addSetup(t, cfg.Definition),
		addFiles(t, own, cfg.Definition),
	)
	if err != nil {
		return nil, err
	}
	if err := t.AddBytes("etc/muster/files", 0o644, fileList(t), "muster"); err != nil {
		return nil, err
	}
	return t, t.Check()
}

func addFolders(t *initramfs.Tree, release string) error {
	var errs []error
	for _, d := range []struct {
		path string
		mode uint32
	}{
		{"dev", 0o755},
		{"proc", 0o555},
		{"sys", 0o555},
		{"run", 0o755},
		{"tmp", 0o1777},
		{"root", 0o700},
		{"var", 0o755},
		{"mnt", 0o755},
		{"etc", 0o755},
		{"lib/modules/" + release, 0o755},
	} {
		errs = append(errs, t.AddDir(d.path, d.mode, "muster"))
	}
	return errors.Join(errs...)
}

func addPrograms(t *initramfs.Tree, cfg Config, commands []goCommand) error {
	errs := []error{
		t.AddBytes("init", 0o755, cfg.Agent, "the agent"),
		t.AddSymlink("sbin/modprobe", "/init", "the agent"),
		t.AddBytes("usr/lib/muster/init", 0o755, cfg.Init, "muster-init"),
		asInput(cfg.BusyboxInfo.AddTo(t, cfg.Busybox, cfg.Definition.Commands)),
		t.AddSymlink("bbin", "bin", "muster"),
	}
	for _, c := range commands {
		errs = append(errs, t.AddBytes("bin/"+c.Name, 0o755, c.data, "go-commands: "+c.Name))
	}
	return errors.Join(errs...)
}

// addBlobs adds what comes from packages.
func addBlobs(t *initramfs.Tree, c *cache, k kernelFiles) error {
	add := func(name string, blob deb.FileHash, source string) error {
		return t.Add(initramfs.Entry{
			Path: name, Type: initramfs.File, Mode: 0o644, Size: blob.Size, Source: source,
			Open: func() (io.ReadCloser, error) { return c.open(blob) },
		})
	}
	errs := []error{add("modules.sqfs", k.Modules, "the kernel package")}
	for _, m := range k.Early {
		errs = append(errs, add(strings.TrimPrefix(earlyPath(k.Release, m.Name), "/"), m.FileHash, "the kernel package"))
	}
	for _, f := range k.Firmware {
		errs = append(errs, add("lib/firmware/"+f.Name, f.FileHash, "a firmware package"))
	}
	return errors.Join(errs...)
}

func earlyPath(release, file string) string {
	return path.Join("/lib/modules", release, "early", file)
}

const (
	passwd = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"
	group  = "root:x:0:\nnogroup:x:65534:\n"
)

func addTexts(t *initramfs.Tree, d *images.Definition, ids ids, k kernelFiles) error {
	var early strings.Builder
	for _, m := range k.Early {
		line := earlyPath(k.Release, m.Name) + " " + optionsOf(d.Modules.Options, m.Name)
		early.WriteString(strings.TrimSpace(line) + "\n")
	}
	var errs []error
	for name, text := range map[string]string{
		"etc/muster/image":   ids.Image + "\n",
		"etc/muster/runtime": ids.Runtime + "\n",
		"etc/muster/early":   early.String(),
	} {
		errs = append(errs, t.AddBytes(name, 0o644, []byte(text), "muster"))
	}
	return errors.Join(errs...)
}

// addUserland says which userland the node shall fetch once it has joined.
func addUserland(t *initramfs.Tree, k kernelFiles, pack packFiles, u userlandFiles) error {
	if !u.exists() {
		return nil
	}
	described := u.artifact().Userland()
	described.Modules = pack.userlandModules(k.Names)
	text, err := json.Marshal(described)
	if err != nil {
		return err
	}
	return t.AddBytes(strings.TrimPrefix(images.UserlandFile, "/"), 0o644, append(text, '\n'), "muster")
}

// addFiles adds what the definition brings, and passwd and group where it does not bring
// its own.
func addFiles(t *initramfs.Tree, own *spool, d *images.Definition) error {
	f := &filler{tree: t, place: images.InInitramfs, store: own.store}
	if err := f.addFilesOf(d); err != nil {
		return err
	}
	all, err := accounts{passwd, group}.with(d, "every image", nil)
	if err != nil {
		return err
	}
	// With a userland, that has the groups of packages too.
	if all, err = all.joined(d, !d.HasUserland()); err != nil {
		return err
	}
	return addAccounts(t, d, all, "muster")
}

// addSetup adds what nodes do beside joining, and the parameters of modules.
func addSetup(t *initramfs.Tree, d *images.Definition) error {
	var errs []error
	if n := d.Node(); !n.IsEmpty() {
		errs = append(errs, t.AddBytes(images.NodeFile[1:], 0o644, n.JSON(), "muster"))
	}
	var conf strings.Builder
	for _, name := range sortedKeys(d.Modules.Options) {
		fmt.Fprintf(&conf, "options %s %s\n", name, d.Modules.Options[name])
	}
	if conf.Len() > 0 {
		errs = append(errs, t.AddBytes(images.ModprobeFile[1:], 0o644, []byte(conf.String()), "muster"))
	}
	return errors.Join(errs...)
}

// fileList lists the regular files with their sizes, so that PID 1 can tell
// whether the kernel unpacked all of them.
func fileList(t *initramfs.Tree) []byte {
	var b bytes.Buffer
	escape := strings.NewReplacer("\\", `\\`, "\n", `\n`)
	for e := range t.All() {
		if e.Type == initramfs.File {
			fmt.Fprintf(&b, "%d /%s\n", e.Size, escape.Replace(e.Path))
		}
	}
	return b.Bytes()
}
