package headnode

import (
	"fmt"
	"time"

	"muster/api"
)

// The states of a machine and of a node, and every way from one to another.
// What is not in these tables does not happen.

// machineSteps are the transitions of a machine, from its first packet to its
// approval. An approved machine is in state ready here; as a node it
// then has an administrator's state and a link.
var machineSteps = map[api.NodeState][]api.NodeState{
	"":                 {api.NodeUnanswered, api.NodeBooting, api.NodePending, api.NodeReady, api.NodeDeclared},
	api.NodeUnanswered: {api.NodeBooting, api.NodePending, api.NodeReady, api.NodeDeclared},
	api.NodeBooting:    {api.NodePending, api.NodeReady, api.NodeUnanswered, api.NodeDeclared},
	api.NodePending:    {api.NodeReady, api.NodeRejected, api.NodeDeclared},
	api.NodeRejected:   {api.NodePending},
	api.NodeDeclared:   {api.NodeReady},
	api.NodeReady:      {},
}

// adminSteps are the transitions that an administrator may ask of a node;
// draining becomes paused when its last task has left, or by request.
var adminSteps = map[api.AdminState][]api.AdminState{
	api.AdminReady:    {api.AdminDraining, api.AdminPaused},
	api.AdminDraining: {api.AdminPaused, api.AdminReady},
	api.AdminPaused:   {api.AdminReady},
}

// machineStep tells whether a machine may go from one state to another.
func machineStep(from, to api.NodeState) error {
	for _, s := range machineSteps[from] {
		if s == to {
			return nil
		}
	}
	return &api.Error{Code: api.CodeConflict, Msg: fmt.Sprintf("a machine that is %s cannot become %s", from, to)}
}

// adminStep tells whether a node may go from one state to another; staying
// is no step and allowed.
func adminStep(from, to api.AdminState) error {
	if _, ok := adminSteps[to]; !ok {
		return &api.Error{Code: api.CodeInvalid, Msg: fmt.Sprintf("%q is no state of a node; want ready, draining or paused", to)}
	}
	if from == to {
		return nil
	}
	for _, s := range adminSteps[from] {
		if s == to {
			return nil
		}
	}
	return &api.Error{Code: api.CodeConflict, Msg: fmt.Sprintf("a node that is %s cannot become %s", from, to)}
}

// Times of the life of a machine.
const (
	pendingForgotten  = 10 * time.Minute // after it was last heard
	bootingForgotten  = 30 * time.Minute // a boot that stopped stays visible so long
	minUnreachable    = 10 * time.Second
	missedUnreachable = 5 // heartbeats
	minHeartbeat      = time.Second
	heartbeatsPerSec  = 1000 // that one head takes
	// silence is how long a node must not have been heard before another
	// machine with its address may take its place.
	silence = 10 * time.Second
)

// heartbeatInterval is what a node of so many is told.
func heartbeatInterval(nodes int) time.Duration {
	return max(minHeartbeat, time.Duration(nodes)*time.Second/heartbeatsPerSec)
}

// unreachableAfter is how long a node must be silent to be given up for now.
func unreachableAfter(interval time.Duration) time.Duration {
	return max(minUnreachable, missedUnreachable*interval)
}

// linkOf tells how well a node is heard, from the time since it was last
// heard and the interval it was told. Two missed heartbeats make it
// late: half an interval is left for the way.
func linkOf(silent, interval time.Duration, booting bool) api.LinkState {
	switch {
	case booting:
		return api.LinkBooting
	case silent >= unreachableAfter(interval):
		return api.LinkUnreachable
	case silent > 2*interval+interval/2:
		return api.LinkLate
	}
	return api.LinkUp
}

// shownState is the one word for a node. Unreachable and booting win.
func shownState(admin api.AdminState, link api.LinkState) api.NodeState {
	switch {
	case link == api.LinkUnreachable:
		return api.NodeUnreachable
	case link == api.LinkBooting:
		return api.NodeBooting
	case admin == api.AdminDraining:
		return api.NodeDraining
	case admin == api.AdminPaused:
		return api.NodePaused
	case link == api.LinkLate:
		return api.NodeLate
	}
	return api.NodeReady
}
