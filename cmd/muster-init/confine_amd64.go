package main

// What a filter is made of on amd64: AUDIT_ARCH_X86_64 and the numbers that package syscall lacks.
const (
	auditArch         = 0xc000003e
	sysFanotifyInit   = 300
	sysOpenByHandleAt = 304
	sysSetns          = 308
	sysFinitModule    = 313
	sysKexecFileLoad  = 320
	sysBPF            = 321
	sysUserfaultfd    = 323
)
