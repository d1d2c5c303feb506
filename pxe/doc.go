// Package pxe answers machines that boot from the network.
//
// One boot is four exchanges: DHCP (port 67) or proxyDHCP (ports 67 and 4011)
// names the first program, TFTP (port 69, package tftp) or HTTP sends it, iPXE
// asks again by DHCP, and HTTP sends the script, the kernel and the initramfs.
//
// What a machine boots is decided elsewhere, through [Booter]; what machines
// do is told to an [Observer]. The package knows nothing of the cluster and
// can be used without it. Read booter.go first, then server.go.
//
//	listen.go    open the sockets as root, pass them to a process without rights
//	detect.go    look for other DHCP servers, choose a mode for each interface
//	server.go    the server and its goroutines
//	serve.go     the way of a message: receive, decide, answer
//	client.go    what a message says of its sender
//	lenient.go   messages as firmware writes them
//	answer.go    what goes into an answer
//	lease.go     who has which address; leaselog.go keeps it on disk
//	conn.go      datagrams in and out, frames to machines without an address
//	ra.go        a router advertisement that says nothing, for iPXE
//	script.go    boot scripts
//	http.go      scripts and loaders; files.go bulk files; listener.go both
//	watch.go     what each machine did, and boot loops
//	people.go    which machine is behind an address; one that asks too often
//
// Messages of operating systems are answered by the goroutine that read them,
// those of boot programs by a fixed number of workers, since a Booter takes
// its time. Acknowledgments leave from the goroutine of the lease file, when
// the lease is on disk. No lock is held while another is taken, but for that
// of a [Book] while it logs.
//
// All exported methods may be called from any goroutine. [Classify], [Parse]
// and [Answer] are pure.
package pxe
