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

// settle gives back the parts of this program that it has read. They are the agent's too and so took little
// memory of the node, but count as each shim's; what is needed again comes back by itself.
func settle() {
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return
	}
	for line := range strings.Lines(string(maps)) {
		if start, size, ok := programPart(line); ok {
			_, _, _ = unix.Syscall(unix.SYS_MADVISE, start, size, unix.MADV_DONTNEED)
		}
	}
}

// programPart reads a line of /proc/PID/maps (proc_pid_maps(5)): where a part of a file is in memory that cannot be
// changed there. Such a part can be read again from its file.
func programPart(line string) (start, size uintptr, ok bool) {
	f := strings.Fields(line)
	if len(f) < 6 || len(f[1]) != 4 || f[1][1] == 'w' || f[1][3] != 'p' || f[4] == "0" {
		return 0, 0, false
	}
	from, to, _ := strings.Cut(f[0], "-")
	a, err1 := strconv.ParseUint(from, 16, 64)
	b, err2 := strconv.ParseUint(to, 16, 64)
	if err1 != nil || err2 != nil || b <= a {
		return 0, 0, false
	}
	return uintptr(a), uintptr(b - a), true
}
