// Package api is what the parts of a cluster say to each other: the types of
// the head's HTTP API, the messages between head and agents, the frames of a
// running job's input and output, the closed list of error codes, and the way
// nodes are named in lists.
//
// It holds no behavior beyond parsing and formatting and imports nothing of
// this module, so that every part can use it. Start with node.go (machines
// and nodes), then job.go (jobs and tasks), then agent.go (what crosses the
// wire between a node and its head). Package api/client speaks the HTTP API;
// agents do not link it.
//
// All values are plain data. They may be copied and read from any goroutine.
package api
