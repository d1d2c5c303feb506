package hybrid

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"

	"github.com/diskfs/go-diskfs/backend/file"
	"github.com/diskfs/go-diskfs/partition/gpt"
)

// Places in an MBR, and isolinux's own in it.
const (
	mbrCode     = 432 // of boot code; then the place of isolinux.bin, in sectors
	mbrDiskID   = 440
	mbrTable    = 446
	isolinuxLBA = 4 // sectors in a block

	typeCD  = 0xcd // no system looks into it
	typeESP = 0xef
	typeGPT = 0xee

	firstLBA = 64 // behind the 32 KiB that ISO 9660 leaves to others
	gptLBAs  = 63 // that the MBR's entry of the GPT covers
)

// writePartitions makes a disk of the CD: boot code, MBR and GPT, and makes
// the file longer by the backup GPT.
func writePartitions(f *os.File, l Layout) error {
	if len(l.MBR) != mbrCode {
		return fmt.Errorf("the boot code has %d bytes, not %d", len(l.MBR), mbrCode)
	}
	var last int64
	var boot, esp record
	if err := walkISO(f, func(name string, rec record, _ []field) error {
		if rec.isDir() {
			return nil
		}
		last = max(last, rec.start())
		switch name {
		case l.BootImage:
			boot = rec
		case espPath:
			esp = rec
		}
		return nil
	}); err != nil {
		return err
	}
	if boot.b == nil || esp.b == nil || esp.start() != last {
		return errors.New("the ESP is not the last file, or isolinux.bin is not there")
	}
	end := esp.start() + esp.size()
	size := (end+mib-1)/mib*mib + mib
	if err := f.Truncate(size); err != nil {
		return err
	}
	espLBA := uint64(esp.start() / sector)
	table := &gpt.Table{
		LogicalSectorSize: sector, PhysicalSectorSize: sector, ProtectiveMBR: true, GUID: guid(l.Seed, "disk"),
		Partitions: []*gpt.Partition{
			{Index: 1, Start: firstLBA, End: espLBA - 1, Type: gpt.LinuxReserved, Name: "muster", GUID: guid(l.Seed, "cd"), Attributes: 1 << 60},
			{Index: 2, Start: espLBA, End: uint64(end/sector) - 1, Type: gpt.EFISystemPartition, Name: "ESP", GUID: guid(l.Seed, "esp")},
		},
	}
	out, err := file.New(f, false).Writable()
	if err != nil {
		return err
	}
	if err := table.Write(out, size); err != nil {
		return err
	}
	_, err = f.WriteAt(mbrSector(l, boot.start(), espLBA, uint64(esp.size()/sector)), 0)
	return err
}

// mbrSector is LBA 0. Cylinders, heads and sectors say "see the LBA".
func mbrSector(l Layout, boot int64, espLBA, espSectors uint64) []byte {
	b := make([]byte, sector)
	copy(b, l.MBR)
	binary.LittleEndian.PutUint64(b[mbrCode:], uint64(boot/block*isolinuxLBA))
	copy(b[mbrDiskID:], l.Seed[:4])
	for i, p := range []mbrPartition{
		{Active: true, Type: typeCD, Start: firstLBA, Sectors: uint32(espLBA - firstLBA)},
		{Type: typeESP, Start: uint32(espLBA), Sectors: uint32(espSectors)},
		{Type: typeGPT, Start: 1, Sectors: gptLBAs},
	} {
		e := b[mbrTable+16*i:]
		if p.Active {
			e[0] = 0x80
		}
		copy(e[1:], []byte{0xfe, 0xff, 0xff, p.Type, 0xfe, 0xff, 0xff})
		binary.LittleEndian.PutUint32(e[8:], p.Start)
		binary.LittleEndian.PutUint32(e[12:], p.Sectors)
	}
	b[510], b[511] = 0x55, 0xaa
	return b
}

// mbrPartition is an entry of the MBR.
type mbrPartition struct {
	Active         bool
	Type           byte
	Start, Sectors uint32
}

// guid returns a version 4 GUID that follows from seed and what.
func guid(seed [32]byte, what string) string {
	s := sha256.Sum256(append(seed[:], what...))
	s[6], s[8] = s[6]&0x0f|0x40, s[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", s[0:4], s[4:6], s[6:8], s[8:10], s[10:16])
}

func readMBR(b []byte) ([]mbrPartition, error) {
	if b[510] != 0x55 || b[511] != 0xaa {
		return nil, errors.New("has no signature")
	}
	var out []mbrPartition
	for i := range 4 {
		e := b[mbrTable+16*i : mbrTable+16*i+16]
		if e[4] != 0 {
			out = append(out, mbrPartition{e[0] == 0x80, e[4], binary.LittleEndian.Uint32(e[8:]), binary.LittleEndian.Uint32(e[12:])})
		}
	}
	return out, nil
}

// gptHeader is what counts of a GPT (UEFI 5.3.2).
type gptHeader struct {
	Self, Other uint64 // LBAs of this header and of the other copy
	First, Last uint64 // that partitions may have
	Entries     []gptEntry
}

type gptEntry struct {
	Type        [16]byte
	Start, Last uint64
}

// readGPT reads one copy of the GPT and checks its checksums.
func readGPT(r io.ReaderAt, lba uint64) (gptHeader, error) {
	const headerSize, entrySize, entryCount = 92, 128, 128
	var h gptHeader
	b := make([]byte, sector)
	if err := readAt(r, b, int64(lba)*sector); err != nil {
		return h, err
	}
	if string(b[:8]) != "EFI PART" || binary.LittleEndian.Uint32(b[12:]) != headerSize {
		return h, errors.New("there is none")
	}
	sum := binary.LittleEndian.Uint32(b[16:])
	clear(b[16:20])
	if crc32.ChecksumIEEE(b[:headerSize]) != sum {
		return h, errors.New("the checksum of its head is wrong")
	}
	h = gptHeader{
		Self: binary.LittleEndian.Uint64(b[24:]), Other: binary.LittleEndian.Uint64(b[32:]),
		First: binary.LittleEndian.Uint64(b[40:]), Last: binary.LittleEndian.Uint64(b[48:]),
	}
	at := binary.LittleEndian.Uint64(b[72:])
	if h.Self != lba || binary.LittleEndian.Uint32(b[80:]) != entryCount || binary.LittleEndian.Uint32(b[84:]) != entrySize || at > 1<<40 {
		return h, errors.New("its head is damaged")
	}
	entries := make([]byte, entryCount*entrySize)
	if err := readAt(r, entries, int64(at)*sector); err != nil {
		return h, err
	}
	if crc32.ChecksumIEEE(entries) != binary.LittleEndian.Uint32(b[88:]) {
		return h, errors.New("the checksum of its entries is wrong")
	}
	for ; len(entries) > 0; entries = entries[entrySize:] {
		e := gptEntry{[16]byte(entries[:16]), binary.LittleEndian.Uint64(entries[32:]), binary.LittleEndian.Uint64(entries[40:])}
		if e.Type != [16]byte{} {
			h.Entries = append(h.Entries, e)
		}
	}
	return h, nil
}
