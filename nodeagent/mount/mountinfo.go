package mount

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// point is a mount point of this process.
type point struct {
	kind     string // type of the file system
	source   string
	readOnly bool
}

// mountPoints lists the mount points below dir.
func mountPoints(dir string) (map[string]point, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("looking for mounts: %w", err)
	}
	defer f.Close()
	found := map[string]point{}
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		at, p, ok := parseMount(lines.Text())
		if ok && strings.HasPrefix(at, dir+"/") {
			found[at] = p
		}
	}
	return found, lines.Err()
}

// parseMount reads a line of /proc/PID/mountinfo, proc_pid_mountinfo(5).
func parseMount(line string) (at string, p point, ok bool) {
	left, right, ok := strings.Cut(line, " - ")
	f, g := strings.Fields(left), strings.Fields(right)
	if !ok || len(f) < 6 || len(g) < 2 {
		return "", p, false
	}
	p = point{kind: g[0], source: unescape(g[1])}
	for o := range strings.SplitSeq(f[5], ",") {
		p.readOnly = p.readOnly || o == "ro"
	}
	return unescape(f[4]), p, true
}

// unescape undoes the octal escapes of the kernel.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
