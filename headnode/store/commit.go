package store

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"golang.org/x/sys/unix"
)

// A group is what one sync makes durable: at most so many records and bytes,
// but always at least one whole batch of a caller.
const (
	maxGroup      = 1000
	maxGroupBytes = 4 << 20
)

// commit is a batch on its way through the committer.
type commit struct {
	ctx  context.Context
	ops  []Op
	done chan commitResult // capacity 1
}

type commitResult struct {
	rev uint64
	err error
}

// Commit implements [Interface]. When ctx ends before the batch was begun,
// nothing is written and its error is returned; a batch that was begun is
// waited for.
func (s *Store) Commit(ctx context.Context, ops ...Op) (uint64, error) {
	if err := CheckOps(ops); err != nil {
		return 0, err
	}
	if len(ops) == 0 {
		return s.Rev(), ctx.Err()
	}
	own := make([]Op, len(ops))
	for i, op := range ops {
		if op.Data != nil {
			op.Data = append([]byte{}, op.Data...)
		}
		own[i] = op
	}
	return s.submit(s.commits, &commit{ctx: ctx, ops: own})
}

// submit hands c to a loop and waits for its result.
func (s *Store) submit(to chan *commit, c *commit) (uint64, error) {
	c.done = make(chan commitResult, 1)
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	select {
	case to <- c:
	case <-c.ctx.Done():
		return 0, c.ctx.Err()
	case <-s.stop:
		return 0, errClosed
	}
	select {
	case r := <-c.done:
		return r.rev, r.err
	case <-s.closed:
	}
	// Both loops have ended and answered what they had taken.
	select {
	case r := <-c.done:
		return r.rev, r.err
	default:
		return 0, errClosed
	}
}

// Get implements [Interface].
func (s *Store) Get(kind, id string) (Record, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	e, ok := s.records[kind][id]
	return e.Record, ok
}

// List implements [Interface].
func (s *Store) List(kind string) []Record {
	s.mu.RLock()
	list := make([]Record, 0, len(s.records[kind]))
	for e := range maps.Values(s.records[kind]) {
		list = append(list, e.Record)
	}
	s.mu.RUnlock()
	slices.SortFunc(list, func(a, b Record) int { return strings.Compare(a.ID, b.ID) })
	return list
}

// Rev implements [Interface].
func (s *Store) Rev() uint64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.rev
}

// queue is the commits that wait for a loop.
type queue struct {
	in   chan *commit
	held *commit // taken from in, but too big for the group it came with
}

// gather waits for a commit and takes what else is waiting, up to a group.
// It returns nil when stop is closed.
func (q *queue) gather(stop <-chan struct{}) []*commit {
	first := q.held
	q.held = nil
	if first == nil {
		select {
		case first = <-q.in:
		case <-stop:
			return nil
		}
	}
	group := []*commit{first}
	ops, size := len(first.ops), bytesOf(first.ops)
	for ops < maxGroup && size < maxGroupBytes {
		select {
		case c := <-q.in:
			if ops+len(c.ops) > MaxBatch {
				q.held = c
				return group
			}
			group = append(group, c)
			ops, size = ops+len(c.ops), size+bytesOf(c.ops)
		default:
			return group
		}
	}
	return group
}

// refuse answers what still waits when the store is closed.
func (q *queue) refuse() {
	if q.held != nil {
		answer([]*commit{q.held}, commitResult{err: errClosed})
	}
	for {
		select {
		case c := <-q.in:
			answer([]*commit{c}, commitResult{err: errClosed})
		default:
			return
		}
	}
}

func bytesOf(ops []Op) int {
	n := 0
	for _, op := range ops {
		n += len(op.Data) + 200
	}
	return n
}

// commitLoop is the committer: it alone writes records.
func (s *Store) commitLoop(slots *slots) {
	q := &queue{in: s.commits}
	defer q.refuse()
	for {
		group := q.gather(s.stop)
		if group == nil {
			return
		}
		s.commitGroup(slots, group)
	}
}

// message is a record on its way into the stream.
type message struct {
	subject string
	header  nats.Header
	data    []byte
}

// commitGroup writes what can be written of a group and answers all of it.
func (s *Store) commitGroup(slots *slots, group []*commit) {
	if err := s.Err(); err != nil {
		answer(group, commitResult{err: err})
		return
	}
	st := &staging{store: s, slots: slots, next: s.Rev() + 1, over: map[[2]string]staged{}, wrote: map[int]bool{}}
	var taken []*commit
	for _, c := range group {
		if err := c.ctx.Err(); err != nil {
			answer([]*commit{c}, commitResult{err: err})
			continue
		}
		if err := st.add(c.ops); err != nil {
			answer([]*commit{c}, commitResult{err: err})
			continue
		}
		taken = append(taken, c)
	}
	if len(taken) == 0 {
		return
	}
	last, err := s.publish(recordsStream, st.messages)
	if err != nil {
		st.undo()
		answer(taken, commitResult{err: err})
		return
	}
	if want := st.next - 1; last != want {
		err := fmt.Errorf("writing records: the last one has revision %d instead of %d: somebody else writes to this store", last, want)
		s.fail(err)
		answer(taken, commitResult{err: err})
		return
	}
	s.apply(st, last)
	rev := last - uint64(len(st.messages))
	for _, c := range taken {
		rev += uint64(len(c.ops))
		c.done <- commitResult{rev: rev}
	}
}

func answer(group []*commit, r commitResult) {
	for _, c := range group {
		c.done <- r
	}
}

// staged is a record as it will be when the group is written.
type staged struct {
	entry
	deleted bool
}

// staging turns the batches of a group into messages.
type staging struct {
	store    *Store
	slots    *slots
	next     uint64 // revision of the next message
	messages []message
	over     map[[2]string]staged // what the group changes so far
	wrote    map[int]bool         // slots with a message in this group
	taken    []int                // slots that undo gives back
	freed    []int                // slots that are free when the group is written
	seqs     []slotSeq
}

type slotSeq struct {
	slot int
	seq  uint64
}

// current is a record as the group so far leaves it.
func (st *staging) current(kind, id string) (entry, bool) {
	if o, ok := st.over[[2]string{kind, id}]; ok {
		return o.entry, !o.deleted
	}
	st.store.mu.RLock()
	defer st.store.mu.RUnlock()
	e, ok := st.store.records[kind][id]
	return e, ok
}

// add checks a batch and stages it; after an error nothing of it is staged.
func (st *staging) add(ops []Op) error {
	for _, op := range ops {
		var rev uint64
		if have, ok := st.current(op.Kind, op.ID); ok {
			rev = have.Rev
		}
		if op.Expect != AnyRev && op.Expect != rev {
			return Conflict(op, rev)
		}
	}
	for _, op := range ops {
		st.stage(op)
	}
	return nil
}

func (st *staging) stage(op Op) {
	have, exists := st.current(op.Kind, op.ID)
	slot := have.slot
	switch {
	case exists:
	case op.Data == nil:
		slot = voidSlot
	default:
		slot = st.slots.take()
		st.taken = append(st.taken, slot)
	}
	m := message{subject: slotPrefix + strconv.Itoa(slot), header: nats.Header{}, data: op.Data}
	if op.Data == nil {
		m.header[headerFree] = []string{"1"}
	} else {
		m.header[headerKind], m.header[headerID] = []string{op.Kind}, []string{op.ID}
	}
	// The first message of a group in a slot says what must be there: no
	// other writer came between. JetStream refuses the header on a second.
	if slot != voidSlot && !st.wrote[slot] {
		m.header[nats.ExpectedLastSubjSeqHdr] = []string{strconv.FormatUint(st.slots.seqs[slot], 10)}
		st.wrote[slot] = true
	}
	st.messages = append(st.messages, m)
	st.seqs = append(st.seqs, slotSeq{slot, st.next})
	st.over[[2]string{op.Kind, op.ID}] = staged{
		entry:   entry{Record{Kind: op.Kind, ID: op.ID, Rev: st.next, Data: op.Data}, slot},
		deleted: op.Data == nil,
	}
	if op.Data == nil && slot != voidSlot {
		// Not given back before the group is written: no other record may
		// get into it while the outcome is open.
		st.freed = append(st.freed, slot)
	}
	st.next++
}

// undo gives back what a group that was not written took.
func (st *staging) undo() {
	for _, slot := range slices.Backward(st.taken) {
		st.slots.give(slot)
	}
}

// apply makes a written group visible.
func (s *Store) apply(st *staging, last uint64) {
	for _, q := range st.seqs {
		st.slots.seqs[q.slot] = q.seq
	}
	for _, slot := range st.freed {
		st.slots.give(slot)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rev = last
	for name, o := range st.over {
		if o.deleted {
			delete(s.records[name[0]], name[1])
		} else {
			s.put(o.entry)
		}
	}
}

// publish writes messages as one atomic batch and returns the sequence of the
// last. An error of which it is not sure that nothing was written makes the
// store fail.
func (s *Store) publish(stream string, messages []message) (uint64, error) {
	if err := s.reserve(messages); err != nil {
		return 0, err
	}
	if len(messages) > 1 {
		id := s.batch + strconv.FormatUint(s.batches.Add(1), 36)
		for i := range messages {
			messages[i].header["Nats-Batch-Id"] = []string{id}
			messages[i].header["Nats-Batch-Sequence"] = []string{strconv.Itoa(i + 1)}
		}
		messages[len(messages)-1].header["Nats-Batch-Commit"] = []string{"1"}
	}
	inbox := s.conn.NewRespInbox()
	sub, err := s.conn.SubscribeSync(inbox)
	if err != nil {
		return 0, fmt.Errorf("writing records: %w", err)
	}
	defer sub.Unsubscribe()
	for i, m := range messages {
		msg := &nats.Msg{Subject: m.subject, Header: m.header, Data: m.data}
		if i == len(messages)-1 {
			msg.Reply = inbox
		}
		if err := s.conn.PublishMsg(msg); err != nil {
			return 0, s.fail(fmt.Errorf("writing records: %w", err))
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), commitTimeout)
	defer cancel()
	// JetStream does not answer a batch whose last part the disk refused.
	defer context.AfterFunc(s.alive, cancel)()
	reply, err := sub.NextMsgWithContext(ctx)
	if err != nil {
		return 0, s.fail(fmt.Errorf("writing records: no answer from the disk within %v: %w", commitTimeout, ErrUnknown))
	}
	return s.readAck(stream, reply.Data)
}

// readAck reads JetStream's answer to a batch or to a single message.
func (s *Store) readAck(stream string, data []byte) (uint64, error) {
	var ack struct {
		Stream string `json:"stream"`
		Seq    uint64 `json:"seq"`
		Error  *struct {
			Code        uint16 `json:"err_code"`
			Description string `json:"description"`
		} `json:"error"`
	}
	if err := json.NewDecoder(bytes.NewReader(data)).Decode(&ack); err != nil {
		return 0, s.fail(fmt.Errorf("writing records: reading the store's answer %q: %w", data, err))
	}
	if ack.Error == nil && ack.Stream == stream {
		return ack.Seq, nil
	}
	if ack.Error == nil {
		return 0, s.fail(fmt.Errorf("writing records: stream %q answered instead of %s", ack.Stream, stream))
	}
	err := fmt.Errorf("writing records: %s", ack.Error.Description)
	switch server.ErrorIdentifier(ack.Error.Code) {
	case server.JSAtomicPublishIncompleteBatchErr:
		// Staging the batch failed, before any of it came into the stream:
		// with nothing wrong in it, the disk is what refused.
		return 0, fmt.Errorf("%w: %w", err, ErrFull)
	case server.JSInsufficientResourcesErr, server.JSAccountResourcesExceededErr:
		return 0, fmt.Errorf("%w: %w", err, ErrFull)
	case server.JSStreamMessageExceedsMaximumErr, server.JSStreamHeaderExceedsMaximumErr, server.JSAtomicPublishTooLargeBatchErrF:
		return 0, fmt.Errorf("%w: %w", err, ErrTooLarge)
	}
	return 0, s.fail(fmt.Errorf("%w: %w", err, ErrUnknown))
}

// reserve refuses messages that would leave too little space on the disk. A
// batch is written twice: staged, then into the stream.
func (s *Store) reserve(messages []message) error {
	free, err := s.free(s.dir)
	if err != nil {
		return fmt.Errorf("looking how full the disk of %s is: %w", s.dir, err)
	}
	need := uint64(reserveBytes)
	for _, m := range messages {
		need += 2 * uint64(len(m.data)+400)
	}
	if free < need {
		return fmt.Errorf("writing %d records: %d MiB are free for %s and %d are needed: %w", len(messages), free>>20, s.dir, need>>20, ErrFull)
	}
	return nil
}

// freeBytes is what an unprivileged process may still write below dir.
func freeBytes(dir string) (uint64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, err
	}
	return st.Bavail * uint64(st.Bsize), nil
}
