package main

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// elf is a file with nothing but what it needs and where it wants that looked for.
func elf(runpath string, needed ...string) []byte {
	le := binary.LittleEndian
	const headers, base = 64 + 2*56, 0x400000
	text, dyn := []byte{0}, []byte{}
	entry := func(tag, value uint64) { dyn = le.AppendUint64(le.AppendUint64(dyn, tag), value) }
	word := func(w string) uint64 {
		at := uint64(len(text))
		text = append(append(text, w...), 0)
		return at
	}
	for _, n := range needed {
		entry(1, word(n))
	}
	if runpath != "" {
		entry(29, word(runpath))
	}
	entry(5, base+headers)
	entry(10, uint64(len(text)))
	entry(0, 0)
	b := make([]byte, headers)
	copy(b, "\x7fELF\x02\x01\x01")
	le.PutUint64(b[32:], 64)
	le.PutUint16(b[54:], 56)
	le.PutUint16(b[56:], 2)
	prog := func(at int, kind uint32, off, addr, size uint64) {
		le.PutUint32(b[at:], kind)
		le.PutUint64(b[at+8:], off)
		le.PutUint64(b[at+16:], addr)
		le.PutUint64(b[at+32:], size)
	}
	all := uint64(headers + len(text) + len(dyn))
	prog(64, 1, 0, base, all)
	prog(64+56, 2, uint64(headers+len(text)), base+headers+uint64(len(text)), uint64(len(dyn)))
	return append(append(b, text...), dyn...)
}

func TestNeedsMPI(t *testing.T) {
	dir := t.TempDir()
	for name, b := range map[string][]byte{
		"libsolve.so": elf("", "libmpi.so.40", "libc.so.6"), "libplain.so": elf("", "libc.so.6", "libround.so"), "libround.so": elf("", "libplain.so"),
		"direct": elf("", "libm.so.6", "libmpi.so.12"), "by": elf("$ORIGIN", "libsolve.so"), "lost": elf("", "libsolve.so"),
		"none": elf("${ORIGIN}", "libplain.so"), "static": elf(""), "script": []byte("#!/bin/sh\n"), "cut": elf("", "libmpi.so.40")[:100],
	} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	tests := map[string]struct {
		program string
		env     []string
		want    bool
	}{
		"direct":               {"direct", nil, true},
		"by a library":         {"by", nil, true},
		"library not found":    {"lost", nil, false},
		"found by a variable":  {"lost", []string{"LD_LIBRARY_PATH=/nowhere:" + dir}, true},
		"none, and in a round": {"none", nil, false},
		"static":               {"static", nil, false},
		"no program":           {"script", nil, false},
		"cut off":              {"cut", nil, false},
		"not there":            {"nothing", nil, false},
	}
	for name, c := range tests {
		if got := needsMPI(filepath.Join(dir, c.program), c.env); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

// What the loader of this system needs is read from a real program.
func TestDynamic(t *testing.T) {
	if needed, _ := dynamic("/bin/sh"); !slices.Contains(needed, "libc.so.6") {
		t.Errorf("/bin/sh needs %q, want libc.so.6 among it", needed)
	}
}

// FuzzParseDynamic: a user's file may say anything.
func FuzzParseDynamic(f *testing.F) {
	self, err := os.ReadFile("/bin/sh")
	if err == nil {
		f.Add(self[:min(len(self), 64<<10)])
	}
	f.Add([]byte("\x7fELF\x02\x01"))
	f.Fuzz(func(t *testing.T, b []byte) {
		parseDynamic(func(off, n uint64) []byte {
			if n > maxTable || off >= uint64(len(b)) {
				return nil
			}
			return b[off:min(off+n, uint64(len(b)))]
		})
	})
}
