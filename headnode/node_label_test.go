package headnode

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"muster/api"
	"muster/headnode/scheduler"
)

func labelsOf(nodes []api.Node) map[string]string {
	of := map[string]string{}
	for _, n := range nodes {
		of[n.Name] = strings.Join(n.Labels, " ")
	}
	return of
}

func TestLabel(t *testing.T) {
	w := newWorld(t)
	for _, mac := range []string{mac1, mac2} {
		a := w.agent(mac)
		w.join(a)
		w.approve(a, "")
	}
	label := func(nodes string, add, remove string) error {
		_, err := w.nodes.Label(t.Context(), "root", api.LabelRequest{Nodes: strings.Fields(nodes), Add: strings.Fields(add), Remove: strings.Fields(remove)})
		return err
	}
	for _, step := range []struct{ nodes, add, remove, n1, n2 string }{
		{"n1 n2 n1", "gpu", "", "gpu", "gpu"},
		{"n1", "big gpu", "", "big gpu", "gpu"},
		{"n2", "", "gpu nosuch", "big gpu", ""},
		{"n2", "a b", "b", "big gpu", "a"},
	} {
		if err := label(step.nodes, step.add, step.remove); err != nil {
			t.Fatalf("%+v: %v", step, err)
		}
		if diff := cmp.Diff(map[string]string{"n1": step.n1, "n2": step.n2}, labelsOf(w.nodes.List())); diff != "" {
			t.Errorf("%+v (-want +got):\n%s", step, diff)
		}
	}
	for _, c := range []struct {
		nodes, add string
		code       api.Code
		want       string
	}{
		{"n1 n9", "x", api.CodeNotFound, "n9"},
		{"n1", "", api.CodeInvalid, "no label is named"},
		{"", "x", api.CodeInvalid, "no node"},
		{"n1", "-x", api.CodeInvalid, "cannot be a label"},
		{"n1", manyLabels(), api.CodeTooLarge, "at most 32"},
	} {
		if err := label(c.nodes, c.add, ""); api.CodeOf(err) != c.code || !strings.Contains(err.Error(), c.want) {
			t.Errorf("Label(%q, %.20q) = %v, want %s: %s", c.nodes, c.add, err, c.code, c.want)
		}
	}
	w.restart() // labels outlive the head, and a refused change has changed nothing
	if diff := cmp.Diff(map[string]string{"n1": "big gpu", "n2": "a"}, labelsOf(w.nodes.List())); diff != "" {
		t.Errorf("after a restart (-want +got):\n%s", diff)
	}

	for list, want := range map[string]string{"label:gpu": "n1", "label:gpu,n2": "n2 n1", "label:gpu,n1,label:big": "n1", "label:a label:gpu": "n2 n1"} {
		nodes, err := w.nodes.Expand(list)
		var names []string
		for _, n := range nodes {
			names = append(names, n.Name)
		}
		if got := strings.Join(names, " "); err != nil || got != want {
			t.Errorf("Expand(%q) = %q, %v, want %q", list, got, err, want)
		}
	}
	if _, err := w.nodes.Expand("label:gpus"); api.CodeOf(err) != api.CodeNotFound || !strings.Contains(err.Error(), "did you mean label:gpu?") {
		t.Errorf("Expand(label:gpus) = %v, want the nearest label", err)
	}
	for _, n := range w.nodes.Snapshot() {
		if n.Name == "n1" && !slices.Equal(n.Labels, []string{"big", "gpu"}) {
			t.Errorf("the scheduler sees the labels %q", n.Labels)
		}
	}
}

func manyLabels() string {
	var list []string
	for i := range maxLabels {
		list = append(list, fmt.Sprint("l", i))
	}
	return strings.Join(list, " ")
}

func TestOnNodes(t *testing.T) {
	nodes := []scheduler.Node{{Name: "n1", Labels: []string{"gpu"}}, {Name: "n2"}, {Name: "n3", Labels: []string{"big", "gpu"}}}
	for on, want := range map[string]string{
		"": "", "n2": "n2", "n9": "n9", "label:gpu": "n1 n3", "label:big n2": "n2 n3", "label:none": "label:none", "n9 label:big": "n3",
	} {
		if got := strings.Join(onNodes(strings.Fields(on), nodes), " "); got != want {
			t.Errorf("onNodes(%q) = %q, want %q", on, got, want)
		}
	}
}

// TestJobOnLabel: a job goes to nodes with its label, also to one that gets it while the job waits.
func TestJobOnLabel(t *testing.T) {
	r := newRig(t, "n1", "n2")
	r.fleet.set("n1", func(n *scheduler.Node) { n.Labels = []string{"gpu"}; n.Cores = 1 })
	if _, err := r.client.Submit(t.Context(), api.JobSpec{Argv: []string{"true"}, On: "label:cpu"}); api.CodeOf(err) != api.CodeNotFound || !strings.Contains(err.Error(), "no node has the label cpu; did you mean label:gpu?") {
		t.Errorf("a label that no node has: %v", err)
	}
	first := r.submit(api.JobSpec{Argv: []string{"sleep"}, On: "label:gpu", Detached: true})
	if j := r.running(first.ID); j.Tasks[0].Node != "n1" {
		t.Errorf("the job is on %s, want n1", j.Tasks[0].Node)
	}
	second := r.submit(api.JobSpec{Argv: []string{"sleep"}, On: "label:gpu", Detached: true})
	if second.State != api.JobQueued || !strings.Contains(second.Reason, "n1 full") {
		t.Errorf("the second job is %s (%s), want it to wait for n1", second.State, second.Reason)
	}
	r.fleet.set("n2", func(n *scheduler.Node) { n.Labels = []string{"gpu"} })
	if j := r.running(second.ID); j.Tasks[0].Node != "n2" {
		t.Errorf("the second job is on %s, want n2, which has the label by now", j.Tasks[0].Node)
	}
}
