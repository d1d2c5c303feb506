// Package pxetest has machines for tests: state machines that ask, fetch and
// boot as the firmware of real ones does, over a [net.PacketConn] for DHCP
// and sockets for TFTP and HTTP.
//
// [Firmware] is one machine; message.go says what each kind of firmware puts
// into its messages (as captured from it), firmware.go has the order of its
// steps, crowd.go runs many machines over one connection.
//
// A Firmware is used by one goroutine; a connection that carries one machine
// may not be shared, [Crowd] is for that.
package pxetest
