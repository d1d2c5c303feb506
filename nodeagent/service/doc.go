// Package service starts the services of an image on its node, watches them, and says
// whether the node is fit for tasks.
//
// Read runner.go first: services are started one after the other, the next when the check of
// the one before has passed. supervise.go is the life of one of them, process.go its process
// and root.go what it sees as its root. A service outlives the agent: the next agent of
// the same folder finds it by its cgroup and goes on with it; output.go keeps what it
// writes meanwhile in a pipe that the service holds itself.
//
// A [Runner] may be used from any goroutine. Its lock is never held while a process is waited
// for or Config's functions are called.
package service
