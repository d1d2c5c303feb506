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

// waitNotice says once why a job is queued, if it still is after a moment.
type waitNotice struct {
	say func(text string) // called from a goroutine of its own

	mu    sync.Mutex
	text  string
	timer *time.Timer
	told  bool
}

// changed takes a new state of the job.
func (n *waitNotice) changed(j api.Job) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.text = ""
	if j.State == api.JobQueued && j.Reason != "" {
		n.text = fmt.Sprintf("job %d is queued: %s", j.ID, strings.TrimPrefix(j.Reason, "waits: "))
	}
	if j.State == api.JobRunning && strings.HasPrefix(j.Reason, "its input waits") {
		n.text = fmt.Sprintf("job %d: %s", j.ID, j.Reason)
	}
	if n.text != "" && n.timer == nil && !n.told {
		n.timer = time.AfterFunc(waitNoticeAfter, n.tell)
	}
}

func (n *waitNotice) tell() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.timer = nil
	if n.text != "" && !n.told {
		n.told = true
		n.say(n.text)
	}
}

// stop makes it silent.
func (n *waitNotice) stop() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.told = true
	if n.timer != nil {
		n.timer.Stop()
	}
}
