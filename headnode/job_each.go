package headnode

import (
	"muster/api"
	"muster/headnode/scheduler"
)

// A job for each node has one task on every node that it names, whatever runs there and whatever the
// administrator wants of the node. It takes no core and no place in the queue: each task is placed when the
// job is accepted, and one whose node is not heard has failed with that.

// everyNode makes the specification of a job for each node whole, and names the nodes in the order of its
// tasks. Other specifications stay as they are, without names.
func everyNode(s api.JobSpec, nodes []scheduler.Node) (api.JobSpec, []string, error) {
	if !s.EachNode {
		return s, nil, nil
	}
	switch {
	case s.Terminal != nil || s.Stdin:
		return s, nil, invalid("leave it out; muster run -t --on NODE has a terminal", "a command on every node has no input and no terminal")
	case len(nodes) == 0:
		return s, nil, &api.Error{Code: api.CodeUnsatisfiable, Msg: "there is no node yet", Hint: "see: muster node list"}
	}
	on, err := parseOn(s.On)
	if err != nil {
		return s, nil, invalid("write nodes as n1,n4, n[1-10] or label:gpu", "%v", err)
	}
	if err := checkNames(nodes, on); err != nil {
		return s, nil, err
	}
	on = onNodes(on, nodes)
	wanted := map[string]bool{}
	for _, name := range on {
		wanted[name] = true
	}
	var names []string
	for _, n := range nodes {
		if len(on) == 0 || wanted[n.Name] {
			names = append(names, n.Name)
		}
	}
	s.Tasks, s.On, s.MemMiB, s.Spread, s.Private = len(names), api.FormatHostList(names), 0, true, true
	return s, names, nil
}

// cores are what a task of j takes of a node.
func (j *job) cores() int {
	if j.spec.EachNode {
		return 0
	}
	return max(j.spec.Cores, 1)
}

// placeEach places every task of a job for each node. js.mu is held.
func (js *jobs) placeEach(j *job, names []string) {
	for i, name := range names {
		js.mutate(j, i, func() bool {
			j.place(i, name, js.use(name).boot, "on every node that was named")
			return true
		})
		if js.giveUp(j, i) {
			continue
		}
		js.rec.batch.starts = append(js.rec.batch.starts, startKey{logKey{j.id, i}, j.tasks[i].epoch})
	}
}

// giveUp ends a task of a job for each node whose node is not heard: nobody waits for such a job
// longer than its nodes answer. What runs there is killed when the node is heard again. js.mu is held.
func (js *jobs) giveUp(j *job, i int) bool {
	if js.cfg.NodeTrouble == nil || !j.tasks[i].active() {
		return false
	}
	why := js.cfg.NodeTrouble(j.tasks[i].node)
	if why == "" {
		return false
	}
	js.loseLocked(j, i, why)
	return true
}
