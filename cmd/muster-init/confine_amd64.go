package main

// What a filter is made of on amd64: AUDIT_ARCH_X86_64, the first number of the calls of x32, and
// the numbers that package syscall lacks.
const (
	auditArch         = 0xc000003e
	foreignCalls      = 0x40000000
	sysFanotifyInit   = 300
	sysOpenByHandleAt = 304
	sysSetns          = 308
	sysFinitModule    = 313
	sysKexecFileLoad  = 320
	sysBPF            = 321
	sysUserfaultfd    = 323
)
