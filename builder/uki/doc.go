// Package uki makes unified kernel images: one UEFI program that is a boot
// stub, a kernel, its command line and an initramfs.
//
// [Assemble] adds sections to the stub, [Parse] reads such a program and
// trusts nothing in it, [Sign] adds an Authenticode signature for Secure Boot
// and [Image.Signatures] checks those that are there. pe.go has the file
// format, authenticode.go what is signed, pkcs7.go how that is written down.
// The package knows nothing of images; it works in memory and keeps no state, so that everything
// may be called from any goroutine.
package uki
