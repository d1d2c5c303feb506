package main

import (
	"syscall"
	"testing"
)

// decide runs a filter on a system call as the kernel does.
func decide(t *testing.T, p []instruction, arch, number, arg0 uint32) uint32 {
	t.Helper()
	data := map[uint32]uint32{offsetNumber: number, offsetArch: arch, offsetArg0Low: arg0}
	var a uint32
	for i := 0; i < len(p); i++ {
		in := p[i]
		jump := false
		switch in.code {
		case bpfLoad:
			a = data[in.k]
			continue
		case bpfReturn:
			return in.k
		case bpfJumpEqual:
			jump = a == in.k
		case bpfJumpAtOnce:
			jump = a >= in.k
		case bpfJumpSet:
			jump = a&in.k != 0
		default:
			t.Fatalf("instruction %d is unknown: %+v", i, in)
		}
		if jump {
			i += int(in.jt)
		} else {
			i += int(in.jf)
		}
	}
	t.Fatal("the filter has no end")
	return 0
}

func TestFilter(t *testing.T) {
	const (
		no      = seccompErrno | uint32(syscall.EPERM)
		nowhere = seccompErrno | uint32(syscall.ENOSYS)
		family  = seccompErrno | uint32(syscall.EAFNOSUPPORT)
	)
	for name, c := range map[string]struct {
		arch, number, arg0 uint32
		want, containers   uint32
	}{
		"read":                          {auditArch, syscall.SYS_READ, 0, seccompAllow, seccompAllow},
		"another architecture":          {0x40000003, 20, 0, seccompKill, seccompKill}, // AUDIT_ARCH_I386
		"x32":                           {auditArch, 0x40000000 | syscall.SYS_READ, 0, nowhere, nowhere},
		"x32 without its mark":          {auditArch, 520, 0, nowhere, nowhere}, // execve(2) of x32
		"newest known":                  {auditArch, newestCall, 0, seccompAllow, seccompAllow},
		"newer":                         {auditArch, newestCall + 1, 0, nowhere, nowhere}, // open_tree_attr(2)
		"none":                          {auditArch, ^uint32(0), 0, nowhere, nowhere},
		"mount":                         {auditArch, syscall.SYS_MOUNT, 0, no, seccompAllow},
		"unshare":                       {auditArch, syscall.SYS_UNSHARE, 0, no, seccompAllow},
		"clone of a thread":             {auditArch, syscall.SYS_CLONE, syscall.CLONE_VM | syscall.CLONE_THREAD, seccompAllow, seccompAllow},
		"clone with a user namespace":   {auditArch, syscall.SYS_CLONE, syscall.CLONE_NEWUSER, no, seccompAllow},
		"clone with a cgroup namespace": {auditArch, syscall.SYS_CLONE, cloneNewCgroup | syscall.CLONE_VM, no, seccompAllow},
		"clone3":                        {auditArch, sysClone3, 0, nowhere, seccompAllow},
		"socket":                        {auditArch, syscall.SYS_SOCKET, syscall.AF_INET, seccompAllow, seccompAllow},
		"AF_ALG":                        {auditArch, syscall.SYS_SOCKET, afAlg, family, family},
		"AF_VSOCK":                      {auditArch, syscall.SYS_SOCKET, afVsock, family, family},
		"the kernel's log":              {auditArch, syscall.SYS_SYSLOG, 3, no, no},
		"bpf":                           {auditArch, sysBPF, 0, no, no},
		"io_uring_register":             {auditArch, sysIoUringSetup + 2, 0, nowhere, nowhere},
		"landlock_restrict_self":        {auditArch, sysLandlock + 2, 0, nowhere, nowhere},
		"openat2":                       {auditArch, sysOpenat2, 0, seccompAllow, seccompAllow},
	} {
		for containers, want := range map[bool]uint32{false: c.want, true: c.containers} {
			if got := decide(t, filter(containers), c.arch, c.number, c.arg0); got != want {
				t.Errorf("%s, containers %v: %#x, want %#x", name, containers, got, want)
			}
		}
	}
}
