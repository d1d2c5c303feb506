// Package verity makes dm-verity devices: read-only block devices over a file of data and hash tree, of which
// the kernel checks each block when it is read, so that whoever has the file needs no trust. It speaks to
// the device mapper itself (ioctls of linux/dm-ioctl.h); no program does.
package verity
