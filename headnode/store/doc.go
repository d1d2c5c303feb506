// Package store keeps the head's records: durable, ordered, atomic.
//
// A record is a JSON value of a kind under an id. [Store.Commit] writes any
// number of them as one batch, which is there as a whole or not at all, also
// after a power cut, once it returned. One committer gathers the batches of
// all callers, so that many cost one sync. Behind it is a JetStream stream of
// an embedded NATS server (docs/decisions/0001).
//
// Start with store.go for what a store does, then open.go, commit.go
// (records) and history.go (what ended). slots.go says where in the stream a
// record lies, state.go guards the state folder. Package storetest has the
// behavior that every implementation must show, and a store in memory.
//
// All methods may be called from any goroutine. Reads never wait for the
// disk. Lock order: none is ever held together with another.
package store
