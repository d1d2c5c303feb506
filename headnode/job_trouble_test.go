package headnode

import (
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"

	"muster/api"
	"muster/api/client"
)

// TestFollowerHearsOfLostNode: who follows a job is told when its node is not heard, and when it is again.
func TestFollowerHearsOfLostNode(t *testing.T) {
	r := newStoppedRig(t, "n1")
	var mu sync.Mutex
	trouble := ""
	set := func(why string) {
		mu.Lock()
		defer mu.Unlock()
		trouble = why
	}
	r.change = func(c *jobsConfig) {
		c.NodeTrouble = func(string) string {
			mu.Lock()
			defer mu.Unlock()
			return trouble
		}
	}
	r.startHead()
	t.Cleanup(r.stopHead)
	signals := make(chan os.Signal, 1)
	var told []string
	res := r.run(api.JobSpec{Argv: []string{"sleep"}}, client.RunOptions{Signals: signals, Changed: func(j api.Job) {
		lost := strings.Contains(j.Reason, "n1 is unreachable since 10:00:00")
		switch {
		case j.State != api.JobRunning:
		case len(told) == 0 && !lost:
			told = append(told, "runs")
			set("n1 is unreachable since 10:00:00")
		case len(told) == 1 && lost:
			told = append(told, "lost")
			set("")
		case len(told) == 2 && !lost:
			told = append(told, "found")
			signals <- syscall.SIGTERM
		}
	}})
	if got := strings.Join(told, " "); got != "runs lost found" || res.err != nil || res.job.Tasks[0].Signal != int(syscall.SIGTERM) {
		t.Errorf("told %q; ended with %+v, %v", got, res.job, res.err)
	}
}
