package store

import (
	"errors"
	"fmt"
)

// Limits of a store. Hot records should stay below 1 kB.
const (
	MaxRecord = 1000 << 10 // bytes of one record; NATS messages carry 1 MiB with their headers
	MaxBatch  = 10_000     // ops of one Commit
	maxName   = 100        // bytes of a kind and of an id
)

// ErrTooLarge is returned by Commit and Append when a record or batch is
// beyond the limits of a store. Nothing of the batch was written.
var ErrTooLarge = errors.New("beyond the limits of the record store")

// CheckOps tells what is wrong with a batch whatever the store holds: names,
// sizes, one record twice. Every implementation of [Interface] calls it first.
func CheckOps(ops []Op) error {
	if len(ops) > MaxBatch {
		return fmt.Errorf("writing %d records at once: %w: at most %d", len(ops), ErrTooLarge, MaxBatch)
	}
	seen := make(map[[2]string]bool, len(ops))
	for _, op := range ops {
		if err := CheckName(op.Kind, op.ID); err != nil {
			return err
		}
		if len(op.Data) > MaxRecord {
			return fmt.Errorf("writing record %s %s of %d bytes: %w: at most %d bytes", op.Kind, op.ID, len(op.Data), ErrTooLarge, MaxRecord)
		}
		name := [2]string{op.Kind, op.ID}
		if seen[name] {
			return fmt.Errorf("writing record %s %s twice in one batch", op.Kind, op.ID)
		}
		seen[name] = true
	}
	return nil
}

// CheckName tells whether kind and id can name a record.
func CheckName(kind, id string) error {
	if kind == "" || len(kind) > maxName || !all(kind, func(c byte) bool { return c >= 'a' && c <= 'z' }) {
		return fmt.Errorf("record kind %q: want a word of lower-case letters", kind)
	}
	if id == "" || len(id) > maxName || !all(id, isIDByte) {
		return fmt.Errorf("record id %q: want 1 to %d letters, digits, - and _", id, maxName)
	}
	return nil
}

// Conflict is an error that wraps [ErrConflict] and says what was expected
// and what is there; have 0 is no record.
func Conflict(op Op, have uint64) error {
	return fmt.Errorf("writing record %s %s of revision %d over revision %d: %w", op.Kind, op.ID, op.Expect, have, ErrConflict)
}

func isIDByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_'
}

func all(s string, ok func(byte) bool) bool {
	for i := range len(s) {
		if !ok(s[i]) {
			return false
		}
	}
	return true
}
