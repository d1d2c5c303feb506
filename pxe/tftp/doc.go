// Package tftp is a read-only TFTP server for network boot.
//
// It speaks RFC 1350 (mode octet, reads only) with the options of RFC 2347:
// block size (RFC 2348), timeout and transfer size (RFC 2349) and window size
// (RFC 7440). What a request gets is decided by the caller's [Source].
//
// request.go reads a request and settles its options, window.go decides what
// an acknowledgment or a timeout asks for; both are free of I/O. transfer.go
// runs one transfer, server.go receives requests, socket.go has the system
// calls: the address that was asked, and segmentation offload.
//
// [Server.Run] uses one goroutine to receive and one for each live transfer.
// [Source] and the observer are called from the transfers' goroutines, several
// at once.
package tftp
