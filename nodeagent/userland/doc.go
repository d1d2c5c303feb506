// Package userland brings the userland of a machine's image to it: a squashfs
// that is fetched from the head piece by piece, each checked before it
// counts, held in memory once, and mounted by a loop device; or one that is read from
// a file of an NFS server, each block checked by dm-verity.
//
// Read holder.go first: [Holder.Run] decides where the userland shall be (place.go) and whether
// the machine is large enough (memory.go), goes on with what an earlier agent has left (store.go,
// mount.go), and else fetches what is missing (fetch.go) or mounts the share (share.go). What the bytes
// must be comes with the initramfs (want.go), whose origin is trusted;
// where they come from does not have to be. The few lines of HTTP
// that this takes are its own (http.go): net/http would make every
// agent 630 kB larger.
package userland
