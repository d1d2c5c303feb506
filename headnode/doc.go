// Package headnode is the head of a cluster: it knows the nodes and jobs,
// decides what runs where, keeps what it promised in a durable store, and
// speaks with agents (NATS over TLS) and users (HTTP).
//
// Decisions are pure functions in package scheduler; what must survive is in
// package store. Package headnode joins them; head.go has the whole. Its node side:
// nodes.go has what is known of machines, machine_state.go every state and
// transition, node_join.go how a machine is let in, node_approve.go and
// node_admin.go what administrators do; agents.go has the connections of the
// agents, agent_auth.go who may connect and what for; enroll.go, bootlog.go and
// images.go what a machine boots. Its job side begins in jobs.go, the users'
// API in http.go. contract.go and surface.go are what these three ask of
// each other.
//
// Locks of the node side, in the order in which they are taken: Nodes.changes
// (through a change that is recorded), Nodes.mu, agentAuth.mu, then one of
// Head.mu, Settings.mu, Events.mu and BootLogs.mu. Settings, Enroll and Images
// have a lock for writers and then one for their memory. Of these only Nodes.changes
// is held while the job side is called.
package headnode
