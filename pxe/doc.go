// Package pxe answers machines that boot from the network.
//
// One boot is four exchanges: DHCP (port 67) or proxyDHCP (ports 67 and 4011)
// names the first program, TFTP (port 69) sends it, iPXE asks again by DHCP,
// and HTTP sends the script, the kernel and the initramfs.
//
// What a machine boots is decided elsewhere, through [Booter]; what machines
// do is told to an [Observer]. The package knows nothing of the cluster and
// can be used without it. Read booter.go first.
package pxe
