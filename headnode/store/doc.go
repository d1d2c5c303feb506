// Package store keeps the head's records: durable, ordered, atomic.
//
// A record is a JSON value of a kind under an id. [Store.Commit] writes any
// number of them as one batch, which is there as a whole or not at all, also
// after a power cut, once it returned. One committer gathers the batches of
// all callers, so that many cost one sync. Behind it is a JetStream stream of
// an embedded NATS server (docs/decisions).
package store
