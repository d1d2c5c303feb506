package scheduler

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// node is a ready node of weight 100 with all its memory free.
func node(name string, cores int, speed float64, mem int64) Node {
	return Node{Name: name, Ready: true, Cores: cores, Speed: speed, Weight: 100, MemMiB: mem, MemFree: mem}
}

func with(n Node, change func(*Node)) Node {
	change(&n)
	return n
}

func bare(n *Node) { n.NoUserland = true }

func tasks(n int) []int {
	t := make([]int, n)
	for i := range t {
		t[i] = i
	}
	return t
}

func TestPlace(t *testing.T) {
	tests := map[string]struct {
		nodes []Node
		queue []Request
		want  []string // "job.task node: why" and "job waits/never xN: why"
	}{
		"load is per core": {
			nodes: []Node{
				with(node("big", 16, 1, 1024), func(n *Node) { n.Running = 4 }),
				with(node("small", 2, 1, 1024), func(n *Node) { n.Running = 1 }),
			},
			queue: []Request{{Job: 1, Tasks: tasks(1)}},
			want:  []string{"1.0 big: fewest tasks per unit of speed among 2 nodes"},
		},
		"fast one first": {
			nodes: []Node{node("slow", 4, 1, 1024), node("fast", 4, 2, 1024)},
			queue: []Request{{Job: 1, Tasks: tasks(3)}},
			want: []string{
				"1.0 fast: fewest tasks per unit of speed among 2 nodes",
				"1.1 slow: fewest tasks per unit of speed among 2 nodes",
				"1.2 fast: fewest tasks per unit of speed among 2 nodes",
			},
		},
		"own placements count, also memory": {
			nodes: []Node{node("n1", 8, 1, 1000), node("n2", 8, 1, 1000)},
			queue: []Request{{Job: 1, Tasks: tasks(1), MemMiB: 600}, {Job: 2, Tasks: tasks(2), MemMiB: 600}},
			want: []string{
				"1.0 n1: fewest tasks per unit of speed among 2 nodes; memory fits",
				"2.0 n2: the only node with room; memory fits",
				"2 waits x1: waits: n1 n2 short of memory",
			},
		},
		"memory free by report counts": {
			nodes: []Node{
				with(node("n1", 8, 1, 1000), func(n *Node) { n.MemFree = 100 }),
				with(node("n2", 2, 1, 1000), func(n *Node) { n.Running = 1 }),
			},
			queue: []Request{{Job: 1, Tasks: tasks(1), MemMiB: 500}},
			want:  []string{"1.0 n2: the only node with room; memory fits"},
		},
		"equal load: most memory left": {
			nodes: []Node{node("n1", 4, 1, 1000), node("n2", 4, 1, 2000)},
			queue: []Request{{Job: 1, Tasks: tasks(1)}},
			want:  []string{"1.0 n2: fewest tasks per unit of speed among 2 nodes"},
		},
		"weight halves cores": {
			nodes: []Node{with(node("n1", 4, 1, 1000), func(n *Node) { n.Weight = 50 })},
			queue: []Request{{Job: 1, Tasks: tasks(3)}},
			want: []string{
				"1.0 n1: the only node with room", "1.1 n1: the only node with room",
				"1 waits x1: waits: n1 full",
			},
		},
		"weight above 100 attracts only": {
			nodes: []Node{node("n1", 2, 1, 9000), with(node("n2", 2, 1, 1000), func(n *Node) { n.Weight = 200 })},
			queue: []Request{{Job: 1, Tasks: tasks(3)}},
			want: []string{
				"1.0 n2: fewest tasks per unit of speed among 2 nodes",
				"1.1 n1: fewest tasks per unit of speed among 2 nodes",
				"1.2 n2: fewest tasks per unit of speed among 2 nodes",
			},
		},
		"weight 0 waits": {
			nodes: []Node{with(node("n1", 4, 1, 1000), func(n *Node) { n.Weight = 0 })},
			queue: []Request{{Job: 1, Tasks: tasks(1)}},
			want:  []string{"1 waits x1: waits: n1 has weight 0"},
		},
		"spread": {
			nodes: []Node{node("n1", 8, 9, 1000), node("n2", 1, 1, 1000)},
			queue: []Request{{Job: 1, Tasks: tasks(2), Spread: true}},
			want: []string{
				"1.0 n1: fewest tasks per unit of speed among 2 nodes",
				"1.1 n2: the only node with room",
			},
		},
		"spread waits for a busy node": {
			nodes: []Node{node("n1", 8, 1, 1000), with(node("n2", 1, 1, 1000), func(n *Node) { n.Running = 1 })},
			queue: []Request{{Job: 1, Tasks: tasks(2), Spread: true}},
			want: []string{
				"1.0 n1: the only node with room",
				"1 waits x1: waits: n1 has a task of this job, n2 full",
			},
		},
		"spread over more than there are": {
			nodes: []Node{node("n1", 8, 1, 1000)},
			queue: []Request{{Job: 1, Tasks: tasks(2), Spread: true}},
			want: []string{
				"1.0 n1: the only node with room",
				"1 never x1: 2 tasks, each on a node of its own, need 2 nodes, and 1 could run one",
			},
		},
		"on": {
			nodes: []Node{node("n1", 8, 1, 1000), node("n2", 1, 1, 1000), node("n3", 1, 1, 1000)},
			queue: []Request{{Job: 1, Tasks: tasks(2), On: []string{"n2"}}, {Job: 2, Tasks: tasks(1), On: []string{"n9"}}},
			want: []string{
				"1.0 n2: the only node with room",
				"1 waits x1: waits: n2 full",
				"2 never x1: no node of n9 exists",
			},
		},
		"blocked job does not hold back": {
			nodes: []Node{with(node("n1", 4, 1, 1000), func(n *Node) { n.Running = 2 })},
			queue: []Request{{Job: 1, Tasks: tasks(1), Cores: 3}, {Job: 2, Tasks: tasks(1), Cores: 2}},
			want:  []string{"2.0 n1: the only node with room", "1 waits x1: waits: n1 2 of 3 cores free"},
		},
		"never: cores": {
			nodes: []Node{node("n1", 4, 1, 1000), node("n2", 8, 1, 1000)},
			queue: []Request{{Job: 1, Tasks: tasks(1), Cores: 9}},
			want:  []string{"1 never x1: no node has 9 cores: the largest offers 8"},
		},
		"never: memory": {
			nodes: []Node{node("n1", 4, 1, 1000), node("n2", 8, 1, 2000)},
			queue: []Request{{Job: 1, Tasks: tasks(1), MemMiB: 4096}},
			want:  []string{"1 never x1: no node has 4096 MiB of memory: the largest has 2000"},
		},
		"never: both on different nodes": {
			nodes: []Node{node("n1", 2, 1, 8000), node("n2", 8, 1, 1000)},
			queue: []Request{{Job: 1, Tasks: tasks(1), Cores: 4, MemMiB: 4000}},
			want:  []string{"1 never x1: no node has 4 cores and 4000 MiB of memory together"},
		},
		"states are named": {
			nodes: []Node{
				{Name: "n1", Reason: "is paused", Cores: 4, Weight: 100, MemMiB: 1, MemFree: 1},
				{Name: "n2", Reason: "is unreachable", Cores: 4, Weight: 100, MemMiB: 1, MemFree: 1},
			},
			queue: []Request{{Job: 1, Tasks: tasks(2)}},
			want:  []string{"1 waits x2: waits: n1 is paused, n2 is unreachable"},
		},
		"no userland: only who names it": {
			nodes: []Node{with(node("n1", 1, 1, 1000), func(n *Node) { n.Running = 1 }), with(node("n3", 8, 9, 1000), bare)},
			queue: []Request{{Job: 1, Tasks: tasks(1)}, {Job: 2, Tasks: tasks(1), On: []string{"n3"}}, {Job: 3, Tasks: tasks(2), On: []string{"n1", "n3"}, Spread: true}},
			want: []string{
				"2.0 n3: the only node with room",
				"3.0 n3: the only node with room",
				"1 waits x1: waits: n1 full, n3 has no userland: only tasks that name it (--on n3) run there",
				"3 waits x1: waits: n1 full, n3 has a task of this job",
			},
		},
		"no userland: with a better one": {
			nodes: []Node{node("n1", 1, 1, 1000), with(node("n3", 8, 9, 1000), bare)},
			queue: []Request{{Job: 1, Tasks: tasks(1)}},
			want:  []string{"1.0 n1: the only node with room"},
		},
		"no userland: several": {
			nodes: []Node{with(node("n3", 8, 9, 1000), bare), with(node("n4", 8, 9, 1000), bare), with(node("n5", 1, 9, 1000), bare)},
			queue: []Request{{Job: 1, Tasks: tasks(1)}, {Job: 2, Tasks: tasks(1), Cores: 2}, {Job: 3, Tasks: tasks(1), Cores: 9}},
			want: []string{
				"1 waits x1: waits: n3 n4 n5 have no userland: only tasks that name them (--on n3,n4,n5) run there",
				"2 waits x1: waits: n3 n4 have no userland: only tasks that name them (--on n3,n4) run there, n5 too small",
				"3 never x1: no node has 9 cores: the largest offers 8",
			},
		},
		"no userland: many": {
			nodes: []Node{with(node("n1", 1, 1, 9), bare), with(node("n2", 1, 1, 9), bare), with(node("n3", 1, 1, 9), bare), with(node("n4", 1, 1, 9), bare)},
			queue: []Request{{Job: 1, Tasks: tasks(1)}},
			want:  []string{"1 waits x1: waits: 4 nodes have no userland: only tasks that name them (--on NODES) run there"},
		},
		"no node": {
			queue: []Request{{Job: 1, Tasks: tasks(2)}},
			want:  []string{"1 waits x2: there is no node yet"},
		},
		"speed not measured counts as 1": {
			nodes: []Node{node("n1", 4, 0, 1000), node("n2", 4, 0.5, 1000)},
			queue: []Request{{Job: 1, Tasks: tasks(1)}},
			want:  []string{"1.0 n1: fewest tasks per unit of speed among 2 nodes"},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if d := cmp.Diff(tt.want, text(Place(tt.nodes, tt.queue))); d != "" {
				t.Errorf("Place() differs (-want +got):\n%s", d)
			}
		})
	}
}

func text(r Result) []string {
	var s []string
	for _, p := range r.Placed {
		s = append(s, fmt.Sprintf("%d.%d %s: %s", p.Job, p.Task, p.Node, p.Why))
	}
	for _, w := range r.Waiting {
		word := "waits"
		if w.Never {
			word = "never"
		}
		s = append(s, fmt.Sprintf("%d %s x%d: %s", w.Job, word, w.Tasks, w.Why))
	}
	return s
}

func TestUnsatisfiable(t *testing.T) {
	nodes := []Node{node("n1", 4, 1, 1000), {Name: "n2", Cores: 8, Weight: 100, MemMiB: 1000, NoUserland: true}}
	tests := map[string]struct {
		req  Request
		want string
	}{
		"fits a node that is not ready": {Request{Tasks: tasks(1), Cores: 8}, ""},
		"more tasks than cores":         {Request{Tasks: tasks(100)}, ""},
		"no userland today":             {Request{Tasks: tasks(1), Cores: 7}, ""},
		"too many cores":                {Request{Tasks: tasks(1), Cores: 9}, "no node has 9 cores: the largest offers 8"},
		"spread over three": {
			Request{Tasks: tasks(3), Spread: true},
			"3 tasks, each on a node of its own, need 3 nodes, and 2 could run one",
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if got := Unsatisfiable(nodes, tt.req); got != tt.want {
				t.Errorf("Unsatisfiable() = %q, want %q", got, tt.want)
			}
		})
	}
	if got := Unsatisfiable(nil, Request{Tasks: tasks(1), Cores: 900}); got != "" {
		t.Errorf("Unsatisfiable(no nodes) = %q, want nothing", got)
	}
}

func drawNodes(t *rapid.T) []Node {
	n := rapid.IntRange(0, 12).Draw(t, "nodes")
	nodes := make([]Node, n)
	for i := range nodes {
		total := rapid.Int64Range(100, 4000).Draw(t, "mem")
		cores := rapid.IntRange(1, 16).Draw(t, "cores")
		nodes[i] = Node{
			Name: fmt.Sprintf("n%d", i+1), Ready: rapid.IntRange(0, 4).Draw(t, "ready") > 0,
			Cores: cores, Speed: rapid.Float64Range(0, 4).Draw(t, "speed"), Weight: rapid.IntRange(0, 200).Draw(t, "weight"),
			MemMiB: total, MemFree: rapid.Int64Range(0, total).Draw(t, "free"),
			Running: rapid.IntRange(0, cores).Draw(t, "running"), MemPlaced: rapid.Int64Range(0, total).Draw(t, "placed"),
			NoUserland: rapid.IntRange(0, 3).Draw(t, "userland") == 0,
		}
	}
	return nodes
}

func drawQueue(t *rapid.T) []Request {
	n := rapid.IntRange(0, 8).Draw(t, "jobs")
	queue := make([]Request, n)
	for i := range queue {
		queue[i] = Request{
			Job: uint64(i + 1), Tasks: tasks(rapid.IntRange(1, 10).Draw(t, "tasks")),
			Cores: rapid.IntRange(0, 4).Draw(t, "cores"), MemMiB: rapid.Int64Range(0, 1000).Draw(t, "mem"),
			Spread: rapid.Bool().Draw(t, "spread"),
		}
		if rapid.Bool().Draw(t, "on") {
			queue[i].On = []string{"n1", "n3"}
		}
	}
	return queue
}

// TestPlaceProperties: no node is taken beyond its cores or memory, each task
// is placed once or waits, the answer depends on nothing but the arguments,
// and nobody who is left would fit.
func TestPlaceProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		nodes, queue := drawNodes(t), drawQueue(t)
		got := Place(nodes, queue)
		if d := cmp.Diff(got, Place(nodes, queue)); d != "" {
			t.Fatalf("two calls differ:\n%s", d)
		}
		after := offers(nodes)
		index := map[string]*offer{}
		for i := range after {
			index[after[i].Name] = &after[i]
		}
		byJob := map[uint64]Request{}
		for _, r := range queue {
			r.Cores = max(r.Cores, 1)
			byJob[r.Job] = r
		}
		seen, nodesOf := map[string]bool{}, map[string]bool{}
		count := map[uint64]int{}
		for _, p := range got.Placed {
			r, o := byJob[p.Job], index[p.Node]
			if !o.fits(&r) {
				t.Fatalf("job %d task %d does not fit on %+v", p.Job, p.Task, o)
			}
			if len(r.On) == 0 && o.NoUserland {
				t.Fatalf("job %d names no node and was placed on %s, which has no userland", p.Job, p.Node)
			}
			if len(r.On) > 0 && !strings.Contains("n1 n3", p.Node) {
				t.Fatalf("job %d was placed on %s, asked for %v", p.Job, p.Node, r.On)
			}
			o.take(&r)
			key, at := fmt.Sprint(p.Job, ".", p.Task), fmt.Sprint(p.Job, p.Node)
			if seen[key] || r.Spread && nodesOf[at] {
				t.Fatalf("task %s was placed twice or beside another of its job", key)
			}
			seen[key], nodesOf[at] = true, true
			count[p.Job]++
		}
		for _, w := range got.Waiting {
			if w.Why == "" {
				t.Fatalf("job %d waits for no reason", w.Job)
			}
			count[w.Job] += w.Tasks
			r := byJob[w.Job]
			for i := range after {
				o := &after[i]
				free := (len(r.On) == 0 || o.Name == "n1" || o.Name == "n3") && !(r.Spread && nodesOf[fmt.Sprint(w.Job, o.Name)])
				if free && o.fits(&r) {
					t.Fatalf("job %d waits (%s) but fits on %s", w.Job, w.Why, o.Name)
				}
			}
		}
		for _, r := range queue {
			if count[r.Job] != len(r.Tasks) {
				t.Fatalf("job %d: %d of %d tasks in the answer", r.Job, count[r.Job], len(r.Tasks))
			}
		}
	})
}

func benchNodes(n int) []Node {
	nodes := make([]Node, n)
	for i := range nodes {
		nodes[i] = node(fmt.Sprintf("n%d", i+1), 8+i%3*8, 0.5+float64(i%5)/4, 16384)
	}
	return nodes
}

func BenchmarkPlace(b *testing.B) {
	for _, bb := range []struct {
		name        string
		jobs, tasks int
	}{{"one task", 1, 1}, {"sweep of 10000", 1, 10000}, {"1000 jobs", 1000, 1}} {
		b.Run(bb.name, func(b *testing.B) {
			nodes := benchNodes(1000)
			queue := make([]Request, bb.jobs)
			for i := range queue {
				queue[i] = Request{Job: uint64(i), Tasks: tasks(bb.tasks), MemMiB: 100}
			}
			for b.Loop() {
				Place(nodes, queue)
			}
		})
	}
}
