// Package mdns finds a service on the local network, and lets one be found, by multicast DNS
// (RFC 6762) and DNS service discovery (RFC 6763), over IPv4.
//
// A [Responder] answers for one [Service] on some links, beside another responder of the same
// computer: sockets are shared and only what was sent to the group is read. Its names hold what is unique to it, such as a
// fingerprint, so it claims none that another could have and does not probe.
//
// [Browse] asks once from a port of its own (RFC 6762 6.7), so it needs no right and no port, and gathers
// the answers of some seconds.
//
// message.go has all that is on the wire. Whatever strangers send is bounded and never fails
// anything but itself.
package mdns
