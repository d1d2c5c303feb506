// Command attempts tries what no task may do, one thing for each word of its command line.
//
// It ends with 0 where that was possible and says what it got, with 1 where it was refused and
// says how, and with 2 where the attempt itself is at fault, so that a test does not take a broken
// attempt for a protection. Nothing it does harms a node on which it succeeds: it asks for what is
// there already, or with arguments that are only looked at by who is permitted.
//
//go:debug containermaxprocs=0
package main

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// attempt tries something. What it returns is what the attacker got, or why it did not.
type attempt func(args []string) (got string, err error)

// errBroken marks an attempt that could not be made at all.
var errBroken = errors.New("the attempt cannot be made")

func main() {
	if len(os.Args) < 2 || attempts[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "usage: attempts WORD [ARGUMENT...]; words are", strings.Join(slices.Sorted(maps.Keys(attempts)), " "))
		os.Exit(2)
	}
	got, err := attempts[os.Args[1]](os.Args[2:])
	switch {
	case errors.Is(err, errBroken):
		fmt.Println(err)
		os.Exit(2)
	case err != nil:
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println(strings.TrimSpace(got))
}

// attempts are all attempts by their word.
var attempts = map[string]attempt{
	// Files and devices.
	"read": read, "write-open": writeOpen, "create": create, "list": list, "rewrite": rewrite, "open": open, "print": printFile,
	"shout": shout, "connect": connect, "descriptor": descriptor, "spared": spared, "unsparing": unsparing, "leave-group": leaveGroup,
	"mknod": mknod, "chown": chown, "handle": handle, "setuid-program": setuidProgram, "file-capability": fileCapability,
	// Processes.
	"kill": kill, "ptrace": ptrace, "process-read": processRead, "steal-descriptor": stealDescriptor,
	"shared-memory": sharedMemory, "message-queue": messageQueue, "false-credentials": falseCredentials, "trace-init": traceInit,
	// Rights.
	"become-root": becomeRoot, "groups": groups, "nice": nice, "realtime": realtime, "hard-limit": hardLimit, "host-name": hostName, "clock": clock,
	// The network.
	"low-port": lowPort, "raw-socket": family(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_UDP), "packet-socket": family(unix.AF_PACKET, unix.SOCK_RAW, 0),
	"vsock": family(unix.AF_VSOCK, unix.SOCK_STREAM, 0), "alg": family(unix.AF_ALG, unix.SOCK_SEQPACKET, 0), "interface": networkInterface,
	"join": join, "ask": ask, "ask-unix": askUnix, "nfs": nfs,
	// System calls.
	"mount": mount, "umount": umount, "remount": remount, "pivot-root": pivotRoot, "chroot": chroot, "fsopen": call(unix.SYS_FSOPEN, text("tmpfs"), 0),
	"open-tree": openTree, "user-namespace": userNamespace, "clone-namespace": cloneNamespace, "clone3-namespace": clone3Namespace, "setns": setns,
	"finit-module": call(unix.SYS_FINIT_MODULE, minusOne, text(""), 0), "init-module": call(unix.SYS_INIT_MODULE, 0, 0, text("")),
	"delete-module": call(unix.SYS_DELETE_MODULE, text("nosuchmodule"), 0),
	"kexec":         call(unix.SYS_KEXEC_LOAD, 0, 1<<20, 0, 0), "reboot": call(unix.SYS_REBOOT, 0, 0, 0, 0),
	"swapon": call(unix.SYS_SWAPON, text("/nosuchfile"), 0), "accounting": call(unix.SYS_ACCT, text("/nosuchfile")),
	"port-access": call(unix.SYS_IOPL, 3), "kernel-log": kernelLog,
	"bpf": bpf, "perf": perf, "fanotify": call(unix.SYS_FANOTIFY_INIT, unix.FAN_CLASS_NOTIF|unix.FAN_REPORT_FID, 0), "userfaultfd": call(unix.SYS_USERFAULTFD, 1),
	"io-uring": ioUring, "keyring": call(unix.SYS_KEYCTL, unix.KEYCTL_JOIN_SESSION_KEYRING, 0), "landlock": call(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, 1),
	"secret-memory": call(unix.SYS_MEMFD_SECRET, 0), "new-call": newCall, "int80": thirtyTwoBit,
	"processes": processes, "memory": memory,
}

// refused tells whether an error says that something was not permitted or is not there for us.
func refused(err error) bool {
	for _, e := range []error{
		unix.EPERM, unix.EACCES, unix.ENOSYS, unix.EAFNOSUPPORT, unix.ESRCH, unix.ENOENT, unix.EROFS, unix.EXDEV, unix.ENODEV, unix.ENXIO, unix.EAGAIN,
	} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// outcome is that of an attempt whose arguments are good: what no protection explains is a fault of it.
func outcome(what string, err error) (string, error) {
	if err == nil || refused(err) {
		return what, err
	}
	return "", fmt.Errorf("%w: %s: %w", errBroken, what, err)
}

// want returns the arguments of an attempt.
func want(args []string, n int) ([]string, error) {
	if len(args) != n {
		return make([]string, n), fmt.Errorf("%w: it takes %d arguments", errBroken, n)
	}
	return args, nil
}

func read(args []string) (string, error) {
	a, err := want(args, 1)
	if err != nil {
		return "", err
	}
	fd, err := unix.Open(a[0], unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return outcome(a[0], err)
	}
	b := make([]byte, 64)
	n, err := unix.Read(fd, b)
	return outcome(fmt.Sprintf("%d bytes of %s", n, a[0]), err)
}

// printFile prints the first line of a file.
func printFile(args []string) (string, error) {
	a, err := want(args, 1)
	if err != nil {
		return "", err
	}
	b, err := os.ReadFile(a[0])
	line, _, _ := strings.Cut(strings.ReplaceAll(string(b), "\x00", " "), "\n")
	return outcome(line, err)
}

func open(args []string) (string, error) {
	a, err := want(args, 1)
	if err != nil {
		return "", err
	}
	_, err = unix.Open(a[0], unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOCTTY, 0)
	return outcome(a[0]+" opened", err)
}

func writeOpen(args []string) (string, error) {
	a, err := want(args, 1)
	if err != nil {
		return "", err
	}
	_, err = unix.Open(a[0], unix.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOCTTY, 0)
	return outcome(a[0]+" opened for writing", err)
}

// rewrite writes to a file what is in it.
func rewrite(args []string) (string, error) {
	a, err := want(args, 1)
	if err != nil {
		return "", err
	}
	b, err := os.ReadFile(a[0])
	if err != nil {
		return outcome(a[0], err)
	}
	fd, err := unix.Open(a[0], unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return outcome(a[0], err)
	}
	_, err = unix.Write(fd, b)
	return outcome(a[0]+" written", err)
}

// create makes a file, or a folder where the name ends with a slash, and removes it.
func create(args []string) (string, error) {
	a, err := want(args, 1)
	if err != nil {
		return "", err
	}
	if dir, ok := strings.CutSuffix(a[0], "/"); ok {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return outcome(dir, err)
		}
		return outcome(dir+" made", os.Remove(dir))
	}
	f, err := os.OpenFile(a[0], os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return outcome(a[0], err)
	}
	f.Close()
	return outcome(a[0]+" made", os.Remove(a[0]))
}

func list(args []string) (string, error) {
	a, err := want(args, 1)
	if err != nil {
		return "", err
	}
	e, err := os.ReadDir(a[0])
	return outcome(fmt.Sprintf("%d entries of %s", len(e), a[0]), err)
}

// shout writes to somebody's terminal.
func shout(args []string) (string, error) {
	a, err := want(args, 1)
	if err != nil {
		return "", err
	}
	fd, err := unix.Open(a[0], unix.O_WRONLY|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return outcome(a[0], err)
	}
	_, err = unix.Write(fd, []byte("hello"))
	return outcome("written to "+a[0], err)
}

func connect(args []string) (string, error) {
	a, err := want(args, 1)
	if err != nil {
		return "", err
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return outcome("socket", err)
	}
	if strings.HasPrefix(a[0], "/") { // names of sockets are short
		dir, name, _ := cutLast(a[0])
		if err := unix.Chdir(dir); err != nil {
			return outcome(dir, err)
		}
		a[0] = name
	}
	return outcome("connected", unix.Connect(fd, &unix.SockaddrUnix{Name: a[0]}))
}

func cutLast(path string) (dir, name string, ok bool) {
	i := strings.LastIndex(path, "/")
	return path[:i+1], path[i+1:], i >= 0
}

// descriptor looks for an open file that nobody gave to us on purpose.
func descriptor([]string) (string, error) {
	for fd := 3; fd < 64; fd++ {
		to, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
		if err != nil || strings.HasPrefix(to, "anon_inode:") {
			continue // the runtime's own
		}
		return to, nil
	}
	return "", errors.New("none is open")
}

func mknod([]string) (string, error) {
	name := "/tmp/device"
	err := unix.Mknod(name, unix.S_IFBLK|0o600, int(unix.Mkdev(7, 0)))
	return outcome("a block device made", err)
}

func chown([]string) (string, error) {
	f, err := os.CreateTemp("/tmp", "")
	if err != nil {
		return "", fmt.Errorf("%w: %w", errBroken, err)
	}
	return outcome("a file given to root", f.Chown(0, 0))
}

// handle opens a file without its path.
func handle([]string) (string, error) {
	h, _, err := unix.NameToHandleAt(unix.AT_FDCWD, "/tmp", 0)
	if err != nil {
		return "", fmt.Errorf("%w: %w", errBroken, err)
	}
	at, err := unix.Open("/tmp", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", fmt.Errorf("%w: %w", errBroken, err)
	}
	_, err = unix.OpenByHandleAt(at, h, unix.O_RDONLY)
	return outcome("a folder opened by its handle", err)
}

// setuidProgram starts a program that has the set-uid bit and is root's.
func setuidProgram(args []string) (string, error) {
	if len(args) == 0 {
		if unix.Geteuid() != 0 {
			return "", unix.EPERM
		}
		return "effective uid 0", nil
	}
	return "", unix.Exec(args[0], []string{args[0], "setuid-program"}, nil)
}

// fileCapability starts a program that has capabilities of its own.
func fileCapability(args []string) (string, error) {
	if len(args) == 0 {
		status, err := os.ReadFile("/proc/self/status")
		if err != nil {
			return "", fmt.Errorf("%w: %w", errBroken, err)
		}
		if strings.Contains(string(status), "CapEff:\t0000000000000000\n") {
			return "", unix.EPERM
		}
		return "capabilities", nil
	}
	err := unix.Exec(args[0], []string{args[0], "file-capability"}, nil)
	return outcome("", err)
}

// leaveGroup moves this process to a control group.
func leaveGroup(args []string) (string, error) {
	a, err := want(args, 1)
	if err != nil {
		return "", err
	}
	fd, err := syscall.Open(a[0]+"/cgroup.procs", syscall.O_WRONLY, 0)
	if err != nil {
		return outcome(a[0], err)
	}
	_, err = syscall.Write(fd, []byte("0"))
	return outcome("moved to "+a[0], err)
}

// spared tells whether the kernel spares this process when memory runs out.
func spared([]string) (string, error) {
	b, err := os.ReadFile("/proc/self/oom_score_adj")
	if err != nil {
		return "", fmt.Errorf("%w: %w", errBroken, err)
	}
	if score := strings.TrimSpace(string(b)); strings.HasPrefix(score, "-") {
		return "oom_score_adj " + score, nil
	}
	return "", errors.New("oom_score_adj 0")
}

// unsparing makes this process one that the kernel spares when memory runs out.
func unsparing([]string) (string, error) {
	fd, err := syscall.Open("/proc/self/oom_score_adj", syscall.O_WRONLY, 0)
	if err != nil {
		return outcome("", err)
	}
	_, err = syscall.Write(fd, []byte("-500"))
	return outcome("oom_score_adj -500", err)
}
