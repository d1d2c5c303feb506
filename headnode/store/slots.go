package store

// A record does not lie under a subject of its own but in a numbered slot,
// which it gives free when it is deleted. Slots keep the stream as small as
// the most records that ever lived at once, and keep deleted records deleted:
// JetStream drops the older messages of a subject without writing that down,
// so a subject whose last message was purged or ran out is found with its
// former value after a kill (measured with nats-server 2.15.2; TestDeletedStaysDeleted).
// A slot always has a last message: the record, or a mark that it is free.
//
// Slot 0 takes the marks of deletes that had nothing to delete, so that every
// op of a batch has a revision.

// voidSlot is never given to a record.
const voidSlot = 0

// slots says which slots there are. It is used by the committer alone.
type slots struct {
	seqs []uint64 // stream sequence of the last message in each slot; 0: none yet
	free []int    // slots that a new record may take
}

func newSlots() *slots {
	return &slots{seqs: make([]uint64, 1)}
}

// take returns a slot for a new record.
func (s *slots) take() int {
	if n := len(s.free); n > 0 {
		slot := s.free[n-1]
		s.free = s.free[:n-1]
		return slot
	}
	s.seqs = append(s.seqs, 0)
	return len(s.seqs) - 1
}

// give makes a slot free again.
func (s *slots) give(slot int) {
	s.free = append(s.free, slot)
}

// loaded notes a message that was read at start.
func (s *slots) loaded(slot int, seq uint64) {
	for slot >= len(s.seqs) {
		s.seqs = append(s.seqs, 0)
	}
	s.seqs[slot] = seq
}
