package hybrid

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"time"

	"github.com/diskfs/go-diskfs/backend"
	"github.com/diskfs/go-diskfs/backend/file"
	"github.com/diskfs/go-diskfs/filesystem/iso9660"
)

// File is a file of the CD or of the ESP.
type File struct {
	Path string // slash-separated and relative: boot/vmlinuz
	Data []byte // its content, or
	From string // a file of the host, which has to stay as it is while Write runs
}

// Layout is what [Write] writes.
type Layout struct {
	Volume string // volume label: upper case letters, digits and _, at most 32
	Time   time.Time
	// Seed is a hash of the contents. Identifiers of disk and partitions are made
	// of it, so that they are the same whenever the contents are.
	Seed [32]byte

	// Files of the CD. All have to be in folders that sort before "efi", which
	// holds the ESP.
	Files []File
	// ESP are the files of the UEFI system partition: upper case, 8 and 3 characters.
	ESP []File

	BootImage string // of Files: isolinux.bin
	MBR       []byte // isohdpfx.bin, the boot code for disks
}

// Places in the CD.
const (
	espPath     = "efi/esp.img"
	catalogPath = "boot/isolinux/boot.cat"
)

const (
	block  = 2048 // of a CD
	sector = 512  // of a disk
	mib    = 1 << 20
)

// Write writes a hybrid file to f, which has to be empty. dir is an existing
// folder for temporary files on the file system of the layout's files, which are linked into it;
// nothing of it is left. The same layout gives the same bytes, whatever the time, the time zone
// and the user are.
func Write(f *os.File, l Layout, dir string) error {
	tree, err := os.MkdirTemp(dir, "iso-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tree)
	esp, err := makeESP(l.ESP, l.Time, dir)
	if err != nil {
		return fmt.Errorf("writing the ESP: %w", err)
	}
	for _, x := range append(l.Files[:len(l.Files):len(l.Files)], File{Path: espPath, Data: esp}) {
		if err := x.place(tree); err != nil {
			return fmt.Errorf("writing %s: %w", x.Path, err)
		}
	}
	if err := writeISO(f, l, tree); err != nil {
		return fmt.Errorf("writing ISO 9660: %w", err)
	}
	if err := normalize(f, l.Time); err != nil {
		return fmt.Errorf("setting times and owners: %w", err)
	}
	if err := writePartitions(f, l); err != nil {
		return fmt.Errorf("writing partition tables: %w", err)
	}
	return nil
}

// place puts the file below dir, as a link where that can be.
func (x File) place(dir string) error {
	name := filepath.Join(dir, filepath.FromSlash(x.Path))
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	if x.From == "" {
		return os.WriteFile(name, x.Data, 0o644)
	}
	if os.Link(x.From, name) == nil {
		return nil
	}
	from, err := os.Open(x.From)
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := os.Create(name)
	if err != nil {
		return err
	}
	_, err = io.Copy(to, from)
	return errors.Join(err, to.Close())
}

// writeISO writes the file system. The library removes tree.
func writeISO(f *os.File, l Layout, tree string) error {
	out := &watched{Storage: file.New(f, false)}
	fs, err := iso9660.Create(out, 0, 0, block, tree)
	if err != nil {
		return err
	}
	bios := &iso9660.ElToritoEntry{Platform: iso9660.BIOS, Emulation: iso9660.NoEmulation, BootFile: l.BootImage, BootTable: true}
	bios.SetLoadSize(4)
	efi := &iso9660.ElToritoEntry{Platform: iso9660.EFI, Emulation: iso9660.NoEmulation, BootFile: espPath}
	err = fs.Finalize(iso9660.FinalizeOptions{
		RockRidge: true, VolumeIdentifier: l.Volume,
		ElTorito: &iso9660.ElTorito{BootCatalog: catalogPath, Entries: []*iso9660.ElToritoEntry{bios, efi}},
	})
	return errors.Join(err, out.err)
}

// watched remembers the first error of writing: the library ignores most of
// them, and a full disk would give a file with holes.
type watched struct {
	backend.Storage
	err error
}

func (w *watched) Writable() (backend.WritableFile, error) {
	f, err := w.Storage.Writable()
	if err != nil {
		return nil, err
	}
	return &watchedFile{WritableFile: f, first: &w.err}, nil
}

type watchedFile struct {
	backend.WritableFile
	first *error
}

func (w *watchedFile) WriteAt(p []byte, off int64) (int, error) {
	n, err := w.WritableFile.WriteAt(p, off)
	if err != nil && *w.first == nil {
		*w.first = err
	}
	return n, err
}

// contents returns what is in the file.
func (x File) contents() ([]byte, error) {
	if x.From == "" {
		return x.Data, nil
	}
	return os.ReadFile(x.From)
}

// folders lists the folders above name, the highest first.
func folders(name string) []string {
	var out []string
	for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
		out = append([]string{dir}, out...)
	}
	return out
}
