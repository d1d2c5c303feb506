package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"muster/api"
)

func newNodeLabelCommand(at *headFlag) *cobra.Command {
	var remove []string
	var asJSON bool
	c := &cobra.Command{
		Use:   "label NODE [LABEL...]",
		Short: "Give nodes labels, which stand for them in --on and --to",
		Long: `Give nodes labels, or take some away; without any the labels are printed. NODE
is a name, a host list as n[1-4,7], a MAC or a fingerprint. Where nodes are
named (muster run --on, share add --to, node drain, ...) label:gpu stands for
all that have the label gpu. A job that waits gets nodes that are labeled later,
too.`,
		Example: `  muster node label n3 gpu bigmem
  muster node label 'n[1-4]' rack1
  muster node label n3 --remove gpu
  muster run --on label:gpu ./train`,
		Args: cobra.MinimumNArgs(1),
		RunE: at.run(func(cmd *cobra.Command, args []string, call *caller) error {
			for _, l := range append(args[1:len(args):len(args)], remove...) {
				if err := api.CheckLabel(l); err != nil {
					return usageError{err}
				}
			}
			names, err := nodesNamed(cmd, call, args[:1])
			if err != nil {
				return err
			}
			var nodes []api.Node
			if len(args) == 1 && len(remove) == 0 {
				for _, name := range names {
					n, err := call.client.Node(cmd.Context(), name)
					if err != nil {
						return err
					}
					nodes = append(nodes, n)
				}
			} else if nodes, err = call.client.LabelNodes(cmd.Context(), api.LabelRequest{Nodes: names, Add: args[1:], Remove: remove}); err != nil {
				return err
			}
			if asJSON {
				return writeJSON(cmd.OutOrStdout(), api.List[api.Node]{Items: nodes})
			}
			for _, n := range nodes {
				fmt.Fprintf(cmd.OutOrStdout(), "%s: %s\n", orWord(n.Name, n.MAC), orWord(strings.Join(n.Labels, " "), "no labels"))
			}
			return nil
		}),
		ValidArgsFunction: func(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
			if len(args) == 0 {
				return at.completeNodes(cmd, args, prefix)
			}
			return at.completeLabels(cmd, "", prefix)
		},
	}
	c.Flags().StringSliceVar(&remove, "remove", nil, "`labels` to take away")
	c.Flags().BoolVar(&asJSON, "json", false, "print the nodes as JSON")
	_ = c.RegisterFlagCompletionFunc("remove", func(cmd *cobra.Command, _ []string, prefix string) ([]string, cobra.ShellCompDirective) {
		return at.completeLabels(cmd, "", prefix)
	})
	return c
}

// completeLabels completes the labels that nodes have, each behind before.
func (h *headFlag) completeLabels(cmd *cobra.Command, before, prefix string) ([]string, cobra.ShellCompDirective) {
	call, err := h.connect()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	list, err := call.client.Nodes(contextOf(cmd))
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return labelsWith(list.Items, before, prefix), cobra.ShellCompDirectiveNoFileComp
}

// labelsWith lists the labels of nodes, each once and behind before, that begin with prefix.
func labelsWith(nodes []api.Node, before, prefix string) []string {
	var found []string
	seen := map[string]bool{}
	for _, n := range nodes {
		for _, l := range n.Labels {
			if !seen[l] && strings.HasPrefix(before+l, prefix) {
				seen[l] = true
				found = append(found, before+l)
			}
		}
	}
	slices.Sort(found)
	return found
}

// nodesNamed expands the arguments of a command that does something to nodes: host lists here, labels at the
// head.
func nodesNamed(cmd *cobra.Command, call *caller, args []string) ([]string, error) {
	var names []string
	for _, a := range args {
		if !strings.Contains(a, api.LabelItem("")) {
			list, err := expandNodes([]string{a})
			if err != nil {
				return nil, err
			}
			names = append(names, list...)
			continue
		}
		if _, err := api.ParseNodeList(a); err != nil {
			return nil, usageError{err}
		}
		list, err := call.client.NodesOn(cmd.Context(), a)
		if err != nil {
			return nil, err
		}
		for _, n := range list.Items {
			names = append(names, n.Name)
		}
	}
	return names, nil
}
