package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Append implements [Interface]. As Commit, it waits for what was begun.
func (s *Store) Append(ctx context.Context, subject, id string, data []byte) error {
	op := Op{Kind: subject, ID: id, Data: append([]byte{}, data...)}
	if err := CheckOps([]Op{op}); err != nil {
		return err
	}
	_, err := s.submit(s.appends, &commit{ctx: ctx, ops: []Op{op}})
	return err
}

// appendLoop alone writes the history.
func (s *Store) appendLoop() {
	q := &queue{in: s.appends}
	defer q.refuse()
	for {
		group := q.gather(s.stop)
		if group == nil {
			return
		}
		s.appendGroup(group)
	}
}

func (s *Store) appendGroup(group []*commit) {
	if err := s.Err(); err != nil {
		answer(group, commitResult{err: err})
		return
	}
	var messages []message
	for _, c := range group {
		for _, op := range c.ops {
			messages = append(messages, message{
				subject: historyPrefix + op.Kind + "." + op.ID, header: nats.Header{}, data: op.Data,
			})
		}
	}
	_, err := s.publish(historyStream, messages)
	answer(group, commitResult{err: err})
}

// History implements [Interface]. It reads from the disk, one request an
// entry, forward from where the page is expected to begin and again from
// further back when entries of other subjects lie between.
func (s *Store) History(ctx context.Context, subject string, before uint64, n int) ([]Record, error) {
	stream, err := s.js.Stream(ctx, historyStream)
	if err != nil {
		return nil, fmt.Errorf("reading history of %s: %w", subject, err)
	}
	state := stream.CachedInfo().State
	if before == 0 || before > state.LastSeq+1 {
		before = state.LastSeq + 1
	}
	list := []Record{}
	filter := historyPrefix + subject + ".>"
	for window := uint64(n); len(list) < n && before > state.FirstSeq; window *= 4 {
		from := state.FirstSeq
		if before > state.FirstSeq+window {
			from = before - window
		}
		part, err := readForward(ctx, stream, filter, from, before)
		if err != nil {
			return nil, fmt.Errorf("reading history of %s: %w", subject, err)
		}
		slices.Reverse(part)
		list = append(list, part...)
		before = from
	}
	return list[:min(n, len(list))], nil
}

// readForward reads the messages of a subject from sequence from to before.
func readForward(ctx context.Context, stream jetstream.Stream, filter string, from, before uint64) ([]Record, error) {
	var list []Record
	for seq := max(from, 1); seq < before; seq++ {
		msg, err := stream.GetMsg(ctx, seq, jetstream.WithGetMsgSubject(filter))
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			return list, nil
		}
		if err != nil {
			return nil, err
		}
		if msg.Sequence >= before {
			return list, nil
		}
		kind, id, ok := strings.Cut(strings.TrimPrefix(msg.Subject, historyPrefix), ".")
		if !ok {
			return nil, fmt.Errorf("entry %d has subject %s", msg.Sequence, msg.Subject)
		}
		list = append(list, Record{Kind: kind, ID: id, Rev: msg.Sequence, Data: msg.Data})
		seq = msg.Sequence
	}
	return list, nil
}
