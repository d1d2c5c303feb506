package hybrid

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"time"

	"github.com/diskfs/go-diskfs/backend/file"
	"github.com/diskfs/go-diskfs/filesystem/fat16"
)

// minESP is the least size of an ESP: FAT16 has at least 4085 clusters of
// 1 KiB. The partition type does not decide what a FAT is: the clusters do.
const minESP = 8 * mib

// makeESP returns a FAT16 file system with the files. dir is for a temporary file.
func makeESP(files []File, t time.Time, dir string) ([]byte, error) {
	var total int64
	contents := make([][]byte, len(files))
	for i, x := range files {
		data, err := x.contents()
		if err != nil {
			return nil, err
		}
		contents[i] = data
		total += int64(len(data)) + 4096
	}
	size := max(minESP, (total+total/16+mib)/mib*mib+mib)
	f, err := os.CreateTemp(dir, "esp-*")
	if err != nil {
		return nil, err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	// All of its bytes, so that the disk is full now or not at all: the library does
	// not say why it could not write.
	if _, err := f.Write(make([]byte, size)); err != nil {
		return nil, err
	}
	fs, err := fat16.Create(file.New(f, false), size, 0, sector, "MUSTER ESP", true)
	if err != nil {
		return nil, err
	}
	made := make(map[string]bool)
	for i, x := range files {
		for _, dir := range folders(x.Path) {
			if !made[dir] {
				made[dir] = true
				if err := fs.Mkdir("/" + dir); err != nil {
					return nil, fmt.Errorf("%s: %w", dir, err)
				}
			}
		}
		out, err := fs.OpenFile("/"+x.Path, os.O_CREATE|os.O_RDWR)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", x.Path, err)
		}
		_, err = out.Write(contents[i])
		if err := errors.Join(err, out.Close()); err != nil {
			return nil, fmt.Errorf("%s: %w", x.Path, err)
		}
	}
	image := make([]byte, size)
	if _, err := f.ReadAt(image, 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return image, setFATTimes(image, t)
}

// fat is a FAT16 file system. Field names are those of Microsoft's
// specification (fatgen103) without their prefixes.
type fat struct {
	b        []byte
	table    []byte
	root     []byte
	data     int // offset of cluster 2
	cluster  int // bytes
	clusters int
}

var errFAT = errors.New("is no FAT16 file system")

func openFAT(b []byte) (*fat, error) {
	if len(b) < sector || b[510] != 0x55 || b[511] != 0xaa || binary.LittleEndian.Uint16(b[11:]) != sector {
		return nil, errFAT
	}
	perCluster, reserved, copies := int(b[13]), int(binary.LittleEndian.Uint16(b[14:])), int(b[16])
	rootEntries, tableSectors := int(binary.LittleEndian.Uint16(b[17:])), int(binary.LittleEndian.Uint16(b[22:]))
	total := int(binary.LittleEndian.Uint16(b[19:]))
	if total == 0 {
		total = int(binary.LittleEndian.Uint32(b[32:]))
	}
	rootStart := (reserved + copies*tableSectors) * sector
	data := rootStart + (rootEntries*32+sector-1)/sector*sector
	switch {
	case perCluster == 0 || reserved == 0 || copies == 0 || tableSectors == 0 || rootEntries == 0:
		return nil, errFAT
	case total*sector > len(b) || data >= total*sector:
		return nil, fmt.Errorf("says that it has %d bytes, there are %d", total*sector, len(b))
	}
	f := &fat{
		b: b, table: b[reserved*sector : (reserved+tableSectors)*sector], root: b[rootStart : rootStart+rootEntries*32],
		data: data, cluster: perCluster * sector, clusters: (total*sector - data) / (perCluster * sector),
	}
	if f.clusters < 4085 || f.clusters >= 65525 || len(f.table)/2 < f.clusters+2 {
		return nil, errFAT
	}
	return f, nil
}

// chain returns the offsets of the clusters of a file.
func (f *fat) chain(first int) ([]int, error) {
	var out []int
	for c := first; c < 0xfff8; c = int(binary.LittleEndian.Uint16(f.table[2*c:])) {
		if c < 2 || c >= f.clusters+2 || len(out) > f.clusters {
			return nil, fmt.Errorf("has a chain of clusters that leads to %d", c)
		}
		out = append(out, f.data+(c-2)*f.cluster)
	}
	return out, nil
}

// fatEntry is a 32-byte entry of a folder, in place.
type fatEntry []byte

func (e fatEntry) name() string {
	name, ext := strings.TrimRight(string(e[:8]), " "), strings.TrimRight(string(e[8:11]), " ")
	if ext != "" {
		name += "." + ext
	}
	return name
}

func (e fatEntry) isDir() bool { return e[11]&0x10 != 0 }
func (e fatEntry) first() int  { return int(binary.LittleEndian.Uint16(e[26:])) }
func (e fatEntry) size() int64 { return int64(binary.LittleEndian.Uint32(e[28:])) }

const maxFATDepth = 8

// walk calls fn for every entry in use, also for volume labels, parts of long
// names, "." and "..". name is the path of the entry.
func (f *fat) walk(fn func(name string, e fatEntry) error) error {
	return f.walkFolder("", f.root, maxFATDepth, fn)
}

func (f *fat) walkFolder(dir string, b []byte, depth int, fn func(string, fatEntry) error) error {
	if depth == 0 {
		return errors.New("has folders too deep")
	}
	for ; len(b) >= 32 && b[0] != 0; b = b[32:] {
		e := fatEntry(b[:32])
		if e[0] == 0xe5 { // deleted
			continue
		}
		name := path.Join(dir, e.name())
		if e[0] == '.' {
			name = dir + "/" + e.name()
		}
		if err := fn(name, e); err != nil {
			return err
		}
		if !e.isDir() || e[0] == '.' {
			continue
		}
		chain, err := f.chain(e.first())
		if err != nil {
			return fmt.Errorf("folder %s %w", name, err)
		}
		for _, at := range chain {
			if err := f.walkFolder(name, f.b[at:at+f.cluster], depth-1, fn); err != nil {
				return err
			}
		}
	}
	return nil
}

// files returns the contents of all files.
func (f *fat) files() (map[string][]byte, error) {
	out := make(map[string][]byte)
	err := f.walk(func(name string, e fatEntry) error {
		if e.isDir() || e[11]&0x08 != 0 { // a label, or part of a long name
			return nil
		}
		var data []byte
		if e.size() > 0 {
			chain, err := f.chain(e.first())
			if err != nil {
				return fmt.Errorf("file %s %w", name, err)
			}
			for _, at := range chain {
				data = append(data, f.b[at:at+f.cluster]...)
			}
		}
		if e.size() > int64(len(data)) {
			return fmt.Errorf("file %s has %d bytes, its clusters hold %d", name, e.size(), len(data))
		}
		out[name] = data[:e.size()]
		return nil
	})
	return out, err
}

// setFATTimes gives every entry one time.
func setFATTimes(image []byte, t time.Time) error {
	f, err := openFAT(image)
	if err != nil {
		return err
	}
	t = t.UTC()
	date := uint16(max(t.Year()-1980, 0)<<9 | int(t.Month())<<5 | t.Day())
	clock := uint16(t.Hour()<<11 | t.Minute()<<5 | t.Second()/2)
	return f.walk(func(_ string, e fatEntry) error {
		if e[11] == 0x0f { // part of a long name
			return nil
		}
		e[13] = 0 // hundredths
		for at, v := range map[int]uint16{14: clock, 16: date, 18: date, 22: clock, 24: date} {
			binary.LittleEndian.PutUint16(e[at:], v)
		}
		return nil
	})
}
