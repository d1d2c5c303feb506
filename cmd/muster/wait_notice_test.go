package main

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"muster/api"
)

func TestWaitNotice(t *testing.T) {
	queued := func(why string) api.Job { return api.Job{ID: 7, State: api.JobQueued, Reason: why} }
	running := api.Job{ID: 7, State: api.JobRunning}
	for name, c := range map[string]struct {
		do   func(n *waitNotice)
		want []string
	}{
		"starts at once":   {func(n *waitNotice) { n.changed(queued("waits: n1 full")); n.changed(running) }, nil},
		"no reason":        {func(n *waitNotice) { n.changed(queued("")) }, nil},
		"waits":            {func(n *waitNotice) { n.changed(queued("waits: n1 full")) }, []string{"job 7 is queued: n1 full"}},
		"the latest of it": {func(n *waitNotice) { n.changed(queued("waits: n1 full")); n.changed(queued("there is no node yet")) }, []string{"job 7 is queued: there is no node yet"}},
		"once": {func(n *waitNotice) {
			n.changed(queued("waits: n1 full"))
			time.Sleep(waitNoticeAfter + time.Second)
			n.changed(queued("waits: n2 full"))
		}, []string{"job 7 is queued: n1 full"}},
		"again after it ran": {func(n *waitNotice) {
			n.changed(queued("waits: n1 full"))
			n.changed(running)
			time.Sleep(waitNoticeAfter + time.Second)
			n.changed(queued("waits: n2 full"))
		}, []string{"job 7 is queued: n2 full"}},
		"its input waits": {func(n *waitNotice) {
			n.changed(api.Job{ID: 7, State: api.JobRunning, Reason: "its input waits until every task has started"})
		}, []string{"job 7: its input waits until every task has started"}},
		"no room": {func(n *waitNotice) {
			n.changed(queued("waits: n1 full"))
			time.Sleep(waitNoticeAfter + time.Second)
			n.changed(running)
			n.changed(api.Job{ID: 7, State: api.JobRunning, Reason: "waits for room on the head's disk: x"})
		}, []string{"job 7 is queued: n1 full", "job 7 waits for room on the head's disk: x"}},
		"a node that is lost and found, twice": {func(n *waitNotice) {
			for range 2 {
				n.changed(api.Job{ID: 7, State: api.JobRunning, Reason: "n1 is unreachable since 10:00:00"})
				time.Sleep(waitNoticeAfter + time.Second)
				n.changed(running)
				n.changed(running)
			}
		}, []string{
			"job 7: n1 is unreachable since 10:00:00; when it is heard again the job has gone on there, or is lost", "job 7: its nodes are heard again",
			"job 7: n1 is unreachable since 10:00:00; when it is heard again the job has gone on there, or is lost", "job 7: its nodes are heard again",
		}},
		"a node that is found at once": {func(n *waitNotice) {
			n.changed(api.Job{ID: 7, State: api.JobRunning, Reason: "n1 is unreachable since 10:00:00"})
			n.changed(running)
		}, nil},
		"stopped": {func(n *waitNotice) { n.changed(queued("waits: n1 full")); n.stop() }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var got []string
				n := &waitNotice{say: func(text string) { got = append(got, text) }}
				c.do(n)
				time.Sleep(waitNoticeAfter + time.Second)
				synctest.Wait()
				n.stop()
				if d := cmp.Diff(c.want, got); d != "" {
					t.Errorf("said (-want +got):\n%s", d)
				}
			})
		})
	}
}
