package hybrid

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Image is a hybrid file or stick that was read and found sound.
type Image struct {
	Volume string           // label
	Size   int64            // bytes that belong to it; a stick has more
	Files  map[string]Place // of the CD, by path
	ESP    map[string][]byte
	Boot   []BootEntry

	r io.ReaderAt
}

// Place is where a file's content lies, in one piece.
type Place struct{ Offset, Size int64 }

// BootEntry is an entry of the El Torito catalog.
type BootEntry struct {
	Platform byte   // 0 BIOS, 0xef UEFI
	File     string // of the CD
}

// ErrFormat is for what is no hybrid file at all.
var ErrFormat = errors.New("is not an ISO file of muster")

// Open reads the structure of a hybrid file, or of a stick of size bytes that it was
// written to, and checks everything that firmware relies on: ISO 9660, El Torito, MBR, both
// GPTs, the ESP, and that they agree. Contents of files are not looked at.
// What is read may be anything.
func Open(r io.ReaderAt, size int64) (*Image, error) {
	head := make([]byte, 18*block)
	if size < int64(len(head)) {
		return nil, ErrFormat
	}
	if err := readAt(r, head, 0); err != nil {
		return nil, err
	}
	pvd, boot := head[pvdAt:bootAt], head[bootAt:]
	if string(pvd[:6]) != "\x01CD001" || binary.LittleEndian.Uint16(pvd[128:]) != block {
		return nil, ErrFormat
	}
	volume := int64(binary.LittleEndian.Uint32(pvd[80:])) * block
	im := &Image{Volume: strings.TrimRight(string(pvd[40:72]), " \x00"), Files: make(map[string]Place), r: r}
	if volume > size {
		return nil, fmt.Errorf("is truncated: it has %d bytes, its file system %d", size, volume)
	}
	if err := im.readFiles(volume); err != nil {
		return nil, fmt.Errorf("ISO 9660: %w", err)
	}
	if err := im.readCatalog(boot); err != nil {
		return nil, fmt.Errorf("boot record of El Torito: %w", err)
	}
	esp, ok := im.Files[espPath]
	if !ok {
		return nil, fmt.Errorf("there is no %s on it", espPath)
	}
	if err := im.readESP(esp); err != nil {
		return nil, fmt.Errorf("ESP: file system %w", err)
	}
	if err := im.checkPartitions(head[:sector], esp, size); err != nil {
		return nil, err
	}
	return im, nil
}

func (im *Image) readFiles(volume int64) error {
	return walkISO(im.r, func(name string, rec record, _ []field) error {
		if rec.start()+rec.size() > volume {
			return fmt.Errorf("%s lies behind the end", name)
		}
		if rec.isDir() {
			return nil
		}
		if _, ok := im.Files[name]; ok {
			return fmt.Errorf("%s is there twice", name)
		}
		im.Files[name] = Place{rec.start(), rec.size()}
		return nil
	})
}

// readCatalog reads the boot catalog (El Torito 1.0, 2.1 to 2.3).
func (im *Image) readCatalog(boot []byte) error {
	if !bytes.HasPrefix(boot, []byte("\x00CD001\x01EL TORITO SPECIFICATION")) {
		return errors.New("there is no boot record")
	}
	b := make([]byte, 4*32)
	if err := readAt(im.r, b, int64(binary.LittleEndian.Uint32(boot[catalogIn:]))*block); err != nil {
		return err
	}
	var sum uint16
	for i := 0; i < 32; i += 2 {
		sum += binary.LittleEndian.Uint16(b[i:])
	}
	if b[0] != 1 || b[30] != 0x55 || b[31] != 0xaa || sum != 0 {
		return errors.New("the boot catalog is damaged")
	}
	if b[64] != 0x91 {
		return errors.New("the boot catalog has no entry for UEFI")
	}
	for _, e := range []struct {
		platform byte
		entry    []byte
	}{{b[1], b[32:64]}, {b[65], b[96:128]}} {
		at := int64(binary.LittleEndian.Uint32(e.entry[8:])) * block
		name := ""
		for n, p := range im.Files {
			if p.Offset == at {
				name = n
			}
		}
		if e.entry[0] != 0x88 || name == "" {
			return fmt.Errorf("the entry for platform %#x names no file of the CD", e.platform)
		}
		im.Boot = append(im.Boot, BootEntry{e.platform, name})
	}
	if im.Boot[0].Platform != 0 || im.Boot[1].Platform != 0xef || im.Boot[1].File != espPath {
		return fmt.Errorf("the boot catalog names %s and %s; want isolinux and %s", im.Boot[0].File, im.Boot[1].File, espPath)
	}
	return nil
}

// maxESP bounds what is read into memory.
const maxESP = 256 * mib

func (im *Image) readESP(at Place) error {
	if at.Size > maxESP {
		return errors.New("is too large")
	}
	b := make([]byte, at.Size)
	if err := readAt(im.r, b, at.Offset); err != nil {
		return err
	}
	f, err := openFAT(b)
	if err != nil {
		return err
	}
	im.ESP, err = f.files()
	return err
}

// checkPartitions checks that MBR and GPT name the same places.
func (im *Image) checkPartitions(lba0 []byte, esp Place, size int64) error {
	espLBA, espEnd := uint64(esp.Offset/sector), uint64((esp.Offset+esp.Size)/sector)
	parts, err := readMBR(lba0)
	if err != nil {
		return fmt.Errorf("MBR: %w", err)
	}
	want := []mbrPartition{
		{true, typeCD, firstLBA, uint32(espLBA - firstLBA)},
		{false, typeESP, uint32(espLBA), uint32(espEnd - espLBA)},
		{false, typeGPT, 1, gptLBAs},
	}
	if len(parts) != len(want) {
		return fmt.Errorf("MBR: has %d partitions, want %d", len(parts), len(want))
	}
	for i := range want {
		if parts[i] != want[i] {
			return fmt.Errorf("MBR: partition %d is %+v, want %+v", i+1, parts[i], want[i])
		}
	}
	isolinux := im.Files[im.Boot[0].File]
	if got := binary.LittleEndian.Uint64(lba0[mbrCode:]); got != uint64(isolinux.Offset/sector) {
		return fmt.Errorf("MBR: the boot code looks for isolinux at sector %d, it is at %d", got, isolinux.Offset/sector)
	}
	primary, err := readGPT(im.r, 1)
	if err != nil {
		return fmt.Errorf("GPT: %w", err)
	}
	if primary.Other > uint64(size)/sector-1 {
		return fmt.Errorf("is truncated: it has %d bytes, its GPT says %d", size, (primary.Other+1)*sector)
	}
	backup, err := readGPT(im.r, primary.Other)
	if err != nil {
		return fmt.Errorf("backup GPT: %w", err)
	}
	im.Size = int64(primary.Other+1) * sector
	for _, h := range []gptHeader{primary, backup} {
		if len(h.Entries) != 2 || h.Entries[0].Start != firstLBA || h.Entries[0].Last != espLBA-1 ||
			h.Entries[1].Start != espLBA || h.Entries[1].Last != espEnd-1 {
			return fmt.Errorf("GPT: the partitions are not those of the MBR: %+v", h.Entries)
		}
	}
	return nil
}

// Reader reads a file of the CD.
func (im *Image) Reader(name string) (*io.SectionReader, error) {
	p, ok := im.Files[name]
	if !ok {
		return nil, fmt.Errorf("there is no %s on it", name)
	}
	return io.NewSectionReader(im.r, p.Offset, p.Size), nil
}

// All reads the whole of it, with zero bytes in the place of the named file.
func (im *Image) All(zeroed string) io.Reader {
	p := im.Files[zeroed]
	return io.MultiReader(
		io.NewSectionReader(im.r, 0, p.Offset),
		io.LimitReader(zeros{}, p.Size),
		io.NewSectionReader(im.r, p.Offset+p.Size, im.Size-p.Offset-p.Size),
	)
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}
