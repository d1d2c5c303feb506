package store

import (
	"context"
	"errors"
)

// Record is one durable record.
type Record struct {
	Kind string // "node", "job": a word of lower-case letters
	ID   string // letters, digits, - and _
	Rev  uint64 // revision of the store that wrote it, never 0
	Data []byte // JSON with a field "schema"
}

// AnyRev in [Op.Expect] writes whatever is there now.
const AnyRev = ^uint64(0)

// Op is one change of a batch.
type Op struct {
	Kind, ID string
	// Expect is the revision that the record must have now: 0 when it must
	// not exist, AnyRev when it does not matter.
	Expect uint64
	Data   []byte // new value; nil deletes the record
}

// ErrConflict is returned by Commit when a record does not have the expected
// revision. Nothing of the batch was written.
var ErrConflict = errors.New("record was changed by somebody else")

// ErrFull is returned by Commit when the disk has no room. Nothing of the
// batch was written.
var ErrFull = errors.New("no space left for records")

// ErrUnknown is returned by Commit and Append when the disk failed while they
// wrote. The batch is there as a whole or not at all, and which of the two
// is known when the store was opened again; this one does nothing any more.
var ErrUnknown = errors.New("whether the records were written is not known before the head started again")

// Interface is what the head needs of a store. *Store implements it on
// JetStream; Mem in package storetest keeps records in memory for tests of
// other packages. Both pass storetest.Run. All methods may be called from any
// goroutine.
type Interface interface {
	// Commit writes all ops or none, durable when it returns nil. rev is the
	// revision of the last op; the ops of a batch have consecutive ones.
	Commit(ctx context.Context, ops ...Op) (rev uint64, err error)
	// Get returns the record as of the latest Commit that returned.
	Get(kind, id string) (Record, bool)
	// List returns all records of a kind, sorted by id.
	List(kind string) []Record
	// Rev is the latest revision.
	Rev() uint64
	// Append adds an entry to the history of a subject ("jobs"), which is
	// limited by age and bytes. It is durable when it returns nil.
	Append(ctx context.Context, subject, id string, data []byte) error
	// History returns up to n entries of a subject, newest first, that are
	// older than the revision before (0: from the newest).
	History(ctx context.Context, subject string, before uint64, n int) ([]Record, error)
}
