package main

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"hash"
	"slices"
	"strings"
	"syscall"

	"muster/api"
)

// maxExecOutput is how much of what a command writes on one node is kept for --json, of output and errors each. All of it
// is compared.
const maxExecOutput = 1 << 20

// execReport is what a command did on every node.
type execReport struct {
	job   uint64
	nodes []execNode
}

// execNode is what a command did on one node.
type execNode struct {
	Node     string       `json:"node"`
	State    api.JobState `json:"state"`
	ExitCode int          `json:"exit_code"`
	Signal   int          `json:"signal,omitempty"`
	Error    string       `json:"error,omitempty"` // why it could not be started, or was lost
	Stdout   string       `json:"stdout"`
	Stderr   string       `json:"stderr"`
	Cut      bool         `json:"cut,omitempty"` // there was more than is kept

	kept  [2][]byte // output and errors
	sum   [2]hash.Hash
	bytes int64
}

// execGroup are nodes on which a command did the same.
type execGroup struct {
	Nodes    string `json:"nodes"` // host list
	Count    int    `json:"count"`
	ExitCode int    `json:"exit_code"`
	Signal   int    `json:"signal,omitempty"`
	Error    string `json:"error,omitempty"`

	silent bool // it wrote nothing
	names  []string
}

// execDocument is what --json prints.
type execDocument struct {
	Job      uint64      `json:"job"`
	ExitCode int         `json:"exit_code"`
	Items    []execNode  `json:"items"`
	Groups   []execGroup `json:"groups"`
}

// newExecReport is the report of a job that was just accepted.
func newExecReport(j api.Job) *execReport {
	r := &execReport{job: j.ID}
	for _, t := range j.Tasks {
		r.nodes = append(r.nodes, execNode{Node: t.Node, sum: [2]hash.Hash{sha256.New(), sha256.New()}})
	}
	return r
}

func (r *execReport) names() []string {
	names := make([]string, len(r.nodes))
	for i := range r.nodes {
		names[i] = r.nodes[i].Node
	}
	return names
}

// add takes what a task wrote; keep: also its text.
func (r *execReport) add(task int, stream api.Stream, data []byte, keep bool) {
	n := &r.nodes[task]
	which := 0
	if stream == api.Stderr {
		which = 1
	}
	n.sum[which].Write(data)
	n.bytes += int64(len(data))
	if keep {
		room := min(maxExecOutput-len(n.kept[which]), len(data))
		n.kept[which] = append(n.kept[which], data[:room]...)
		n.Cut = n.Cut || room < len(data)
	}
}

// end takes how the tasks ended.
func (r *execReport) end(j api.Job) {
	for i := range min(len(r.nodes), len(j.Tasks)) {
		n, t := &r.nodes[i], j.Tasks[i]
		n.State, n.ExitCode, n.Signal, n.Error = t.State, t.ExitCode, t.Signal, strings.TrimPrefix(t.Error, t.Node+" is ")
		n.Stdout, n.Stderr = api.EncodeText(string(n.kept[0])), api.EncodeText(string(n.kept[1]))
	}
}

// groups are the nodes by what the command did there, the most frequent first.
func (r *execReport) groups() []execGroup {
	byKey := map[string]*execGroup{}
	var order []*execGroup
	for i := range r.nodes {
		n := &r.nodes[i]
		key := fmt.Sprintf("%d/%d/%x/%x/%s", n.ExitCode, n.Signal, n.sum[0].Sum(nil), n.sum[1].Sum(nil), n.Error)
		g := byKey[key]
		if g == nil {
			g = &execGroup{ExitCode: n.ExitCode, Signal: n.Signal, Error: n.Error, silent: n.bytes == 0}
			byKey[key] = g
			order = append(order, g)
		}
		g.names = append(g.names, n.Node)
	}
	slices.SortStableFunc(order, func(a, b *execGroup) int { return cmp.Compare(len(b.names), len(a.names)) })
	list := make([]execGroup, len(order))
	for i, g := range order {
		g.Nodes, g.Count = api.FormatHostList(g.names), len(g.names)
		list[i] = *g
	}
	return list
}

func (r *execReport) document() execDocument {
	d := execDocument{Job: r.job, Items: r.nodes, Groups: r.groups()}
	for _, n := range r.nodes {
		d.ExitCode = max(d.ExitCode, n.ExitCode)
	}
	return d
}

// text says for people what the nodes of a group have in common. all: they are all there are.
func (g execGroup) text(all bool) string {
	end := fmt.Sprintf("exit status %d", g.ExitCode)
	switch {
	case g.Error != "":
		end = g.Error
	case g.Signal != 0:
		end = fmt.Sprintf("ended by signal %d (%v)", g.Signal, syscall.Signal(g.Signal))
	}
	nodes := fmt.Sprintf("%d nodes", g.Count)
	if all {
		nodes = "all " + nodes
	}
	switch {
	case g.silent && g.Error != "":
		return end
	case g.silent:
		return end + ", no output"
	case g.Count == 1 && all:
		return end
	case g.Count == 1:
		return end + ", an output of its own"
	}
	return end + ", the same output on " + nodes
}
