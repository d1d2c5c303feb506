// Package client speaks the HTTP API of a head for programs of users: the
// command line and the console. Agents do not link it.
//
// [Find] says where the head is, [New] makes a [Client], whose methods are one
// request each (calls.go). [Client.Run] and [Client.Attach] (run.go) follow a
// running job over one upgraded connection and reconnect for ever, so that a
// head may be restarted in the middle of it.
//
// Errors are *api.Error wherever the head, or the lack of one, says something.
// A Client may be used from any goroutine.
package client
