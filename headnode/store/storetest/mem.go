package storetest

import (
	"context"
	"slices"
	"strings"
	"sync"

	"muster/headnode/store"
)

// Mem keeps records in memory. The zero value is empty and ready. It has no
// goroutine and may be used in a testing/synctest bubble.
type Mem struct {
	mu      sync.Mutex
	rev     uint64
	records map[string]store.Record
	history []store.Record
	fail    error
}

var _ store.Interface = (*Mem)(nil)

// Fail makes every later Commit and Append return err without writing; nil
// ends that.
func (m *Mem) Fail(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fail = err
}

// Commit implements store.Interface.
func (m *Mem) Commit(ctx context.Context, ops ...store.Op) (uint64, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if err := store.CheckOps(ops); err != nil {
		return 0, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil {
		return 0, m.fail
	}
	for _, op := range ops {
		have := m.records[op.Kind+"."+op.ID].Rev
		if op.Expect != store.AnyRev && op.Expect != have {
			return 0, store.Conflict(op, have)
		}
	}
	if m.records == nil {
		m.records = map[string]store.Record{}
	}
	for _, op := range ops {
		m.rev++
		name := op.Kind + "." + op.ID
		if op.Data == nil {
			delete(m.records, name)
			continue
		}
		m.records[name] = store.Record{Kind: op.Kind, ID: op.ID, Rev: m.rev, Data: slices.Clone(op.Data)}
	}
	return m.rev, nil
}

// Get implements store.Interface.
func (m *Mem) Get(kind, id string) (store.Record, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r, ok := m.records[kind+"."+id]
	return r, ok
}

// List implements store.Interface.
func (m *Mem) List(kind string) []store.Record {
	m.mu.Lock()
	defer m.mu.Unlock()
	list := []store.Record{}
	for _, r := range m.records {
		if r.Kind == kind {
			list = append(list, r)
		}
	}
	slices.SortFunc(list, func(a, b store.Record) int { return strings.Compare(a.ID, b.ID) })
	return list
}

// Rev implements store.Interface.
func (m *Mem) Rev() uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.rev
}

// Append implements store.Interface.
func (m *Mem) Append(ctx context.Context, subject, id string, data []byte) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := store.CheckName(subject, id); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil {
		return m.fail
	}
	m.history = append(m.history, store.Record{
		Kind: subject, ID: id, Rev: uint64(len(m.history)) + 1, Data: slices.Clone(data),
	})
	return nil
}

// History implements store.Interface.
func (m *Mem) History(ctx context.Context, subject string, before uint64, n int) ([]store.Record, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	list := []store.Record{}
	for i := len(m.history) - 1; i >= 0 && len(list) < n; i-- {
		r := m.history[i]
		if r.Kind == subject && (before == 0 || r.Rev < before) {
			list = append(list, r)
		}
	}
	return list, nil
}
