package hybrid

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/diskfs/go-diskfs/backend/file"
	"github.com/diskfs/go-diskfs/partition/gpt"
)

// DiskLayout is what [WriteDisk] writes.
type DiskLayout struct {
	Time time.Time
	Seed [32]byte // see [Layout]
	ESP  []File   // upper case, 8 and 3 characters
}

// diskFirstLBA is where the one partition of a disk begins: at 1 MiB, as everywhere.
const diskFirstLBA = mib / sector

// WriteDisk writes a disk for UEFI to f, which has to be empty: a GPT with one
// partition, the ESP. dir is as in [Write], and so is what is the same.
func WriteDisk(f *os.File, l DiskLayout, dir string) error {
	esp, err := makeESP(l.ESP, l.Time, dir)
	if err != nil {
		return fmt.Errorf("writing the ESP: %w", err)
	}
	if len(esp) > maxESP {
		return fmt.Errorf("its files need an ESP of %d MiB, at most %d can be", len(esp)/mib, maxESP/mib)
	}
	end := int64(mib + len(esp))
	if err := f.Truncate(end + mib); err != nil {
		return err
	}
	table := &gpt.Table{
		LogicalSectorSize: sector, PhysicalSectorSize: sector, ProtectiveMBR: true, GUID: guid(l.Seed, "disk"),
		Partitions: []*gpt.Partition{
			{Index: 1, Start: diskFirstLBA, End: uint64(end/sector) - 1, Type: gpt.EFISystemPartition, Name: "ESP", GUID: guid(l.Seed, "esp")},
		},
	}
	out, err := file.New(f, false).Writable()
	if err != nil {
		return err
	}
	if err := table.Write(out, end+mib); err != nil {
		return fmt.Errorf("writing partition tables: %w", err)
	}
	_, err = f.WriteAt(esp, mib)
	return err
}

// Disk is a disk that was read and found sound.
type Disk struct {
	Size  int64            // bytes that belong to it; a stick has more
	Files map[string]Place // of the ESP, by path; each in one piece

	r io.ReaderAt
}

// ErrDisk is for what is no disk that [WriteDisk] wrote.
var ErrDisk = errors.New("is not a disk of muster")

// OpenDisk reads a disk of size bytes that [WriteDisk] wrote, as [Open] does.
func OpenDisk(r io.ReaderAt, size int64) (*Disk, error) {
	lba0 := make([]byte, sector)
	if size < 2*mib {
		return nil, ErrDisk
	}
	if err := readAt(r, lba0, 0); err != nil {
		return nil, err
	}
	parts, err := readMBR(lba0)
	if err != nil || len(parts) != 1 || parts[0].Type != typeGPT {
		return nil, ErrDisk
	}
	primary, err := readGPT(r, 1)
	if err != nil {
		return nil, fmt.Errorf("GPT: %w", err)
	}
	if len(primary.Entries) != 1 || primary.Entries[0].Start != diskFirstLBA {
		return nil, ErrDisk
	}
	if primary.Other > uint64(size)/sector-1 {
		return nil, fmt.Errorf("is truncated: it has %d bytes, its GPT says %d", size, (primary.Other+1)*sector)
	}
	backup, err := readGPT(r, primary.Other)
	if err != nil {
		return nil, fmt.Errorf("backup GPT: %w", err)
	}
	esp := primary.Entries[0]
	if len(backup.Entries) != 1 || backup.Entries[0] != esp || esp.Last < esp.Start || esp.Last >= primary.Other {
		return nil, fmt.Errorf("GPT: it says that the partition is %+v, its backup %+v", primary.Entries, backup.Entries)
	}
	d := &Disk{Size: int64(primary.Other+1) * sector, r: r}
	if d.Files, err = readPlaces(r, Place{mib, int64(esp.Last+1-esp.Start) * sector}); err != nil {
		return nil, fmt.Errorf("ESP: file system %w", err)
	}
	return d, nil
}

// Reader reads a file of the ESP.
func (d *Disk) Reader(name string) (*io.SectionReader, error) {
	p, ok := d.Files[name]
	if !ok {
		return nil, fmt.Errorf("there is no %s on it", name)
	}
	return io.NewSectionReader(d.r, p.Offset, p.Size), nil
}

// readPlaces finds the files of a FAT.
func readPlaces(r io.ReaderAt, at Place) (map[string]Place, error) {
	if at.Size > maxESP {
		return nil, errors.New("is too large")
	}
	b := make([]byte, at.Size)
	if err := readAt(r, b, at.Offset); err != nil {
		return nil, err
	}
	f, err := openFAT(b)
	if err != nil {
		return nil, err
	}
	out := make(map[string]Place)
	err = f.walk(func(name string, e fatEntry) error {
		if e.isDir() || e[11]&0x08 != 0 {
			return nil
		}
		if _, twice := out[name]; twice {
			return fmt.Errorf("has %s twice", name)
		}
		start, err := f.piece(e)
		if err != nil {
			return fmt.Errorf("file %s %w", name, err)
		}
		out[name] = Place{at.Offset + int64(start), e.size()}
		return nil
	})
	return out, err
}

// piece returns where a file lies that is in one piece, as all are that we write.
func (f *fat) piece(e fatEntry) (int, error) {
	if e.size() == 0 {
		return 0, nil
	}
	chain, err := f.chain(e.first())
	if err != nil {
		return 0, err
	}
	for i, at := range chain {
		if at != chain[0]+i*f.cluster {
			return 0, errors.New("is not in one piece")
		}
	}
	if e.size() > int64(len(chain)*f.cluster) {
		return 0, fmt.Errorf("has %d bytes, its clusters hold %d", e.size(), len(chain)*f.cluster)
	}
	return chain[0], nil
}
