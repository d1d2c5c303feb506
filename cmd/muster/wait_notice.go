package main

import (
	"fmt"
	"strings"
	"sync"
	"time"

	"muster/api"
)

// waitNoticeAfter is how long a job may be queued before muster run says why.
const waitNoticeAfter = 3 * time.Second

// waitNotice says once why a job is queued, and once that it waits for the head's disk, if it still does after a moment.
type waitNotice struct {
	say func(text string) // called from a goroutine of its own

	mu    sync.Mutex
	text  string
	timer *time.Timer
	what  api.JobState // what text is about
	told  map[api.JobState]bool
	over  bool
}

// changed takes a new state of the job.
func (n *waitNotice) changed(j api.Job) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.text = ""
	switch {
	case j.State == api.JobQueued && j.Reason != "":
		n.text = fmt.Sprintf("job %d is queued: %s", j.ID, strings.TrimPrefix(j.Reason, "waits: "))
	case j.State == api.JobRunning && strings.HasPrefix(j.Reason, "waits for room"):
		n.text = fmt.Sprintf("job %d %s", j.ID, j.Reason)
	}
	if j.State == api.JobRunning && strings.HasPrefix(j.Reason, "its input waits") {
		n.text = fmt.Sprintf("job %d: %s", j.ID, j.Reason)
	}
	n.what = j.State
	if n.text != "" && n.timer == nil && !n.over && !n.told[n.what] {
		n.timer = time.AfterFunc(waitNoticeAfter, n.tell)
	}
}

func (n *waitNotice) tell() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.timer = nil
	if n.text != "" && !n.over && !n.told[n.what] {
		if n.told == nil {
			n.told = map[api.JobState]bool{}
		}
		n.told[n.what] = true
		n.say(n.text)
	}
}

// stop makes it silent.
func (n *waitNotice) stop() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.over = true
	if n.timer != nil {
		n.timer.Stop()
	}
}
