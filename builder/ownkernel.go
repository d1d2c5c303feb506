package builder

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"

	"muster/builder/deb"
	"muster/images"
)

// kernelOf returns what the image's kernel is made of: packages, or files of the host.
func kernelOf(ctx context.Context, cfg Config, packages []fetched) (*kernelPackage, error) {
	own := cfg.Definition.Kernel
	switch {
	case !own.Own():
		return readKernel(ctx, packages)
	case own.File != "":
		k, err := readOwnKernel(ctx, own)
		return k, asInput(err)
	}
	var files []fetched
	for i, name := range own.Deb {
		p, err := ownPackage(name, own.Hashes[i])
		if err != nil {
			return nil, inputErrorf("kernel: deb: %s: %w", name, err)
		}
		files = append(files, fetched{LockedPackage: p, file: name})
	}
	k, err := readKernel(ctx, files)
	if err != nil {
		return nil, asInput(err)
	}
	if want := cfg.Definition.Arch; !slices.ContainsFunc(files, func(f fetched) bool { return f.Arch == want }) {
		return nil, inputErrorf("kernel: deb: %s is for %s, and the image for %s", packageNames(files), files[0].Arch, want)
	}
	return k, nil
}

// kernelLicense is that of Linux.
const kernelLicense = "GPL-2.0-only"

// ownFile is a file of the host that a kernel comes from.
type ownFile struct{ name, sum string }

// ownKernelFiles are the files that an own kernel comes from. How they are called on the host
// has no influence on the image.
func ownKernelFiles(k images.Kernel) []ownFile {
	if k.File != "" {
		return []ownFile{{"bzImage", k.Hashes[0]}}
	}
	var out []ownFile
	for i := range k.Deb {
		out = append(out, ownFile{fmt.Sprintf("kernel-%d.deb", i+1), k.Hashes[i]})
	}
	return out
}

// ownPackage reads what a package of the host says about itself. Its content has to be
// what the definition was loaded with.
func ownPackage(name, sum string) (images.LockedPackage, error) {
	f, err := os.Open(name)
	if err != nil {
		return images.LockedPackage{}, err
	}
	defer f.Close()
	if err := unchanged(f, sum); err != nil {
		return images.LockedPackage{}, err
	}
	control, err := deb.Control(f)
	if err != nil {
		return images.LockedPackage{}, err
	}
	stanza, err := deb.ParseStanza(control["control"])
	if err != nil {
		return images.LockedPackage{}, fmt.Errorf("control: %w", err)
	}
	return images.LockedPackage{
		Name: stanza.Field("Package"), Version: stanza.Field("Version"), Arch: stanza.Field("Architecture"), SHA256: sum,
	}, nil
}

// unchanged checks the hash of f, and goes back to its beginning.
func unchanged(f *os.File, sum string) error {
	data, err := hashReader(f)
	if err != nil {
		return err
	}
	if data.SHA256 != sum {
		return errors.New("it changed while the image was built; build again")
	}
	_, err = f.Seek(0, io.SeekStart)
	return err
}

// readOwnKernel reads a bzImage and the modules beside it.
func readOwnKernel(ctx context.Context, own images.Kernel) (*kernelPackage, error) {
	f, err := os.Open(own.File)
	if err != nil {
		return nil, fmt.Errorf("kernel: %w", err)
	}
	defer f.Close()
	if err := unchanged(f, own.Hashes[0]); err != nil {
		return nil, fmt.Errorf("kernel: file %s: %w", own.File, err)
	}
	k := &kernelPackage{modules: make(map[string][]byte), texts: make(map[string][]byte)}
	if k.vmlinuz, err = io.ReadAll(io.LimitReader(f, maxKernelFile)); err != nil {
		return nil, fmt.Errorf("kernel: file %s: %w", own.File, err)
	}
	if k.release, err = kernelRelease(k.vmlinuz); err != nil {
		return nil, fmt.Errorf("kernel: file %s: %w", own.File, err)
	}
	if err := readOwnModules(ctx, k, own); err != nil {
		return nil, fmt.Errorf("kernel: modules %s: %w", own.Modules, err)
	}
	return k, nil
}

// The places in a kernel that are used here (Documentation/arch/x86/boot.rst).
const (
	headerMagic   = 0x202 // "HdrS"
	headerVersion = 0x20e // where its release is, less 0x200
	maxRelease    = 512
)

// kernelRelease returns what uname -r of a bzImage will say.
func kernelRelease(image []byte) (string, error) {
	if len(image) < headerVersion+2 || string(image[headerMagic:headerMagic+4]) != "HdrS" {
		return "", errors.New("it is no bzImage for x86; it is arch/x86/boot/bzImage of a kernel that was compiled")
	}
	at := int(binary.LittleEndian.Uint16(image[headerVersion:])) + 0x200
	if at >= len(image) {
		return "", errors.New("it does not say its release; the file is damaged")
	}
	text := string(image[at:min(at+maxRelease, len(image))])
	text, _, ended := strings.Cut(text, "\x00")
	words := strings.Fields(text)
	if !ended || len(words) == 0 || strings.ContainsAny(words[0], "/\\\n") {
		return "", errors.New("it does not say its release; the file is damaged")
	}
	return words[0], nil
}

// moduleFolders are those of a release that modules are taken from; of two modules of a
// name, that in the earlier folder counts, as for depmod(8).
var moduleFolders = []string{"updates/", "extra/", "kernel/"}

// readOwnModules reads the modules of k's release: a tree as make modules_install writes it,
// or the folder of the release alone.
func readOwnModules(ctx context.Context, k *kernelPackage, own images.Kernel) error {
	tree, err := own.ModulesTree()
	if err != nil {
		return err
	}
	found := make(map[string]bool) // releases
	var entries []images.TreeEntry
	err = tree.WalkTree(func(e images.TreeEntry, r io.Reader) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		if e.Kind != images.TreeFile {
			return nil
		}
		if e.Size > maxKernelFile {
			return fmt.Errorf("%s has %d bytes", e.Path, e.Size)
		}
		data := make([]byte, e.Size)
		if _, err := io.ReadFull(r, data); err != nil {
			return fmt.Errorf("reading %s: %w", e.Path, err)
		}
		e.SHA256 = hashBytes(data)
		entries = append(entries, e)
		release, file := splitModule(e.Path, k.release)
		if file == "" {
			return nil
		}
		found[release] = true
		if release == k.release {
			k.take(file, data)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if images.ModulesHash(entries) != own.Hashes[1] {
		return errors.New("they changed while the image was built; build again")
	}
	if !found[k.release] {
		if len(found) == 0 {
			return fmt.Errorf("there is no lib/modules/%s in it, nor is it that folder itself", k.release)
		}
		return fmt.Errorf("they are of %s, and the kernel %s is %s", strings.Join(sortedKeys(found), ", "), own.File, k.release)
	}
	k.preferUpdates()
	return nil
}

// splitModule splits a path into the release that it is of and the path below the folder of
// that release. A tree that is such a folder itself is of any release.
func splitModule(name, any string) (release, file string) {
	rest, ok := strings.CutPrefix(name, "usr/")
	if !ok {
		rest = name
	}
	if rest, ok := strings.CutPrefix(rest, "lib/modules/"); ok {
		release, file, _ = strings.Cut(rest, "/")
		return release, file
	}
	top, _, _ := strings.Cut(name, "/")
	if strings.HasPrefix(name, "modules.") || slices.Contains(moduleFolders, top+"/") {
		return any, name
	}
	return "", ""
}

// take keeps a file of the folder of the release, if it is one that counts.
func (k *kernelPackage) take(file string, data []byte) {
	switch {
	case isModule(file) && slices.ContainsFunc(moduleFolders, func(dir string) bool { return strings.HasPrefix(file, dir) }):
		k.modules[file] = data
	case file == "modules.order" || file == "modules.builtin" || file == "modules.builtin.modinfo":
		k.texts[file] = data
	case file == "config":
		k.config = string(data)
	}
}

// preferUpdates drops modules that a folder which counts more has too.
func (k *kernelPackage) preferUpdates() {
	rank := func(p string) int {
		return slices.IndexFunc(moduleFolders, func(dir string) bool { return strings.HasPrefix(p, dir) })
	}
	best := make(map[string]string)
	for _, p := range sortedKeys(k.modules) {
		name := moduleName(p)
		other, twice := best[name]
		switch {
		case !twice:
			best[name] = p
		case rank(p) < rank(other):
			delete(k.modules, other)
			best[name] = p
		default:
			delete(k.modules, p)
		}
	}
}

func moduleName(p string) string {
	base, _, _ := strings.Cut(path.Base(p), ".")
	return strings.ReplaceAll(base, "-", "_")
}
