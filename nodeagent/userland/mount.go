package userland

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"muster/nodeagent/loop"
)

// mounts is what a [Holder] needs of the kernel.
type mounts interface {
	// memory mounts a file system in memory that has room for one file.
	memory(dir string, size int64) error
	// attach mounts the squashfs in file on dir.
	attach(file, dir string) error
	// detach ends what attach did.
	detach(dir string) error
	// what tells what is mounted on dir.
	what(dir string) (mounted, error)
}

// mounted is a mount. The zero value is none.
type mounted struct {
	fstype string
	file   string // behind the loop device
	source string // as /proc has it
	uuid   string // of a device of the device mapper
}

type kernelMounts struct{}

func (kernelMounts) memory(dir string, size int64) error {
	page := int64(os.Getpagesize())
	opts := fmt.Sprintf("mode=0700,size=%d,nr_inodes=8", (size+page-1)/page*page)
	if err := unix.Mount("muster-userland", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, opts); err != nil {
		return fmt.Errorf("mounting memory for the userland on %s: %w", dir, err)
	}
	return nil
}

func (kernelMounts) attach(file, dir string) error { return loop.Mount(file, dir) }

func (kernelMounts) detach(dir string) error { return unix.Unmount(dir, unix.MNT_DETACH) }

func (kernelMounts) what(dir string) (mounted, error) { return whatIn("/proc/self/mountinfo", dir) }

func whatIn(mountinfo, dir string) (mounted, error) {
	f, err := os.Open(mountinfo)
	if err != nil {
		return mounted{}, fmt.Errorf("looking at what is mounted: %w", err)
	}
	defer f.Close()
	fstype, device, source, err := findMount(f, dir)
	if err != nil {
		return mounted{}, fmt.Errorf("looking at what is mounted: %w", err)
	}
	m := mounted{fstype: fstype, source: source}
	// Only a loop device has the file.
	if b, err := os.ReadFile(filepath.Join("/sys/dev/block", device, "loop/backing_file")); err == nil {
		m.file = strings.TrimSuffix(string(b), "\n")
	}
	if b, err := os.ReadFile(filepath.Join("/sys/dev/block", device, "dm/uuid")); err == nil {
		m.uuid = strings.TrimSpace(string(b))
	}
	return m, nil
}

// findMount finds the uppermost mount on dir in a mountinfo file (proc(5)). All is
// empty where there is none.
func findMount(r io.Reader, dir string) (fstype, device, source string, err error) {
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		before, after, ok := strings.Cut(lines.Text(), " - ")
		b, a := strings.Fields(before), strings.Fields(after)
		if !ok || len(b) < 5 || len(a) < 2 {
			continue
		}
		if unescape(b[4]) == dir { // later lines are above earlier ones
			fstype, device, source = a[0], b[2], unescape(a[1])
		}
	}
	return fstype, device, source, lines.Err()
}

// unescape undoes what the kernel does to a path in mountinfo.
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}
