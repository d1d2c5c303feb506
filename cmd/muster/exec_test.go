package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"muster/api"
)

func TestExecSpec(t *testing.T) {
	for name, c := range map[string]struct {
		flags execFlags
		args  string
		err   string
	}{
		"all":        {execFlags{all: true}, "uname -r", ""},
		"some":       {execFlags{on: "n[1-2],label:gpu"}, "true", ""},
		"nowhere":    {execFlags{}, "true", "--all for every node, or --on NODES"},
		"both":       {execFlags{all: true, on: "n1"}, "true", "--all for every node, or --on NODES"},
		"no command": {execFlags{all: true}, "", "no command to run"},
		"bad list":   {execFlags{on: "n["}, "true", "--on: "},
		"bad label":  {execFlags{on: "label:*"}, "true", "cannot be a label"},
	} {
		spec, err := c.flags.spec(strings.Fields(c.args))
		switch {
		case c.err != "":
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%s: %v, want %q", name, err, c.err)
			}
		case err != nil || !spec.EachNode || spec.Stdin || spec.On != c.flags.on:
			t.Errorf("%s: %+v, %v", name, spec, err)
		}
	}
}

func TestExecReport(t *testing.T) {
	task := func(node string, code int, why string) api.Task {
		return api.Task{Node: node, State: api.JobFinished, ExitCode: code, Error: why}
	}
	for name, c := range map[string]struct {
		tasks []api.Task
		wrote []string
		want  string
	}{
		"all the same": {
			[]api.Task{task("n1", 0, ""), task("n2", 0, "")},
			[]string{"a", "a"},
			"muster: n[1-2]: exit status 0, the same output on all 2 nodes\n",
		},
		"one": {[]api.Task{task("n1", 0, "")}, []string{"a"}, ""},
		"one failed": {
			[]api.Task{task("n1", 3, "")},
			[]string{"a"},
			"muster: n1: exit status 3\n",
		},
		"differences": {
			[]api.Task{task("n1", 0, ""), task("n2", 0, ""), task("n3", 1, ""), task("n4", 0, ""), task("n5", 255, "n5 is unreachable since 10:00:00"), task("n6", 0, "")},
			[]string{"a", "b", "", "b", "", "b"},
			`muster: n[2,4,6]: exit status 0, the same output on 3 nodes
muster: n1: exit status 0, an output of its own
muster: n3: exit status 1, no output
muster: n5: unreachable since 10:00:00
`,
		},
	} {
		r := newExecReport(api.Job{Tasks: c.tasks})
		for i, text := range c.wrote {
			for k := range len(text) { // however it comes in pieces
				r.add(i, api.Stdout, []byte(text[k:k+1]), true)
			}
		}
		r.end(api.Job{Tasks: c.tasks})
		var b strings.Builder
		r.writeSummary(&b)
		if diff := cmp.Diff(c.want, b.String()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// Output and errors are not mixed up, and what is not kept is compared all the same.
func TestExecReportCompares(t *testing.T) {
	r := newExecReport(api.Job{ID: 3, Tasks: []api.Task{{Node: "n1"}, {Node: "n2"}, {Node: "n3"}, {Node: "n4"}}})
	big := make([]byte, maxExecOutput)
	for i := range 4 {
		r.add(i, api.Stdout, big, true)
	}
	r.add(0, api.Stdout, []byte("x"), true)
	r.add(1, api.Stdout, []byte("y"), true)
	r.add(2, api.Stderr, []byte("x"), true)
	r.add(3, api.Stderr, []byte("x"), true)
	r.end(api.Job{Tasks: make([]api.Task, 4)})
	d := r.document()
	var got []string
	for _, g := range d.Groups {
		got = append(got, g.Nodes)
	}
	if diff := cmp.Diff([]string{"n[3-4]", "n1", "n2"}, got); diff != "" || d.Job != 3 {
		t.Errorf("job %d, groups (-want +got):\n%s", d.Job, diff)
	}
	if !d.Items[0].Cut || d.Items[2].Cut || d.Items[2].Stderr != "x" {
		t.Errorf("cut: %v, %v; errors of n3: %q", d.Items[0].Cut, d.Items[2].Cut, d.Items[2].Stderr)
	}
}
