package uki

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
)

// Sizes and places of the PE format (Microsoft PE Format, revision 11).
const (
	dosNewHeader = 0x3c // offset of the PE header's offset
	coffSize     = 24   // signature and COFF header
	sectionSize  = 40
	magicPE32p   = 0x20b

	// In the optional header of PE32+.
	optInitialized = 8
	optSectionAl   = 32
	optFileAl      = 36
	optImageSize   = 56
	optHeadersSize = 60
	optCheckSum    = 64
	optDirectories = 108 // number of data directories, which follow
	optCertificate = optDirectories + 4 + 4*8
	optLeast       = optCertificate + 8

	// MaxSize bounds the size of a program.
	MaxSize = 1 << 30
)

// ErrFormat is found in what [Parse] returns for a file that is no UEFI
// program at all.
var ErrFormat = errors.New("is no UEFI program")

// Section is a part of a program with a name.
type Section struct {
	Name string // at most eight bytes
	// Data is the content. What [Parse] returns shares memory with the file.
	Data []byte
	// Offset is where the content begins in the file; [Assemble] ignores it.
	Offset int64

	address, memory uint32 // where it is loaded, and its size there
	end             uint32 // of its bytes in the file
}

// Image is a program that was read and found sound.
type Image struct {
	Sections []Section

	data         []byte
	coff         int // offset of the PE header
	optional     int // offset of the optional header
	table        int // offset of the section table
	headers      uint32
	sectionAlign uint32
	fileAlign    uint32
	certificates []byte // the certificate table, behind everything else; nil: there is none
}

// Section returns the section with that name.
func (im *Image) Section(name string) (Section, bool) {
	for _, s := range im.Sections {
		if s.Name == name {
			return s, true
		}
	}
	return Section{}, false
}

// Signed says whether there are signatures, right or not.
func (im *Image) Signed() bool { return im.certificates != nil }

// Parse reads a program and checks that every byte of it is accounted for:
// headers, sections without gaps or overlaps, signatures, in this order. data, which may be
// anything, is kept.
func Parse(data []byte) (*Image, error) {
	im, err := parseHeaders(data)
	if err != nil {
		return nil, err
	}
	end, err := im.parseSections()
	if err != nil {
		return nil, err
	}
	return im, im.parseCertificates(end)
}

func parseHeaders(data []byte) (*Image, error) {
	if len(data) < dosNewHeader+4 || string(data[:2]) != "MZ" {
		return nil, ErrFormat
	}
	if len(data) > MaxSize {
		return nil, fmt.Errorf("has %d bytes, more than %d", len(data), MaxSize)
	}
	at := int64(binary.LittleEndian.Uint32(data[dosNewHeader:]))
	if at+coffSize+optLeast > int64(len(data)) {
		return nil, fmt.Errorf("%w, or it is truncated: its header is at byte %d, it has %d", ErrFormat, at, len(data))
	}
	im := &Image{data: data, coff: int(at), optional: int(at) + coffSize}
	if string(data[at:at+4]) != "PE\x00\x00" || binary.LittleEndian.Uint16(data[im.optional:]) != magicPE32p {
		return nil, fmt.Errorf("%w of 64 bits", ErrFormat)
	}
	opt := data[im.optional:]
	im.table = im.optional + int(binary.LittleEndian.Uint16(data[im.coff+20:]))
	im.headers = binary.LittleEndian.Uint32(opt[optHeadersSize:])
	im.sectionAlign = binary.LittleEndian.Uint32(opt[optSectionAl:])
	im.fileAlign = binary.LittleEndian.Uint32(opt[optFileAl:])
	switch {
	case im.table < im.optional+optLeast || binary.LittleEndian.Uint32(opt[optDirectories:]) < 5:
		return nil, errors.New("its header has no place for a signature")
	case int64(im.headers) > int64(len(data)):
		return nil, fmt.Errorf("is truncated: it has %d bytes, its headers %d", len(data), im.headers)
	case !isPower(im.sectionAlign) || !isPower(im.fileAlign) || im.fileAlign > 1<<16 || im.sectionAlign > 1<<24:
		return nil, fmt.Errorf("its header says that sections are aligned to %d and %d bytes", im.sectionAlign, im.fileAlign)
	}
	return im, nil
}

func isPower(n uint32) bool { return n != 0 && n&(n-1) == 0 }

// parseSections returns where the last section ends in the file.
func (im *Image) parseSections() (uint32, error) {
	count := int(binary.LittleEndian.Uint16(im.data[im.coff+6:]))
	if int64(im.table)+int64(count)*sectionSize > int64(im.headers) {
		return 0, fmt.Errorf("its table of %d sections does not fit into its headers", count)
	}
	end, memory := im.headers, uint64(0)
	for i := range count {
		h := im.data[im.table+i*sectionSize:][:sectionSize]
		s := Section{Name: strings.TrimRight(string(h[:8]), "\x00")}
		size, start := binary.LittleEndian.Uint32(h[16:]), binary.LittleEndian.Uint32(h[20:])
		s.memory, s.address = binary.LittleEndian.Uint32(h[8:]), binary.LittleEndian.Uint32(h[12:])
		switch {
		case uint64(s.address) < memory:
			return 0, fmt.Errorf("section %q overlaps the one before it in memory", s.Name)
		case size > 0 && start != end:
			// UEFI hashes section by section, tools hash the file: without gaps they agree.
			return 0, fmt.Errorf("section %q begins at byte %d of the file, not at %d where the one before it ends", s.Name, start, end)
		case int64(start)+int64(size) > int64(len(im.data)):
			return 0, fmt.Errorf("is truncated: section %q ends at byte %d, the file has %d", s.Name, int64(start)+int64(size), len(im.data))
		}
		memory = uint64(s.address) + uint64(s.memory)
		if size > 0 {
			s.Offset, end = int64(start), start+size
			s.Data = im.data[start:][:min(size, s.memory)]
		}
		s.end = end
		im.Sections = append(im.Sections, s)
	}
	return end, nil
}

// parseCertificates checks that behind the sections is a certificate table or
// nothing.
func (im *Image) parseCertificates(end uint32) error {
	dir := im.data[im.optional+optCertificate:]
	start, size := binary.LittleEndian.Uint32(dir), binary.LittleEndian.Uint32(dir[4:])
	if start == 0 && size == 0 {
		if len(im.data) > int(end) {
			return fmt.Errorf("has %d bytes behind its last section", len(im.data)-int(end))
		}
		return nil
	}
	switch {
	case int64(start)+int64(size) > int64(len(im.data)):
		return fmt.Errorf("is truncated: its signature ends at byte %d, the file has %d", int64(start)+int64(size), len(im.data))
	case start != alignUp(end, 8) || size < certificateHeader || int(start)+int(size) != len(im.data):
		return fmt.Errorf("its signature is at bytes %d to %d; want one from %d, where the last section ends, to %d, where the file does",
			start, int64(start)+int64(size), alignUp(end, 8), len(im.data))
	}
	im.certificates = im.data[start:]
	return nil
}

// alignUp is the next multiple of a power of two. Sizes are far below 4 GiB.
func alignUp(n, to uint32) uint32 { return (n + to - 1) &^ (to - 1) }

// Flags of a section with data: initialized, readable.
const sectionFlags = 0x40000040

// leastSectionAlign is a page: the stubs of systemd before version 254 ask for
// less, and firmware that protects pages from writing needs it.
const leastSectionAlign = 4096

// Assemble returns the program that is stub with more sections, in their order. A signature of
// the stub is left out. The same input gives the same bytes. The checksum of the
// file is zero, which firmware does not look at: so a part may be rewritten in place.
func Assemble(stub []byte, sections []Section) ([]byte, error) {
	im, err := Parse(stub)
	if err != nil {
		return nil, fmt.Errorf("the stub %w", err)
	}
	count := len(im.Sections)
	if count == 0 {
		return nil, errors.New("the stub has no sections")
	}
	if room := (int(im.headers) - im.table) / sectionSize; count+len(sections) > room {
		return nil, fmt.Errorf("the stub has room for %d sections, %d are needed", room, count+len(sections))
	}
	last := im.Sections[count-1]
	total := uint64(last.end)
	for _, s := range sections {
		total += uint64(len(s.Data)) + uint64(im.fileAlign)
	}
	if total > MaxSize {
		return nil, fmt.Errorf("it would have more than %d bytes", MaxSize)
	}
	out := make([]byte, alignUp(last.end, im.fileAlign), total+uint64(im.fileAlign))
	copy(out, stub[:last.end])
	align := max(im.sectionAlign, leastSectionAlign)
	address := alignUp(last.address+last.memory, align)
	added := uint32(0)
	for i, s := range sections {
		if _, twice := im.Section(s.Name); twice || s.Name == "" || len(s.Name) > 8 || len(s.Data) == 0 {
			return nil, fmt.Errorf("section %q cannot be added: it is there already, empty, or has no name of at most eight bytes", s.Name)
		}
		size := alignUp(uint32(len(s.Data)), im.fileAlign)
		h := out[im.table+(count+i)*sectionSize:][:sectionSize]
		clear(h)
		copy(h, s.Name)
		for at, v := range map[int]uint32{8: uint32(len(s.Data)), 12: address, 16: size, 20: uint32(len(out)), 36: sectionFlags} {
			binary.LittleEndian.PutUint32(h[at:], v)
		}
		out = append(out, s.Data...)
		out = append(out, make([]byte, int(size)-len(s.Data))...)
		address = alignUp(address+uint32(len(s.Data)), align)
		added += size
	}
	im.finish(out, count+len(sections), address, added)
	return out, nil
}

// finish sets what of the headers depends on the sections.
func (im *Image) finish(out []byte, count int, address, added uint32) {
	coff, opt := out[im.coff:], out[im.optional:]
	binary.LittleEndian.PutUint16(coff[6:], uint16(count))
	binary.LittleEndian.PutUint64(coff[12:], 0) // symbols, which were behind the sections
	binary.LittleEndian.PutUint32(opt[optInitialized:], binary.LittleEndian.Uint32(opt[optInitialized:])+added)
	binary.LittleEndian.PutUint32(opt[optImageSize:], alignUp(address, im.sectionAlign))
	binary.LittleEndian.PutUint32(opt[optCheckSum:], 0)
	clear(opt[optCertificate:][:8])
}
