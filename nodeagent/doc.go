// Package nodeagent is what a machine runs once it has booted: it finds its
// head, asks to be a node, reports load, and hosts tasks.
//
// Read agent.go first: [Agent.Run] is one connection after the other, for
// ever. A connection (session.go) is joined (join.go: pending, approved,
// rejected), and as long as the machine is approved it carries heartbeats
// (load.go, speed.go), the kernel log (kernellog.go) and the traffic of tasks
// (serve.go, uplink.go). Package nodeagent/userland brings what tasks see as their
// root; before it is there, none starts. Tasks themselves are package nodeagent/task: each
// has a process of its own, the shim, that outlives the agent.
//
// What needs the machine (network, screen, clock, hardware facts, reboot) is
// handed in through [Config]; package nodeagent/boot brings it. So an agent
// may as well run on an installed Linux, in a namespace or in a test.
//
// Messages are those of api/agent.go. The head is known by the SHA-256 of its
// public key alone (identity.go); dates of certificates are ignored, because
// a machine without a battery starts in 1970.
package nodeagent
