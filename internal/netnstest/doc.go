// Package netnstest runs the tests of a package in a network namespace of
// their own, so that they may bind port 67, make links and bridges and
// broadcast, without touching the machine's network and without leaving
// anything behind.
//
//	func TestMain(m *testing.M) { netnstest.Main(m) }
//
// [Main] starts the test binary once more inside a new network and mount
// namespace (and user namespace when it does not run as root). Where the
// kernel forbids that to users, sudo is tried; where that asks for a password
// the package's tests are skipped with the reason, or fail with
// MUSTER_NEED=all.
//
// Inside, [Veth] joins two namespaces by a cable, [Bridge] makes a switch,
// [New] a further namespace, and [NS.Do] and [NS.Command] run code and
// programs there. Everything is removed when the test that made it ends.
// Helpers may be called from any test goroutine that may call t.Fatal.
package netnstest
