// Package loop mounts a squashfs file by a loop device: the modules of an
// initramfs and the userland of a node.
package loop
