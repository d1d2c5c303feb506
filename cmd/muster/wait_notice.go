package main

import (
	"fmt"
	"strings"
	"sync"
	"time"

	"muster/api"
)

// waitNoticeAfter is how long a job may wait before muster run says why.
const waitNoticeAfter = 3 * time.Second

// waitNotice says once of each reason why a job does not go on, if it still does not after a moment: it is queued, the
// head's disk is full, its input waits, a node is not heard. That one is said again when it is.
type waitNotice struct {
	say func(text string) // called from a goroutine of its own

	mu    sync.Mutex
	text  string
	timer *time.Timer
	what  waitReason // what text is about
	told  map[waitReason]bool
	over  bool
}

// waitReason is a kind of reason.
type waitReason int

const (
	waitsForNothing waitReason = iota
	waitsForNode
	waitsForDisk
	waitsForInput
	waitsToBeHeard
)

// reasonOf says for people what a job waits for.
func reasonOf(j api.Job) (what waitReason, text string) {
	switch {
	case j.State == api.JobQueued && j.Reason != "":
		return waitsForNode, fmt.Sprintf("job %d is queued: %s", j.ID, strings.TrimPrefix(j.Reason, "waits: "))
	case j.State != api.JobRunning:
	case strings.HasPrefix(j.Reason, "waits for room"):
		return waitsForDisk, fmt.Sprintf("job %d %s", j.ID, j.Reason)
	case strings.HasPrefix(j.Reason, "its input waits"):
		return waitsForInput, fmt.Sprintf("job %d: %s", j.ID, j.Reason)
	case strings.Contains(j.Reason, " is unreachable since "), strings.Contains(j.Reason, " is booting since "):
		return waitsToBeHeard, fmt.Sprintf("job %d: %s; when it is heard again the job has gone on there, or is lost", j.ID, j.Reason)
	}
	return waitsForNothing, ""
}

// changed takes a new state of the job.
func (n *waitNotice) changed(j api.Job) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.what, n.text = reasonOf(j)
	if n.told[waitsToBeHeard] && n.what != waitsToBeHeard && !n.over {
		delete(n.told, waitsToBeHeard)
		if j.State == api.JobRunning {
			n.say(fmt.Sprintf("job %d: its nodes are heard again", j.ID))
		}
	}
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
			n.told = map[waitReason]bool{}
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
