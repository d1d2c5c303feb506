package builder

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"muster/builder/deb"
	"muster/builder/hybrid"
	"muster/images"
)

// isoFormat is the number of the way in which media are made. It changes when the same image
// gives another file: the image ID is that of what boots, not of the medium.
const isoFormat = 1

// Places on a medium.
const (
	mediumKernel    = "boot/vmlinuz"
	mediumInitramfs = "boot/initrd.zst"
	mediumSite      = "boot/site.cpio"
	mediumList      = "boot/muster.json"
	mediumBoot      = "boot/isolinux/isolinux.bin"
)

// mediumFiles are the boot loaders of a medium by their path in a package; distributions name some in
// different ways. The value is the path on the CD, or on the ESP where it begins with "EFI/".
func mediumFiles() map[string]string {
	return map[string]string{
		"usr/lib/ISOLINUX/isolinux.bin":                    mediumBoot,
		"usr/lib/ISOLINUX/isohdpfx.bin":                    isohybridMBR,
		"usr/lib/syslinux/modules/bios/ldlinux.c32":        "boot/isolinux/ldlinux.c32",
		"usr/lib/shim/shimx64.efi.signed":                  "EFI/BOOT/BOOTX64.EFI",
		"usr/lib/shim/shimx64.efi.signed.latest":           "EFI/BOOT/BOOTX64.EFI", // Ubuntu
		"usr/lib/shim/mmx64.efi.signed":                    "EFI/BOOT/MMX64.EFI",
		"usr/lib/shim/mmx64.efi":                           "EFI/BOOT/MMX64.EFI", // Ubuntu
		"usr/lib/grub/x86_64-efi-signed/gcdx64.efi.signed": "EFI/BOOT/GRUBX64.EFI",
	}
}

// isohybridMBR stands for the boot code, which is no file of the medium.
const isohybridMBR = "isohdpfx.bin"

// isoFile is a medium with an empty site segment.
type isoFile struct {
	File deb.FileHash
	Site images.Range
}

func (f isoFile) blobs() []deb.FileHash { return []deb.FileHash{f.File} }

// mediumFileList is boot/muster.json of a medium: what it is and what is on it,
// for who has only the medium.
type mediumFileList struct {
	Schema int          `json:"schema"`
	Name   string       `json:"name"`
	ID     string       `json:"id"`
	Kernel string       `json:"kernel"`
	Time   time.Time    `json:"time"`
	Files  []mediumFile `json:"files"` // of the CD
	ESP    []mediumFile `json:"esp"`   // of the UEFI system partition
}

type mediumFile struct {
	Path   string `json:"path"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

const (
	mediumListSchema = 1
	maxMediumList    = 1 << 20
)

// isoStep makes the medium. It returns nil where the definition does not want it, or wants
// what can be made and this archive has no boot loaders.
func isoStep(ctx context.Context, cfg Config, c *cache, client *deb.Client, lock *images.Lock, ids ids, k kernelFiles, archive initramfsFile) (*isoFile, bool, error) {
	wanted, named := cfg.Definition.Wants(images.MediumISO)
	packages := lock.ByRole(images.RoleMedium)
	if !wanted || len(packages) == 0 && !named {
		return nil, false, nil
	}
	if len(packages) == 0 {
		return nil, false, fmt.Errorf("medium iso: suite %s has none of the packages with boot loaders (%s); leave iso out of the list media",
			cfg.Definition.Suite, strings.Join(images.MediumPackages(), ", "))
	}
	menu := menuOf(cfg, ids, k)
	in := []any{isoFormat, ids, hashesOf(packages), mediumFiles(), string(menu.grub()), string(menu.isolinux())}
	f, cached, err := runStep(ctx, c, "iso", in, func() (isoFile, error) {
		loaders, err := fetchMediumFiles(ctx, cfg, client, packages)
		if err != nil {
			return isoFile{}, fmt.Errorf("medium iso: %w", err)
		}
		cfg.Progress(Event{Step: StepISO, Detail: "writing"})
		f, err := makeISO(cfg, c, lock, ids, k, archive, loaders)
		if err != nil {
			return isoFile{}, fmt.Errorf("medium iso: %w", err)
		}
		return f, nil
	})
	if err != nil {
		return nil, false, err
	}
	return &f, cached, nil
}

// fetchMediumFiles returns the boot loaders by their path on the medium.
func fetchMediumFiles(ctx context.Context, cfg Config, client *deb.Client, packages []images.LockedPackage) (map[string][]byte, error) {
	got, err := fetchAll(ctx, cfg, client, packages)
	if err != nil {
		return nil, err
	}
	want, out := mediumFiles(), make(map[string][]byte)
	for _, p := range got {
		if err := p.walk(ctx, func(e deb.Entry, r io.Reader) error {
			to, ok := want[e.Path]
			if !ok || e.Type != deb.TypeFile {
				return nil
			}
			var data []byte
			err := readInto(&data, e, r)
			out[to] = data
			return err
		}); err != nil {
			return nil, err
		}
	}
	var missing []string
	for _, from := range sortedKeys(want) {
		if to := want[from]; out[to] == nil {
			out[to] = []byte{} // its other names are not asked for as well
			missing = append(missing, from)
		}
	}
	if len(missing) > 0 {
		return nil, fmt.Errorf("packages %s: they do not have %s", packageNames(got), strings.Join(missing, ", "))
	}
	return out, nil
}

// makeISO writes the medium and reads it back.
func makeISO(cfg Config, c *cache, lock *images.Lock, ids ids, k kernelFiles, archive initramfsFile, loaders map[string][]byte) (isoFile, error) {
	layout, err := mediumLayout(cfg, c, lock, ids, k, archive, loaders)
	if err != nil {
		return isoFile{}, err
	}
	var site hybrid.Place
	sum, err := c.put(func(f *os.File) error {
		if err := hybrid.Write(f, layout, c.tmp()); err != nil {
			return err
		}
		fi, err := f.Stat()
		if err != nil {
			return err
		}
		im, err := hybrid.Open(f, fi.Size())
		if err != nil {
			return fmt.Errorf("what was written %w", err)
		}
		site = im.Files[mediumSite]
		return nil
	})
	return isoFile{sum, images.Range{Offset: site.Offset, Size: site.Size}}, err
}

func menuOf(cfg Config, ids ids, k kernelFiles) bootMenu {
	return bootMenu{Name: cfg.Definition.Name, Kernel: k.Release, Cmdline: cfg.Definition.Kernel.Cmdline, ID: ids.Image}
}

func mediumLayout(cfg Config, c *cache, lock *images.Lock, ids ids, k kernelFiles, archive initramfsFile, loaders map[string][]byte) (hybrid.Layout, error) {
	t := imageTime(cfg, lock)
	menu := menuOf(cfg, ids, k)
	l := hybrid.Layout{
		Volume: volumeLabel(cfg.Definition.Name), Time: t, Seed: sha256.Sum256([]byte("muster medium " + ids.Image)),
		BootImage: mediumBoot, MBR: loaders[isohybridMBR],
		Files: []hybrid.File{
			{Path: ".disk/info", Data: []byte("muster " + cfg.Definition.Name + " " + ids.Image + "\n")},
			{Path: "boot/grub/grub.cfg", Data: menu.grub()},
			{Path: "boot/isolinux/isolinux.cfg", Data: menu.isolinux()},
		},
	}
	for _, name := range sortedKeys(loaders) {
		switch x := (hybrid.File{Path: name, Data: loaders[name]}); {
		case strings.HasPrefix(name, "EFI/"):
			l.ESP = append(l.ESP, x)
		case name != isohybridMBR:
			l.Files = append(l.Files, x)
		}
	}
	list := mediumFileList{Schema: mediumListSchema, Name: cfg.Definition.Name, ID: ids.Image, Kernel: k.Release, Time: t}
	for _, x := range l.ESP {
		list.ESP = append(list.ESP, mediumFile{x.Path, int64(len(x.Data)), hashBytes(x.Data)})
	}
	for _, x := range l.Files {
		list.Files = append(list.Files, mediumFile{x.Path, int64(len(x.Data)), hashOnMedium(x.Path, x.Data)})
	}
	for name, blob := range map[string]deb.FileHash{mediumKernel: k.Vmlinuz, mediumInitramfs: archive.File} {
		from, err := c.name(blob)
		if err != nil {
			return l, err
		}
		l.Files = append(l.Files, hybrid.File{Path: name, From: from})
		list.Files = append(list.Files, mediumFile{name, blob.Size, blob.SHA256})
	}
	slices.SortFunc(list.Files, func(a, b mediumFile) int { return strings.Compare(a.Path, b.Path) })
	text, err := json.MarshalIndent(list, "", "  ")
	if err != nil {
		return l, err
	}
	l.Files = append(l.Files, hybrid.File{Path: mediumList, Data: append(text, '\n')}, hybrid.File{Path: mediumSite, Data: make([]byte, siteSize)})
	slices.SortFunc(l.Files, func(a, b hybrid.File) int { return strings.Compare(a.Path, b.Path) })
	return l, nil
}

// bootInfo is the place of the boot information table that isolinux.bin gets on a CD.
var bootInfo = struct{ from, to int }{8, 64}

// hashOnMedium hashes a file of a medium; isolinux.bin without the table that tells where it is.
func hashOnMedium(name string, data []byte) string {
	if name == mediumBoot && len(data) >= bootInfo.to {
		data = slices.Clone(data)
		clear(data[bootInfo.from:bootInfo.to])
	}
	return hashBytes(data)
}

// volumeLabel makes a label of an image's name: capital letters, digits and _.
func volumeLabel(name string) string {
	label := "MUSTER_" + strings.Map(func(r rune) rune {
		if r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
			return r
		}
		return '_'
	}, strings.ToUpper(name))
	return label[:min(len(label), 32)]
}

// mediumName is the name of the medium's file.
func mediumName(d *images.Definition) string { return path.Base(d.Name) + ".iso" }

// errNoMedium is for a file that is no medium.
var errNoMedium = errors.New("is no medium of muster")
