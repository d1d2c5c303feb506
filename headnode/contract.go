package headnode

import (
	"context"
	"time"

	"muster/api"
	"muster/headnode/scheduler"
)

// fleet is what the job side of a head needs of its node side. All methods
// may be called from any goroutine.
type fleet interface {
	// Snapshot lists every approved node with what the scheduler must know,
	// in a fixed order. Nodes that take no task now are in it with Ready
	// false and the reason.
	Snapshot() []scheduler.Node

	// Request sends body to the agent of the named node on
	// node.KEY.verb and returns the reply's body. It fails with an
	// *api.Error of code unreachable when the node does not answer in time.
	// An error that wraps errNotDelivered as well says that the message
	// surely did not reach the node: a task that was to start there goes
	// back to the queue when the node takes no tasks any more.
	Request(ctx context.Context, node, verb string, body []byte) ([]byte, error)

	// Changed is signaled (capacity 1, coalesced) when a node became ready,
	// left or reported a different load, so that waiting tasks are looked
	// at again.
	Changed() <-chan struct{}
}

// taskSink is what the node side of a head hands to its job side. Calls for
// one node come one after the other, those for different nodes at the same
// time. An error that is an *api.Error is sent to the agent as such.
type taskSink interface {
	// TaskEvent records the start or end of a task durably before it returns.
	TaskEvent(ctx context.Context, node string, ev api.TaskEvent) error

	// TaskOutput takes a frame of a task's output. acked is the position up
	// to which everything is durable; done (nil: never) is called later with
	// a higher one. It must not wait for the disk.
	TaskOutput(node string, ref api.TaskRef, f api.Frame, done func(acked int64, err error))

	// JobFile reads a part of a file that was sent with a job, at most
	// api.MaxChunk bytes, for a node that runs a task of that job.
	JobFile(ctx context.Context, node string, req api.FileRequest) ([]byte, error)

	// TaskFile takes a piece of a file that a task's user wants back and returns the position of
	// the next one that is wanted. It may wait for the disk.
	TaskFile(ctx context.Context, node string, p api.FilePut) (next int64, err error)

	// NodeJoined tells that a node was let in, and every task that it holds.
	// Tasks that ought to run there and are not in the list are lost when
	// the boot id is new; tasks that ought not are ended.
	NodeJoined(node, bootID string, held []api.TaskStatus)

	// NodeHeard passes the tasks of a heartbeat on.
	NodeHeard(node string, held []api.TaskStatus)

	// NodeRemoved tells that an administrator removed a node: waiting for
	// its tasks has no sense any more.
	NodeRemoved(node string)

	// NodeRenamed tells that records of tasks shall show another name.
	NodeRenamed(from, to string)
}

// clock is the time that decisions of this package use; tests replace it.
type clock func() time.Time
