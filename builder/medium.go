package builder

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"muster/builder/hybrid"
	"muster/builder/uki"
	"muster/images"
)

// Medium is a medium that was read: a file, or the stick it was written to.
type Medium struct {
	Name   string      `json:"name"` // of the image
	ID     string      `json:"id"`
	Kernel string      `json:"kernel"`
	Time   time.Time   `json:"time"`
	Size   int64       `json:"size"` // bytes; a stick has more
	Site   images.Site `json:"site"`
}

// opened is a medium whose structure is sound.
type opened struct {
	Medium
	kind    images.ArtifactKind
	what    string       // for people
	place   images.Range // of the site segment
	siteErr error        // the site segment could not be read, Site is empty
	compare func() error // names what differs from the list on the medium
	uki     *openedUKI   // of a UKI, or on a disk
}

// openMedium finds out what kind of medium a file is and reads its structure.
func openMedium(f *os.File) (*opened, error) {
	size, err := f.Seek(0, io.SeekEnd) // also of a block device
	if err != nil {
		return nil, err
	}
	var o *opened
	var segment []byte
	switch kind := kindOf(f); kind {
	case images.KindUKI:
		o, segment, err = openUKI(io.NewSectionReader(f, 0, size))
	case images.KindIMG:
		o, segment, err = openIMG(f, size)
	default:
		o, segment, err = openISO(f, size)
	}
	if err != nil {
		return nil, err
	}
	if o.Site, err = readSite(segment); err != nil {
		o.Site = images.Site{}
		o.siteErr = fmt.Errorf("%w; write it again with: muster personalize", err)
	}
	return o, nil
}

// kindOf tells media apart by their first bytes. What is unknown is taken for an ISO file.
func kindOf(r io.ReaderAt) images.ArtifactKind {
	head := make([]byte, 1024)
	if _, err := r.ReadAt(head, 0); err != nil {
		return images.KindISO
	}
	volume := make([]byte, 6)
	_, err := r.ReadAt(volume, 32<<10)
	switch {
	case string(head[:2]) == "MZ":
		return images.KindUKI
	case (err == nil || errors.Is(err, io.EOF)) && string(volume) == "\x01CD001":
		return images.KindISO
	case string(head[512:520]) == "EFI PART":
		return images.KindIMG
	}
	return images.KindISO
}

func openISO(f *os.File, size int64) (*opened, []byte, error) {
	im, err := hybrid.Open(f, size)
	if err != nil {
		return nil, nil, err
	}
	if !isMedium(im) {
		return nil, nil, errNoMedium
	}
	list, err := readMediumList(im)
	if err != nil {
		return nil, nil, err
	}
	segment, err := mediumData(im, mediumSite, siteSize)
	if err != nil {
		return nil, nil, err
	}
	place := im.Files[mediumSite]
	return &opened{
		Medium: Medium{Name: list.Name, ID: list.ID, Kernel: list.Kernel, Time: list.Time, Size: im.Size},
		kind:   images.KindISO, place: images.Range{Offset: place.Offset, Size: place.Size},
		what:    fmt.Sprintf("CD and USB stick with image %s, kernel %s: BIOS by isolinux, UEFI with Secure Boot by shim and GRUB", list.Name, list.Kernel),
		compare: func() error { return compareMedium(im, list) },
	}, segment, nil
}

// isMedium says whether a file begins like one.
func isMedium(im *hybrid.Image) bool {
	_, site := im.Files[mediumSite]
	_, list := im.Files[mediumList]
	return site && list
}

func openUKI(r *io.SectionReader) (*opened, []byte, error) {
	if r.Size() > uki.MaxSize {
		return nil, nil, fmt.Errorf("has %d bytes, more than %d", r.Size(), int64(uki.MaxSize))
	}
	program := make([]byte, r.Size())
	if _, err := io.ReadFull(r, program); err != nil {
		return nil, nil, err
	}
	u, err := readUKI(program)
	if err != nil {
		return nil, nil, err
	}
	return &opened{
		Medium: Medium{Name: u.list.Name, ID: u.list.ID, Kernel: u.list.Kernel, Time: u.list.Time, Size: r.Size()},
		kind:   images.KindUKI, place: u.site, uki: u, compare: u.compare,
		what: fmt.Sprintf("UEFI program with image %s, kernel %s", u.list.Name, u.list.Kernel),
	}, u.segment, nil
}

func openIMG(f *os.File, size int64) (*opened, []byte, error) {
	d, err := hybrid.OpenDisk(f, size)
	if err != nil {
		return nil, nil, err
	}
	r, err := d.Reader(diskProgram)
	if err != nil {
		return nil, nil, err
	}
	o, segment, err := openUKI(r)
	if err != nil {
		return nil, nil, fmt.Errorf("%s on it %w", diskProgram, err)
	}
	o.kind, o.what = images.KindIMG, "disk with a "+o.what
	o.place.Offset += d.Files[diskProgram].Offset
	o.Size = d.Size
	o.compare = func() error {
		var errs []error
		for name := range d.Files {
			if name != diskProgram {
				errs = append(errs, fmt.Errorf("%s is on it and should not be", name))
			}
		}
		return errors.Join(append(errs, o.uki.compare())...)
	}
	return o, segment, nil
}

// ErrSigned is wrapped by the refusal to change what a signature covers.
var ErrSigned = errors.New("is signed, and the signature covers its site segment")

// Personalize rewrites the site segment of a medium in place: of an ISO file, a UKI or a disk, or of
// the stick's block device. change gets what is there now, nothing where that is damaged. Everything else
// stays as it is, and the medium keeps its hash in the manifest. One that is
// signed is an [ErrSigned].
func Personalize(name string, change func(images.Site) images.Site) (*Medium, error) {
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	m, err := personalize(f, change)
	if err != nil {
		return nil, fmt.Errorf("personalizing %s: %w", name, err)
	}
	return m, f.Close()
}

func personalize(f *os.File, change func(images.Site) images.Site) (*Medium, error) {
	o, err := openMedium(f)
	if err != nil {
		return nil, err
	}
	if o.uki != nil && o.uki.Signed() {
		return nil, fmt.Errorf("it %w; put head and pin under site: in the definition and build it again with --sign-key and --sign-cert", ErrSigned)
	}
	o.Site = change(o.Site)
	segment, err := siteSegment(o.Site, o.Time)
	if err != nil {
		return nil, err
	}
	if o.place.Size != siteSize {
		return nil, fmt.Errorf("its site segment has %d bytes, want %d", o.place.Size, siteSize)
	}
	_, err = f.WriteAt(segment, o.place.Offset)
	return &o.Medium, errors.Join(err, f.Sync())
}
