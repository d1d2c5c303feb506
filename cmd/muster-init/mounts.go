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
	sysMountSetattr   = 442
	mountAttrReadOnly = 0x1
	atFDCWD           = ^uintptr(99) // -100
	atRecursive       = 0x8000
	oPath             = 0x200000
	safe              = syscall.MS_NOSUID | syscall.MS_NODEV
)

// devices are what a task finds in /dev besides terminals and shared memory.
// A task of root would else reach the machine's disks, memory and watchdog:
// it has no capability, but their files are root's.
var devices = []string{"null", "zero", "full", "random", "urandom", "tty"}

// mounts makes the file tree of a task: the node's, read-only, with a /proc
// that shows this namespace's processes, a /dev of its own, and private
// folders that are empty but for the working directory. What the agent keeps (its
// key, other tasks) is in one of these folders, and so is out of sight for
// every user, root too.
func mounts(tmpfs []string, work string) error {
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return errors.New("making mounts private: " + err.Error())
	}
	fd, err := syscall.Open(work, oPath|syscall.O_DIRECTORY|syscall.O_NOFOLLOW|syscall.O_CLOEXEC, 0)
	if err != nil {
		return errors.New("opening working directory " + work + ": " + err.Error())
	}
	defer syscall.Close(fd)
	if err := readOnly("/"); err != nil {
		return errors.New("making the node's files read-only: " + err.Error())
	}
	if err := syscall.Mount("proc", "/proc", "proc", safe|syscall.MS_NOEXEC, ""); err != nil {
		return errors.New("mounting /proc: " + err.Error())
	}
	if err := mountDev(); err != nil {
		return err
	}
	for _, dir := range tmpfs {
		if err := syscall.Mount("tmpfs", dir, "tmpfs", safe, "mode=1777"); err != nil {
			return errors.New("mounting private " + dir + ": " + err.Error())
		}
	}
	if err := makePath(work); err != nil {
		return errors.New("making working directory " + work + ": " + err.Error())
	}
	if err := syscall.Mount("/proc/self/fd/"+strconv.Itoa(fd), work, "", syscall.MS_BIND, ""); err != nil {
		return errors.New("mounting working directory " + work + ": " + err.Error())
	}
	// A bind mount begins as read-only as what it shows.
	if err := syscall.Mount("", work, "", syscall.MS_REMOUNT|syscall.MS_BIND|safe, ""); err != nil {
		return errors.New("making working directory " + work + " writable: " + err.Error())
	}
	// Only root could change anything in /proc that is not its own process's.
	if err := readOnly("/proc"); err != nil {
		return errors.New("making /proc read-only: " + err.Error())
	}
	return nil
}

// readOnly forbids writing to what is mounted at dir and below.
func readOnly(dir string) error {
	path, err := syscall.BytePtrFromString(dir)
	if err != nil {
		return err
	}
	attr := struct{ set, clear, propagation, userns uint64 }{set: mountAttrReadOnly}
	_, _, e := syscall.Syscall6(sysMountSetattr, atFDCWD, uintptr(unsafe.Pointer(path)), atRecursive,
		uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr), 0)
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
// node's, since a new one could not be made in a user namespace.
func mountDev() error {
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
