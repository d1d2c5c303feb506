package hybrid

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"time"
)

// Places of ECMA-119 (ISO 9660) and of El Torito.
const (
	pvdAt     = 16 * block // primary volume descriptor
	bootAt    = 17 * block // boot record
	rootInPVD = 156        // directory record of the root
	catalogIn = 0x47       // of the boot record: block of the boot catalog
	maxDir    = 1 << 20
	maxDepth  = 8
	maxNames  = 10000
)

// record is a directory record (ECMA-119 9.1) in place, with its place.
type record struct {
	b  []byte
	at int64 // offset in the file
}

func (r record) start() int64 { return int64(binary.LittleEndian.Uint32(r.b[2:])) * block }
func (r record) size() int64  { return int64(binary.LittleEndian.Uint32(r.b[10:])) }
func (r record) isDir() bool  { return r.b[25]&2 != 0 }
func (r record) id() string   { return string(r.b[33 : 33+int(r.b[32])]) }

// systemUse is what follows the name: the Rock Ridge fields.
func (r record) systemUse() []byte {
	n := 33 + int(r.b[32])
	n += 1 - int(r.b[32])%2 // the name is padded to an even length
	return r.b[min(n, len(r.b)):]
}

// isSelf says whether r is the "." or ".." of a folder.
func (r record) isSelf() bool { return r.b[32] == 1 && r.b[33] <= 1 }

// field is a field of the System Use Sharing Protocol (IEEE P1281 4).
type field struct {
	name string
	b    []byte // with its four bytes of head
	at   int64
}

// fields returns the Rock Ridge fields of a record, also those of its
// continuation area.
func fields(r io.ReaderAt, rec record) ([]field, error) {
	var out []field
	area := rec.systemUse()
	at := rec.at + int64(len(rec.b)-len(area))
	for range 4 { // a continuation may be continued
		var next []byte
		var nextAt int64
		for len(area) >= 4 {
			n := int(area[2])
			if n < 4 || n > len(area) {
				break
			}
			f := field{string(area[:2]), area[:n], at}
			if f.name == "CE" && n >= 28 {
				nextAt = int64(binary.LittleEndian.Uint32(f.b[4:]))*block + int64(binary.LittleEndian.Uint32(f.b[12:]))
				next = make([]byte, min(binary.LittleEndian.Uint32(f.b[20:]), block))
				if err := readAt(r, next, nextAt); err != nil {
					return nil, err
				}
			}
			if f.name == "ST" {
				break
			}
			out = append(out, f)
			area, at = area[n:], at+int64(n)
		}
		if next == nil {
			return out, nil
		}
		area, at = next, nextAt
	}
	return out, nil
}

// rockRidgeName returns the name that a record has on Linux, or "".
func rockRidgeName(list []field) string {
	var name strings.Builder
	for _, f := range list {
		if f.name == "NM" && len(f.b) >= 5 {
			name.Write(f.b[5:])
		}
	}
	return name.String()
}

// walkISO calls fn for every record, also "." and "..". name is the path on
// Linux, "" for the root.
func walkISO(r io.ReaderAt, fn func(name string, rec record, list []field) error) error {
	root := make([]byte, 34)
	if err := readAt(r, root, pvdAt+rootInPVD); err != nil {
		return err
	}
	left := maxNames
	return walkDir(r, "", record{root, pvdAt + rootInPVD}, maxDepth, &left, fn)
}

func walkDir(r io.ReaderAt, dir string, at record, depth int, left *int, fn func(string, record, []field) error) error {
	if depth == 0 || at.size() > maxDir {
		return fmt.Errorf("folder /%s is too deep or too large", dir)
	}
	b := make([]byte, at.size())
	if err := readAt(r, b, at.start()); err != nil {
		return fmt.Errorf("folder /%s: %w", dir, err)
	}
	for off := 0; off < len(b); {
		n := int(b[off])
		if n == 0 { // records do not cross blocks
			off = (off/block + 1) * block
			continue
		}
		if n < 34 || off+n > len(b) || 33+int(b[off+32]) > n {
			return fmt.Errorf("folder /%s has a damaged record", dir)
		}
		if *left--; *left < 0 {
			return errors.New("has too many names")
		}
		rec := record{b[off : off+n], at.start() + int64(off)}
		off += n
		list, err := fields(r, rec)
		if err != nil {
			return err
		}
		name := dir
		if !rec.isSelf() {
			if name = rockRidgeName(list); name == "" {
				name = strings.ToLower(strings.TrimSuffix(rec.id(), ";1"))
			}
			if name == "." || name == ".." || strings.ContainsAny(name, "/\x00") {
				return fmt.Errorf("folder /%s has the name %q in it", dir, name)
			}
			name = path.Join(dir, name)
		}
		if err := fn(name, rec, list); err != nil {
			return err
		}
		if rec.isDir() && !rec.isSelf() {
			if err := walkDir(r, name, rec, depth-1, left, fn); err != nil {
				return err
			}
		}
	}
	return nil
}

func readAt(r io.ReaderAt, b []byte, at int64) error {
	if n, err := r.ReadAt(b, at); n < len(b) {
		if err == nil || errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return fmt.Errorf("reading %d bytes at %d: %w", len(b), at, err)
	}
	return nil
}

// readWriterAt is a file that is being made.
type readWriterAt interface {
	io.ReaderAt
	io.WriterAt
}

// Modes of what is on a CD: nobody can write there.
const (
	modeFile = 0o100444
	modeDir  = 0o040555
)

// normalize gives one time to everything in the file system, and one owner
// and mode: the library takes them from the host's files.
func normalize(f readWriterAt, t time.Time) error {
	t = t.UTC()
	// ECMA-119 8.4.26.1: 17 bytes, the last one the time zone.
	long := append([]byte(t.Format("20060102150405")+"00"), 0)
	none := append(bytes.Repeat([]byte{'0'}, 16), 0)
	for at, date := range map[int64][]byte{813: long, 830: long, 847: none, 864: none} {
		if _, err := f.WriteAt(date, pvdAt+at); err != nil {
			return err
		}
	}
	// ECMA-119 9.1.5: years since 1900.
	short := []byte{byte(t.Year() - 1900), byte(t.Month()), byte(t.Day()), byte(t.Hour()), byte(t.Minute()), byte(t.Second()), 0}
	if _, err := f.WriteAt(short, pvdAt+rootInPVD+18); err != nil {
		return err
	}
	return walkISO(f, func(_ string, rec record, list []field) error {
		copy(rec.b[18:], short) // list is part of it: what is not in a continuation is written with it
		for _, x := range list {
			normalizeField(x, rec.isDir(), short, long)
		}
		if _, err := f.WriteAt(rec.b, rec.at); err != nil {
			return err
		}
		for _, x := range list {
			if _, err := f.WriteAt(x.b, x.at); err != nil {
				return err
			}
		}
		return nil
	})
}

// normalizeField changes a Rock Ridge field (RRIP 1.12, 4.1.1 and 4.1.6).
func normalizeField(x field, dir bool, short, long []byte) {
	both := func(at int, v uint32) {
		if at+8 <= len(x.b) {
			binary.LittleEndian.PutUint32(x.b[at:], v)
			binary.BigEndian.PutUint32(x.b[at+4:], v)
		}
	}
	switch x.name {
	case "PX":
		mode, links := uint32(modeFile), uint32(1)
		if dir {
			mode, links = modeDir, 2
		}
		both(4, mode)
		both(12, links)
		both(20, 0) // owner
		both(28, 0) // group
		both(36, 0) // serial number: Linux makes its own
	case "TF":
		if len(x.b) < 5 {
			return
		}
		stamp := short
		if x.b[4]&0x80 != 0 {
			stamp = long
		}
		for b := x.b[5:]; len(b) >= len(stamp); b = b[len(stamp):] {
			copy(b, stamp)
		}
	}
}
