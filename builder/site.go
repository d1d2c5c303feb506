package builder

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"muster/builder/deb"
	"muster/builder/hybrid"
	"muster/images"
	"muster/initramfs"
)

// siteSize is the room for the site segment on a medium. It never changes, so
// that the segment can be rewritten in place.
const siteSize = 64 << 10

// sitePath is the one file of a site segment.
const sitePath = "etc/muster/site.json"

// siteSegment returns the site segment: a newc archive, filled with zero bytes, which
// the kernel skips. An empty site is an empty segment.
func siteSegment(s images.Site, t time.Time) ([]byte, error) {
	if err := s.Check(); err != nil {
		return nil, err
	}
	out := make([]byte, siteSize)
	if s == (images.Site{}) {
		return out, nil
	}
	tree := initramfs.NewTree(t)
	if err := tree.AddBytes(sitePath, 0o644, s.JSON(), "site"); err != nil {
		return nil, err
	}
	var b bytes.Buffer
	if err := initramfs.WriteCPIO(&b, tree, initramfs.CPIOOptions{}); err != nil {
		return nil, err
	}
	if b.Len() > siteSize {
		return nil, fmt.Errorf("site: has %d bytes, there is room for %d", b.Len(), siteSize)
	}
	copy(out, b.Bytes())
	return out, nil
}

// readSite reads a site segment, which may be anything.
func readSite(segment []byte) (images.Site, error) {
	a, err := initramfs.ReadCPIO(bytes.NewReader(segment))
	if err != nil {
		return images.Site{}, fmt.Errorf("site segment: %w", err)
	}
	var s images.Site
	for _, r := range a.Records {
		if r.Path == sitePath {
			if s, err = images.ParseSite(r.Data); err != nil {
				return s, err
			}
		}
	}
	return s, s.Check()
}

// Medium is a medium that was read: a file, or the stick it was written to.
type Medium struct {
	Name   string      `json:"name"` // of the image
	ID     string      `json:"id"`
	Kernel string      `json:"kernel"`
	Time   time.Time   `json:"time"`
	Size   int64       `json:"size"` // bytes; a stick has more
	Site   images.Site `json:"site"`

	siteErr error // the site segment could not be read, Site is empty
}

// Personalize rewrites the site segment of a medium in place: of an ISO file, or of
// the stick's block device. change gets what is there now, nothing where that is damaged. Everything else
// stays as it is, and the medium keeps its hash in the manifest.
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
	m, im, err := readMedium(f)
	if err != nil {
		return nil, err
	}
	m.Site, m.siteErr = change(m.Site), nil
	segment, err := siteSegment(m.Site, m.Time)
	if err != nil {
		return nil, err
	}
	place := im.Files[mediumSite]
	if place.Size != siteSize {
		return nil, fmt.Errorf("its site segment has %d bytes, want %d", place.Size, siteSize)
	}
	_, err = f.WriteAt(segment, place.Offset)
	return m, errors.Join(err, f.Sync())
}

// hashMedium hashes a file with zero bytes in the place of its site segment, and
// returns that segment.
func hashMedium(name string, site images.Range) (deb.FileHash, []byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return deb.FileHash{}, nil, err
	}
	defer f.Close()
	segment := make([]byte, site.Size)
	if _, err := f.ReadAt(segment, site.Offset); err != nil {
		return deb.FileHash{}, nil, err
	}
	fi, err := f.Stat()
	if err != nil {
		return deb.FileHash{}, nil, err
	}
	end := site.Offset + site.Size
	sum, err := hashReader(io.MultiReader(io.NewSectionReader(f, 0, site.Offset), bytes.NewReader(make([]byte, site.Size)),
		io.NewSectionReader(f, end, fi.Size()-end)))
	return sum, segment, err
}

// isMedium says whether a file begins like one.
func isMedium(im *hybrid.Image) bool {
	_, site := im.Files[mediumSite]
	_, list := im.Files[mediumList]
	return site && list
}
