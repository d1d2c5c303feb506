package main

import (
	"fmt"
	"net"
	"os"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// text is an argument of call that is passed by its address; minusOne is a descriptor that no file has.
type text string

const minusOne = ^uintptr(0)

// call makes a system call with arguments that are looked at only once it is permitted: another
// error than a refusal says that it was.
func call(number uintptr, args ...any) attempt {
	return func([]string) (string, error) {
		var a [6]uintptr
		for i, v := range args {
			switch v := v.(type) {
			case int:
				a[i] = uintptr(v)
			case uintptr:
				a[i] = v
			case text:
				p, err := unix.BytePtrFromString(string(v))
				if err != nil {
					return "", fmt.Errorf("%w: %w", errBroken, err)
				}
				defer runtime.KeepAlive(p)
				a[i] = uintptr(unsafe.Pointer(p))
			}
		}
		_, _, e := unix.Syscall6(number, a[0], a[1], a[2], a[3], a[4], a[5])
		switch e {
		case 0:
			return "done", nil
		case unix.EPERM, unix.EACCES, unix.ENOSYS:
			return "", e
		}
		return "permitted: " + e.Error(), nil
	}
}

// family makes a socket.
func family(domain, kind, protocol int) attempt {
	return func([]string) (string, error) {
		_, err := unix.Socket(domain, kind|unix.SOCK_CLOEXEC, protocol)
		return outcome("a socket", err)
	}
}

// lowPort binds a port that only root's programs may, and says which.
func lowPort([]string) (string, error) {
	for port := 1023; port > 600; port-- {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			defer l.Close()
			return "port " + fmt.Sprint(port), nil
		}
		if refused(err) {
			return "", err
		}
	}
	return "", fmt.Errorf("%w: every port is taken", errBroken)
}

// networkInterface gives the loopback interface the flags that it has.
func networkInterface([]string) (string, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return "", fmt.Errorf("%w: %w", errBroken, err)
	}
	r, err := unix.NewIfreq("lo")
	if err != nil {
		return "", fmt.Errorf("%w: %w", errBroken, err)
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, r); err != nil {
		return "", fmt.Errorf("%w: %w", errBroken, err)
	}
	return outcome("network configured", unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, r))
}

func mount([]string) (string, error) {
	return outcome("a file system mounted", unix.Mount("none", "/tmp", "tmpfs", 0, ""))
}

func umount([]string) (string, error) {
	return outcome("the private /tmp unmounted", unix.Unmount("/tmp", unix.MNT_DETACH))
}

func remount([]string) (string, error) {
	return outcome("the root made writable", unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_BIND, ""))
}

func pivotRoot([]string) (string, error) {
	err := unix.PivotRoot("/tmp", "/tmp")
	if err == unix.EINVAL || err == unix.EBUSY {
		return "permitted: " + err.Error(), nil
	}
	return outcome("root changed", err)
}

func chroot([]string) (string, error) { return outcome("root changed", unix.Chroot("/tmp")) }

func openTree([]string) (string, error) {
	_, err := unix.OpenTree(unix.AT_FDCWD, "/tmp", unix.OPEN_TREE_CLONE)
	return outcome("a mount copied", err)
}

func userNamespace([]string) (string, error) {
	runtime.LockOSThread()
	// As a child does: the threads of a program cannot.
	return cloned(func() (uintptr, syscall.Errno) {
		p, _, e := unix.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
		if e == 0 && p == 0 {
			_, _, e = unix.RawSyscall(unix.SYS_UNSHARE, unix.CLONE_NEWUSER, 0, 0)
			unix.RawSyscall(unix.SYS_EXIT_GROUP, uintptr(e), 0, 0)
		}
		return p, e
	})
}

func cloneNamespace([]string) (string, error) {
	return cloned(func() (uintptr, syscall.Errno) {
		p, _, e := unix.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD)|unix.CLONE_NEWUSER|unix.CLONE_NEWNET, 0, 0, 0, 0, 0)
		if e == 0 && p == 0 {
			unix.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
		}
		return p, e
	})
}

func clone3Namespace([]string) (string, error) {
	args := [11]uint64{0: unix.CLONE_NEWUSER, 4: uint64(unix.SIGCHLD)} // struct clone_args
	return cloned(func() (uintptr, syscall.Errno) {
		p, _, e := unix.RawSyscall(unix.SYS_CLONE3, uintptr(unsafe.Pointer(&args)), unsafe.Sizeof(args), 0)
		if e == 0 && p == 0 {
			unix.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
		}
		return p, e
	})
}

// cloned waits for the child that f makes; what it ends with is an error.
func cloned(f func() (pid uintptr, e syscall.Errno)) (string, error) {
	p, e := f()
	if e != 0 {
		return errnoOutcome("", e)
	}
	var ws unix.WaitStatus
	if _, err := unix.Wait4(int(p), &ws, 0, nil); err != nil {
		return "", fmt.Errorf("%w: %w", errBroken, err)
	}
	return errnoOutcome("a user namespace", syscall.Errno(ws.ExitStatus()))
}

func setns([]string) (string, error) {
	fd, err := unix.Open("/proc/self/ns/ipc", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", fmt.Errorf("%w: %w", errBroken, err)
	}
	return outcome("a namespace entered", unix.Setns(fd, unix.CLONE_NEWIPC))
}

// kernelLog reads the kernel's log by syslog(2).
func kernelLog([]string) (string, error) {
	b := make([]byte, 256)
	n, err := unix.Klogctl(unix.SYSLOG_ACTION_READ_ALL, b)
	return outcome(fmt.Sprintf("%d bytes of the kernel's log", n), err)
}

// bpf asks for the first program that the kernel holds.
func bpf([]string) (string, error) {
	const progGetNextID = 11
	var attr [128]byte
	_, _, e := unix.Syscall(unix.SYS_BPF, progGetNextID, uintptr(unsafe.Pointer(&attr)), uintptr(len(attr)))
	if e == unix.ENOENT {
		return "permitted: there is none", nil
	}
	return errnoOutcome("a program of the kernel", e)
}

// perf counts the page faults of this process, in user mode.
func perf([]string) (string, error) {
	attr := &unix.PerfEventAttr{
		Type: unix.PERF_TYPE_SOFTWARE, Config: unix.PERF_COUNT_SW_PAGE_FAULTS, Size: uint32(unsafe.Sizeof(unix.PerfEventAttr{})),
		Bits: unix.PerfBitExcludeKernel | unix.PerfBitExcludeHv,
	}
	_, err := unix.PerfEventOpen(attr, 0, -1, -1, unix.PERF_FLAG_FD_CLOEXEC)
	return outcome("a counter", err)
}

func ioUring([]string) (string, error) {
	var params [120]byte
	_, _, e := unix.Syscall(unix.SYS_IO_URING_SETUP, 1, uintptr(unsafe.Pointer(&params)), 0)
	return errnoOutcome("a ring", e)
}

// newCall makes file_getattr(2) of Linux 6.17, which the filter was written without.
func newCall([]string) (string, error) {
	const fileGetattr = 468
	path, err := unix.BytePtrFromString("/")
	if err != nil {
		return "", fmt.Errorf("%w: %w", errBroken, err)
	}
	var attr [24]byte
	fd := unix.AT_FDCWD
	_, _, e := unix.Syscall6(fileGetattr, uintptr(fd), uintptr(unsafe.Pointer(path)), uintptr(unsafe.Pointer(&attr)), uintptr(len(attr)), 0, 0)
	if e == unix.EOPNOTSUPP || e == unix.ENOTTY {
		return "permitted: " + e.Error(), nil
	}
	return errnoOutcome("attributes", e)
}

// thirtyTwoBit makes a system call of the 32-bit kind: getpid(2).
func thirtyTwoBit([]string) (string, error) {
	if got := int80(20); int(got) != os.Getpid() {
		return "", fmt.Errorf("%w: getpid() is %d", errBroken, got)
	}
	return "a 32-bit system call", nil
}
