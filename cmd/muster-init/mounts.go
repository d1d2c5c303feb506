package main

import (
	"errors"
	"strconv"
	"strings"
	"syscall"
	"unsafe"
)

// Numbers of linux/mount.h, linux/fcntl.h and asm-generic/unistd.h that package
// syscall lacks.
const (
	sysOpenTree       = 428
	sysMoveMount      = 429
	sysOpenat2        = 437
	sysMountSetattr   = 442
	resolveNoSymlinks = 0x4
	openTreeClone     = 0x1
	noFollow          = 0x100
	moveFromFD        = 0x4
	moveToFD          = 0x40
	emptyPath         = 0x1000
	mountAttrReadOnly = 0x1
	mountAttrNoSuid   = 0x2
	mountAttrNoDev    = 0x4
	atFDCWD           = ^uintptr(99) // -100
	atRecursive       = 0x8000
	oPath             = 0x200000
	safe              = syscall.MS_NOSUID | syscall.MS_NODEV
)

// devices are what a task finds in /dev besides terminals and shared memory.
// A task of root would else reach the machine's disks, memory and watchdog:
// it has no capability, but their files are root's.
var devices = []string{"null", "zero", "full", "random", "urandom", "tty"}

// mounts makes the file tree of a task: the node's or that in c.root, read-only, with a /proc
// that shows this namespace's processes, a /dev of its own, private
// folders that are empty but for the work folder, and the shares. What the agent keeps (its
// key, other tasks) is in one of these folders, and so is out of sight for
// every user, root too.
func mounts(c config) error {
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return errors.New("making mounts private: " + err.Error())
	}
	fd, err := cloneMount(c.work, false)
	if err != nil {
		return errors.New("opening work folder " + c.work + ": " + err.Error())
	}
	defer syscall.Close(fd)
	// Shares and files come from the tree that is left.
	var laid []laidMount
	for _, f := range c.files {
		laid = append(laid, laidMount{from: f.from, to: f.to, readOnly: true})
	}
	for _, s := range c.shares {
		laid = append(laid, laidMount{from: s.from, to: s.to, readOnly: s.readOnly, below: true})
	}
	for i := range laid {
		if laid[i].fd, err = cloneMount(laid[i].from, laid[i].below); err != nil {
			return errors.New("opening " + laid[i].from + " for " + laid[i].to + ": " + err.Error())
		}
		defer syscall.Close(laid[i].fd)
	}
	if c.root != "" {
		if err := enter(c.root); err != nil {
			return err
		}
	}
	if err := readOnly("/"); err != nil {
		return errors.New("making the node's files read-only: " + err.Error())
	}
	if err := syscall.Mount("proc", "/proc", "proc", safe|syscall.MS_NOEXEC, ""); err != nil {
		return errors.New("mounting /proc: " + err.Error())
	}
	if err := mountDev(c.containers); err != nil {
		return err
	}
	for _, dir := range c.tmpfs {
		if err := syscall.Mount("tmpfs", dir, "tmpfs", safe, "mode=1777"); err != nil {
			return errors.New("mounting private " + dir + ": " + err.Error())
		}
	}
	if err := makePath(c.work); err != nil {
		return errors.New("making work folder " + c.work + ": " + err.Error())
	}
	if err := attach(fd, c.work); err != nil {
		return errors.New("mounting work folder " + c.work + ": " + err.Error())
	}
	if err := syscall.Mount("", c.work, "", syscall.MS_REMOUNT|syscall.MS_BIND|safe, ""); err != nil {
		return errors.New("making work folder " + c.work + " writable: " + err.Error())
	}
	for _, m := range laid {
		err := m.lay()
		nested := m.below && insideAnother(m.to, c.shares)
		switch {
		case err != nil && nested && !c.needs(m.to):
			// Its place is made, removed or closed by whoever owns the folder around it, which is no reason
			// to hold up the tasks of others.
		case err != nil && nested:
			return errors.New("mounting " + m.to + ": " + err.Error() + "; it lies in another share, where its place has to be a folder that is no link and that root of a node may pass to")
		case err != nil:
			return errors.New("mounting " + m.to + ": " + err.Error())
		}
	}
	// Only root could change anything in /proc that is not its own process's. A container
	// makes a /proc of its own, which the kernel allows beside one that is writable.
	if c.containers && c.uid != 0 {
		return nil
	}
	if err := readOnly("/proc"); err != nil {
		return errors.New("making /proc read-only: " + err.Error())
	}
	return nil
}

// insideAnother tells whether the place of a share is in another share.
func insideAnother(to string, shares []share) bool {
	for _, s := range shares {
		if s.to != to && isBelow(to, s.to) {
			return true
		}
	}
	return false
}

// needs tells whether a task works in a share or writes its output there.
func (c config) needs(to string) bool {
	return isBelow(c.dir, to) || isBelow(c.stdout, to) || isBelow(c.stderr, to)
}

// isBelow tells whether path is dir or something in it.
func isBelow(path, dir string) bool {
	return path == dir || len(path) > len(dir) && path[:len(dir)] == dir && path[len(dir)] == '/'
}

// laidMount is a file or folder of the node that is laid over one of the task's tree.
type laidMount struct {
	fd       int
	from, to string
	readOnly bool
	below    bool // with what is mounted below it
}

// lay attaches the mount. A file is passed over where the task's tree has none: there
// is nothing that it could lie on. The way to the place may lead through another share, where users
// make links: none is followed, since the mount would land where one of them likes, for all.
func (m laidMount) lay() error {
	at, err := openPlace(m.to)
	if err != nil && !m.below && (err == syscall.ENOENT || err == syscall.ELOOP) {
		return nil
	}
	if err != nil {
		return err
	}
	defer syscall.Close(at)
	attr := uint64(mountAttrNoSuid | mountAttrNoDev)
	if m.readOnly {
		attr |= mountAttrReadOnly
	}
	// While it is nowhere yet, nobody can have put anything in its place.
	if err := setAttrOf(m.fd, attr); err != nil {
		return err
	}
	return attachTo(m.fd, at)
}

// openPlace opens what is at a path to which no link leads.
func openPlace(path string) (fd int, err error) {
	name, err := syscall.BytePtrFromString(path)
	if err != nil {
		return -1, err
	}
	how := struct{ flags, mode, resolve uint64 }{flags: oPath | syscall.O_CLOEXEC, resolve: resolveNoSymlinks}
	r, _, e := syscall.Syscall6(sysOpenat2, atFDCWD, uintptr(unsafe.Pointer(name)), uintptr(unsafe.Pointer(&how)), unsafe.Sizeof(how), 0, 0)
	if e != 0 {
		return -1, e
	}
	return int(r), nil
}

// enter makes root the root of this namespace. Nothing of the node's own tree can
// be reached from then on but its devices, until /dev is made anew, and /sys.
func enter(root string) error {
	failed := func(what string, err error) error {
		return errors.New("entering " + root + ": " + what + ": " + err.Error())
	}
	if err := syscall.Mount(root, root, "", syscall.MS_BIND|syscall.MS_REC, ""); err != nil {
		return failed("mounting it", err)
	}
	// A folder that was opened before the mount would be the one below it.
	if err := syscall.Chdir(root); err != nil {
		return failed("going there", err)
	}
	for _, dir := range []string{"dev", "sys"} {
		if err := syscall.Mount("/"+dir, dir, "", syscall.MS_BIND|syscall.MS_REC, ""); err != nil {
			return failed("mounting /"+dir, err)
		}
	}
	// pivot_root(2): the old root comes to lie on the new one, and goes.
	if err := syscall.PivotRoot(".", "."); err != nil {
		return failed("changing the root", err)
	}
	if err := syscall.Unmount(".", syscall.MNT_DETACH); err != nil {
		return failed("leaving the old root", err)
	}
	return syscall.Chdir("/")
}

// cloneMount opens a mount of dir that is nowhere yet, and so stays when the tree that
// dir is in goes; below: with the mounts below it.
func cloneMount(dir string, below bool) (fd int, err error) {
	path, err := syscall.BytePtrFromString(dir)
	if err != nil {
		return -1, err
	}
	flags := uintptr(openTreeClone | noFollow | syscall.O_CLOEXEC)
	if below {
		flags |= atRecursive
	}
	r, _, e := syscall.Syscall(sysOpenTree, atFDCWD, uintptr(unsafe.Pointer(path)), flags)
	if e != 0 {
		return -1, e
	}
	return int(r), nil
}

// attach mounts what cloneMount opened at dir.
func attach(fd int, dir string) error {
	path, err := syscall.BytePtrFromString(dir)
	if err != nil {
		return err
	}
	return moveMount(fd, atFDCWD, path, moveFromFD)
}

// attachTo mounts what cloneMount opened over what is open as at.
func attachTo(fd, at int) error { return moveMount(fd, uintptr(at), new(byte), moveFromFD|moveToFD) }

func moveMount(fd int, at uintptr, path *byte, flags uintptr) error {
	var none byte
	_, _, e := syscall.Syscall6(sysMoveMount, uintptr(fd), uintptr(unsafe.Pointer(&none)), at, uintptr(unsafe.Pointer(path)), flags, 0)
	if e != 0 {
		return e
	}
	return nil
}

// readOnly forbids writing to what is mounted at dir and below.
func readOnly(dir string) error { return setAttr(dir, mountAttrReadOnly) }

// setAttr adds attributes to what is mounted at dir and below.
func setAttr(dir string, set uint64) error {
	path, err := syscall.BytePtrFromString(dir)
	if err != nil {
		return err
	}
	return mountSetattr(atFDCWD, path, atRecursive, set)
}

// setAttrOf adds attributes to a mount that cloneMount opened and to those below it.
func setAttrOf(fd int, set uint64) error {
	return mountSetattr(uintptr(fd), new(byte), atRecursive|emptyPath, set)
}

func mountSetattr(at uintptr, path *byte, flags uintptr, set uint64) error {
	attr := struct{ set, clear, propagation, userns uint64 }{set: set}
	_, _, e := syscall.Syscall6(sysMountSetattr, at, uintptr(unsafe.Pointer(path)), flags, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr), 0)
	if e != 0 {
		return e
	}
	return nil
}

// makePath makes the folders of an absolute path as far as they are not
// there. They can be passed and not listed, as the agent's own.
func makePath(path string) error {
	for i := 1; i <= len(path); i++ {
		if i < len(path) && path[i] != '/' {
			continue
		}
		var st syscall.Stat_t
		if syscall.Stat(path[:i], &st) == nil {
			continue
		}
		if err := syscall.Mkdir(path[:i], 0o711); err != nil {
			return err
		}
	}
	return nil
}

// mountDev gives the task a /dev of its own. The devices come from the
// node's, since a new one could not be made in a user namespace. fuse adds the
// device of file systems in programs, where the node has it.
func mountDev(fuse bool) error {
	devices := devices
	var st syscall.Stat_t
	if fuse && syscall.Stat("/dev/fuse", &st) == nil {
		devices = append(devices[:len(devices):len(devices)], "fuse")
	}
	failed := func(what string, err error) error { return errors.New("making /dev/" + what + ": " + err.Error()) }
	fds := make([]int, len(devices))
	for i, name := range devices {
		fd, err := syscall.Open("/dev/"+name, oPath|syscall.O_CLOEXEC, 0)
		if err != nil {
			return failed(name, err)
		}
		defer syscall.Close(fd)
		fds[i] = fd
	}
	if err := syscall.Mount("tmpfs", "/dev", "tmpfs", syscall.MS_NOSUID|syscall.MS_NOEXEC, "mode=755,size=64k"); err != nil {
		return failed("", err)
	}
	for i, name := range devices {
		fd, err := syscall.Open("/dev/"+name, syscall.O_CREAT|syscall.O_EXCL|syscall.O_CLOEXEC, 0o644)
		if err != nil {
			return failed(name, err)
		}
		syscall.Close(fd)
		if err := syscall.Mount("/proc/self/fd/"+strconv.Itoa(fds[i]), "/dev/"+name, "", syscall.MS_BIND, ""); err != nil {
			return failed(name, err)
		}
	}
	for _, m := range [][3]string{{"pts", "devpts", "newinstance,ptmxmode=0666,mode=0620"}, {"shm", "tmpfs", "mode=1777"}} {
		if err := syscall.Mkdir("/dev/"+m[0], 0o755); err != nil {
			return failed(m[0], err)
		}
		if err := syscall.Mount(m[1], "/dev/"+m[0], m[1], syscall.MS_NOSUID|syscall.MS_NOEXEC, m[2]); err != nil {
			return failed(m[0], err)
		}
	}
	for _, l := range []string{"pts/ptmx ptmx", "/proc/self/fd fd", "/proc/self/fd/0 stdin", "/proc/self/fd/1 stdout", "/proc/self/fd/2 stderr"} {
		to, name, _ := strings.Cut(l, " ")
		if err := syscall.Symlink(to, "/dev/"+name); err != nil {
			return failed(name, err)
		}
	}
	// The terminals and the shared memory stay writable.
	if err := syscall.Mount("", "/dev", "", syscall.MS_REMOUNT|syscall.MS_BIND|syscall.MS_RDONLY|syscall.MS_NOSUID|syscall.MS_NOEXEC, ""); err != nil {
		return failed("", err)
	}
	return nil
}
