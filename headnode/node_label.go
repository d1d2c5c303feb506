package headnode

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"muster/api"
	"muster/headnode/scheduler"
)

// maxLabels is how many labels a node may have.
const maxLabels = 32

// Label implements nodeAdmin.
func (n *Nodes) Label(ctx context.Context, actor string, req api.LabelRequest) ([]api.Node, error) {
	if len(req.Nodes) == 0 || len(req.Add)+len(req.Remove) == 0 {
		return nil, invalid("as in: muster node label n3 gpu", "no node or no label is named")
	}
	for _, l := range slices.Concat(req.Add, req.Remove) {
		if err := api.CheckLabel(l); err != nil {
			return nil, invalid("as in: muster node label n3 gpu", "%v", err)
		}
	}
	nodes, err := n.recordAll(ctx, actor, func() ([]*machine, error) { return n.labelTargets(req) },
		func(rec *machineRecord) { rec.Labels = relabel(rec.Labels, req.Add, req.Remove) })
	if err != nil {
		return nil, err
	}
	for _, v := range nodes {
		n.cfg.Log.Info("labels of a node changed", "node", v.Name, "mac", v.MAC, "labels", v.Labels, "actor", actor)
	}
	n.configure()
	return nodes, nil
}

// relabel is a list of labels after a change, sorted.
func relabel(have, add, remove []string) []string {
	list := slices.Concat(have, add)
	slices.Sort(list)
	return slices.DeleteFunc(slices.Compact(list), func(l string) bool { return slices.Contains(remove, l) })
}

// labelTargets are the machines whose labels are to change, each once; n.mu is held.
func (n *Nodes) labelTargets(req api.LabelRequest) ([]*machine, error) {
	var targets []*machine
	for _, ref := range req.Nodes {
		m, err := n.find(ref)
		if err != nil {
			return nil, err
		}
		what := cmp.Or(m.Name, m.mac(), m.id)
		if !m.isNode() && m.State != api.NodeDeclared {
			v := n.view(m)
			return nil, &api.Error{Code: api.CodeConflict, Msg: fmt.Sprintf("machine %s is %s: only nodes and declared machines have labels", what, v.State), Hint: v.Hint}
		}
		if many := len(relabel(m.Labels, req.Add, req.Remove)); many > maxLabels {
			return nil, tooLarge("remove some: muster node label "+what+" --remove LABEL", "%s would have %d labels; at most %d are kept", what, many, maxLabels)
		}
		if !slices.Contains(targets, m) {
			targets = append(targets, m)
		}
	}
	return targets, nil
}

// labeled are the machines with a label, by name; n.mu is held.
func (n *Nodes) labeled(label string) []*machine {
	var list []*machine
	for _, m := range n.machines {
		if m.isNode() && slices.Contains(m.Labels, label) {
			list = append(list, m)
		}
	}
	slices.SortFunc(list, func(a, b *machine) int { return api.CompareNames(a.Name, b.Name) })
	return list
}

// labels are all labels that nodes have; n.mu is held.
func (n *Nodes) labels() []string {
	var list []string
	for _, m := range n.machines {
		if m.isNode() {
			list = append(list, m.Labels...)
		}
	}
	return list
}

// noLabel says that no node has a label, with the nearest that there is.
func noLabel(label string, known []string) error {
	hint := fmt.Sprintf("give it to nodes with: muster node label NODE %s", label)
	if near := nearest(label, known); near != "" {
		hint = fmt.Sprintf("did you mean %s? muster node list shows the labels", api.LabelItem(near))
	}
	return &api.Error{Code: api.CodeNotFound, Msg: "no node has the label " + label, Hint: hint}
}

// onNodes are the names that a node list of a job stands for now: labels are replaced by the nodes that
// have them. A list of which no node is left stays as it is, which is the name of none; an empty one
// stands for all nodes.
func onNodes(on []string, nodes []scheduler.Node) []string {
	if !slices.ContainsFunc(on, func(s string) bool { return strings.HasPrefix(s, api.LabelItem("")) }) {
		return on
	}
	var names []string
	for _, n := range nodes {
		if slices.ContainsFunc(on, func(item string) bool {
			label, ok := api.CutLabel(item)
			return item == n.Name || ok && slices.Contains(n.Labels, label)
		}) {
			names = append(names, n.Name)
		}
	}
	if len(names) == 0 {
		return on
	}
	return names
}
