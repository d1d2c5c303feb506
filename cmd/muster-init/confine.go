package main

import (
	"errors"
	"syscall"
	"unsafe"
)

// A task has no capability, so most of what follows fails without a filter too. The filter is
// for what a user may do without one: a user namespace, which would give it the
// capabilities of a world of its own and with them a great part of the kernel to
// attack, and what a checkpoint would lose without a word (landlock, keyrings) or could
// not take (io_uring, userfaultfd and their like). The numbers of the calls are in
// the file of the architecture.

// The parts of classic BPF that are used, linux/bpf_common.h and linux/seccomp.h.
const (
	bpfLoad       = 0x20 // LD | W | ABS
	bpfJumpEqual  = 0x15 // JMP | JEQ | K
	bpfJumpAtOnce = 0x35 // JMP | JGE | K
	bpfJumpSet    = 0x45 // JMP | JSET | K
	bpfReturn     = 0x06 // RET | K

	seccompAllow = 0x7fff0000
	seccompErrno = 0x00050000
	seccompKill  = 0x80000000 // the process

	offsetNumber  = 0
	offsetArch    = 4
	offsetArg0Low = 16 // little-endian

	prSetSeccomp      = 22
	seccompModeFilter = 2
)

// newNamespaces are the flags of clone(2) that make one.
const newNamespaces = syscall.CLONE_NEWNS | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUSER |
	syscall.CLONE_NEWPID | syscall.CLONE_NEWNET | cloneNewCgroup

const cloneNewCgroup = 0x02000000

// Families of sockets that no checkpoint knows.
const (
	afAlg   = 38
	afVsock = 40
)

type instruction struct {
	code   uint16
	jt, jf uint8
	k      uint32
}

// refusal is an error that some calls give.
type refusal struct {
	err   syscall.Errno
	calls []uint32
}

// filter makes the program that decides on each system call of a task.
func filter(containers bool) []instruction {
	ret := func(e syscall.Errno) instruction { return instruction{bpfReturn, 0, 0, seccompErrno | uint32(e)} }
	p := []instruction{
		{bpfLoad, 0, 0, offsetArch},
		{bpfJumpEqual, 1, 0, auditArch},
		// The same number means another call there.
		{bpfReturn, 0, 0, seccompKill},
		{bpfLoad, 0, 0, offsetNumber},
		{bpfJumpAtOnce, 0, 1, newestCall + 1},
		ret(syscall.ENOSYS),
	}
	list := always
	if !containers {
		list = append(list[:len(list):len(list)], withoutContainers...)
	}
	for _, r := range list {
		for _, n := range r.calls {
			p = append(p, instruction{bpfJumpEqual, 0, 1, n}, ret(r.err))
		}
	}
	if !containers {
		// clone3 has its flags in memory, where no filter sees them; the C library goes on with clone.
		p = append(p,
			instruction{bpfJumpEqual, 0, 1, sysClone3}, ret(syscall.ENOSYS),
			instruction{bpfJumpEqual, 0, 4, syscall.SYS_CLONE},
			instruction{bpfLoad, 0, 0, offsetArg0Low},
			instruction{bpfJumpSet, 0, 1, newNamespaces}, ret(syscall.EPERM),
			instruction{bpfLoad, 0, 0, offsetNumber})
	}
	return append(p,
		instruction{bpfJumpEqual, 0, 4, syscall.SYS_SOCKET},
		instruction{bpfLoad, 0, 0, offsetArg0Low},
		instruction{bpfJumpEqual, 1, 0, afAlg},
		instruction{bpfJumpEqual, 0, 1, afVsock}, ret(syscall.EAFNOSUPPORT),
		instruction{bpfReturn, 0, 0, seccompAllow})
}

// newestCall is the last system call that was looked at, removexattrat(2) of Linux 6.13. What a later
// kernel adds is to tasks what it is to programs on an older one: not there. So are
// the calls of x32, whose numbers are higher.
const newestCall = 466

// confine puts the filter on this thread, which is the one that starts the program. It
// takes no_new_privs, which become has set.
func confine(containers bool) error {
	p := filter(containers)
	prog := struct {
		n uint16
		p *instruction
	}{uint16(len(p)), &p[0]}
	_, _, e := syscall.RawSyscall(syscall.SYS_PRCTL, prSetSeccomp, seccompModeFilter, uintptr(unsafe.Pointer(&prog)))
	if e != 0 {
		return errors.New("filtering system calls: " + e.Error())
	}
	return nil
}

// always are the calls that no task may make. ENOSYS is for those that
// programs try and go on without.
var always = []refusal{
	{syscall.ENOSYS, []uint32{
		sysIoUringSetup, sysIoUringSetup + 1, sysIoUringSetup + 2, // setup, enter, register
		sysLandlock, sysLandlock + 1, sysLandlock + 2, // create_ruleset, add_rule, restrict_self
		sysMemfdSecret,
		syscall.SYS_ADD_KEY, syscall.SYS_REQUEST_KEY, syscall.SYS_KEYCTL,
	}},
	{syscall.EPERM, []uint32{
		syscall.SYS_SYSLOG, // the kernel's log names other users' programs
		syscall.SYS_PERF_EVENT_OPEN, sysBPF, sysUserfaultfd, sysFanotifyInit,
		syscall.SYS_INIT_MODULE, syscall.SYS_DELETE_MODULE, sysFinitModule,
		syscall.SYS_KEXEC_LOAD, sysKexecFileLoad, syscall.SYS_REBOOT,
		syscall.SYS_SWAPON, syscall.SYS_SWAPOFF, syscall.SYS_ACCT, sysOpenByHandleAt,
	}},
}

// withoutContainers are those that only a task may make to which containers are allowed.
var withoutContainers = []refusal{
	{syscall.EPERM, []uint32{
		syscall.SYS_UNSHARE, sysSetns,
		syscall.SYS_MOUNT, syscall.SYS_UMOUNT2, syscall.SYS_PIVOT_ROOT, syscall.SYS_CHROOT,
		sysOpenTree, sysMoveMount, sysFsopen, sysFsopen + 1, sysFsopen + 2, sysFsopen + 3, // fsopen, fsconfig, fsmount, fspick
		sysMountSetattr,
	}},
}

// Numbers of asm-generic/unistd.h that all architectures share.
const (
	sysIoUringSetup = 425
	sysFsopen       = 430
	sysClone3       = 435
	sysLandlock     = 444
	sysMemfdSecret  = 447
)
