package builder

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"path"
	"slices"
	"strings"

	"muster/initramfs"
)

// The cache of the dynamic loader, as glibc reads it (elf/cache.c,
// sysdeps/generic/dl-cache.h): a header, entries in falling order of names, and
// the strings. Debian's loader has the usual folders built in; the cache is for
// those that packages add in /etc/ld.so.conf.d, and saves looking.
const (
	glibcLoader       = "usr/lib64/ld-linux-x86-64.so.2"
	linkerCache       = "etc/ld.so.cache"
	cacheMagic        = "glibc-ld.so.cache1.1"
	cacheLittleEndian = 2
	cacheHeaderSize   = 48
	cacheEntrySize    = 24
	flagLibc6X8664    = 0x0303
)

// defaultLibraries are the folders that Debian's loader knows.
var defaultLibraries = []string{"usr/lib/x86_64-linux-gnu", "usr/lib"}

type library struct{ name, path string }

// addLinkerCache writes /etc/ld.so.cache.
func (r *root) addLinkerCache() error {
	folders, err := r.libraryFolders()
	if err != nil {
		return err
	}
	var all []library
	for e := range r.tree.All() {
		if !slices.Contains(folders, path.Dir(e.Path)) || !strings.Contains(path.Base(e.Path), ".so") {
			continue
		}
		if name := r.soname(e); name == path.Base(e.Path) { // ldconfig makes no other links than packages have
			all = append(all, library{name, "/" + e.Path})
		}
	}
	if len(all) == 0 || r.sources > 0 && r.absent(r.follow(glibcLoader)) {
		return nil // an image of another C library
	}
	if old := r.sourceLevel(linkerCache); !r.absent(linkerCache) {
		newer := func(l library) bool { at := r.sourceLevel(l.path[1:]); return at == 0 || at > old }
		if old == 0 || !slices.ContainsFunc(all, newer) {
			return nil // it knows all that there is
		}
		if err := r.displace(linkerCache); err != nil {
			return err
		}
	}
	rank := func(l library) int { return slices.Index(folders, path.Dir(l.path[1:])) }
	slices.SortStableFunc(all, func(a, b library) int {
		if c := compareLibraries(b.name, a.name); c != 0 {
			return c
		}
		return rank(a) - rank(b)
	})
	return r.tree.AddBytes(linkerCache, 0o644, encodeLinkerCache(all), "muster")
}

// libraryFolders returns those that the configuration names and then the usual ones.
func (r *root) libraryFolders() ([]string, error) {
	var out []string
	for e := range r.tree.All() {
		if path.Dir(e.Path) != "etc/ld.so.conf.d" || path.Ext(e.Path) != ".conf" {
			continue
		}
		text, err := r.text(e.Path)
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(text) {
			line, _, _ = strings.Cut(line, "#")
			if dir := strings.TrimSpace(line); strings.HasPrefix(dir, "/") {
				out = append(out, unrooted(dir))
			}
		}
	}
	return slices.Compact(append(out, defaultLibraries...)), nil
}

// soname returns the name of a shared library of this architecture as programs
// ask for it, or "". Links are followed.
func (r *root) soname(e *initramfs.Entry) string {
	for range 8 {
		if e == nil || e.Type != initramfs.Symlink {
			break
		}
		target := e.Target
		if !strings.HasPrefix(target, "/") {
			target = path.Join("/"+path.Dir(e.Path), target)
		}
		e = r.tree.Lookup(unrooted(target))
	}
	if e == nil || e.Type != initramfs.File || e.Size == 0 {
		return ""
	}
	content, ok := r.contents[e.Path]
	if !ok {
		return ""
	}
	f, err := elf.NewFile(content)
	if err != nil || f.Class != elf.ELFCLASS64 || f.Machine != elf.EM_X86_64 || f.Type != elf.ET_DYN {
		return "" // a linker script, or for other machines
	}
	names, err := f.DynString(elf.DT_SONAME)
	if err != nil || len(names) == 0 {
		return ""
	}
	return names[0]
}

// compareLibraries is _dl_cache_libcmp of glibc: numbers in names are compared
// as numbers.
func compareLibraries(a, b string) int {
	for a != "" {
		digitA, digitB := a[0] >= '0' && a[0] <= '9', b != "" && b[0] >= '0' && b[0] <= '9'
		switch {
		case digitA && digitB:
			var numA, numB string
			numA, a = cutNumber(a)
			numB, b = cutNumber(b)
			if c := len(numA) - len(numB); c != 0 {
				return c
			}
			if c := strings.Compare(numA, numB); c != 0 {
				return c
			}
		case digitA:
			return 1
		case digitB:
			return -1
		case b == "":
			return 1
		case a[0] != b[0]:
			return int(a[0]) - int(b[0])
		default:
			a, b = a[1:], b[1:]
		}
	}
	return -len(b)
}

// cutNumber cuts a number off, without leading zeros.
func cutNumber(s string) (num, rest string) {
	i := 0
	for i < len(s) && s[i] >= '0' && s[i] <= '9' {
		i++
	}
	return strings.TrimLeft(s[:i], "0"), s[i:]
}

func encodeLinkerCache(all []library) []byte {
	var strs bytes.Buffer
	base := uint32(cacheHeaderSize + len(all)*cacheEntrySize)
	add := func(s string) uint32 {
		at := base + uint32(strs.Len())
		strs.WriteString(s + "\x00")
		return at
	}
	var entries []byte
	for _, l := range all {
		entries = binary.LittleEndian.AppendUint32(entries, flagLibc6X8664)
		entries = binary.LittleEndian.AppendUint32(entries, add(l.name))
		entries = binary.LittleEndian.AppendUint32(entries, add(l.path))
		entries = append(entries, make([]byte, 12)...) // OS version and hardware: any
	}
	head := []byte(cacheMagic)
	head = binary.LittleEndian.AppendUint32(head, uint32(len(all)))
	head = binary.LittleEndian.AppendUint32(head, uint32(strs.Len()))
	head = append(head, cacheLittleEndian)
	head = append(head, make([]byte, cacheHeaderSize-len(head))...)
	return append(append(head, entries...), strs.Bytes()...)
}
