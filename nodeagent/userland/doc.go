// Package userland brings the userland of a machine's image to it: a squashfs
// that is fetched from the head piece by piece, each checked before it
// counts, held in memory once, and mounted by a loop device.
//
// Read holder.go first: [Holder.Run] decides whether the machine is large
// enough (memory.go), goes on with what an earlier agent has left (store.go,
// mount.go), and else fetches what is missing (fetch.go). What the pieces
// must be comes with the initramfs (want.go), whose origin is trusted;
// where they come from does not have to be. The few lines of HTTP
// that this takes are its own (http.go): net/http would make every
// agent 630 kB larger.
package userland
