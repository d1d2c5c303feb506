// Package shares serves folders of the head to its nodes by NFS, with one of two engines:
// the kernel's NFS server, through Debian's nfs-kernel-server, or nfs-ganesha, as a child.
//
// What is to be served is decided elsewhere (headnode/share.go, in a process without rights) and
// asked for through [Desk]. [Server] does it, in the head's keeper, which is root; [Remote] is
// how the one reaches the other. An [Export] says all there is to a folder that is served; its
// handles are made of its number and stay for ever.
//
// Read export.go first, then choose.go (which engine), folder.go (what can be served),
// ganesha.go with ganesha_config.go, kernel.go, and server.go. Methods of Server and Remote may
// be called from any goroutine.
package shares
