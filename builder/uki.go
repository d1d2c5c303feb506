package builder

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"time"

	"muster/builder/deb"
	"muster/builder/hybrid"
	"muster/builder/uki"
	"muster/images"
)

// ukiFormat is the number of the way in which UKIs, and disks with them, are made, as
// isoFormat is for media.
const ukiFormat = 1

// stubFile is the boot stub of UEFI programs in its package.
const stubFile = "usr/lib/systemd/boot/efi/linuxx64.efi.stub"

// Sections of a UKI. The stub knows all but the last, which is ours: what the UKI is and what
// is in it, for who has only the file.
const (
	sectionOS        = ".osrel"
	sectionCmdline   = ".cmdline"
	sectionRelease   = ".uname"
	sectionInitramfs = ".initrd" // initramfs, zero bytes up to a multiple of four, site segment
	sectionKernel    = ".linux"
	sectionList      = ".muster"
)

// diskProgram is where firmware looks on a disk.
const diskProgram = "EFI/BOOT/BOOTX64.EFI"

// ukiFile is a UKI, or a disk with one. Its site segment is empty where it is not signed, and has no place where it
// is.
type ukiFile struct {
	File   deb.FileHash
	Site   *images.Range
	Signer string // SHA-256 of the certificate
}

func (f ukiFile) blobs() []deb.FileHash { return []deb.FileHash{f.File} }

func (f ukiFile) artifact(kind images.ArtifactKind, name string) images.Artifact {
	return images.Artifact{Kind: kind, Name: name, Size: f.File.Size, SHA256: f.File.SHA256, Site: f.Site, Signer: f.Signer}
}

// ukiFiles are the artifacts with a UKI; nil for what is not made.
type ukiFiles struct{ UKI, IMG *ukiFile }

func (f ukiFiles) artifacts(d *images.Definition) []images.Artifact {
	var out []images.Artifact
	if f.UKI != nil {
		out = append(out, f.UKI.artifact(images.KindUKI, path.Base(d.Name)+".efi"))
	}
	if f.IMG != nil {
		out = append(out, f.IMG.artifact(images.KindIMG, path.Base(d.Name)+".img"))
	}
	return out
}

func (f ukiFiles) summary() string {
	for _, x := range []*ukiFile{f.UKI, f.IMG} {
		switch {
		case x == nil:
		case x.Signer != "":
			return fmt.Sprintf("%.1f MB, signed", float64(x.File.Size)/1e6)
		default:
			return fmt.Sprintf("%.1f MB", float64(x.File.Size)/1e6)
		}
	}
	return ""
}

// ukiList is the section .muster.
type ukiList struct {
	Schema int       `json:"schema"`
	Name   string    `json:"name"`
	ID     string    `json:"id"`
	Kernel string    `json:"kernel"`
	Time   time.Time `json:"time"`
	// Initramfs is the size of it in the section .initrd; the site segment is the end of that section.
	Initramfs int64        `json:"initramfs"`
	Sections  []mediumFile `json:"sections"` // all others, .initrd with an empty site segment
}

const ukiListSchema = 1

// ukiStep makes the UKI, signs it where a signer is given, and makes the disk. Like isoStep it makes
// nothing where the definition does not want it, or wants what can be made and this archive has no stub.
func ukiStep(ctx context.Context, cfg Config, c *cache, client *deb.Client, lock *images.Lock, ids ids, k kernelFiles, archive initramfsFile) (ukiFiles, bool, error) {
	wantUKI, named := cfg.Definition.Wants(images.MediumUKI)
	wantIMG, namedIMG := cfg.Definition.Wants(images.MediumIMG)
	packages := lock.ByRole(images.RoleUKI)
	stub := len(packages) > 0 && cfg.Definition.Arch == "amd64"
	needed := named || namedIMG || cfg.Signer != nil
	switch {
	case !wantUKI && !wantIMG && cfg.Signer != nil:
		return ukiFiles{}, false, inputErrorf("there is nothing to sign: the list media of definition %s has neither %s nor %s; add one, or leave --sign-key out",
			cfg.Definition.Name, images.MediumUKI, images.MediumIMG)
	case !wantUKI && !wantIMG, !stub && !needed:
		return ukiFiles{}, false, nil
	case !stub:
		return ukiFiles{}, false, fmt.Errorf("medium uki: suite %s has no package %s with a boot stub for %s; leave uki and img out of the list media, and --sign-key",
			cfg.Definition.Suite, strings.Join(images.UKIPackages(), ", "), cfg.Definition.Arch)
	}
	program, cached, err := assembleStep(ctx, cfg, c, client, lock, ids, k, archive)
	if err != nil {
		return ukiFiles{}, false, fmt.Errorf("medium uki: %w", err)
	}
	if cfg.Signer != nil {
		var again bool
		if program, again, err = signStep(ctx, cfg, c, program, imageTime(cfg, lock)); err != nil {
			return ukiFiles{}, false, fmt.Errorf("medium uki: %w", err)
		}
		cached = cached && again
	}
	var out ukiFiles
	if wantUKI {
		out.UKI = &program
	}
	if wantIMG {
		disk, again, err := diskStep(ctx, cfg, c, lock, ids, program)
		if err != nil {
			return ukiFiles{}, false, fmt.Errorf("medium img: %w", err)
		}
		out.IMG, cached = &disk, cached && again
	}
	return out, cached, nil
}

// assembleStep makes the UKI, with an empty site segment and without signature.
func assembleStep(ctx context.Context, cfg Config, c *cache, client *deb.Client, lock *images.Lock, ids ids, k kernelFiles, archive initramfsFile) (ukiFile, bool, error) {
	packages := lock.ByRole(images.RoleUKI)
	in := []any{ukiFormat, ids, hashesOf(packages), stubFile, ukiCmdline(cfg.Definition.Kernel.Cmdline, ids.Image), siteSize}
	return runStep(ctx, c, "uki", in, func() (ukiFile, error) {
		stub, err := fetchStub(ctx, cfg, client, packages)
		if err != nil {
			return ukiFile{}, err
		}
		cfg.Progress(Event{Step: StepUKI, Detail: "writing"})
		program, err := makeUKI(cfg, c, lock, ids, k, archive, stub)
		if err != nil {
			return ukiFile{}, err
		}
		site, err := readUKI(program)
		if err != nil {
			return ukiFile{}, fmt.Errorf("what was written %w", err)
		}
		file, err := c.putBytes(program)
		return ukiFile{File: file, Site: &site.site}, err
	})
}

// fetchStub returns the boot stub.
func fetchStub(ctx context.Context, cfg Config, client *deb.Client, packages []images.LockedPackage) ([]byte, error) {
	got, err := fetchAll(ctx, cfg, client, packages)
	if err != nil {
		return nil, err
	}
	var stub []byte
	for _, p := range got {
		if err := p.walk(ctx, func(e deb.Entry, r io.Reader) error {
			if e.Path != stubFile || e.Type != deb.TypeFile {
				return nil
			}
			return readInto(&stub, e, r)
		}); err != nil {
			return nil, err
		}
	}
	if stub == nil {
		return nil, fmt.Errorf("package %s: it does not have %s", packageNames(got), stubFile)
	}
	return stub, nil
}

// ukiCmdline is the kernel's command line in a UKI.
func ukiCmdline(image, id string) string {
	return strings.TrimSpace(image + " muster.image=" + id + " muster.medium=uki")
}

func osRelease(cfg Config, id string) []byte {
	name := cfg.Definition.Name
	return fmt.Appendf(nil, "ID=muster\nNAME=muster\nPRETTY_NAME=\"muster %s\"\nIMAGE_ID=%q\nIMAGE_VERSION=%s\n", name, name, id)
}

func makeUKI(cfg Config, c *cache, lock *images.Lock, ids ids, k kernelFiles, archive initramfsFile, stub []byte) ([]byte, error) {
	kernel, err := c.read(k.Vmlinuz)
	if err != nil {
		return nil, err
	}
	initrd, err := c.read(archive.File)
	if err != nil {
		return nil, err
	}
	initrd = append(initrd, make([]byte, -len(initrd)&3+siteSize)...)
	sections := []uki.Section{
		{Name: sectionOS, Data: osRelease(cfg, ids.Image)},
		{Name: sectionCmdline, Data: []byte(ukiCmdline(cfg.Definition.Kernel.Cmdline, ids.Image))},
		{Name: sectionRelease, Data: []byte(k.Release)},
		{Name: sectionInitramfs, Data: initrd},
		{Name: sectionKernel, Data: kernel},
	}
	im, err := uki.Parse(stub)
	if err != nil {
		return nil, fmt.Errorf("the stub %w", err)
	}
	list := ukiList{
		Schema: ukiListSchema, Name: cfg.Definition.Name, ID: ids.Image, Kernel: k.Release, Time: imageTime(cfg, lock),
		Initramfs: archive.File.Size,
	}
	for _, s := range append(im.Sections[:len(im.Sections):len(im.Sections)], sections...) {
		list.Sections = append(list.Sections, mediumFile{s.Name, int64(len(s.Data)), hashBytes(s.Data)})
	}
	text, err := json.MarshalIndent(list, "", "  ")
	if err != nil {
		return nil, err
	}
	return uki.Assemble(stub, append(sections, uki.Section{Name: sectionList, Data: append(text, '\n')}))
}

// signStep writes the definition's site into the UKI and signs it. Nothing of the key gets
// into the cache.
func signStep(ctx context.Context, cfg Config, c *cache, program ukiFile, t time.Time) (ukiFile, bool, error) {
	segment, err := siteSegment(cfg.Definition.Site, t)
	if err != nil {
		return ukiFile{}, false, err
	}
	in := []any{ukiFormat, program, hashBytes(segment)}
	for _, cert := range cfg.Signer.Chain {
		in = append(in, uki.Fingerprint(cert))
	}
	return runStep(ctx, c, "sign", in, func() (ukiFile, error) {
		data, err := c.read(program.File)
		if err != nil {
			return ukiFile{}, err
		}
		copy(data[program.Site.Offset:], segment)
		signed, err := uki.Sign(data, cfg.Signer)
		if err != nil {
			return ukiFile{}, err
		}
		file, err := c.putBytes(signed)
		return ukiFile{File: file, Signer: uki.Fingerprint(cfg.Signer.Chain[0])}, err
	})
}

// diskStep makes the disk.
func diskStep(ctx context.Context, cfg Config, c *cache, lock *images.Lock, ids ids, program ukiFile) (ukiFile, bool, error) {
	return runStep(ctx, c, "img", []any{ukiFormat, ids, program, diskProgram}, func() (ukiFile, error) {
		from, ok := c.lookup(program.File)
		if !ok {
			return ukiFile{}, leftCacheError(c, program.File)
		}
		layout := hybrid.DiskLayout{
			Time: imageTime(cfg, lock), Seed: sha256.Sum256([]byte("muster disk " + ids.Image)),
			ESP: []hybrid.File{{Path: diskProgram, From: from}},
		}
		out := ukiFile{Signer: program.Signer}
		var err error
		out.File, err = c.put(func(f *os.File) error {
			if err := hybrid.WriteDisk(f, layout, c.tmp()); err != nil {
				return err
			}
			fi, err := f.Stat()
			if err != nil {
				return err
			}
			d, err := hybrid.OpenDisk(f, fi.Size())
			if err != nil {
				return fmt.Errorf("what was written %w", err)
			}
			if program.Site != nil {
				out.Site = &images.Range{Offset: d.Files[diskProgram].Offset + program.Site.Offset, Size: program.Site.Size}
			}
			return nil
		})
		return out, err
	})
}

func leftCacheError(c *cache, file deb.FileHash) error {
	return fmt.Errorf("file %s left the cache %s during the build; build again", file.SHA256, c.dir)
}

// openedUKI is a UKI that was read.
type openedUKI struct {
	*uki.Image
	list    ukiList
	site    images.Range // in the program
	segment []byte
}

// errNoUKI is for a UEFI program that is no UKI of ours.
var errNoUKI = errors.New("is no UKI of muster")

// readUKI reads the structure of a UKI. What is read may be anything.
func readUKI(program []byte) (*openedUKI, error) {
	im, err := uki.Parse(program)
	if err != nil {
		return nil, err
	}
	text, ok := im.Section(sectionList)
	if !ok {
		return nil, errNoUKI
	}
	o := &openedUKI{Image: im}
	if err := json.Unmarshal(text.Data, &o.list); err != nil {
		return nil, fmt.Errorf("its list, section %s, cannot be read: %w", sectionList, err)
	}
	if o.list.Schema != ukiListSchema {
		return nil, fmt.Errorf("its list, section %s, has format %d, this program knows %d; update muster", sectionList, o.list.Schema, ukiListSchema)
	}
	initrd, ok := im.Section(sectionInitramfs)
	if n := int64(len(initrd.Data)); !ok || o.list.Initramfs <= 0 || o.list.Initramfs > n || (o.list.Initramfs+3)&^3+siteSize != n {
		return nil, fmt.Errorf("its section %s has %d bytes, which are not an initramfs of %d and a site segment of %d", sectionInitramfs, n, o.list.Initramfs, siteSize)
	}
	at := int64(len(initrd.Data)) - siteSize
	o.site, o.segment = images.Range{Offset: initrd.Offset + at, Size: siteSize}, initrd.Data[at:]
	return o, nil
}

// compare names every section that is not as the list says.
func (o *openedUKI) compare() error {
	var errs []error
	known := map[string]bool{sectionList: true}
	for _, want := range o.list.Sections {
		known[want.Path] = true
		s, ok := o.Section(want.Path)
		data := s.Data
		if want.Path == sectionInitramfs && ok {
			data = bytes.Clone(data)
			clear(data[len(data)-siteSize:])
		}
		switch sum := hashBytes(data); {
		case !ok:
			errs = append(errs, fmt.Errorf("section %s is missing", want.Path))
		case sum != want.SHA256:
			errs = append(errs, fmt.Errorf("section %s differs: its SHA-256 is %s, should be %s", want.Path, sum, want.SHA256))
		}
	}
	for _, s := range o.Sections {
		if !known[s.Name] {
			errs = append(errs, fmt.Errorf("section %s is in it and should not be", s.Name))
		}
		known[s.Name] = false // two of one name
	}
	return errors.Join(errs...)
}
