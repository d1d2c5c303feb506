package scheduler

import (
	"container/heap"
	"fmt"
	"math"
	"slices"
	"strings"
)

// Request is the tasks of one job that wait for a place. They all ask for
// the same.
type Request struct {
	Job    uint64
	Tasks  []int // indices of the tasks that wait, in the order in which they get a place
	Cores  int   // of each task; less than 1 counts as 1
	MemMiB int64 // of each task; 0 is not known and fits everywhere
	Spread bool  // no two tasks of the job on one node
	On     []string
	Shares []string // paths of the shares that its tasks work in
	Used   []string // nodes that hold a task of the job now; matters with Spread only
}

// Placement is where a task starts, and why there.
type Placement struct {
	Job  uint64
	Task int
	Node string
	Why  string
}

// Waiting says why tasks of a job got no place.
type Waiting struct {
	Job   uint64
	Tasks int // how many of them
	Why   string
	Never bool // no node that is known now can ever run them
}

// Result is the answer of [Place].
type Result struct {
	Placed  []Placement
	Waiting []Waiting
}

// Place finds nodes for the tasks of queue, in its order: a task that fits
// nowhere does not hold back those behind it. A task goes where
// (running + its cores) / (cores x speed x weight) is smallest among the
// ready nodes with that many cores and that much memory free; of equals, to
// the one with most memory left, then to the one that stands first in nodes.
// What was placed counts at once. Neither argument is changed; the same
// arguments give the same answer.
func Place(nodes []Node, queue []Request) Result {
	var res Result
	all := offers(nodes)
	// During one call nodes only fill up: what did not fit once will not
	// fit a second time, so a long queue of equal jobs costs one look.
	blocked := map[string]Waiting{}
	for _, r := range queue {
		r.Cores = max(r.Cores, 1)
		shape := shapeOf(r)
		if w, ok := blocked[shape]; ok && shape != "" {
			res.Waiting = append(res.Waiting, Waiting{Job: r.Job, Tasks: len(r.Tasks), Why: w.Why, Never: w.Never})
			continue
		}
		placed := placeOne(all, r)
		res.Placed = append(res.Placed, placed...)
		if left := len(r.Tasks) - len(placed); left > 0 {
			w := explain(all, r, placed)
			w.Job, w.Tasks = r.Job, left
			res.Waiting = append(res.Waiting, w)
			if shape != "" {
				blocked[shape] = w
			}
		}
	}
	return res
}

// Unsatisfiable says why no node of nodes can ever run all tasks of r, or ""
// when they can. Nodes that are paused, booting or full can, later. Without
// any node the answer is "": nobody knows what will join.
func Unsatisfiable(nodes []Node, r Request) string {
	if len(nodes) == 0 {
		return ""
	}
	r.Cores = max(r.Cores, 1)
	return never(offers(nodes), r, len(r.Tasks))
}

// offer is a node and what it has left in the course of one Place.
type offer struct {
	Node
	offered int     // cores that its weight lets it offer
	power   float64 // cores x speed x weight
}

func offers(nodes []Node) []offer {
	all := make([]offer, len(nodes))
	for i, n := range nodes {
		if n.Speed <= 0 || math.IsNaN(n.Speed) || math.IsInf(n.Speed, 0) {
			n.Speed = 1
		}
		all[i] = offer{
			Node:    n,
			offered: offeredCores(n),
			power:   float64(n.Cores) * n.Speed * float64(n.Weight) / 100,
		}
	}
	return all
}

// offeredCores is what a node offers: a weight below 100 % takes cores away,
// but never the last one while it is above 0.
func offeredCores(n Node) int {
	w := min(max(n.Weight, 0), 100)
	return (n.Cores*w + 99) / 100
}

func (o *offer) memLeft() int64 { return min(o.MemMiB-o.MemPlaced, o.MemFree) }

// mustBeNamed tells whether o is closed to r, which names no node.
func (o *offer) mustBeNamed(r *Request) bool { return o.NoUserland && len(r.On) == 0 }

// missing is a share that a task of r needs and o has not mounted, "" for none.
func (o *offer) missing(r *Request) string {
	for _, s := range r.Shares {
		if !slices.Contains(o.Shares, s) {
			return s
		}
	}
	return ""
}

// fits tells whether a task of r can start on o now.
func (o *offer) fits(r *Request) bool {
	return o.Ready && !o.mustBeNamed(r) && o.missing(r) == "" && o.offered-o.Running >= r.Cores && (r.MemMiB <= 0 || o.memLeft() >= r.MemMiB)
}

// couldRun tells whether a task of r could ever start on o: also on one that has no
// userland today and may be booted with another image.
func (o *offer) couldRun(r *Request) bool {
	cores := o.offered
	if o.Weight <= 0 {
		cores = o.Cores // weight 0 is a wish of today
	}
	return cores >= r.Cores && (r.MemMiB <= 0 || o.MemMiB >= r.MemMiB)
}

func (o *offer) cost(r *Request) float64 {
	return float64(o.Running+r.Cores) / o.power
}

func (o *offer) take(r *Request) {
	o.Running += r.Cores
	o.MemPlaced += r.MemMiB
	o.MemFree -= r.MemMiB
}

// allowed lists the indices of the nodes that r names and may use.
func allowed(all []offer, r *Request) []int {
	idx := make([]int, 0, len(all))
	on, used := set(r.On), map[string]bool(nil)
	if r.Spread {
		used = set(r.Used)
	}
	for i := range all {
		if (on == nil || on[all[i].Name]) && !used[all[i].Name] {
			idx = append(idx, i)
		}
	}
	return idx
}

func set(names []string) map[string]bool {
	if len(names) == 0 {
		return nil
	}
	m := make(map[string]bool, len(names))
	for _, n := range names {
		m[n] = true
	}
	return m
}

// placeOne places as many tasks of r as fit and books them in all.
func placeOne(all []offer, r Request) []Placement {
	h := candidates{all: all, r: &r}
	for _, i := range allowed(all, &r) {
		if all[i].fits(&r) {
			h.idx = append(h.idx, i)
		}
	}
	heap.Init(&h)
	placed := make([]Placement, 0, min(len(r.Tasks), 4*len(h.idx)))
	for _, t := range r.Tasks {
		if len(h.idx) == 0 {
			break
		}
		best := &all[h.idx[0]]
		placed = append(placed, Placement{Job: r.Job, Task: t, Node: best.Name, Why: whyHere(len(h.idx), &r)})
		best.take(&r)
		if !r.Spread && best.fits(&r) {
			heap.Fix(&h, 0)
		} else {
			heap.Pop(&h)
		}
	}
	return placed
}

func whyHere(candidates int, r *Request) string {
	why := fmt.Sprintf("fewest tasks per unit of speed among %d nodes", candidates)
	if candidates == 1 {
		why = "the only node with room"
	}
	if r.MemMiB > 0 {
		why += "; memory fits"
	}
	return why
}

// candidates is a heap of nodes, the best one first.
type candidates struct {
	all []offer
	idx []int
	r   *Request
}

func (h *candidates) Len() int      { return len(h.idx) }
func (h *candidates) Swap(i, j int) { h.idx[i], h.idx[j] = h.idx[j], h.idx[i] }
func (h *candidates) Push(x any)    { h.idx = append(h.idx, x.(int)) }
func (h *candidates) Pop() any {
	last := len(h.idx) - 1
	x := h.idx[last]
	h.idx = h.idx[:last]
	return x
}

func (h *candidates) Less(i, j int) bool {
	a, b := &h.all[h.idx[i]], &h.all[h.idx[j]]
	if ca, cb := a.cost(h.r), b.cost(h.r); ca != cb {
		return ca < cb
	}
	if ma, mb := a.memLeft(), b.memLeft(); ma != mb {
		return ma > mb
	}
	return h.idx[i] < h.idx[j]
}

// shapeOf is equal for requests that fit the same nodes; "" is equal to none.
func shapeOf(r Request) string {
	if r.Spread {
		return ""
	}
	return fmt.Sprintf("%d/%d/%s/%q", r.Cores, r.MemMiB, strings.Join(r.On, ","), r.Shares)
}

// explain says why the tasks of r that are not in placed got no place.
func explain(all []offer, r Request, placed []Placement) Waiting {
	if len(all) == 0 {
		return Waiting{Why: "there is no node yet"}
	}
	if why := never(all, r, len(r.Tasks)); why != "" {
		return Waiting{Why: why, Never: true}
	}
	if r.Spread {
		r.Used = slices.Clone(r.Used)
		for _, p := range placed {
			r.Used = append(r.Used, p.Node)
		}
	}
	return Waiting{Why: whyNot(all, &r)}
}

// never says why n tasks of r can never all run on all, or "".
func never(all []offer, r Request, n int) string {
	on, used := set(r.On), set(r.Used)
	named, able := 0, 0
	maxCores, maxMem := 0, int64(0)
	for i := range all {
		o := &all[i]
		if on != nil && !on[o.Name] {
			continue
		}
		named++
		maxCores, maxMem = max(maxCores, o.offered), max(maxMem, o.MemMiB)
		if o.couldRun(&r) && !(r.Spread && used[o.Name]) {
			able++
		}
	}
	where := "no node"
	if on != nil {
		where = "no node of " + few(r.On)
	}
	switch {
	case named == 0:
		return where + " exists"
	case r.Spread && able < n && able > 0:
		return fmt.Sprintf("%d tasks, each on a node of its own, need %d nodes, and %d could run one", n, n, able)
	case able > 0:
		return ""
	case maxCores < r.Cores:
		return fmt.Sprintf("%s has %d cores: the largest offers %d", where, r.Cores, maxCores)
	case maxMem < r.MemMiB:
		return fmt.Sprintf("%s has %d MiB of memory: the largest has %d", where, r.MemMiB, maxMem)
	case r.Spread:
		return where + " is left that has no task of this job"
	default:
		return fmt.Sprintf("%s has %d cores and %d MiB of memory together", where, r.Cores, r.MemMiB)
	}
}

// whyNot sums up, node by node, why a task of r cannot start now.
func whyNot(all []offer, r *Request) string {
	on, used := set(r.On), set(r.Used)
	var order []string
	by := map[string][]string{}
	for i := range all {
		o := &all[i]
		if on != nil && !on[o.Name] {
			continue
		}
		why := obstacle(o, r, r.Spread && used[o.Name])
		if why == "" {
			continue
		}
		if by[why] == nil {
			order = append(order, why)
		}
		by[why] = append(by[why], o.Name)
	}
	parts := make([]string, 0, len(order))
	for _, why := range order {
		parts = append(parts, obstacleText(by[why], why))
	}
	if len(parts) > 4 {
		parts = append(parts[:3], fmt.Sprintf("and %d more reasons", len(parts)-3))
	}
	return "waits: " + strings.Join(parts, ", ")
}

// noUserland is the obstacle whose text names the nodes once more.
const noUserland = "no userland"

// obstacleText says what is in the way on nodes.
func obstacleText(names []string, why string) string {
	switch {
	case why != noUserland:
		return few(names) + " " + why
	case len(names) == 1:
		return fmt.Sprintf("%s has no userland: only tasks that name it (--on %s) run there", names[0], names[0])
	case len(names) <= 3:
		return fmt.Sprintf("%s have no userland: only tasks that name them (--on %s) run there", few(names), strings.Join(names, ","))
	}
	return few(names) + " have no userland: only tasks that name them (--on NODES) run there"
}

func obstacle(o *offer, r *Request, used bool) string {
	free := o.offered - o.Running
	switch {
	case !o.couldRun(r):
		return "too small"
	case o.mustBeNamed(r):
		return noUserland
	case !o.Ready && o.Reason != "":
		return o.Reason
	case !o.Ready:
		return "not ready"
	case o.missing(r) != "":
		return "without share " + o.missing(r)
	case used:
		return "has a task of this job"
	case o.Weight <= 0:
		return "has weight 0"
	case free <= 0:
		return "full"
	case free < r.Cores:
		return fmt.Sprintf("%d of %d cores free", free, r.Cores)
	case r.MemMiB > 0 && o.memLeft() < r.MemMiB:
		return "short of memory"
	}
	return ""
}

// few names up to three nodes and counts more.
func few(names []string) string {
	if len(names) <= 3 {
		return strings.Join(names, " ")
	}
	return fmt.Sprintf("%d nodes", len(names))
}
