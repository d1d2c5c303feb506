// Package headnode is the head of a cluster: it knows the nodes and jobs,
// decides what runs where, keeps what it promised in a durable store, and
// speaks with agents (NATS over TLS) and users (HTTP).
//
// Decisions are pure functions in package scheduler; what must survive is in
// package store. Package headnode joins them: nodes.go has the life of a
// machine from its first join to its removal, jobs.go that of a job, agents.go
// the connections of the agents, http.go the users' API, images.go the
// store of published images.
package headnode
