package task

import (
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// settleAfter is when a shim has done what only its start takes.
const settleAfter = time.Second

// settle gives back the parts of this program that it has read. They are the agent's too and so take little
// memory of the node, but count as each shim's; what is needed again comes back by itself.
func settle() {
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return
	}
	for _, p := range programParts(string(maps)) {
		_, _, _ = unix.Syscall(unix.SYS_MADVISE, p.start, p.size, unix.MADV_DONTNEED)
	}
}

// part is where a part of a program is in memory.
type part struct{ start, size uintptr }

// programParts finds in /proc/PID/maps (proc_pid_maps(5)) the parts of the program that it cannot write to. They can be
// read again from its file, as they are in a static program: a loader writes to some of those that it forbids to be
// written to later. There are none of a program with a loader.
func programParts(maps string) (parts []part) {
	file := ""
	for line := range strings.Lines(maps) {
		f := strings.Fields(line)
		if len(f) < 6 || len(f[1]) != 4 || f[1][3] != 'p' || f[4] == "0" {
			continue // of no file, or shared
		}
		if file != "" && file != f[3]+" "+f[4] {
			return nil
		}
		file = f[3] + " " + f[4]
		from, to, _ := strings.Cut(f[0], "-")
		a, err1 := strconv.ParseUint(from, 16, 64)
		b, err2 := strconv.ParseUint(to, 16, 64)
		if err1 != nil || err2 != nil || b <= a {
			return nil
		}
		if f[1][1] != 'w' {
			parts = append(parts, part{uintptr(a), uintptr(b - a)})
		}
	}
	return parts
}
