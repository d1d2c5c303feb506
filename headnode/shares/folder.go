package shares

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"muster/api"
)

// fsMount is a mount of this machine.
type fsMount struct {
	point, kind, options string
}

// mountsOf reads /proc/self/mountinfo (proc(5)).
func parseMounts(text string) []fsMount {
	var list []fsMount
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		i := slices.Index(f, "-")
		if i < 6 || len(f) < i+4 {
			continue
		}
		list = append(list, fsMount{point: unescape(f[4]), kind: f[i+1], options: f[5] + "," + f[i+3]})
	}
	return list
}

// unescape undoes the octal numbers by which the kernel and NFS tools write white space.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, ok := octal(s[i+1 : i+4]); ok {
				b.WriteByte(n)
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

func octal(s string) (byte, bool) {
	n := 0
	for i := range len(s) {
		if s[i] < '0' || s[i] > '7' {
			return 0, false
		}
		n = n<<3 | int(s[i]-'0')
	}
	return byte(n), n < 256
}

// mountOf is the mount that a folder is on: of several at one point, the last covers the others.
func mountOf(list []fsMount, dir string) (fsMount, bool) {
	best, found := fsMount{}, false
	for _, m := range list {
		if within(dir, m.point) && len(m.point) >= len(best.point) {
			best, found = m, true
		}
	}
	return best, found
}

// within tells whether a path is dir or below it.
func within(p, dir string) bool {
	return p == dir || dir == "/" || strings.HasPrefix(p, dir+"/")
}

// below lists the other file systems that are mounted in a folder.
func below(list []fsMount, dir string) []string {
	var found []string
	for _, m := range list {
		if m.point != dir && within(m.point, dir) && m.kind != "autofs" && !slices.Contains(found, m.point) {
			found = append(found, m.point)
		}
	}
	slices.Sort(found)
	return found
}

// unfit says why file systems of a kind cannot be served; "": they may be.
func unfit(kind string) string {
	switch {
	case kind == "tmpfs" || kind == "ramfs" || kind == "rootfs":
		return "is in memory: its files would be gone with the head's next start, under nodes that have them open"
	case kind == "overlay":
		return "is layered over others: its files have no handles that last"
	case kind == "fuse" || strings.HasPrefix(kind, "fuse.") || kind == "fuseblk":
		return "belongs to a program: its files have no handles that last"
	case strings.HasPrefix(kind, "nfs") || kind == "cifs" || kind == "smb3" || kind == "9p" || kind == "ceph" || kind == "virtiofs":
		return "is another server's: add that server itself, as in muster share add HOST:/EXPORT"
	case slices.Contains([]string{"proc", "sysfs", "devtmpfs", "devpts", "cgroup", "cgroup2", "securityfs", "debugfs", "tracefs", "mqueue", "efivarfs", "bpf", "configfs", "pstore", "nsfs"}, kind):
		return "belongs to this head's kernel and holds no files"
	}
	return ""
}

// durable tells whether a name that was acknowledged is on the disk, although the server syncs
// data only. Measured with ext4 and xfs at a power cut: with these options all were kept, without them none.
func durable(m fsMount) bool {
	opts := strings.Split(m.options, ",")
	return m.kind == "ext4" && (slices.Contains(opts, "dirsync") || slices.Contains(opts, "sync")) || m.kind == "xfs" && slices.Contains(opts, "wsync")
}

// folder finds out about a folder, or says why it cannot be served. state is the head's own
// folder, which nobody may have.
func (s *Server) folder(dir string) (Folder, error) {
	const otherFolder = "share a folder on ext4, xfs or btrfs"
	if !filepath.IsAbs(dir) || strings.IndexByte(dir, 0) >= 0 {
		return Folder{}, unfitError("name it from /", "%q is not a path from /", dir)
	}
	real, err := filepath.EvalSymlinks(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return Folder{}, unfitError("make it first, with the owner and rights that its users need", "there is no folder %s on the head", dir)
	case err != nil:
		return Folder{}, unfitError("", "the head cannot look at %s: %v", dir, cause(err))
	}
	if info, err := os.Lstat(real); err != nil || !info.IsDir() {
		return Folder{}, unfitError("share the folder that it is in", "%s is no folder", dir)
	}
	if err := checkDir(real); err != nil {
		return Folder{}, unfitError("rename it, or share the folder above", "%s cannot be shared: %v", dir, err)
	}
	if within(s.cfg.State, real) || within(real, s.cfg.State) {
		return Folder{}, unfitError("share a folder beside it", "%s cannot be shared: it has the head's own state and keys (%s)", real, s.cfg.State)
	}
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return Folder{}, fmt.Errorf("reading the mounts of the head: %w", err)
	}
	mounts := parseMounts(string(text))
	m, ok := mountOf(mounts, real)
	if !ok {
		return Folder{}, unfitError("", "no mount of the head has %s", real)
	}
	if why := unfit(m.kind); why != "" && !(m.kind == "overlay" && nfsExport(m) && handles(real) == nil) {
		hint := otherFolder
		if strings.HasPrefix(why, "is another") {
			hint = ""
		}
		return Folder{}, unfitError(hint, "%s is on %s, which %s", real, m.kind, why)
	}
	if err := handles(real); errors.Is(err, unix.EPERM) {
		return Folder{}, &api.Error{Code: api.CodeUnavailable, Msg: fmt.Sprintf("%s cannot be shared: this head is root of a container or namespace only, and may not open files by their handles", real), Hint: "run the head as root of the machine, or add a server that exists: muster share add HOST:/EXPORT"}
	} else if err != nil {
		return Folder{}, unfitError(otherFolder, "%s is on %s, which gives files no handles that last (%v)", real, m.kind, err)
	}
	return Folder{Dir: real, Mount: m.point, Type: m.kind, Below: below(mounts, real), Durable: durable(m)}, nil
}

func nfsExport(m fsMount) bool {
	opts := strings.Split(m.options, ",")
	return slices.Contains(opts, "index=on") && slices.Contains(opts, "nfs_export=on")
}

// handles tries to open a folder as an NFS server opens what a client holds.
func handles(dir string) error {
	h, _, err := unix.NameToHandleAt(unix.AT_FDCWD, dir, 0)
	if err != nil {
		return err
	}
	at, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(at)
	fd, err := unix.OpenByHandleAt(at, h, unix.O_RDONLY|unix.O_CLOEXEC)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

func unfitError(hint, format string, args ...any) error {
	return &api.Error{Code: api.CodeInvalid, Msg: fmt.Sprintf(format, args...), Hint: hint}
}

// cause is what the operating system said, without the names around it.
func cause(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}

// ready says why an export cannot be served now; "": it can.
func (s *Server) ready(e Export) string {
	if e.ID == UserlandsID {
		if e.Dir != s.userlands() {
			return fmt.Sprintf("userlands are in %s, not in %s", s.userlands(), e.Dir)
		}
		if err := s.linkUserlands(e.Userlands); err != nil {
			return err.Error()
		}
	}
	f, err := s.folder(e.Dir)
	switch {
	case err != nil:
		return err.Error()
	case f.Dir != e.Dir:
		return fmt.Sprintf("%s leads to %s now", e.Dir, f.Dir)
	case e.Mount != "" && f.Mount != e.Mount:
		return fmt.Sprintf("its file system is not mounted at %s", e.Mount)
	}
	return ""
}
