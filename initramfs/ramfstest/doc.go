// Package ramfstest checks what is in an initramfs, so that tests of whoever
// builds one read as lists:
//
//	ramfstest.Check(t, archive,
//		ramfstest.HasFile("init", 0o755),
//		ramfstest.HasContent("etc/muster/image", id),
//		ramfstest.HasLink("bin/sh", "bb"),
//		ramfstest.Missing("etc/shadow"))
package ramfstest
