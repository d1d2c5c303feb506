// Package hybrid writes and reads one file that is a CD and a USB stick.
//
// It is an ISO 9660 file system with Rock Ridge names and two El Torito
// entries: one for BIOS (isolinux), one for UEFI (a FAT file system, the ESP).
// For firmware that sees a disk instead of a CD there are an isohybrid
// MBR and a GPT, which agree with each other. Partitions do not overlap:
//
//	LBA 0        MBR with boot code
//	LBA 1..33    GPT
//	LBA 64..     partition 1: the CD's file system without its head
//	             partition 2: the ESP, the last file of the CD
//	end          backup GPT
//
// Start with [Write]; iso.go and partitions.go have what is done to the result
// of the libraries. [Open] reads such a file, or the stick that it was written
// to, and trusts nothing in it. The package knows nothing of images, and keeps
// no state: everything may be called from any goroutine.
package hybrid
