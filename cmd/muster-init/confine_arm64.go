package main

// What a filter is made of on arm64: AUDIT_ARCH_AARCH64 and the numbers that package syscall lacks.
const (
	auditArch         = 0xc00000b7
	sysFanotifyInit   = 262
	sysOpenByHandleAt = 265
	sysSetns          = 268
	sysFinitModule    = 273
	sysKexecFileLoad  = 294
	sysBPF            = 280
	sysUserfaultfd    = 282
)
