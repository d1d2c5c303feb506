// Package builder turns an image definition into artifacts: a kernel, an
// initramfs, network boot programs, and the manifest that lists them.
//
// [Build] reads as the steps of a build, one call a line. Each step is a
// function from inputs to files and is keyed by the hash of its inputs, so
// that a step whose inputs did not change is not done again. Nothing here
// needs root, a loop device or a program of the host. Package deb speaks with
// Debian archives, package squashfs writes compressed file systems.
package builder
