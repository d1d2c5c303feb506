package builder

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"time"

	"muster/builder/deb"
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
