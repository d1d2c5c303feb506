package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// pid reads the only argument.
func pid(args []string) (int, error) {
	a, err := want(args, 1)
	if err != nil {
		return 0, err
	}
	n, err := strconv.Atoi(a[0])
	if err != nil {
		return 0, fmt.Errorf("%w: %w", errBroken, err)
	}
	return n, nil
}

func kill(args []string) (string, error) {
	n, err := pid(args)
	if err != nil {
		return "", err
	}
	return outcome("signaled", unix.Kill(n, unix.SIGURG)) // which Go's programs take for nothing
}

func ptrace(args []string) (string, error) {
	n, err := pid(args)
	if err != nil {
		return "", err
	}
	// Seizing does not stop it.
	_, _, e := unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_SEIZE, uintptr(n), 0, 0, 0, 0)
	return errnoOutcome("traced", e)
}

// traceInit traces the first process of this namespace.
func traceInit([]string) (string, error) { return ptrace([]string{"1"}) }

func processRead(args []string) (string, error) {
	n, err := pid(args)
	if err != nil {
		return "", err
	}
	f, err := os.Open(fmt.Sprintf("/proc/%d/mem", n))
	if err != nil {
		return outcome("memory", err)
	}
	_ = f.Close()
	return "its memory is open", nil
}

func stealDescriptor(args []string) (string, error) {
	n, err := pid(args)
	if err != nil {
		return "", err
	}
	p, err := unix.PidfdOpen(n, 0)
	if err != nil {
		return outcome("pidfd", err)
	}
	_, err = unix.PidfdGetfd(p, 0, 0)
	return outcome("its standard input", err)
}

func sharedMemory(args []string) (string, error) {
	key, err := pid(args) // a number like any other
	if err != nil {
		return "", err
	}
	_, err = unix.SysvShmGet(key, 0, 0)
	return outcome("its shared memory", err)
}

func messageQueue(args []string) (string, error) {
	a, err := want(args, 1)
	if err != nil {
		return "", err
	}
	name, err := unix.BytePtrFromString(a[0])
	if err != nil {
		return "", fmt.Errorf("%w: %w", errBroken, err)
	}
	_, _, e := unix.Syscall6(unix.SYS_MQ_OPEN, uintptr(unsafe.Pointer(name)), unix.O_RDWR, 0, 0, 0, 0)
	return errnoOutcome("its message queue", e)
}

// falseCredentials tells another program that root is here.
func falseCredentials([]string) (string, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM, 0)
	if err != nil {
		return "", fmt.Errorf("%w: %w", errBroken, err)
	}
	cred := &unix.Ucred{Pid: int32(os.Getpid())}
	if unix.Getuid() == 0 {
		cred.Uid = 1
	}
	return outcome("another's credentials sent", unix.Sendmsg(pair[0], []byte("x"), unix.UnixCredentials(cred), nil, 0))
}

func becomeRoot([]string) (string, error) {
	_, _, e := unix.RawSyscall(unix.SYS_SETRESUID, 0, 0, 0)
	return errnoOutcome("uid 0", e)
}

func groups([]string) (string, error) {
	g := [1]uint32{0}
	_, _, e := unix.RawSyscall(unix.SYS_SETGROUPS, 1, uintptr(unsafe.Pointer(&g)), 0)
	return errnoOutcome("group 0", e)
}

func nice([]string) (string, error) {
	return outcome("priority -5", unix.Setpriority(unix.PRIO_PROCESS, 0, -5))
}

func realtime([]string) (string, error) {
	priority := int32(1)
	_, _, e := unix.Syscall(unix.SYS_SCHED_SETSCHEDULER, 0, 1, uintptr(unsafe.Pointer(&priority))) // SCHED_FIFO
	return errnoOutcome("before all others on a processor", e)
}

func hardLimit([]string) (string, error) {
	const msgqueue = 12 // RLIMIT_MSGQUEUE, which no user raises
	var l unix.Rlimit
	if err := unix.Getrlimit(msgqueue, &l); err != nil {
		return "", fmt.Errorf("%w: %w", errBroken, err)
	}
	l.Max++
	return outcome("a higher hard limit", unix.Setrlimit(msgqueue, &l))
}

// hostName sets the host name to what it is, in the namespace that is named.
func hostName(args []string) (string, error) {
	a, err := want(args, 1)
	if err != nil {
		return "", err
	}
	name, err := os.Hostname()
	if err != nil {
		return "", fmt.Errorf("%w: %w", errBroken, err)
	}
	if err := unix.Sethostname([]byte(name)); err != nil {
		return outcome("", err)
	}
	if ns, err := os.Readlink("/proc/self/ns/uts"); err != nil || ns != a[0] {
		return "", errors.New("it is the name of this task alone")
	}
	return "the node's name", nil
}

// clock sets nothing, which only those may who may set something.
func clock([]string) (string, error) {
	_, _, e := unix.RawSyscall(unix.SYS_SETTIMEOFDAY, 0, 0, 0)
	return errnoOutcome("clock set", e)
}

func errnoOutcome(what string, e syscall.Errno) (string, error) {
	if e == 0 {
		return what, nil
	}
	return outcome(what, e)
}

// processes makes as many processes as it can, up to a number.
func processes(args []string) (string, error) {
	n, err := pid(args)
	if err != nil {
		return "", err
	}
	for i := range n {
		// A child that waits for us to end, made as cheaply as can be.
		child, _, e := unix.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
		if e != 0 {
			return outcome(fmt.Sprintf("%d processes", i), e)
		}
		if child == 0 {
			unix.RawSyscall(unix.SYS_PAUSE, 0, 0, 0)
			unix.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
		}
	}
	return fmt.Sprintf("%d processes", n), nil
}

// memory takes as many MiB.
func memory(args []string) (string, error) {
	n, err := pid(args)
	if err != nil {
		return "", err
	}
	b, err := unix.Mmap(-1, 0, n<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANONYMOUS|unix.MAP_PRIVATE|unix.MAP_POPULATE)
	return outcome(fmt.Sprintf("%d MiB", len(b)>>20), err)
}
