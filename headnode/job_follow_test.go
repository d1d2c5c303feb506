package headnode

import (
	"context"
	"errors"
	"testing"

	"muster/api"
)

// The end that a node tells reaches the job's user without waiting for the disk: the node tells it again to a head that did not
// record it. The end of a canceled job is the head's own word and waits.
func TestEndDoesNotWaitForItsRecord(t *testing.T) {
	for name, tc := range map[string]struct{ canceled, over bool }{"of the program": {false, true}, "by cancel": {true, false}} {
		t.Run(name, func(t *testing.T) {
			r := newStoppedRig(t, "n1")
			js, err := newJobs(jobsConfig{Store: r.mem, Fleet: r.fleet, Dir: r.dir}) // records nothing, since it does not run
			if err != nil {
				t.Fatal(err)
			}
			j := newJob(1, api.Owner{User: "x", UID: 1000}, api.JobSpec{Argv: []string{"true"}, Tasks: 1}, nil, js.cfg.Now())
			js.equip(j)
			sub := j.feed.subscribe()
			defer sub.close()
			js.mu.Lock()
			js.jobs[1] = j
			js.mutate(j, 0, func() bool { j.place(0, "n1", "boot", ""); return true })
			j.canceling = tc.canceled
			js.mu.Unlock()
			ctx, cancel := context.WithCancel(t.Context())
			acked := make(chan error, 1)
			go func() {
				acked <- js.TaskEvent(ctx, "n1", api.TaskEvent{TaskRef: api.TaskRef{Job: 1, Epoch: 1}, State: api.JobFinished})
			}()
			<-sub.wake
			if _, over, err := js.state(t.Context(), 1); err != nil || over != tc.over {
				t.Errorf("state() says %v, %v, want %v", over, err, tc.over)
			}
			cancel()
			if err := <-acked; !errors.Is(err, context.Canceled) {
				t.Errorf("the node is told %v before the end is recorded", err)
			}
		})
	}
}
