package main

import (
	"encoding/binary"
	"strings"
	"syscall"
)

const (
	// maxLibraries bounds the files that are looked into for one program.
	maxLibraries = 200
	// maxTable bounds what is read of a file's tables.
	maxTable = 1 << 20
)

// libraryDirs are where the dynamic loader looks last.
var libraryDirs = [...]string{
	"/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib/aarch64-linux-gnu", "/usr/lib/aarch64-linux-gnu",
	"/usr/local/lib", "/lib64", "/usr/lib64", "/lib", "/usr/lib",
}

// needsMPI tells whether a program, or a library that it needs, is linked to an MPI library. What
// cannot be read is linked to none.
func needsMPI(program string, env []string) bool {
	seen := map[string]bool{}
	type file struct{ path, runpath string }
	todo := []file{{program, ""}}
	for n := 0; len(todo) > 0 && n < maxLibraries; n++ {
		f := todo[0]
		todo = todo[1:]
		needed, runpath := dynamic(f.path)
		origin, _, _ := cutLast(f.path)
		runpath = strings.NewReplacer("$ORIGIN", origin, "${ORIGIN}", origin).Replace(runpath)
		if runpath == "" {
			runpath = f.runpath
		}
		for _, lib := range needed {
			if strings.HasPrefix(lib, "libmpi.so") || strings.HasPrefix(lib, "libmpich.so") {
				return true
			}
			if seen[lib] {
				continue
			}
			seen[lib] = true
			if at := findLibrary(lib, runpath, env); at != "" {
				todo = append(todo, file{at, runpath})
			}
		}
	}
	return false
}

// cutLast splits a path in front of its last part.
func cutLast(path string) (dir, base string, ok bool) {
	i := strings.LastIndexByte(path, '/')
	if i < 0 {
		return ".", path, false
	}
	return path[:max(i, 1)], path[i+1:], true
}

// findLibrary is where a library is, "" when it is in none of the usual places.
func findLibrary(name, runpath string, env []string) string {
	if strings.Contains(name, "/") {
		return name
	}
	dirs := append(strings.Split(lookup(env, "LD_LIBRARY_PATH"), ":"), strings.Split(runpath, ":")...)
	for _, dir := range append(dirs, libraryDirs[:]...) {
		if dir == "" {
			continue
		}
		var st syscall.Stat_t
		if syscall.Stat(dir+"/"+name, &st) == nil {
			return dir + "/" + name
		}
	}
	return ""
}

// dynamic reads which libraries a 64-bit little-endian ELF file needs (DT_NEEDED) and where it
// wants them looked for (DT_RUNPATH, DT_RPATH); System V ABI, chapters 4 and 5.
func dynamic(path string) (needed []string, runpath string) {
	fd, err := syscall.Open(path, syscall.O_RDONLY|syscall.O_CLOEXEC|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, ""
	}
	defer syscall.Close(fd)
	at := func(off, n uint64) []byte {
		if n > maxTable || off > 1<<62 {
			return nil
		}
		b := make([]byte, n)
		got, err := syscall.Pread(fd, b, int64(off))
		if err != nil {
			return nil
		}
		return b[:got]
	}
	return parseDynamic(at)
}

// parseDynamic reads the tables of a file of which at gives n bytes at an offset, or fewer at its end.
func parseDynamic(at func(off, n uint64) []byte) (needed []string, runpath string) {
	const (
		headSize, progSize = 64, 56
		ptLoad, ptDynamic  = 1, 2
		dtNeeded, dtStrtab = 1, 5
		dtStrsz, dtRpath   = 10, 15
		dtRunpath          = 29
	)
	le := binary.LittleEndian
	head := at(0, headSize)
	if len(head) < headSize || string(head[:6]) != "\x7fELF\x02\x01" || le.Uint16(head[54:]) != progSize {
		return nil, ""
	}
	progs := at(le.Uint64(head[32:]), progSize*uint64(le.Uint16(head[56:])))
	var table []byte
	for p := progs; len(p) >= progSize; p = p[progSize:] {
		if le.Uint32(p) == ptDynamic {
			table = at(le.Uint64(p[8:]), le.Uint64(p[32:]))
		}
	}
	var names []uint64
	var run []uint64
	var strtab, strsz uint64
	for d := table; len(d) >= 16; d = d[16:] {
		value := le.Uint64(d[8:])
		switch le.Uint64(d) {
		case dtNeeded:
			names = append(names, value)
		case dtStrtab:
			strtab = value
		case dtStrsz:
			strsz = value
		case dtRpath, dtRunpath:
			run = append(run, value)
		}
	}
	var text []byte
	for p := progs; len(p) >= progSize; p = p[progSize:] { // the table has an address, not a place
		start, size := le.Uint64(p[16:]), le.Uint64(p[32:])
		if le.Uint32(p) == ptLoad && strtab >= start && strtab-start < size {
			text = at(le.Uint64(p[8:])+strtab-start, strsz)
		}
	}
	word := func(off uint64) string {
		if off >= uint64(len(text)) {
			return ""
		}
		w, _, _ := strings.Cut(string(text[off:min(off+4096, uint64(len(text)))]), "\x00")
		return w
	}
	for _, n := range names {
		if w := word(n); w != "" && len(needed) < maxLibraries {
			needed = append(needed, w)
		}
	}
	for _, n := range run {
		runpath = word(n)
	}
	return needed, runpath
}
