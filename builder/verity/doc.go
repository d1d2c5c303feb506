// Package verity writes the hash tree of dm-verity behind the data that it is of, in one file, as the
// kernel's documentation (admin-guide/device-mapper/verity) and veritysetup have it: version 1, SHA-256,
// blocks of 4 KiB, no salt.
//
// Who knows the root hash can read the file block by block from a place that is not trusted: the
// kernel checks every block against the tree, and a block that was changed is a read error.
package verity
