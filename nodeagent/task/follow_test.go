package task

import (
	"path/filepath"
	"strings"
	"testing"

	"muster/api"
)

// What speaks for init may be the task itself: it makes the shim neither keep more and more nor wait.
func TestFollowIsBounded(t *testing.T) {
	for name, c := range map[string]struct {
		says   string
		want   initReport
		events int
		ended  int
	}{
		"as it should be":    {"started 2\nexit 3\n", initReport{"exit", 3, ""}, 1, 1},
		"again and again":    {strings.Repeat("started 2\n", 10000) + strings.Repeat("exit 3\n", 10000), initReport{"exit", 3, ""}, 1, 1},
		"what is no report":  {"started 2\n" + strings.Repeat("hello\n", 10000) + "exit 0\n", initReport{"exit", 0, ""}, 1, 1},
		"a line without end": {"started 2\n" + strings.Repeat("x", 64*maxReport), initReport{"started", 2, ""}, 1, 0},
		"an error":           {"error 127 x: command not found on this node\n", initReport{"error", 127, "x: command not found on this node"}, 0, 0},
	} {
		s := &shim{dir: t.TempDir(), spec: spec{Start: api.TaskStart{}}}
		s.wake.L = &s.mu
		ended := 0
		if got := s.follow(strings.NewReader(c.says), func() { ended++ }); got != c.want {
			t.Errorf("%s: the last report is %+v, want %+v", name, got, c.want)
		}
		if len(s.events) != c.events || ended != c.ended {
			t.Errorf("%s: %d events and %d ends, want %d and %d", name, len(s.events), ended, c.events, c.ended)
		}
		if files, _ := filepath.Glob(filepath.Join(s.dir, "*")); len(files) != 0 {
			t.Errorf("%s: it left %q", name, files)
		}
	}
}

func TestLimitsOfTheNodeAreRefused(t *testing.T) {
	start := api.TaskStart{Argv: []string{"true"}, Host: "n1"}
	for resource, ok := range map[int]bool{0: true, 3: true, 7: true, 9: true, 6: false, 8: false, 12: false, 13: false, 14: false, 15: false, -1: false} {
		start.Limits = []api.Limit{{Resource: resource, Soft: 1, Hard: 99}}
		if err := checkStart(start); (err == nil) != ok {
			t.Errorf("limit %d: %v", resource, err)
		}
	}
}
